"""Lossy links: how much is lost, what stays as it was, what a lost packet costs, and weather that nobody moves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.errors import ConfigError
from selfroute.network.channel import KINDS, Air, Channel, ChannelKind, Weather, check_loss
from selfroute.network.states import CODECS, HEADER_BYTES, Block, Codec, blank_states, decode_states, encode_states

WIDTH = 48
STATES = np.random.default_rng(1).normal(size=(200, WIDTH)).astype(np.float32)


def sent(kind: ChannelKind, p: float, *, codec: Codec = "fp32", seed: int = 0, **options: bool) -> np.ndarray:
    data = encode_states(Block(3, STATES), codec)
    arrived = Channel(kind=kind, **options).carry(data, p, np.random.default_rng(seed), width=WIDTH)  # type: ignore[arg-type]
    assert arrived.block is not None and arrived.block.first == 3
    return arrived.block.states


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("codec", CODECS)
def test_without_loss_everything_arrives(kind: ChannelKind, codec: Codec) -> None:
    data = encode_states(Block(3, STATES), codec)
    assert (sent(kind, 0.0, codec=codec) == decode_states(data, width=WIDTH).states).all()


@pytest.mark.parametrize("kind", ["element_drop", "packet_drop"])
def test_what_is_lost_is_zero_and_the_rest_untouched(kind: ChannelKind) -> None:
    came = sent(kind, 0.3)
    lost = came == 0
    assert abs(lost.mean() - 0.3) < 0.03
    assert (came[~lost] == STATES[~lost]).all()
    assert (sent(kind, 1.0) == 0).all()


def test_packets_take_neighbours_along() -> None:
    # 32 bytes are 8 states in fp32.
    groups = (sent("packet_drop", 0.4) == 0).reshape(-1, 8).mean(axis=1)
    assert set(np.unique(groups)) == {0.0, 1.0}


@pytest.mark.parametrize("codec", CODECS)
def test_a_blank_block_is_all_zero_and_as_long(codec: Codec) -> None:
    data = encode_states(Block(3, STATES), codec)
    blank = blank_states(data)
    assert len(blank) == len(data) and blank[:HEADER_BYTES] == data[:HEADER_BYTES]
    assert (decode_states(blank, width=WIDTH).states == 0).all()


def test_noise_has_the_power_that_dropped_elements_had() -> None:
    for kind in ("element_drop", "noise"):
        error = np.square(sent(kind, 0.3) - STATES).mean() / np.square(STATES).mean()  # type: ignore[arg-type]
        assert abs(error - 0.3) < 0.03


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("kind", ["bit_flips", "packet_drop"])
@pytest.mark.parametrize("p", [0.001, 0.5, 1.0])
def test_what_damaged_bytes_say_is_finite(kind: ChannelKind, codec: Codec, p: float) -> None:
    came = sent(kind, p, codec=codec)
    assert np.isfinite(came).all() and np.abs(came).max() <= 65_504


def test_bits_flip_as_often_as_they_should() -> None:
    came = sent("bit_flips", 0.001, codec="int8_plain")
    plain = decode_states(encode_states(Block(3, STATES), "int8_plain"), width=WIDTH).states
    changed = (came != plain).mean()  # 8 bits of each, and 32 of each position's scale
    assert 0.004 < changed < 0.06


def test_an_outage_takes_whole_messages() -> None:
    data, rng = encode_states(Block(0, STATES), "fp16"), np.random.default_rng(0)
    came = [Channel(kind="outage").carry(data, 0.25, rng, width=WIDTH).block is None for _ in range(400)]
    assert abs(np.mean(came) - 0.25) < 0.06


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5])
def test_arq_loses_nothing_and_sends_as_much_more(p: float) -> None:
    data, rng = encode_states(Block(0, STATES), "fp16"), np.random.default_rng(0)
    arrived = Channel(kind="packet_drop", arq=True).carry(data, p, rng, width=WIDTH)
    assert arrived.block is not None and (arrived.block.states == decode_states(data, width=WIDTH).states).all()
    assert arrived.sent / len(data) == pytest.approx(1 / (1 - p), rel=0.12)
    assert arrived.tries >= 1 and (arrived.tries > 1) == (p > 0)


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(CODECS), st.integers(1, 30))
def test_arq_without_loss_sends_the_bytes_once(positions: int, width: int, codec: Codec, half: int) -> None:
    data = encode_states(Block(0, np.ones((positions, width), np.float32)), codec)
    channel = Channel(kind="packet_drop", packet_bytes=2 * half, arq=True)
    assert channel.carry(data, 0.0, np.random.default_rng(0), width=width).sent == len(data)


def test_weather_stays_as_long_and_as_often_as_it_says() -> None:
    weather = Weather(good=0.1, bad=0.6, worsens=0.05, clears=0.2)
    losses = weather.trace(20_000, np.random.default_rng(0))
    assert set(np.unique(losses)) == {0.1, 0.6}
    bad = losses == 0.6
    assert abs(bad.mean() - weather.bad_share) < 0.03 and weather.bad_share == pytest.approx(0.2)
    assert abs((bad[1:] & bad[:-1]).sum() / bad[:-1].sum() - 0.8) < 0.03


def test_the_air_changes_from_message_to_message_and_pilots_see_it() -> None:
    channel = Channel(kind="element_drop")
    air = Air(channel, Weather(good=0.0, bad=1.0, worsens=0.5, clears=0.5), WIDTH, np.random.default_rng(0))
    data = encode_states(Block(0, STATES[:2]), "fp16")
    for _ in range(30):
        loss, guess = air.loss, air.pilots(50)
        came, size = air.carry(data)
        assert guess == loss and size == len(data) and came is not None
        assert (decode_states(came, width=WIDTH).states == 0).all() == (loss == 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: check_loss(1.2, "p"), "p: 1.2 is no loss of a link, which is 0 to 1; write 1"),
        (lambda: check_loss(float("nan"), "p"), "nan is no loss"),
        (lambda: Weather(bad=1.2), r"weather.bad: 1.2 is no loss"),
        (lambda: Channel(packet_bytes=7), "7 cuts a number in two; write 6"),
        (lambda: Channel(arq=True), "element_drop loses no packets that could go again; write kind: packet_drop"),
        (lambda: sent("packet_drop", 1.0, arq=True), "loses every packet"),
    ],
)
def test_what_no_link_is(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]

"""Hidden states as bytes: how many, how exact, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from selfroute.network.messages import BadMessage
from selfroute.network.states import (
    CODECS,
    HEADER_BYTES,
    Block,
    Codec,
    decode_states,
    encode_states,
    position_bytes,
)

# Largest error of a value, as a part of the position's largest one.
ERRORS: dict[Codec, float] = {
    "fp32": 0.0, "fp16": 2**-11, "bf16": 2**-8, "int8": 1 / 250, "int8_plain": 1 / 250, "int4": 1 / 13.9
}  # fmt: skip
numbers = st.floats(-50_000, 50_000, width=32)
shapes = st.tuples(st.integers(0, 5), st.integers(1, 24))


def back(states: Any, codec: Codec, *, apart: int = 8, first: int = 0) -> Block:
    return decode_states(encode_states(Block(first, states), codec, apart=apart), width=states.shape[1])


@given(shapes.flatmap(lambda shape: arrays(np.float32, shape, elements=numbers)), st.sampled_from(CODECS))
def test_states_come_back_as_exact_as_their_codec(states: Any, codec: Codec) -> None:
    found = back(states, codec, first=7)
    assert found.first == 7 and found.states.shape == states.shape
    largest = np.abs(states).max(axis=1, keepdims=True, initial=0)
    assert (np.abs(found.states - states) <= ERRORS[codec] * largest + 1e-7).all()


@given(shapes, st.sampled_from(CODECS), st.integers(0, 30))
def test_a_block_has_the_bytes_that_are_stated(shape: tuple[int, int], codec: Codec, apart: int) -> None:
    states = np.ones(shape, np.float32)
    size = HEADER_BYTES + shape[0] * position_bytes(codec, shape[1], apart=apart)
    assert len(encode_states(Block(0, states), codec, apart=apart)) == size


def test_the_bytes_of_a_position_are_those_of_the_formula() -> None:
    d = 128
    stated = {codec: position_bytes(codec, d, apart=0) for codec in CODECS}
    assert stated == {
        "fp32": 4 * d,
        "fp16": 2 * d,
        "bf16": 2 * d,
        "int8": d + 4,
        "int8_plain": d + 4,
        "int4": d // 2 + 4,
    }
    assert position_bytes("int8", d) == d + 4 + 6 * 8


def test_the_papers_traffic_follows_from_its_inputs() -> None:
    # XSum: 459 positions of width 4,096 in half precision, each once; against fp32, everything again for each token.
    once = 459 * position_bytes("fp16", 4096)
    again = sum(range(361, 461)) * position_bytes("fp32", 4096)
    assert round(once / 1e6, 2) == 3.76
    assert round(again / 1e6) == 673


def test_what_fp16_cannot_hold_is_sent_as_bf16() -> None:
    states = np.array([[70_000.0, 1.5], [2.0, 3.0]], np.float32)
    assert np.allclose(back(states, "fp16").states, states, rtol=2**-8)


def test_channels_apart_keep_the_others_exact() -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(40, 64)).astype(np.float32)
    states[:, 5] = 24_891  # a pretrained model's first position
    plain, apart = (np.abs(back(states, codec).states - states)[:, :5].max() for codec in ("int8_plain", "int8"))
    assert plain > 0.5 and apart < 0.02
    assert (back(states, "int8").states[:, 5] == states[:, 5]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("codec", CODECS)
def test_what_is_not_finite_is_refused_at_both_ends(bad: float, codec: Codec) -> None:
    states = np.ones((2, 4), np.float32)
    whole = encode_states(Block(0, states), "fp32")
    states[1, 2] = bad
    with pytest.raises(BadMessage, match="not finite"):
        encode_states(Block(0, states), codec)
    with pytest.raises(BadMessage, match="not finite"):
        decode_states(whole[:HEADER_BYTES] + states.tobytes(), width=4)


@pytest.mark.parametrize("codec", CODECS)
def test_a_cut_or_longer_body_and_another_width_are_refused(codec: Codec) -> None:
    whole = encode_states(Block(3, np.ones((2, 9), np.float32)), codec)
    for data in (whole[:4], whole[:-1], whole + b"\0"):
        with pytest.raises(BadMessage, match="bytes"):
            decode_states(data, width=9)
    with pytest.raises(BadMessage, match="states of width 9, and the model's have 8"):
        decode_states(whole, width=8)


def test_an_unknown_type_and_a_channel_outside_are_refused() -> None:
    whole = encode_states(Block(0, np.ones((1, 4), np.float32)), "int8", apart=1)
    with pytest.raises(BadMessage, match="unknown type 250"):
        decode_states(b"\xfa" + whole[1:], width=4)
    with pytest.raises(BadMessage, match="channel 9"):
        decode_states(whole[:HEADER_BYTES] + b"\x09\0" + whole[HEADER_BYTES + 2 :], width=4)


@given(st.binary(max_size=60))
def test_other_bytes_are_refused_or_read_and_never_break(data: bytes) -> None:
    try:
        found = decode_states(data, width=3)
    except BadMessage as error:
        assert str(error)
    else:
        assert np.isfinite(found.states).all()

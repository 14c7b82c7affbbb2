"""What two sides say to each other, as bytes and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.network.messages import (
    Ask,
    BadMessage,
    Judged,
    Reply,
    decode_ask,
    decode_reply,
    encode_ask,
    encode_reply,
)

ids = st.lists(st.integers(0, 70_000), max_size=6).map(tuple)
openings = st.none() | st.fixed_dictionaries({"messages": st.lists(st.text(max_size=9)), "luck": st.none()})
asks = st.builds(
    Ask, st.integers(0, 2**32 - 1), st.integers(0, 99), ids, st.integers(0, 99), st.booleans(), openings,
    st.lists(st.text(min_size=1, max_size=3), max_size=2).map(tuple),
)  # fmt: skip


@given(asks)
def test_an_ask_comes_back_as_it_was(ask: Ask) -> None:
    assert decode_ask(encode_ask(ask)) == ask


@given(ids, st.booleans(), st.lists(st.tuples(st.integers(0, 70_000), st.floats(-50, 0, width=32)), max_size=4))
def test_a_reply_comes_back_as_it_was(ids: tuple[int, ...], ends: bool, judged: list[tuple[int, float]]) -> None:
    places = tuple(Judged(*pair) for pair in judged) + ((Judged(7),) if judged else ())
    reply = Reply(ids, ends, places, read=12, layer_tokens=2**40)
    assert decode_reply(encode_reply(reply)) == reply


def test_an_id_takes_two_bytes_where_the_vocabulary_is_small() -> None:
    none, narrow, wide = (len(encode_ask(Ask(1, ids=ids))) for ids in ((), (5, 65_535), (5, 65_536)))
    assert (narrow - none, wide - none) == (4, 8)


@given(st.binary(max_size=40))
def test_other_bytes_are_refused_or_read_and_never_break(data: bytes) -> None:
    for decode in (decode_ask, decode_reply):
        try:
            decode(data)
        except BadMessage as error:
            assert str(error)


@pytest.mark.parametrize("cut", [1, 8, 16, 18])
def test_a_cut_message_is_refused(cut: int) -> None:
    whole = encode_ask(Ask(1, ids=(1, 2, 3), opening="hello"))
    with pytest.raises(BadMessage):
        decode_ask(whole[:cut])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(BadMessage, match="does not fit"):
        encode_ask(Ask(1, limit=70_000))
    with pytest.raises(BadMessage, match="does not fit"):
        encode_reply(Reply(read=-1))

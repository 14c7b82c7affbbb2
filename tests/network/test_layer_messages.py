"""What the ends of a cut model say to each other, as bytes and back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.network.layer_messages import (
    ASK_BYTES,
    Continued,
    Push,
    decode_continued,
    decode_push,
    encode_continued,
    encode_push,
)
from selfroute.network.messages import BadMessage

PUSH = Push(session=b"s" * 16, model=b"m" * 8, first=2)
wholes = st.integers(0, 2**32 - 1)


@given(
    wholes, st.floats(0, 3), st.floats(0.1, 1), st.floats(0, 1, exclude_max=True), st.booleans(), st.binary(max_size=9)
)
def test_a_push_comes_back_as_it_was(
    wanted: int, temperature: float, top_p: float, luck: float, closes: bool, states: bytes
) -> None:
    push = replace(PUSH, wanted=wanted, temperature=temperature, top_p=top_p, luck=luck, closes=closes, states=states)
    data = encode_push(push)
    assert decode_push(data) == push
    assert len(data) == ASK_BYTES + len(states)


@given(st.none() | wholes, st.floats(-40, 0, width=32), st.booleans(), wholes, st.integers(0, 2**60))
def test_a_reply_comes_back_as_it_was(token: int | None, logprob: float, ends: bool, held: int, done: int) -> None:
    reply = Continued(token=token, logprob=logprob, ends=ends, held=held, read=held, layer_tokens=done)
    assert decode_continued(encode_continued(reply)) == reply


@given(st.binary(max_size=90))
def test_other_bytes_are_refused_or_read_and_never_break(data: bytes) -> None:
    for decode in (decode_push, decode_continued):
        try:
            decode(data)
        except BadMessage as error:
            assert str(error)


@pytest.mark.parametrize(
    "changes", [{"temperature": -1.0}, {"top_p": 0.0}, {"luck": 1.0}, {"temperature": float("nan")}]
)
def test_numbers_out_of_range_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(BadMessage, match="out of range"):
        decode_push(encode_push(replace(PUSH, **changes)))


def test_a_number_that_does_not_fit_is_refused() -> None:
    with pytest.raises(BadMessage, match="does not fit"):
        encode_push(replace(PUSH, first=70_000))

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from tests.strategies.pair import SAMPLING, Plain, Stalling, asks_when_hard, easy

from selfroute.backends.base import Backend
from selfroute.errors import UnsupportedByBackend
from selfroute.handoff import StreamParser
from selfroute.prices import Price
from selfroute.strategies.attempt import Attempt, speak
from selfroute.types import Delta, Message, Sampling, TextDelta


async def test_the_readers_own_time_is_not_the_backends() -> None:
    attempt = Attempt("device", Plain("device", asks_when_hard), Price())
    async for _ in attempt.deltas(easy(), SAMPLING):
        await asyncio.sleep(0.02)
    assert attempt.seconds < 0.02


async def test_the_last_variant_is_not_forgiven() -> None:
    attempt = Attempt("device", Plain("device", asks_when_hard), Price())
    with pytest.raises(UnsupportedByBackend):
        async for _ in attempt.deltas(easy(), Sampling(top_logprobs=5), Sampling(forbid=("x",))):
            pass


async def test_nothing_is_asked_twice_once_text_has_come() -> None:
    attempt = Attempt("device", Stalling("some", failure=UnsupportedByBackend("late")), Price())
    texts: list[str] = []
    with pytest.raises(UnsupportedByBackend):
        async for delta in attempt.deltas(easy(), Sampling(top_logprobs=5), SAMPLING):
            texts.append(delta.text)
    assert texts == ["some"]


async def test_blanks_before_the_content_are_not_shown() -> None:
    class Blanks(Backend):
        name = "blanks"

        async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
            for text in ("<think>a\n</think>", "\n", " <answer>", "\n 4", "\n5</answer>"):
                yield Delta(text)

    attempt = Attempt("device", Blanks(), Price())
    deltas = [delta async for delta in speak(attempt, StreamParser(), easy(), SAMPLING)]
    assert "".join(d.text for d in deltas if d.kind == "reasoning") == "a\n"
    assert [d for d in deltas if d.kind == "content"] == [
        TextDelta("4", "device", "content"),
        TextDelta("\n5", "device", "content"),
    ]

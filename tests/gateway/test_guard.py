"""The guard's clock: it runs from when a request leaves our queue to the first piece of the answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from selfroute.backends.base import Backend
from selfroute.backends.function import FunctionBackend
from selfroute.errors import BackendTimeout
from selfroute.gateway.guard import Guard
from selfroute.types import Delta, Message, Sampling

ASK = [Message("user", "hello")]


class Queued(Backend):
    name = "queued"
    announces = True

    def __init__(self, waits_s: float, writes_s: float) -> None:
        self.waits_s, self.writes_s = waits_s, writes_s

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        await asyncio.sleep(self.waits_s)
        yield Delta(sent=True)
        await asyncio.sleep(self.writes_s)
        yield Delta("hello", finish_reason="stop")


async def test_that_a_request_leaves_is_no_first_piece() -> None:
    guard = Guard("cloud", Queued(0.0, 0.1))
    assert guard.announces
    deltas = [delta async for delta in guard.stream(ASK, Sampling())]
    assert [(delta.sent, delta.text) for delta in deltas] == [(True, ""), (False, "hello")]
    first_token_s = guard.health().first_token_s
    assert first_token_s is not None and first_token_s >= 0.1


async def test_a_turn_in_our_own_queue_is_no_failure_of_the_model() -> None:
    guard = Guard("cloud", Queued(0.4, 0.0), first_token_s=0.2)
    assert "".join([delta.text async for delta in guard.stream(ASK, Sampling())]) == "hello"
    assert guard.health().failed == 0 and guard.health().first_token_s < 0.2  # type: ignore[operator]


@pytest.mark.parametrize("waits_s", [0.0, 0.3])
async def test_the_first_piece_has_a_limit_once_the_request_has_left(waits_s: float) -> None:
    guard = Guard("cloud", Queued(waits_s, 5), first_token_s=0.2)
    with pytest.raises(BackendTimeout, match=r"nothing within 0\.2 s"):
        async for delta in guard.stream(ASK, Sampling()):
            assert delta.sent
    assert guard.health().failed == 1


async def test_a_guard_says_what_its_backend_says() -> None:
    plain = FunctionBackend("plain", lambda messages, sampling: "hello")
    assert not Guard("plain", plain).announces
    assert not Guard("later", lambda: Queued(0, 0)).announces  # nobody knows yet

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing

import pytest

from selfroute.backends.base import complete, complete_all
from selfroute.backends.flight import in_flight
from selfroute.backends.function import FunctionBackend
from selfroute.backends.rate_limited import RateLimited
from selfroute.errors import BackendUnavailable, ConfigError
from selfroute.types import Completion, Message, Sampling


async def test_a_slow_item_holds_up_nobody_but_its_place() -> None:
    at_work, most, order = 0, 0, []

    async def work(seconds: float) -> float:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(seconds)
        at_work -= 1
        return seconds

    async for result in in_flight([0.3, *[0.01] * 9], work, limit=3):
        order.append(result)
    assert most == 3 and order == [*[0.01] * 9, 0.3]


async def test_the_first_error_ends_it_and_cancels_the_rest() -> None:
    cancelled = []

    async def work(number: int) -> int:
        if number == 1:
            raise ValueError("one")
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            cancelled.append(number)
            raise
        return number

    with pytest.raises(ValueError, match="one"):
        async for _ in in_flight(range(10), work, limit=3):
            pass
    assert sorted(cancelled) == [0, 2]


async def test_nothing_to_do() -> None:
    async def work(number: int) -> int:
        return number

    assert [r async for r in in_flight([], work, limit=3)] == []


async def test_answers_come_back_in_order_with_failures_in_their_places() -> None:
    def fn(messages: Sequence[Message], sampling: Sampling) -> str:
        if messages[0].content == "1":
            raise BackendUnavailable("down", backend="f")
        return messages[0].content

    done: list[int] = []
    prompts = [[Message("user", str(i))] for i in range(4)]
    found = await complete_all(
        FunctionBackend("f", fn), prompts, Sampling(), concurrency=2, on_done=lambda: done.append(1)
    )
    assert [answer.text if isinstance(answer, Completion) else str(answer) for answer in found] == [
        "0",
        "down",
        "2",
        "3",
    ]
    assert len(done) == 4


async def test_a_rate_spaces_requests_evenly() -> None:
    starts: list[float] = []

    def fn(messages: Sequence[Message], sampling: Sampling) -> str:
        starts.append(time.monotonic())
        return "x"

    backend = RateLimited(FunctionBackend("f", fn), requests_per_minute=1200)  # one in 50 ms
    prompts = [[Message("user", str(i))] for i in range(6)]
    began = time.monotonic()
    await asyncio.gather(*(complete(backend, prompt, Sampling()) for prompt in prompts))
    assert time.monotonic() - began >= 5 * 0.05 - 0.01
    # No window holds more than its share, whatever the machine is busy with.
    assert all(at - began >= 0.05 * number - 0.01 for number, at in enumerate(sorted(starts)))
    assert backend.name == "f"


def test_a_rate_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="requests_per_minute: 0 is not above 0"):
        RateLimited(FunctionBackend("f", lambda m, s: ""), requests_per_minute=0)


async def test_results_come_in_the_order_in_which_they_end() -> None:
    async def work(number: int) -> int:
        for _ in range(number):
            await asyncio.sleep(0)
        return number

    assert [result async for result in in_flight([5, 3, 1, 4, 2], work, limit=5)] == [1, 2, 3, 4, 5]


async def test_a_reader_that_leaves_cancels_what_is_at_work() -> None:
    running: set[int] = set()

    async def work(number: int) -> int:
        running.add(number)
        try:
            await asyncio.sleep(5 if number else 0)
        finally:
            running.discard(number)
        return number

    async with aclosing(in_flight(range(9), work, limit=4)) as results:
        assert await anext(results) == 0
        assert len(running) == 3
    assert not running

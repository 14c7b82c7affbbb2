"""Many requests at once: how many are in flight, and how fast they leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from selfroute.backends.base import Backend, BatchBackend, complete
from selfroute.backends.base import complete_all as complete_batch
from selfroute.errors import SelfRouteError
from selfroute.types import Completion, Message, Sampling

__all__ = ["complete_all", "in_flight"]

T = TypeVar("T")
R = TypeVar("R")


async def in_flight(items: Iterable[T], work: Callable[[T], Awaitable[R]], *, limit: int) -> AsyncIterator[R]:
    """Results of `work` on every item as they come, with at most `limit` at work; the next starts when one ends.

    Raises:
        Exception: what `work` raised first; the others are cancelled.
    """
    waiting = iter(items)
    running: set[asyncio.Task[R]] = set()
    try:
        while True:
            while len(running) < limit and (item := next(waiting, waiting)) is not waiting:
                running.add(asyncio.ensure_future(work(item)))  # type: ignore[arg-type]
            if not running:
                return
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def complete_all(
    backend: Backend,
    prompts: Sequence[Sequence[Message]],
    sampling: Sampling,
    *,
    concurrency: int,
    on_done: Callable[[], object],
) -> list[Completion | SelfRouteError]:
    """As `selfroute.backends.base.complete_all`, and tells of every answer when it is there."""
    if isinstance(backend, BatchBackend):
        answers = await complete_batch(backend, prompts, sampling)
        for _ in answers:
            on_done()
        return answers
    found: dict[int, Completion | SelfRouteError] = {}

    async def one(number: int) -> tuple[int, Completion | SelfRouteError]:
        try:
            return number, await complete(backend, prompts[number], sampling)
        except SelfRouteError as error:
            return number, error

    async for number, answer in in_flight(range(len(prompts)), one, limit=concurrency):
        found[number] = answer
        on_done()
    return [found[number] for number in range(len(prompts))]

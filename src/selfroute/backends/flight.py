"""Streams and requests under way: closed when their reader leaves, and so many at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from itertools import islice
from typing import Generic, TypeVar

__all__ = ["closing", "in_flight"]

T = TypeVar("T")
R = TypeVar("R")


class closing(Generic[T]):
    """Close a stream as soon as its reader leaves, not when the garbage collector comes by.

    A class, as each piece of an answer passes several: a generator as context manager costs five times as much.
    """

    __slots__ = ("_stream",)

    def __init__(self, stream: AsyncIterator[T]) -> None:
        self._stream = stream

    async def __aenter__(self) -> AsyncIterator[T]:
        return self._stream

    async def __aexit__(self, *_: object) -> None:
        if isinstance(self._stream, AsyncGenerator):
            await self._stream.aclose()


async def in_flight(items: Iterable[T], work: Callable[[T], Awaitable[R]], *, limit: int) -> AsyncGenerator[R, None]:
    """Results of `work` on every item as they come, with at most `limit` at work; the next starts when one ends.

    Raises:
        Exception: what `work` raised first; the others are cancelled.
    """
    waiting = iter(items)
    running: set[asyncio.Future[R]] = set()
    ended: asyncio.Queue[asyncio.Future[R]] = asyncio.Queue()

    def start(count: int) -> None:
        for item in islice(waiting, count):
            task = asyncio.ensure_future(work(item))
            task.add_done_callback(ended.put_nowait)
            running.add(task)

    try:
        start(limit)
        while running:
            task = await ended.get()
            running.remove(task)
            start(1)
            yield task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

"""Sessions and layers with something around each call that asks their model, such as a breaker or a turn in a queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar, cast

from selfroute.backends.base import Backend
from selfroute.backends.layers import Layered, Tail, Whole
from selfroute.backends.sessions import NO_LOOK, Judge, Look, Session, Sessions, Speller, View, Written
from selfroute.types import Message, Sampling, Usage

__all__ = ["Around", "LayersAround", "SessionsAround", "offer_around"]

T = TypeVar("T")

Around = Callable[[bool], AbstractAsyncContextManager[object]]
"""What stands around a call; is told whether its session has been answered before."""


def offer_around(inner: Backend, kind: type[T], around: Around) -> T | None:
    """What a backend offers of a kind that asks its model more than once in an answer, with something around each call.

    None for every other kind, and where it offers none.
    """
    wrap: Any = {Sessions: SessionsAround, Layered: LayersAround}.get(kind)
    if wrap is None or (offered := inner.offer(kind)) is None:
        return None
    return cast(T, wrap(offered, around))


class SessionsAround:
    """The `selfroute.backends.sessions.Sessions` of a backend, with something around each call of a session.

    Around the calls that ask the model: what is only noted, dropped or closed goes by.

    Args:
        inner: theirs.
        around: entered for each call.
    """

    def __init__(self, inner: Sessions, around: Around) -> None:
        self._inner, self._around = inner, around

    @property
    def gives(self) -> frozenset[str]:
        """See `Sessions`."""
        return self._inner.gives

    @property
    def vocabulary(self) -> str:
        """See `Sessions`."""
        return self._inner.vocabulary

    def session(
        self, messages: Sequence[Message], sampling: Sampling, *, look: Look = NO_LOOK, luck: int | None = None
    ) -> Session:
        """See `Sessions`."""
        return _SessionAround(self._inner.session(messages, sampling, look=look, luck=luck), self._around)

    def speller(self, stop: Sequence[str] = ()) -> Speller:
        """See `Sessions`."""
        return self._inner.speller(stop)


class _SessionAround:
    def __init__(self, inner: Session, around: Around) -> None:
        self._inner, self._around = inner, around
        self._answered = False

    @property
    def vocabulary(self) -> str:
        return self._inner.vocabulary

    @property
    def ids(self) -> Sequence[int]:
        return self._inner.ids

    @property
    def used(self) -> Usage:
        return self._inner.used

    async def read(self, ids: Sequence[int], *, every: bool = False) -> list[View]:
        if not every:
            return await self._inner.read(ids)
        async with self._around(self._answered):
            views = await self._inner.read(ids, every=True)
        self._answered = True
        return views

    async def write(
        self, limit: int, *, until: Sequence[str] = (), judge: Judge | None = None, within_s: float | None = None
    ) -> list[Written]:
        async with self._around(self._answered):
            written = await self._inner.write(limit, until=until, judge=judge, within_s=within_s)
        self._answered = True
        return written

    async def drop(self, count: int) -> None:
        await self._inner.drop(count)

    async def close(self) -> None:
        await self._inner.close()


class LayersAround:
    """The `selfroute.backends.layers.Layered` of a backend, with something around each message.

    Args:
        inner: theirs.
        around: entered for each message; a tail is one session.
    """

    def __init__(self, inner: Layered, around: Around) -> None:
        self._inner, self._around = inner, around

    def tail(self, first: int) -> Tail:
        """See `Layered`."""
        return _TailAround(self._inner.tail(first), self._around)


class _TailAround:
    def __init__(self, inner: Tail, around: Around) -> None:
        self._inner, self._around = inner, around
        self._answered = False

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def whole(self) -> Whole | None:
        return self._inner.whole

    @property
    def first(self) -> int:
        return self._inner.first

    async def carry(self, data: bytes) -> bytes:
        async with self._around(self._answered):
            reply = await self._inner.carry(data)
        self._answered = True
        return reply

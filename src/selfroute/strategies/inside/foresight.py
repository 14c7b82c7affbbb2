"""What the cloud itself makes of tokens that the device wrote: a bound, as what it is asked for that is not counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from selfroute.backends.base import capability
from selfroute.backends.sessions import Look, Session, Sessions, View
from selfroute.strategies.base import Sides
from selfroute.types import Message, Sampling

__all__ = ["Foreseer"]


class Foreseer:
    """A session of the cloud that nobody pays for; an asynchronous context that closes it."""

    def __init__(self, sides: Sides, messages: Sequence[Message], sampling: Sampling) -> None:
        self._sides, self._messages = sides, messages
        self._sampling = replace(sampling, temperature=0.0)
        self._session: Session | None = None
        self._known = 0

    async def __aenter__(self) -> Foreseer:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def scores(self, before: Sequence[int], ids: Sequence[int]) -> list[float]:
        """p_c(y) / max p_c, in [0, 1], of each of some tokens.

        Args:
            before: the answer that they follow.
        """
        session = await self._caught_up(before)
        views = (await session.read(ids, every=True))[: len(ids)]
        self._known = len(before) + len(ids)
        return [_share(view) for view in views]

    async def _caught_up(self, ids: Sequence[int]) -> Session:
        if self._session is None:
            assert self._sides.cloud is not None
            sessions = capability(self._sides.cloud, Sessions)
            self._session = sessions.session(self._messages, self._sampling, look=Look(top=1))
        session, common = self._session, min(self._known, len(ids))
        while common and list(session.ids[:common]) != list(ids[:common]):
            common -= 1
        await session.drop(len(session.ids) - common)
        await session.read(ids[common:])
        return session


def _share(view: View) -> float:
    assert view.given is not None
    return min(1.0, math.exp(view.given - next(iter(view.top.values()))))

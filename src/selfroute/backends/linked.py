"""A model as though behind a link: what its sessions say goes through bytes, is counted, and can be made to wait.

For a model in this process that stands for one elsewhere. Every exchange is encoded, carried, decoded and answered, so
that the bytes counted are those of messages; see `selfroute.network.messages`.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, TypeVar

from selfroute.backends.base import Backend, capability
from selfroute.backends.flight import closing
from selfroute.backends.sessions import NO_LOOK, Judge, Look, Session, Sessions, Speller, View, Written
from selfroute.errors import BackendError, UnsupportedByBackend
from selfroute.network.link import Network
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
from selfroute.types import Delta, Message, Sampling, Usage

__all__ = ["Endpoint", "Linked"]

T = TypeVar("T")
Carry = Callable[[bytes], Awaitable[bytes]]


class Endpoint:
    """The far end: answers encoded asks from a backend's sessions, which it keeps by number until they are let go."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._open: dict[int, Session] = {}

    async def answer(self, data: bytes) -> bytes:
        """The encoded reply to an encoded ask.

        Raises:
            BackendError: the bytes are no ask, the session is unknown, or the model failed.
        """
        try:
            ask = decode_ask(data)
        except BadMessage as error:
            raise BackendError(f"not an ask: {error}", backend=self.backend.name) from error
        session = self._session(ask)
        await session.drop(ask.drop)
        views = await session.read(ask.ids, every=ask.every) if ask.ids or ask.every else []
        written = await session.write(ask.limit, until=ask.until) if ask.limit else []
        ends = bool(written) and written[-1].ends
        places = tuple(Judged(view.drawn, view.given) for view in views)
        ids, used = tuple(token.token_id for token in written), session.used
        return encode_reply(Reply(ids, ends, places, used.prompt_tokens, used.layer_tokens))

    async def close(self, number: int) -> None:
        """Let go of a session; of one that is unknown nothing."""
        if session := self._open.pop(number, None):
            await session.close()

    def _session(self, ask: Ask) -> Session:
        if ask.opening is not None:
            messages = [Message(role, content) for role, content in ask.opening["messages"]]
            values: dict[str, Any] = ask.opening.get("sampling", {})
            lists: dict[str, Any] = {name: tuple(v) for name, v in values.items() if isinstance(v, list)}
            sampling = Sampling(**(values | lists))
            opened = capability(self.backend, Sessions).session(messages, sampling, luck=ask.opening.get("luck"))
            self._open[ask.session] = opened
        if ask.session not in self._open:
            raise BackendError(f"no session {ask.session}", backend=self.backend.name)
        return self._open[ask.session]


class Linked(Backend):
    """A backend with its sessions behind a link.

    Sessions give written ids and, of tokens that they judge, log-probabilities; those of what they write stay NaN. One
    that is opened with a look is the model's own, beside the link: it serves oracles, and is not counted. A stream is
    counted as one exchange, and does not wait.

    Args:
        inner: the model.
        network: makes each exchange wait as this link would; None does not wait.
        carry: takes an encoded ask to `Endpoint.answer` of this model and brings the reply; in this process without.
    """

    def __init__(self, inner: Backend, *, network: Network | None = None, carry: Carry | None = None) -> None:
        self.inner: Backend = inner
        self.name = inner.name
        self.network = network
        self.endpoint = Endpoint(inner)
        self.carry = carry or self.endpoint.answer
        self._numbers = itertools.count(1)

    @property
    def gives(self) -> frozenset[str]:
        return capability(self.inner, Sessions).gives - {"judge"}

    @property
    def vocabulary(self) -> str:
        return capability(self.inner, Sessions).vocabulary

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        """See `selfroute.backends.base.Backend`."""
        up = len(encode_ask(Ask(0, limit=sampling.max_tokens, opening=_opening(messages, sampling, None))))
        down = 0
        async with closing(self.inner.stream(messages, sampling)) as deltas:
            async for delta in deltas:
                down += len(delta.text.encode())
                if delta.usage is not None:
                    carried = Usage(up_bytes=up, down_bytes=down, round_trips=1)
                    delta = replace(delta, usage=delta.usage + carried)
                yield delta

    def session(
        self, messages: Sequence[Message], sampling: Sampling, *, look: Look = NO_LOOK, luck: int | None = None
    ) -> Session:
        """See `selfroute.backends.sessions.Sessions`."""
        if look.gives:
            return capability(self.inner, Sessions).session(messages, sampling, look=look, luck=luck)
        return _LinkedSession(self, next(self._numbers), _opening(messages, sampling, luck))

    def offer(self, kind: type[T]) -> T | None:
        """Batches go past the link, uncounted: they are for references, not for what a strategy asks."""
        return self if isinstance(self, kind) else self.inner.offer(kind)

    def speller(self, stop: Sequence[str] = ()) -> Speller:
        return capability(self.inner, Sessions).speller(stop)


def _opening(messages: Sequence[Message], sampling: Sampling, luck: int | None) -> dict[str, Any]:
    """What opens a session; options that are as ever are left out."""
    default = asdict(Sampling())
    own = {name: value for name, value in asdict(sampling).items() if value != default[name]}
    turns = [[message.role, message.content] for message in messages]
    return {"messages": turns} | ({"sampling": own} if own else {}) | ({} if luck is None else {"luck": luck})


class _LinkedSession:
    """The near end of a session: what is to be read waits for the next exchange."""

    def __init__(self, backend: Linked, number: int, opening: Any) -> None:
        self._backend, self._number, self._opening = backend, number, opening
        self._ids: list[int] = []
        self._sent = 0  # of the ids, those that the far end has
        self._drop = 0
        self._used = Usage()
        self._closed = False

    @property
    def vocabulary(self) -> str:
        return self._backend.vocabulary

    @property
    def ids(self) -> Sequence[int]:
        return self._ids

    @property
    def used(self) -> Usage:
        return self._used

    async def read(self, ids: Sequence[int], *, every: bool = False) -> list[View]:
        if not every:
            self._ids += ids
            return []
        if self._sent < len(self._ids):
            await self._exchange(0)  # what was not to be judged goes first
        self._ids += ids
        reply = await self._exchange(0, every=True)
        return [View(place.drawn, math.nan, given=place.given) for place in reply.places]

    async def write(
        self, limit: int, *, until: Sequence[str] = (), judge: Judge | None = None, within_s: float | None = None
    ) -> list[Written]:
        if judge is not None:
            raise UnsupportedByBackend("a session behind a link writes tokens, and judges none")
        reply = await self._exchange(limit, until=tuple(filter(None, until)))
        self._ids += reply.ids
        self._sent = len(self._ids)
        last = len(reply.ids) - 1
        return [Written(token, math.nan, ends=reply.ends and at == last) for at, token in enumerate(reply.ids)]

    async def drop(self, count: int) -> None:
        if count > len(self._ids):
            raise ValueError(f"{count} tokens cannot be dropped of {len(self._ids)}")
        del self._ids[len(self._ids) - count :]
        self._drop += max(0, self._sent - len(self._ids))
        self._sent = min(self._sent, len(self._ids))

    async def close(self) -> None:
        self._closed = True
        await self._backend.endpoint.close(self._number)

    async def _exchange(self, limit: int, *, every: bool = False, until: tuple[str, ...] = ()) -> Reply:
        if self._closed:
            name = self._backend.name
            raise BackendError(f"{name}: the session is closed; open a new one", backend=name)
        ask = Ask(self._number, self._drop, tuple(self._ids[self._sent :]), limit, every, self._opening, until)
        try:
            up = encode_ask(ask)
        except BadMessage as error:
            raise BackendError(str(error), backend=self._backend.name) from error
        await self._wait(up, trip=True)
        down = await self._backend.carry(up)
        await self._wait(down)
        self._opening, self._drop, self._sent = None, 0, len(self._ids)
        try:
            reply = decode_reply(down)
        except BadMessage as error:
            raise BackendError(f"not a reply: {error}", backend=self._backend.name) from error
        self._used = Usage(
            prompt_tokens=reply.read,
            completion_tokens=self._used.completion_tokens + len(reply.ids),
            up_bytes=self._used.up_bytes + len(up),
            down_bytes=self._used.down_bytes + len(down),
            layer_tokens=reply.layer_tokens,
            round_trips=self._used.round_trips + 1,
        )
        return reply

    async def _wait(self, data: bytes, *, trip: bool = False) -> None:
        network = self._backend.network
        if network is not None:
            await asyncio.sleep(network.rtt_s + network.up_s(len(data)) if trip else network.down_s(len(data)))

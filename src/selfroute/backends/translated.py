"""A model with another vocabulary, or behind a chat alone, as sessions in the ids of a reader: texts go between.

Enough for steps, which end at a mark in the text; never for tokens.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from selfroute.backends.base import Backend, Fold, capability, find_capability
from selfroute.backends.continuing import Continues
from selfroute.backends.flight import closing
from selfroute.backends.sessions import NO_LOOK, Encodes, Judge, Look, Session, Sessions, Speller, View, Written
from selfroute.errors import BackendError, UnsupportedByBackend
from selfroute.types import Delta, Message, Sampling, Usage

__all__ = ["Translated", "can_translate"]

_LEAST_REPEATED = 8  # characters; a shorter text may well be followed by itself
_CHARACTERS = 4  # of a token, where the server did not say


def can_translate(backend: Backend, reader: Backend) -> bool:
    """Whether a model's texts can be read by another one's sessions and the other way round."""
    return find_capability(reader, Encodes) is not None and (_keeps(backend) or _continues(backend))


def _keeps(backend: Backend) -> bool:
    sessions = find_capability(backend, Sessions)
    wanted = {"ids", "until", "spell"}
    return sessions is not None and wanted <= sessions.gives and find_capability(backend, Encodes) is not None


def _continues(backend: Backend) -> bool:
    return find_capability(backend, Continues) is not None


class Translated(Backend):
    """A model whose sessions read and write the ids of a reader.

    Where the model has sessions of its own, one of them stays open and reads what is new; else each call sends it all.

    Args:
        inner: the model.
        reader: whose ids; spells and encodes them.
    """

    def __init__(self, inner: Backend, reader: Backend) -> None:
        self.inner: Backend = inner
        self.name = inner.name
        self._reader = reader

    @property
    def gives(self) -> frozenset[str]:
        """See `selfroute.backends.sessions.Sessions`."""
        return frozenset({"ids", "until", *(("keeps",) if _keeps(self.inner) else ())})

    @property
    def vocabulary(self) -> str:
        return capability(self._reader, Sessions).vocabulary

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        """See `selfroute.backends.base.Backend`."""
        async with closing(self.inner.stream(messages, sampling)) as deltas:
            async for delta in deltas:
                yield delta

    def session(
        self, messages: Sequence[Message], sampling: Sampling, *, look: Look = NO_LOOK, luck: int | None = None
    ) -> Session:
        """See `selfroute.backends.sessions.Sessions`; a step shows no views."""
        if look.gives:
            raise UnsupportedByBackend(f"{self.name}: what is translated shows no {', '.join(sorted(look.gives))}")
        inner: _Kept | _Resent = (
            _Kept(self.inner, messages, sampling, luck)
            if _keeps(self.inner)
            else _Resent(capability(self.inner, Continues), messages, sampling)
        )
        return _Translated(inner, self._reader, self.name)

    def speller(self, stop: Sequence[str] = ()) -> Speller:
        """See `selfroute.backends.sessions.Sessions`."""
        return capability(self._reader, Sessions).speller(stop)


class _Translated:
    """See `selfroute.backends.sessions.Session`."""

    def __init__(self, inner: _Kept | _Resent, reader: Backend, name: str) -> None:
        self._inner, self._reader, self._name = inner, reader, name
        self._ids: list[int] = []

    @property
    def vocabulary(self) -> str:
        return capability(self._reader, Sessions).vocabulary

    @property
    def ids(self) -> Sequence[int]:
        return self._ids

    @property
    def used(self) -> Usage:
        return self._inner.used

    async def read(self, ids: Sequence[int], *, every: bool = False) -> list[View]:
        if every:
            raise UnsupportedByBackend(f"{self._name}: what is translated is not scored")
        self._ids += ids
        return []

    async def write(
        self, limit: int, *, until: Sequence[str] = (), judge: Judge | None = None, within_s: float | None = None
    ) -> list[Written]:
        if judge is not None:
            raise UnsupportedByBackend(f"{self._name}: what is translated is not judged")
        text, ends = await self._inner.write(_spelt(self._reader, self._ids), limit, until)
        encodes = capability(self._reader, Encodes)
        ids = [*encodes.ids_of(text), *([encodes.end_id] if ends else [])]
        if not ids:
            raise BackendError(f"{self._name}: nothing was written, and the answer did not end", backend=self._name)
        # The reader may need more tokens for a text than its writer.
        ends, ids = ends and len(ids) <= limit, ids[:limit]
        self._ids += ids
        return [Written(token, math.nan, ends=ends and at == len(ids) - 1) for at, token in enumerate(ids)]

    async def drop(self, count: int) -> None:
        if not 0 <= count <= len(self._ids):
            raise ValueError(f"cannot drop {count} tokens of an answer of {len(self._ids)}")
        del self._ids[len(self._ids) - count :]

    async def close(self) -> None:
        await self._inner.close()


class _Kept:
    """Texts over a session of the model's own, which reads what is new to it."""

    def __init__(self, backend: Backend, messages: Sequence[Message], sampling: Sampling, luck: int | None) -> None:
        self._backend = backend
        self._session = capability(backend, Sessions).session(messages, sampling, luck=luck)

    @property
    def used(self) -> Usage:
        return self._session.used

    async def write(self, text: str, limit: int, until: Sequence[str]) -> tuple[str, bool]:
        """What comes behind a text, and whether the answer ends with it."""
        own = self._session.ids
        ids = capability(self._backend, Encodes).ids_of(text) if text != _spelt(self._backend, own) else list(own)
        same = next((i for i, (a, b) in enumerate(zip(own, ids, strict=False)) if a != b), min(len(own), len(ids)))
        await self._session.drop(len(own) - same)
        await self._session.read(ids[same:])
        written = await self._session.write(limit, until=until)
        return _spelt(self._backend, [token.token_id for token in written]), written[-1].ends

    async def close(self) -> None:
        await self._session.close()


class _Resent:
    """Texts over a chat that continues the assistant's turn: the conversation goes with each call."""

    def __init__(self, model: Continues, messages: Sequence[Message], sampling: Sampling) -> None:
        self._model, self._messages, self._sampling = model, messages, sampling
        self.used = Usage()

    async def write(self, text: str, limit: int, until: Sequence[str]) -> tuple[str, bool]:
        """What comes behind a text, and whether the answer ends with it; the call ends at a mark."""
        fold, marks = Fold(), [mark for mark in until if mark]
        new, end = "", None
        async with closing(
            self._model.go_on(self._messages, text, replace(self._sampling, max_tokens=limit))
        ) as deltas:
            async for delta in deltas:
                fold.add(delta)
                new = without_repeated(text, fold.text)
                if (end := _end_of(new, marks)) is not None:
                    break
        self._count(text, fold)
        return new[:end], end is None and fold.finish_reason == "stop"

    def _count(self, text: str, fold: Fold) -> None:
        usage = fold.usage
        if usage is None:  # the call was ended at a mark, before the server said
            asked = sum(len(message.content) for message in self._messages) + len(text)
            usage = Usage(asked // _CHARACTERS + 1, len(fold.text) // _CHARACTERS + 1)
        self.used += replace(usage, round_trips=1)

    async def close(self) -> None:
        """Nothing is kept."""


def without_repeated(begun: str, text: str) -> str:
    """What is new in a text that may repeat what it goes on from, as some servers do; "" while that cannot be told."""
    if len(begun) < _LEAST_REPEATED:
        return text
    if text.startswith(begun):
        return text[len(begun) :]
    return "" if begun.startswith(text) else text


def _end_of(text: str, marks: Sequence[str]) -> int | None:
    """Where the first mark in a text ends."""
    return min((text.index(mark) + len(mark) for mark in marks if mark in text), default=None)


def _spelt(backend: Backend, ids: Sequence[int]) -> str:
    speller = capability(backend, Sessions).speller()
    speller.extend(ids)
    speller.finish()
    return speller.take(last=True)[0]

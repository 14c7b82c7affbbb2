"""Backends whose sessions write by a function of the answer so far; a token is a word."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from selfroute.backends.base import Backend
from selfroute.backends.sessions import NO_LOOK, Judge, Look, View, Written, fingerprint
from selfroute.errors import BackendError
from selfroute.types import Delta, Message, Sampling, Usage

Next = Callable[[Sequence[str]], str]  # the words of the answer so far to the next one
END = "<end>"


class Words(list[str]):
    """Words by their ids, which they get as they come."""

    def id_of(self, word: str) -> int:
        if word not in self:
            self.append(word)
        return self.index(word)


class Scripted(Backend):
    """A model of the test's own making.

    Args:
        words: shared by the two sides of a pair.
        following: what it writes.
    """

    gives = frozenset({"ids", "spell", "keeps", "judge"})

    def __init__(self, name: str, words: Words, following: Next) -> None:
        self.name, self.words, self.following = name, words, following
        self.vocabulary = fingerprint(["words"])
        self.opened: list[ScriptedSession] = []

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        written = await self.session(messages, sampling).write(sampling.max_tokens)
        words = [self.words[token.token_id] for token in written]
        text, ended = "".join(word for word in words if word != END), words[-1] == END
        yield Delta(text, finish_reason="stop" if ended else "length", usage=Usage(1, len(words), calls=1))

    def session(
        self, messages: Sequence[Message], sampling: Sampling, *, look: Look = NO_LOOK, luck: int | None = None
    ) -> ScriptedSession:
        self.opened.append(ScriptedSession(self))
        return self.opened[-1]

    def speller(self, stop: Sequence[str] = ()) -> Any:
        return Spelling(self.words, stop)


class ScriptedSession:
    """See `selfroute.backends.sessions.Session`."""

    def __init__(self, backend: Scripted) -> None:
        self.backend, self.vocabulary = backend, backend.vocabulary
        self.ids: list[int] = []
        self.own = 0
        self.closed = False

    @property
    def used(self) -> Usage:
        return Usage(prompt_tokens=len(self.ids) - self.own, completion_tokens=self.own)

    async def read(self, ids: Sequence[int], *, every: bool = False) -> list[View]:
        if any(i >= len(self.backend.words) for i in ids):
            raise BackendError(f"{self.backend.name}: an id is outside its vocabulary", backend=self.backend.name)
        self.ids += ids
        return []

    async def write(
        self, limit: int, *, until: Sequence[str] = (), judge: Judge | None = None, within_s: float | None = None
    ) -> list[Written]:
        written: list[Written] = []
        while len(written) < limit:
            word = self.backend.following([self.backend.words[i] for i in self.ids])
            self.ids.append(self.backend.words.id_of(word))
            self.own += 1
            written.append(Written(self.ids[-1], 0.0, word == END))
            said = "".join(self.backend.words[token.token_id] for token in written)
            if word == END or any(said.endswith(mark) for mark in until):
                break
        return written

    async def drop(self, count: int) -> None:
        del self.ids[len(self.ids) - count :]

    async def close(self) -> None:
        self.closed = True


class Spelling:
    """See `selfroute.backends.sessions.Speller`."""

    def __init__(self, words: Words, stop: Sequence[str]) -> None:
        self.words, self.stop = words, stop
        self.text = ""
        self.shown = self.pushed = self.taken = 0
        self.stopped = False

    def push(self, token_id: int) -> None:
        self.pushed += 1
        if self.stopped or self.words[token_id] == END:
            return
        self.text += self.words[token_id]
        for mark in self.stop:
            if mark in self.text:
                self.text, self.stopped = self.text.partition(mark)[0], True

    def extend(self, token_ids: Sequence[int]) -> None:
        for token_id in token_ids:
            self.push(token_id)

    def finish(self) -> None:
        pass

    def take(self, *, last: bool = False) -> tuple[str, range]:
        text, which = self.text[self.shown :], range(self.taken, self.pushed)
        self.shown, self.taken = len(self.text), self.pushed
        return text, which

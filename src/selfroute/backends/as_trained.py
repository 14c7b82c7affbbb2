"""A model that is asked as it was in its training, whatever a request leaves open."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import TypeVar, cast

from selfroute.backends.base import Backend, BatchBackend, as_backend, capability, find_capability
from selfroute.backends.flight import closing
from selfroute.backends.sessions import NO_LOOK, Look, Session, Sessions, Speller
from selfroute.calls import CallText
from selfroute.prompts import last_question
from selfroute.types import Completion, Delta, Message, Sampling

__all__ = ["AsTrained", "Reworded"]

T = TypeVar("T")

_LIMITS = ("max_tokens", "max_completion_tokens")


class AsTrained(Backend):
    """Keeps a model to the length, the temperature and the turns of its training.

    Args:
        backend: the model.
        max_tokens: most tokens of an answer, also where a request allows more; None sets no limit.
        temperature: of requests that leave it to the model's server; None leaves it there.
        last_turn: show it the last question of a conversation alone.
        shown: turns of demonstrations, which are no part of the conversation and stay.
        calls: it was trained to call for tokens inside its answers, see `selfroute.calls`: where it answers alone,
            nobody follows these calls, and they are left out of its text.
    """

    inner: Backend

    def __init__(
        self,
        backend: Backend,
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        last_turn: bool = False,
        shown: Sequence[Message] = (),
        calls: bool = False,
    ) -> None:
        self.inner = as_backend(backend)
        self.name = backend.name
        self.max_tokens = max_tokens
        self.temperature = temperature
        self.last_turn, self.shown = last_turn, frozenset(shown)
        self.calls = calls

    def offer(self, kind: type[T]) -> T | None:
        """As any backend; batches and sessions only over one that has them."""
        if kind is BatchBackend and find_capability(self.inner, kind) is None:
            return None
        if kind is Sessions:
            sessions = find_capability(self.inner, Sessions)
            return None if sessions is None else cast(T, _SessionsAsTrained(sessions, self._turns, self.bounded))
        return super().offer(kind)

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        """See `selfroute.backends.base.Backend`; the model's own stream, so that a piece costs nothing."""
        stream = self.inner.stream(self._turns(messages), self.bounded(sampling))
        return _without_calls(stream) if self.calls else stream

    def generate_batch(self, prompts: Sequence[Sequence[Message]], sampling: Sampling) -> list[Completion]:
        """Answer every prompt, in order.

        Raises:
            UnsupportedByBackend: the model has no batches.
        """
        batches = capability(self.inner, BatchBackend)
        answers = batches.generate_batch([self._turns(messages) for messages in prompts], self.bounded(sampling))
        return [replace(answer, text=CallText.of(answer.text)) for answer in answers] if self.calls else answers

    def _turns(self, messages: Sequence[Message]) -> Sequence[Message]:
        if not self.last_turn:
            return messages
        own = takewhile(lambda turn: turn.role in ("system", "developer") or turn in self.shown, messages)
        begun = len(list(own))
        return [*messages[:begun], *last_question(messages[begun:])]

    def bounded(self, sampling: Sampling) -> Sampling:
        """See `selfroute.backends.sessions.Bounded`."""
        extra = dict(sampling.extra)
        if self.temperature is not None and "temperature" in extra:  # None: left to the server
            del extra["temperature"]
            sampling = replace(sampling, temperature=self.temperature)
        if self.max_tokens is not None and ("max_tokens" in extra or sampling.max_tokens > self.max_tokens):
            extra = {name: value for name, value in extra.items() if name not in _LIMITS}
            sampling = replace(sampling, max_tokens=min(sampling.max_tokens, self.max_tokens))
        return replace(sampling, extra=extra)


class _SessionsAsTrained:
    """The `selfroute.backends.sessions.Sessions` of a model, opened as in its training; calls stay in their texts."""

    def __init__(
        self,
        inner: Sessions,
        turns: Callable[[Sequence[Message]], Sequence[Message]],
        bounded: Callable[[Sampling], Sampling],
    ) -> None:
        self._inner, self._turns, self._bounded = inner, turns, bounded

    @property
    def gives(self) -> frozenset[str]:
        return self._inner.gives

    @property
    def vocabulary(self) -> str:
        return self._inner.vocabulary

    def session(
        self, messages: Sequence[Message], sampling: Sampling, *, look: Look = NO_LOOK, luck: int | None = None
    ) -> Session:
        return self._inner.session(self._turns(messages), self._bounded(sampling), look=look, luck=luck)

    def speller(self, stop: Sequence[str] = ()) -> Speller:
        return self._inner.speller(stop)


class Reworded(AsTrained):
    """A model that is asked each conversation in the words of its training, whatever words callers know it under.

    Args:
        words: roles and texts of conversations as callers write them, to what the model reads.
        max_tokens: most tokens of an answer; None sets no limit.
    """

    def __init__(
        self,
        backend: Backend,
        words: Mapping[tuple[tuple[str, str], ...], Sequence[Message]],
        *,
        max_tokens: int | None = None,
    ) -> None:
        super().__init__(backend, max_tokens=max_tokens)
        self.words = words

    def _turns(self, messages: Sequence[Message]) -> Sequence[Message]:
        return self.words[tuple((turn.role, turn.content) for turn in messages)]


async def _without_calls(stream: AsyncIterator[Delta]) -> AsyncIterator[Delta]:
    """The stream without the text of calls; what may still become one is held back."""
    text = CallText()
    async with closing(stream) as deltas:
        async for delta in deltas:
            said = text.feed(delta.text)
            if delta.finish_reason is not None:
                said += text.close()
            yield replace(delta, text=said)

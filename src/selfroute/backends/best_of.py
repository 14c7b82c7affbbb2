"""More work at answering time: sample again where an answer's own check rejects it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from selfroute.backends.base import (
    Backend,
    BatchBackend,
    as_backend,
    complete,
    complete_all,
    find_capability,
    refuse_fields,
    run_sync,
)
from selfroute.errors import ConfigError, SelfRouteError
from selfroute.types import Completion, Delta, Message, Sampling, Usage

__all__ = ["BestOfN"]

T = TypeVar("T")

# Draws so many further attempts for each prompt, after so many before: (prompts, count, drawn, sampling).
_Draw = Callable[[Sequence[Sequence[Message]], int, int, Sampling], Awaitable[list[list[Completion]]]]


class BestOfN(Backend):
    """Answers as asked first; while `accept` rejects the text, draws more, in rounds, up to `n` in all.

    Small rounds spare attempts that are not needed, but each round waits for its longest answer: a round fills a
    batch of `round_rows`, and draws at least as many attempts for a prompt as were drawn before. The first accepted
    answer is given; if none is accepted, the very first stands. Usage counts every token written,
    the prompt once; the reported tokens and finish reason are those of the answer given. It is a model of its own: it
    batches, takes text alone, and nothing else that its backend can do is to be had through it.

    Args:
        backend: the model that answers.
        n: most answers per prompt, the first included.
        accept: whether a text may be given; it must not raise.
        temperature: of the answers after the first.
        seed: makes those answers repeatable where the request has no seed of its own.
        round_rows: attempts of one round, over all prompts, below which more cost hardly any time.

    Raises:
        ConfigError: `n` is below 1 or `temperature` is not positive.
    """

    inner: Backend
    lacks = None
    announces = False  # it makes several requests, and says nothing of them

    def __init__(
        self,
        backend: Backend,
        n: int,
        accept: Callable[[str], bool],
        temperature: float = 1.0,
        *,
        seed: int = 0,
        round_rows: int = 256,
    ) -> None:
        if n < 1:
            raise ConfigError(f"best of n: n is {n}; give at least 1")
        if temperature <= 0:
            raise ConfigError(f"best of n: temperature is {temperature}; give a positive number, or n=1")
        self.inner = as_backend(backend)
        self.name = backend.name
        self.n = n
        self.accept = accept
        self.temperature = temperature
        self.seed = seed
        self.round_rows = round_rows

    @property
    def identity(self) -> str:
        """What tells its answers from others in a cache."""
        return f"{self.inner.identity}/best-of-{self.n}/temperature={self.temperature:g}/seed={self.seed}"

    @property
    def most_answers(self) -> int:
        """All of its attempts."""
        return self.n * self.inner.most_answers

    def offer(self, kind: type[T]) -> T | None:
        """This backend alone: what the one behind it writes is not yet the answer."""
        return self if isinstance(self, kind) else None

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        """The whole answer in one piece: which one it is shows only at the end. A reader that leaves ends them all."""
        refuse_fields(self, messages, sampling)
        first = await complete(self.inner, messages, sampling)
        (answer,) = await self._improved([messages], [first], sampling, self._draw_as_streams)
        yield Delta(answer.text, answer.tokens, answer.finish_reason, answer.usage)

    def generate_batch(self, prompts: Sequence[Sequence[Message]], sampling: Sampling) -> list[Completion]:
        """Answer every prompt, in order; further attempts of all prompts are made together.

        Raises:
            SelfRouteError: of the first prompt that failed.
        """
        for messages in prompts:
            refuse_fields(self, messages, sampling)

        async def answer() -> list[Completion]:
            firsts = await _all(self.inner, prompts, sampling)
            return await self._improved(prompts, firsts, sampling, self._draw)

        return run_sync(answer())

    async def _improved(
        self, prompts: Sequence[Sequence[Message]], firsts: Sequence[Completion], sampling: Sampling, draw: _Draw
    ) -> list[Completion]:
        """The answers to give, after as many rounds of further attempts as it takes."""
        written = [[first] for first in firsts]
        open_ = [i for i, first in enumerate(firsts) if not self.accept(first.text)]
        drawn = 0
        while open_ and drawn < self.n - 1:
            count = min(max(drawn + 1, self.round_rows // len(open_)), self.n - 1 - drawn)
            more = await draw([prompts[i] for i in open_], count, drawn, sampling)
            for i, attempts in zip(open_, more, strict=True):
                written[i].extend(attempts)
            open_ = [
                i for i, attempts in zip(open_, more, strict=True) if not any(self.accept(a.text) for a in attempts)
            ]
            drawn += count
        return [self._choose(attempts) for attempts in written]

    async def _draw(
        self, prompts: Sequence[Sequence[Message]], count: int, drawn: int, sampling: Sampling
    ) -> list[list[Completion]]:
        """`count` attempts for each prompt after the `drawn` ones before."""
        sampling = self._further(sampling, drawn)
        if find_capability(self.inner, BatchBackend) is not None:
            flat = await _all(self.inner, [prompt for prompt in prompts for _ in range(count)], sampling)
            return [flat[i : i + count] for i in range(0, len(flat), count)]
        # One call per attempt: only a seed of its own makes it differ from the others.
        rounds = [await _all(self.inner, prompts, _reseeded(sampling, k)) for k in range(count)]
        return [list(attempts) for attempts in zip(*rounds, strict=True)]

    async def _draw_as_streams(
        self, prompts: Sequence[Sequence[Message]], count: int, drawn: int, sampling: Sampling
    ) -> list[list[Completion]]:
        """As `_draw`; attempts of several readers share a batch, and each ends when its reader leaves."""
        sampling = self._further(sampling, drawn)
        tasks = [
            asyncio.ensure_future(complete(self.inner, messages, _reseeded(sampling, k)))
            for messages in prompts
            for k in range(count)
        ]
        try:
            flat = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return [flat[i : i + count] for i in range(0, len(flat), count)]

    def _further(self, sampling: Sampling, drawn: int) -> Sampling:
        """How the next attempt after so many is sampled."""
        seed = self.seed if sampling.seed is None else sampling.seed
        return replace(sampling, temperature=self.temperature, seed=seed + 1 + drawn)

    def _choose(self, attempts: Sequence[Completion]) -> Completion:
        first = attempts[0]
        chosen = next((attempt for attempt in attempts if self.accept(attempt.text)), first)
        usage = Usage(first.usage.prompt_tokens, sum(attempt.usage.completion_tokens for attempt in attempts))
        return replace(chosen, usage=usage, seconds=sum(attempt.seconds for attempt in attempts))


def _reseeded(sampling: Sampling, by: int) -> Sampling:
    return replace(sampling, seed=(sampling.seed or 0) + by)


async def _all(backend: Backend, prompts: Sequence[Sequence[Message]], sampling: Sampling) -> list[Completion]:
    answers: list[Completion] = []
    for answer in await complete_all(backend, prompts, sampling):
        if isinstance(answer, SelfRouteError):
            raise answer
        answers.append(answer)
    return answers

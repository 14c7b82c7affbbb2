"""More work at answering time: sample again where an answer's own check rejects it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from selfroute.backends.base import Backend, BatchBackend, complete, complete_all, run_sync
from selfroute.errors import ConfigError, SelfRouteError
from selfroute.types import Completion, Delta, Message, Sampling, Usage

__all__ = ["BestOfN"]


@runtime_checkable
class _Closable(Protocol):
    async def aclose(self) -> None: ...


class BestOfN:
    """Answers as asked first; if `accept` rejects the text, draws `n - 1` more and gives the first accepted one.

    If none is accepted, the first answer stands. Usage counts every token written, the prompt once; the reported
    tokens and finish reason are those of the answer given.

    Args:
        backend: the model that answers.
        n: most answers per prompt, the first included.
        accept: whether a text may be given; it must not raise.
        temperature: of the answers after the first.
        seed: makes those answers repeatable where the request has no seed of its own.

    Raises:
        ConfigError: `n` is below 1 or `temperature` is not positive.
    """

    def __init__(
        self,
        backend: Backend,
        n: int,
        accept: Callable[[str], bool],
        temperature: float = 1.0,
        *,
        seed: int = 0,
    ) -> None:
        if n < 1:
            raise ConfigError(f"best of n: n is {n}; give at least 1")
        if temperature <= 0:
            raise ConfigError(f"best of n: temperature is {temperature}; give a positive number, or n=1")
        self.name = backend.name
        self.backend = backend
        self.n = n
        self.accept = accept
        self.temperature = temperature
        self.seed = seed

    @property
    def identity(self) -> str:
        """What tells its answers from others in a cache."""
        inner = getattr(self.backend, "identity", self.backend.name)
        return f"{inner}/best-of-{self.n}/temperature={self.temperature:g}/seed={self.seed}"

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        """The whole answer in one piece: which one it is shows only at the end."""
        first = await complete(self.backend, messages, sampling)
        answer = first
        if not self.accept(first.text) and self.n > 1:
            answer = self._choose(first, await self._again([messages], sampling))
        yield Delta(answer.text, answer.tokens, answer.finish_reason, answer.usage)

    def generate_batch(self, prompts: Sequence[Sequence[Message]], sampling: Sampling) -> list[Completion]:
        """Answer every prompt, in order; all second attempts are made together.

        Raises:
            SelfRouteError: of the first prompt that failed.
        """
        answers = run_sync(_all(self.backend, prompts, sampling))
        rejected = [i for i, answer in enumerate(answers) if not self.accept(answer.text)]
        if rejected and self.n > 1:
            more = run_sync(self._again([prompts[i] for i in rejected], sampling))
            each = self.n - 1
            for at, i in enumerate(rejected):
                answers[i] = self._choose(answers[i], more[at * each : (at + 1) * each])
        return answers

    async def aclose(self) -> None:
        """Close the backend, if it can be closed."""
        if isinstance(self.backend, _Closable):
            await self.backend.aclose()

    async def _again(self, prompts: Sequence[Sequence[Message]], sampling: Sampling) -> list[Completion]:
        """`n - 1` more answers for each prompt, a prompt's own next to each other."""
        seed = self.seed if sampling.seed is None else sampling.seed
        sampling = replace(sampling, temperature=self.temperature, seed=seed)
        if isinstance(self.backend, BatchBackend):
            return await _all(self.backend, [p for p in prompts for _ in range(self.n - 1)], sampling)
        # One call per attempt: only a seed of its own makes it differ from the others.
        rounds = [await _all(self.backend, prompts, replace(sampling, seed=seed + k)) for k in range(1, self.n)]
        return [completion for attempts in zip(*rounds, strict=True) for completion in attempts]

    def _choose(self, first: Completion, more: Sequence[Completion]) -> Completion:
        chosen = next((completion for completion in more if self.accept(completion.text)), first)
        everything = [first, *more]
        usage = Usage(first.usage.prompt_tokens, sum(c.usage.completion_tokens for c in everything))
        return replace(chosen, usage=usage, seconds=sum(c.seconds for c in everything))


async def _all(backend: Backend, prompts: Sequence[Sequence[Message]], sampling: Sampling) -> list[Completion]:
    answers: list[Completion] = []
    for answer in await complete_all(backend, prompts, sampling):
        if isinstance(answer, SelfRouteError):
            raise answer
        answers.append(answer)
    return answers

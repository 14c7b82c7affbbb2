"""Who doubts a step of the device: what a checker needs of the sides, and the doubt it has of each step.

A doubt is higher where the cloud should write the step. That of a view, the tag, a reward model, the cloud's digit and
the oracle is in [0, 1]; the entropy of a first token is in nats.
"""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from selfroute.backends.base import capability
from selfroute.backends.sessions import NO_LOOK, Encodes, Look, Sessions, Written
from selfroute.budget.estimate import most_used
from selfroute.prices import Price
from selfroute.scores.steps import StepScorer, Tags, tag_of
from selfroute.strategies.base import Sides
from selfroute.strategies.inside.foresight import Foreseer
from selfroute.strategies.inside.joint import Joint
from selfroute.types import Message, Sampling, Usage

__all__ = ["Asked", "ByCloud", "ByForesight", "ByReward", "ByTag", "ByView", "Checker", "Doubt"]

# Of a step; None where nobody can say: then it stands.
Doubt = Callable[[Sequence[Written]], Awaitable[float | None]]
_TAG_LOOK = Look(top=20)
_MOST_JUDGED = 32  # steps of an answer that the cloud is asked about
_DIGIT = re.compile(r"[0-9]", re.ASCII)


@dataclass(frozen=True, slots=True)
class Asked:
    """One answer under way, as a checker sees it."""

    answer: Joint
    sides: Sides
    messages: Sequence[Message]
    sampling: Sampling

    def text(self, step: Sequence[Written]) -> str:
        """The answer with a step that is not settled yet."""
        speller = capability(self.sides.device, Sessions).speller()
        speller.extend([token.token_id for token in step])
        speller.finish()
        return self.answer.text + speller.take(last=True)[0]


class Checker(Protocol):
    """A way to doubt steps.

    Attributes:
        look: what the device's views must show.
        before: judges a step by its first token, before it is written.
        cloud: what its sessions must give.
        asks: asks the cloud itself.
        oracle: as in `selfroute.strategies.base.Oracle`.
    """

    @property
    def look(self) -> Look: ...
    @property
    def before(self) -> bool: ...
    @property
    def cloud(self) -> frozenset[str]: ...
    @property
    def asks(self) -> bool: ...
    @property
    def oracle(self) -> bool: ...

    def most(self, messages: Sequence[Message], sampling: Sampling) -> Usage:
        """The most that it uses of the cloud beside the answer."""
        ...

    def exam(self, asked: Asked) -> AbstractAsyncContextManager[Doubt]:
        """What doubts the steps of one answer."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Checker:
    look: Look = NO_LOOK
    before: bool = False
    cloud: frozenset[str] = frozenset()
    asks: bool = False
    oracle: bool = False

    def most(self, messages: Sequence[Message], sampling: Sampling) -> Usage:
        return Usage()


@dataclass(frozen=True, slots=True, kw_only=True)
class ByView(_Checker):
    """By what the device's own tokens show."""

    scorer: StepScorer

    @asynccontextmanager
    async def exam(self, asked: Asked) -> AsyncIterator[Doubt]:
        """See `Checker`."""

        async def doubt(step: Sequence[Written]) -> float:
            return self.scorer(step)

        yield doubt


@dataclass(frozen=True, slots=True, kw_only=True)
class ByTag(_Checker):
    """By the tag that the device would write behind the step: P_err = π(WRONG | question, history, step)."""

    tags: Tags
    look: Look = _TAG_LOOK

    @asynccontextmanager
    async def exam(self, asked: Asked) -> AsyncIterator[Doubt]:
        """See `Checker`."""
        wrong = tag_of(capability(asked.sides.device, Encodes).ids_of(self.tags.wrong), self.tags.wrong, "tags")

        async def doubt(step: Sequence[Written]) -> float:
            [tag] = await asked.answer.device_writes(1, shown=False)
            await asked.answer.device.drop(1)
            logprob = None if tag.view is None else tag.view.top.get(wrong)
            return 0.0 if logprob is None else math.exp(logprob)

        yield doubt


class Reward(Protocol):
    """From a question and an answer to the reward in [0, 1] of its last step."""

    async def __call__(self, question: str, answer: str) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ByReward(_Checker):
    """By a process reward model: 1 − its reward (RSD, arXiv 2501.19324)."""

    reward: Reward

    @asynccontextmanager
    async def exam(self, asked: Asked) -> AsyncIterator[Doubt]:
        """See `Checker`."""
        question = asked.messages[-1].content

        async def doubt(step: Sequence[Written]) -> float:
            return 1 - await self.reward(question, asked.text(step))

        yield doubt


@dataclass(frozen=True, slots=True, kw_only=True)
class ByCloud(_Checker):
    """By the cloud's own digit from 0 to 9 for the step, which reads every step: 1 − digit / 9 (SpecReason, arXiv
    2504.07891).

    It is asked about 32 steps of an answer at most; a reply without a digit is a 0.
    """

    asks: bool = True

    def most(self, messages: Sequence[Message], sampling: Sampling) -> Usage:
        """See `Checker`."""
        asks = most_used(_judging(messages, ""), _DIGIT_SAMPLING, Price()).usage
        once = replace(asks, prompt_tokens=asks.prompt_tokens + sampling.max_tokens)
        return Usage(_MOST_JUDGED * once.prompt_tokens, _MOST_JUDGED * once.completion_tokens)

    @asynccontextmanager
    async def exam(self, asked: Asked) -> AsyncIterator[Doubt]:
        """See `Checker`."""
        count = 0

        async def doubt(step: Sequence[Written]) -> float | None:
            nonlocal count
            count += 1
            if count > _MOST_JUDGED:
                return None
            said = await asked.answer.beside(_judging(asked.messages, asked.text(step)), _DIGIT_SAMPLING)
            if said is None:
                return None
            digit = _DIGIT.search(said.text)
            return 1 - int(digit[0]) / 9 if digit else 1.0

        yield doubt


_DIGIT_SAMPLING = Sampling(max_tokens=4)
_JUDGING = (
    "Above is a task, and below is how far somebody has come with it. Evaluate the last step alone, by whether it is "
    "correct and leads to a valid answer; style does not matter. Reply with one digit from 0 (wrong) to 9 (right) and "
    "nothing else.\n\n"
)


def _judging(messages: Sequence[Message], answer: str) -> list[Message]:
    *before, last = messages
    return [*before, Message("user", f"{last.content}\n\n{_JUDGING}{answer}")]


@dataclass(frozen=True, slots=True, kw_only=True)
class ByForesight(_Checker):
    """By the cloud's own distribution: 1 − min_t p_c(y_t) / max p_c over the step.

    A bound, not a method: what it asks the cloud is not counted.
    """

    cloud: frozenset[str] = frozenset({"every", "top"})
    asks: bool = True
    oracle: bool = True

    @asynccontextmanager
    async def exam(self, asked: Asked) -> AsyncIterator[Doubt]:
        """See `Checker`."""
        async with Foreseer(asked.sides, asked.messages, asked.sampling) as foreseer:

            async def doubt(step: Sequence[Written]) -> float:
                return 1 - min(await foreseer.scores(asked.answer.ids, [token.token_id for token in step]))

            yield doubt

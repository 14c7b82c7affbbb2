"""The exam of AdaSwitch (arXiv 2410.13181): the device answers step by step, and a rule of the task judges each step.

Where one is wrong the cloud writes it, and the device goes on from the mended history.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from selfroute.backends.base import Backend, capability
from selfroute.backends.flight import in_flight
from selfroute.backends.sessions import NO_LOOK, Look, Session, Sessions, Written
from selfroute.errors import BackendError
from selfroute.prompts import PromptTemplate
from selfroute.scores.steps import MinProbability
from selfroute.tasks.base import Row, Stepwise
from selfroute.types import Sampling, Source

__all__ = ["Examined", "Examiner", "Judged", "TagIds"]

_TAG_LOOK = Look(top=20)


@dataclass(frozen=True, slots=True)
class Judged:
    """One step of an examined answer.

    Attributes:
        ids: its tokens, the one that ends the answer included.
        right: whether it follows from the right steps before it, by the task's rule.
        source: who wrote it.
        doubts: of the device's steps, by the checker's name: "min_probability", and "tag" where it tags.
    """

    ids: Sequence[int]
    right: bool
    source: Source
    doubts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Examined:
    """An answer with its steps judged: behind each wrong one stands the cloud's.

    Attributes:
        id: of the row.
        sample: which of the row's answers; 0 is greedy.
        question: as it was asked.
        steps: up to the end, or to where the cloud was wrong too.
        error: of a side that failed, which leaves no steps.
    """

    id: str
    sample: int
    question: str
    steps: Sequence[Judged] = ()
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Examined:
        """Read what `as_dict` gave."""
        return cls(**{**values, "steps": [Judged(**step) for step in values["steps"]]})


@dataclass(frozen=True, slots=True)
class TagIds:
    """What a device that was trained to writes behind its steps."""

    right: int
    wrong: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Examiner:
    """Examines answers of a pair with one vocabulary.

    Args:
        sampling: of the device's first answer to a row, greedy.
        temperature: of its further answers.
        max_step_tokens: most tokens of one step.
        tags: of a device that tags its steps, None of one that does not.
        seed: of the further answers.
    """

    device: Backend
    cloud: Backend
    task: Stepwise
    template: PromptTemplate
    sampling: Sampling
    temperature: float = 0.7
    max_step_tokens: int = 128
    tags: TagIds | None = None
    seed: int = 0

    async def examine(self, asked: Sequence[tuple[Row, int]], *, concurrency: int = 64) -> AsyncIterator[Examined]:
        """Answers to rows, each with the number of its sample, as they come."""

        async def one(each: tuple[Row, int]) -> Examined:
            row, sample = each
            try:
                return Examined(row.id, sample, row.question, await self._steps(row, sample))
            except BackendError as error:
                return Examined(row.id, sample, row.question, error=str(error))

        async for examined in in_flight(asked, one, limit=concurrency):
            yield examined

    async def _steps(self, row: Row, sample: int) -> list[Judged]:
        conversation = self.template.conversation(row.question)
        prompt = self.template.device_messages(conversation, offer_handoff=False)
        warm = replace(self.sampling, temperature=self.temperature, seed=self.seed + sample)
        sampling = warm if sample else self.sampling
        look = NO_LOOK if self.tags is None else _TAG_LOOK
        small = capability(self.device, Sessions).session(prompt, sampling, look=look)
        large = capability(self.cloud, Sessions).session(conversation, self.sampling)
        try:
            return await self._alternate(row, small, large)
        finally:
            await small.close()
            await large.close()

    async def _alternate(self, row: Row, small: Session, large: Session) -> list[Judged]:
        steps: list[Judged] = []
        clean: list[int] = []
        while len(clean) < self.sampling.max_tokens:
            written = await self._write(small, len(clean))
            doubts = await self._doubts(small, written)
            steps.append(self._judged(row, clean, written, "device", doubts))
            if not steps[-1].right:
                await large.read(clean[len(large.ids) :])
                mended = await self._write(large, len(clean))
                steps.append(self._judged(row, clean, mended, "cloud", {}))
                await self._take_over(small, written, mended)
                written = mended
            elif self.tags is not None:
                await small.read([self.tags.right])
            clean += steps[-1].ids
            if written[-1].ends or not steps[-1].right:
                break
        return steps

    async def _write(self, session: Session, already: int) -> list[Written]:
        limit = min(self.max_step_tokens, self.sampling.max_tokens - already)
        return await session.write(limit, until=(self.task.step_end,))

    async def _doubts(self, small: Session, written: Sequence[Written]) -> dict[str, float]:
        doubts = {"min_probability": MinProbability()(written)}
        if self.tags is not None:
            [tag] = await small.write(1)
            await small.drop(1)
            assert tag.view is not None
            doubts["tag"] = math.exp(tag.view.top.get(self.tags.wrong, -math.inf))
        return doubts

    async def _take_over(self, small: Session, wrong: Sequence[Written], mended: Sequence[Written]) -> None:
        ids = [token.token_id for token in mended]
        if self.tags is not None:
            await small.read([self.tags.wrong, *ids, self.tags.right])
            return
        await small.drop(len(wrong))
        await small.read(ids)

    def _judged(
        self, row: Row, before: Sequence[int], written: Sequence[Written], source: Source, doubts: Mapping[str, float]
    ) -> Judged:
        ids = [token.token_id for token in written]
        right = self.task.judge_step(row, self._text(before), self._text(ids))
        return Judged(ids, right, source, doubts)

    def _text(self, ids: Sequence[int]) -> str:
        speller = capability(self.device, Sessions).speller()
        speller.extend(ids)
        speller.finish()
        return speller.take(last=True)[0]

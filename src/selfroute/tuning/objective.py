"""What choices are worth: the device answers some rows as they say, the cloud those that it hands off."""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from selfroute.backends.flight import in_flight
from selfroute.errors import BudgetExceeded, ConfigError, SelfRouteError
from selfroute.grading import Outcome, judge
from selfroute.handoff import parse
from selfroute.prompts import PromptTemplate
from selfroute.rewards.base import Reward
from selfroute.tasks.base import Row, Task
from selfroute.tuning.base import Choices
from selfroute.tuning.meter import Asking
from selfroute.tuning.program import Program
from selfroute.types import Message

__all__ = ["Attempt", "Graded", "HandoffPrice", "Objective"]


class HandoffPrice(Protocol):
    """What a hand-off costs beside its reward, moved until hand-offs are as frequent as wanted."""

    @property
    def price(self) -> float: ...

    def update(self, measured: Sequence[float]) -> None: ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class Attempt:
    """What the device wrote to a row, and what came of it.

    Attributes:
        text: None where there was no answer.
    """

    row: Row
    text: str | None
    outcome: Outcome


class Graded:
    """Attempts of a device on rows, graded, with the cloud's answers to those it hands off.

    Args:
        device: as a tuner asks it.
        cloud: None where there is none; a hand-off then has no correct answer.
        concurrency: requests in flight to each side.
    """

    def __init__(self, task: Task, device: Asking, cloud: Asking | None, *, concurrency: int = 8) -> None:
        self.task, self.device, self.cloud, self.concurrency = task, device, cloud, concurrency

    async def __call__(self, asked: Sequence[tuple[PromptTemplate, Row]]) -> list[Attempt]:
        """Attempts in order.

        Raises:
            BudgetExceeded: the budget ends before all are there.
        """
        prompts = [template.device_messages(template.conversation(row.question)) for template, row in asked]
        texts = await self._answers(self.device, prompts)
        wants = [text is not None and parse(text).wants_cloud for text in texts]
        helped = await self._cloud_correct([pair for pair, want in zip(asked, wants, strict=True) if want])
        return [
            Attempt(row, text, self._outcome(row, text, want, helped.get(row.id)))
            for (_, row), text, want in zip(asked, texts, wants, strict=True)
        ]

    def _outcome(self, row: Row, text: str | None, wants_cloud: bool, helped: float | None) -> Outcome:
        if text is None:
            return Outcome(wants_cloud=False, error="the device did not answer")
        if wants_cloud:
            return Outcome(wants_cloud=True, device_correct=False, cloud_correct=helped)
        return Outcome(wants_cloud=False, device_correct=judge(self.task, row, text)[0])

    async def _cloud_correct(self, asked: Sequence[tuple[PromptTemplate, Row]]) -> dict[str, float | None]:
        rows = {row.id: (template, row) for template, row in asked}
        if self.cloud is None:
            return dict.fromkeys(rows, 0.0)
        texts = await self._answers(
            self.cloud, [template.conversation(row.question) for template, row in rows.values()]
        )
        return {
            name: None if text is None else judge(self.task, row, text)[0]
            for (name, (_, row)), text in zip(rows.items(), texts, strict=True)
        }

    async def _answers(self, model: Asking, prompts: Sequence[Sequence[Message]]) -> list[str | None]:
        found: dict[int, str | None] = {}

        async def one(number: int) -> tuple[int, str | None]:
            try:
                return number, (await model(prompts[number])).text
            except (BudgetExceeded, ConfigError):
                raise
            except SelfRouteError:
                return number, None

        async for number, text in in_flight(range(len(prompts)), one, limit=self.concurrency):
            found[number] = text
        return [found[number] for number in range(len(prompts))]


class Objective:
    """The mean reward of choices on rows that a round draws, less the price of hand-offs.

    All choices of a round answer the same rows, so that what differs between them is the choices' doing.

    Args:
        rows: train rows of one worker.
        reward: of an outcome.
        price: of a hand-off; moved after every round by how often all its attempts asked. None charges none.
        batch: rows of a round.
        seed: of the draws, with the name and the round.
    """

    def __init__(
        self,
        program: Program,
        rows: Sequence[Row],
        grade: Callable[[Sequence[tuple[PromptTemplate, Row]]], Awaitable[Sequence[Attempt]]],
        *,
        reward: Reward,
        price: HandoffPrice | None = None,
        batch: int = 8,
        seed: int = 0,
        name: str = "",
    ) -> None:
        self.program, self.rows, self.grade = program, rows, grade
        self.reward, self.price = reward, price
        self.batch, self.seed, self.name = min(batch, len(rows)), seed, name

    async def __call__(self, choices: Sequence[Choices], round: int) -> list[float | None]:
        """One reward for each of the choices; None where no attempt could be graded.

        Raises:
            BudgetExceeded: the budget ends before all are measured; nothing has moved then.
        """
        return await self.worth([self.program.template(chosen) for chosen in choices], round)

    async def worth(self, templates: Sequence[PromptTemplate], round: int) -> list[float | None]:
        """As a call, of templates."""
        rows = self.drawn(round)
        attempts = await self.grade([(template, row) for template in templates for row in rows])
        groups = [attempts[i * len(rows) : (i + 1) * len(rows)] for i in range(len(templates))]
        rewards = [self._mean(group) for group in groups]
        if self.price is not None:
            asked = np.array([[attempt.outcome.wants_cloud for attempt in group] for group in groups])
            self.price.update([float(share) for share in asked.mean(axis=0)])
        return rewards

    def drawn(self, round: int) -> list[Row]:
        """The rows of a round."""
        rng = np.random.default_rng([self.seed, zlib.crc32(self.name.encode()), round, 1])
        return [self.rows[int(i)] for i in rng.choice(len(self.rows), size=self.batch, replace=False)]

    def _mean(self, attempts: Sequence[Attempt]) -> float | None:
        paid = [worth for attempt in attempts if (worth := self.paid(attempt)) is not None]
        return sum(paid) / len(paid) if paid else None

    def paid(self, attempt: Attempt) -> float | None:
        """What one attempt is worth now; None for one that could not be graded."""
        outcome = attempt.outcome
        if outcome.error is not None:
            return None
        worth = self.reward(outcome)
        charged = self.price.price if self.price is not None and outcome.wants_cloud else 0.0
        return None if worth is None else worth - charged

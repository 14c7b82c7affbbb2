"""A small world with known numbers: 40 prompts, a device, a cloud, and strategies over them.

Prompt i: the device is right on 24 of 40 (i % 5 < 3), the cloud on 36 (i % 10 != 9).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from selfroute.backends.base import Backend, complete
from selfroute.backends.function import FunctionBackend
from selfroute.budget.base import Budget, Estimate, Unlimited
from selfroute.errors import BudgetExceeded
from selfroute.prompts import PromptTemplate
from selfroute.strategies.base import Strategy
from selfroute.tasks.base import Row
from selfroute.types import Event, Finished, Message, Reason, Sampling, Segment, TextDelta, Trace
from selfroute.verify.base import Verdict

N = 40
TEMPLATE = PromptTemplate(system="Think.", help="Or ask.", user="{question}?")


def number(messages: Sequence[Message]) -> int:
    return int(messages[-1].content.split()[1].rstrip("?"))


def device_solves(i: int) -> bool:
    return i % 5 < 3


def cloud_solves(i: int) -> bool:
    return i % 10 != 9


def say(i: int, right: bool) -> str:
    return f"<think>{'a' * i}</think><answer>{i if right else -1}</answer>"


class Numbers:
    """Repeat the number of the prompt."""

    name, template = "numbers", "think"

    def rows(self, split: str) -> Iterable[Row]:
        return [Row(f"n{i:03}", f"number {i}", str(i)) for i in range(N)]

    def verify(self, row: Row, completion: str) -> Verdict:
        return Verdict(f"<answer>{row.gold}</answer>" in completion)

    def gold_completion(self, row: Row) -> str:
        return f"<answer>{row.gold}</answer>"


def keep(i: int) -> tuple[bool, float | None]:
    return False, None


@dataclass(frozen=True)
class Toy:
    """Decides by a function from the prompt's number to (wants, score)."""

    name: str
    device: Backend
    cloud: Backend
    decide: Callable[[int], tuple[bool, float | None]] = keep
    budget: Budget = field(default_factory=Unlimited)

    def with_budget(self, budget: Budget) -> Strategy:
        return replace(self, budget=budget)

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Event]:
        wants, score = self.decide(number(messages))
        first = await complete(self.device, messages, sampling)
        segments = [Segment("device", first.text, first.usage, 0.5)]
        reason: Reason = "answered"
        if wants:
            try:
                lease = await self.budget.reserve(Estimate())
                last = await complete(self.cloud, messages, sampling)
                await lease.settle(last.usage, 0.01)
                segments.append(Segment("cloud", last.text, last.usage, 0.25, 0.01))
                reason = "hand-off"
            except BudgetExceeded:
                reason = "budget"
        final = segments[-1]
        yield TextDelta(final.text, final.source)
        yield Finished(Trace(self.name, final.source, wants, reason, final.text, tuple(segments), score))


def small() -> FunctionBackend:
    return FunctionBackend("small", lambda m, s: say(number(m), device_solves(number(m))))


def large() -> FunctionBackend:
    return FunctionBackend("large", lambda m, s: say(number(m), cloud_solves(number(m))))


def world(device: Backend, cloud: Backend) -> list[Strategy]:
    """Both fixed ones, one that asks on i % 5 == 4 by a graded score, one that asks there without a score."""
    return [
        Toy("always_device", device, cloud),
        Toy("always_cloud", device, cloud, lambda i: (True, None)),
        Toy("graded", device, cloud, lambda i: (i % 5 == 4, (i % 5) / 5 + i / 1000)),
        Toy("asks", device, cloud, lambda i: (i % 5 == 4, None)),
    ]

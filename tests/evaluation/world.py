"""A small world with known numbers: 40 prompts, a device, a cloud, and strategies over them.

Prompt i: the device is right on 24 of 40 (i % 5 < 3), the cloud on 36 (i % 10 != 9).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from selfroute.backends.base import Backend, complete
from selfroute.backends.function import FunctionBackend
from selfroute.budget.base import Estimate
from selfroute.errors import BudgetExceeded
from selfroute.evaluation.run import Entrant
from selfroute.prompts import PromptTemplate
from selfroute.strategies.base import Needs, Sides, Strategy
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
    decide: Callable[[int], tuple[bool, float | None]] = keep

    @property
    def needs(self) -> Needs:
        return Needs()

    async def stream(self, sides: Sides, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Event]:
        assert sides.cloud is not None
        wants, score = self.decide(number(messages))
        first = await complete(sides.device, messages, sampling)
        segments = [Segment(source="device", model="small", text=first.text, usage=first.usage, seconds=0.5)]
        reason: Reason = "answered"
        if wants:
            try:
                lease = await sides.budget.reserve(Estimate())
                last = await complete(sides.cloud, messages, sampling)
                await lease.spend(last.usage, 0.01)
                await lease.close()
                cloud = Segment(
                    source="cloud", model="large", text=last.text, usage=last.usage, seconds=0.25, cost_usd=0.01
                )
                segments = [replace(segments[0], part="attempt"), cloud]
                reason = "hand-off"
            except BudgetExceeded:
                reason = "budget"
        yield TextDelta(segments[-1].text, segments[-1].source)
        yield Finished(
            Trace(
                strategy=self.name,
                wants_cloud=wants,
                reason=reason,
                segments=tuple(segments),
                decided_after=1,
                score=score,
            )
        )


def small() -> FunctionBackend:
    return FunctionBackend("small", lambda m, s: say(number(m), device_solves(number(m))))


def large() -> FunctionBackend:
    return FunctionBackend("large", lambda m, s: say(number(m), cloud_solves(number(m))))


def entrants(strategies: Iterable[Strategy], device: Backend, cloud: Backend) -> list[Entrant]:
    """Strategies over one pair."""
    sides = Sides(device=device, cloud=cloud, template=TEMPLATE)
    return [Entrant(strategy=strategy, sides=sides) for strategy in strategies]


def world(device: Backend, cloud: Backend) -> list[Entrant]:
    """Both fixed ones, one that asks on i % 5 == 4 by a graded score, one that asks there without a score."""
    toys = [
        Toy("always_device"),
        Toy("always_cloud", lambda i: (True, None)),
        Toy("graded", lambda i: (i % 5 == 4, (i % 5) / 5 + i / 1000)),
        Toy("asks", lambda i: (i % 5 == 4, None)),
    ]
    return entrants(toys, device, cloud)

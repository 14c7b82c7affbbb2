"""A small world with known numbers: 40 prompts, a device, a cloud, and strategies over them.

Prompt i: the device is right on 24 of 40 (i % 5 < 3), the cloud on 36 (i % 10 != 9).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selfroute.backends.base import Backend, complete
from selfroute.backends.function import FunctionBackend
from selfroute.budget.base import Estimate
from selfroute.errors import BudgetExceeded
from selfroute.evaluation.bench import Bench, Entrant
from selfroute.evaluation.run import evaluate
from selfroute.prompts import PromptTemplate
from selfroute.strategies.base import Needs, Sides, Strategy
from selfroute.tasks.base import Row
from selfroute.types import Event, Finished, Message, Reason, Sampling, Segment, Source, TextDelta, Trace
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


@dataclass(frozen=True)
class Together:
    """Device, cloud and device write one answer in turn, on the prompts below `below`; the rest the device alone.

    With `points` it has a knob, which sets `below`.
    """

    name: str = "together"
    below: float = N

    @property
    def needs(self) -> Needs:
        return Needs()

    async def stream(self, sides: Sides, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Event]:
        assert sides.cloud is not None
        turns: list[tuple[Source, Backend]] = [("device", sides.device)]
        joint = number(messages) < self.below
        if joint:
            turns += [("cloud", sides.cloud), ("device", sides.device)]
        segments: list[Segment] = []
        for source, backend in turns:
            so_far = "".join(segment.text for segment in segments)
            asked = [*messages, Message("assistant", so_far)] if joint else messages
            said = await complete(backend, asked, sampling)
            usage = replace(said.usage, calls=1, up_bytes=100 * (source == "cloud"))
            segments.append(Segment(source=source, model=backend.name, text=said.text, usage=usage))
            yield TextDelta(said.text, source)
        trace = Trace(
            strategy=self.name, wants_cloud=joint, reason="judged", segments=tuple(segments), decided_after=None
        )
        yield Finished(trace)


@dataclass(frozen=True)
class Dial(Together):
    """The same with a knob: how many of the prompts both write."""

    points: tuple[float, ...] = (0.0, 10.0, 20.0)
    knob: str = "below"

    def at(self, point: float) -> Strategy:
        return Together(self.name, below=point)


def half() -> FunctionBackend:
    """A device that is wrong alone, and finishes what the cloud went on with."""

    def say_half(messages: Sequence[Message], sampling: Sampling) -> str:
        i = number([m for m in messages if m.role == "user"])
        if messages[-1].role != "assistant":
            return say(i, False)
        return f"<answer>{i}</answer>" if "middle" in messages[-1].content else "beginning, "

    return FunctionBackend("half", say_half)


def other_half() -> FunctionBackend:
    """A cloud that is wrong alone, and goes on with what the device began."""

    def say_half(messages: Sequence[Message], sampling: Sampling) -> str:
        i = number([m for m in messages if m.role == "user"])
        return "middle, " if messages[-1].role == "assistant" else say(i, False)

    return FunctionBackend("other half", say_half)


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


class Counting(Backend):
    """Counts the calls of a backend."""

    inner: Backend

    def __init__(self, backend: Backend) -> None:
        self.inner, self.name, self.calls = backend, backend.name, 0

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Any:
        self.calls += 1
        return self.inner.stream(messages, sampling)


async def run(out: Path, who: list[Entrant] | None = None, **options: Any) -> dict[str, Any]:
    cloud = options.pop("cloud", None) or large()
    values: dict[str, Any] = {"share": 0.3, "seed": 0, "concurrency": 8, **options}
    task = values.pop("task", None) or Numbers()
    rows = values.pop("rows", list(task.rows("test")))
    who = world(small(), cloud) if who is None else who
    of_bench = {key: values.pop(key) for key in ("concurrency", "solve_samples", "solve_temperature") if key in values}
    bench = Bench(entrants=who, task=task, sampling=Sampling(), template=TEMPLATE, cloud=cloud, **of_bench)
    return await evaluate(bench, rows, out=out, **values)

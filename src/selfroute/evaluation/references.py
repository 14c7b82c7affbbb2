"""Each side alone: the answers that everything else is held against.

Both are passes of their own, so that nobody is credited with what another wrote. The cloud alone is asked for every
row. The device alone is asked for the rows on which a strategy's trace does not say what it would have answered; a
strategy of the run that is the device alone shares these answers, so that no call is made twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from selfroute.backends.base import Backend, BatchBackend, complete_all, find_capability
from selfroute.backends.flight import in_flight
from selfroute.errors import BackendError, ConfigError, RecordingMissing, SelfRouteError
from selfroute.evaluation.bench import Bench, Entrant
from selfroute.grading import judge
from selfroute.prices import Prices
from selfroute.prompts import PromptTemplate
from selfroute.strategies.always import AlwaysCloud, AlwaysDevice
from selfroute.strategies.base import Sides, answer
from selfroute.tasks.base import Row
from selfroute.types import Completion, Trace, Usage

__all__ = ["CloudAlone", "DeviceAlone", "Solved", "ask_cloud_alone", "sample_device", "try_devices"]

TRIED = 4  # rows that a device is put to before the cloud is


@dataclass(frozen=True, slots=True)
class CloudAlone:
    """What the cloud makes of a row; None where it or the verifier failed."""

    correct: float | None = None
    usage: Usage | None = None


async def ask_cloud_alone(bench: Bench, rows: Sequence[Row], advance: Callable[[int], None]) -> dict[str, CloudAlone]:
    """The cloud's answers by row id.

    Raises:
        ConfigError: it answers none of the first rows.
        RecordingMissing: a replayed cloud was never asked one of them.
    """
    found: dict[str, CloudAlone] = {}
    # Backends that batch get blocks. Of others only the first block is one, to see whether the cloud answers.
    size = len(rows) if find_capability(bench.cloud, BatchBackend) is None else bench.concurrency
    starts = [0, *range(min(bench.concurrency, len(rows)), len(rows), max(1, size))] if rows else []
    for start, end in pairwise([*starts, len(rows)]):
        block = rows[start:end]
        answers = await complete_all(
            bench.cloud,
            [bench.template.conversation(row.question) for row in block],
            bench.sampling,
            concurrency=bench.concurrency,
            on_done=lambda: advance(1),
        )
        if missing := next((found for found in answers if isinstance(found, RecordingMissing)), None):
            raise missing
        if not start:
            _refuse_dead_cloud(bench.cloud, answers)
        found |= await asyncio.to_thread(_judge_all, bench, block, answers)
    return found


def _judge_all(bench: Bench, rows: Sequence[Row], answers: Sequence[object]) -> dict[str, CloudAlone]:
    return {
        row.id: CloudAlone(judge(bench.task, row, found.text)[0], found.usage)
        if isinstance(found, Completion)
        else CloudAlone()
        for row, found in zip(rows, answers, strict=True)
    }


def _refuse_dead_cloud(cloud: Backend, answers: Sequence[Completion | SelfRouteError]) -> None:
    failed = [found for found in answers if isinstance(found, SelfRouteError)]
    if len(failed) == len(answers) > 0:
        raise ConfigError(f"cloud '{cloud.name}' answered none of {len(answers)} prompts; the first error: {failed[0]}")


@dataclass(frozen=True, slots=True)
class DeviceAlone:
    """What devices answer without a hand-off and without a cloud, each asked once for a row."""

    bench: Bench
    known: dict[tuple[int, PromptTemplate, Prices, str], Trace] = field(default_factory=dict)

    async def trace(self, sides: Sides, row: Row) -> Trace:
        """Raises what the device raises; such a row is asked again."""
        key = id(sides.device), sides.template, sides.prices, row.id
        if key not in self.known:
            prompt = sides.template.conversation(row.question)
            self.known[key] = await answer(AlwaysDevice(), sides, prompt, self.bench.sampling)
        return self.known[key]

    async def of(self, entrant: Entrant, row: Row) -> Trace | None:
        """The answer of a strategy that is the device alone; None of any other."""
        if not isinstance(entrant.strategy, AlwaysDevice):
            return None
        return replace(await self.trace(entrant.sides, row), strategy=entrant.name)


async def try_devices(bench: Bench, device: DeviceAlone, rows: Sequence[Row]) -> None:
    """Put a row to every device that something is to be asked of, before the cloud's bill begins.

    Raises:
        SelfRouteError: one of them answers none of the first rows.
        ConfigError, UnsupportedByBackend, RecordingMissing: as the device says it.
    """
    sides = {id(entrant.sides.device): entrant.sides for entrant in bench.entrants if _asks_device(entrant.strategy)}
    for one in sides.values():
        failed: list[BackendError] = []
        for row in rows[:TRIED]:
            if (error := await _failure(device, one, row)) is None:
                break
            failed.append(error)
        else:
            if failed:
                raise SelfRouteError(
                    f"device '{one.device.name}' answered none of the first {len(failed)} prompts, and the cloud was "
                    f"not asked; the first error: {failed[0]}"
                )


def _asks_device(strategy: object) -> bool:
    return not isinstance(strategy, AlwaysCloud)


async def _failure(device: DeviceAlone, sides: Sides, row: Row) -> BackendError | None:
    try:
        await device.trace(sides, row)
    except BackendError as error:
        return error
    return None


# Solve rate by row id, with the samples behind it.
Solved = Mapping[str, tuple[float, int]]


async def sample_device(bench: Bench, sides: Sides, rows: Sequence[Row], advance: Callable[[int], None]) -> Solved:
    """The solve rate of a device by row id; rows without any sample are left out."""
    alone, sides = AlwaysDevice(), Sides(device=sides.device, template=sides.template)
    tries = [(row, number) for row in rows for number in range(bench.solve_samples)]
    verdicts: dict[str, list[float]] = {}

    async def one(item: tuple[Row, int]) -> tuple[str, float | None]:
        row, number = item
        # A seed of its own for each sample: the same one is found in the cache again, another one is asked.
        sampling = replace(
            bench.sampling, temperature=bench.solve_temperature, seed=bench.seed * bench.solve_samples + number
        )
        try:
            trace = await answer(alone, sides, sides.template.conversation(row.question), sampling)
        except BackendError:
            return row.id, None
        return row.id, (await asyncio.to_thread(judge, bench.task, row, trace.text))[0]

    async for row_id, verdict in in_flight(tries, one, limit=bench.concurrency):
        advance(1)
        if verdict is not None:
            verdicts.setdefault(row_id, []).append(verdict)
    return {row_id: (sum(found) / len(found), len(found)) for row_id, found in verdicts.items()}

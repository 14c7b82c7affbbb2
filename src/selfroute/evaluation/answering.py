"""Answer rows with strategies in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from selfroute.backends.flight import closing, in_flight
from selfroute.budget.base import NoCloud
from selfroute.errors import ConfigError, RecordingMissing, SelfRouteError, UnsupportedByBackend
from selfroute.evaluation.bench import Answered, Bench, Entrant, Todo, settings_of
from selfroute.evaluation.facts import Answer, failed, graded
from selfroute.evaluation.overheard import leaked, overheard
from selfroute.evaluation.references import CloudAlone, DeviceAlone, Solved, ask_cloud_alone, sample_device, try_devices
from selfroute.grading import answerer
from selfroute.strategies.base import answer
from selfroute.tasks.base import Row
from selfroute.types import Trace

__all__ = ["answer_here"]


async def answer_here(bench: Bench, todo: Todo, advance: Callable[[int], None]) -> AsyncIterator[Sequence[Answered]]:
    """Answer rows in this process, in the order in which they finish.

    Args:
        todo: the rows of each setting.
        advance: told how many answers more are done.

    Raises:
        ConfigError: the cloud answers none of the first rows, or a backend cannot do what a strategy asks.
        SelfRouteError: a device answers none of the first rows; the cloud is not asked then.
    """
    missing = list({row.id: row for rows in todo.values() for row in rows}.values())
    device = DeviceAlone(bench)
    await try_devices(bench, device, missing)
    work = _Work(bench, await ask_cloud_alone(bench, missing, advance), device, advance)
    solved = {id(sides.device): await sample_device(bench, sides, missing, advance) for sides in bench.devices()}
    for entrant in settings_of(bench.entrants):
        rates = solved.get(id(entrant.sides.device), {})
        async with closing(work.ask(entrant, todo[entrant.setting], rates)) as pairs:
            async for answered in pairs:
                yield [answered]


@dataclass(frozen=True, slots=True)
class _Work:
    bench: Bench
    by_cloud: Mapping[str, CloudAlone]
    device: DeviceAlone
    advance: Callable[[int], None]

    async def ask(self, entrant: Entrant, rows: Sequence[Row], rates: Solved) -> AsyncIterator[Answered]:
        """Answer rows, in the order in which they finish."""

        async def one(row: Row) -> Answered:
            record, sample = await self._answered(entrant, row)
            rate, samples = rates.get(row.id, (None, 0))
            return replace(record, solve_rate=rate, solve_samples=samples), sample

        async with closing(in_flight(rows, one, limit=self.bench.concurrency)) as pairs:
            async for answered in pairs:
                self.advance(1)
                yield answered

    async def _answered(self, entrant: Entrant, row: Row) -> Answered:
        bench, by_cloud = self.bench, self.by_cloud[row.id]
        try:
            cloud = overheard(entrant.sides.cloud, row)
            trace = await self.device.of(entrant, row)
            if trace is None:
                prompt = entrant.sides.template.conversation(row.question)
                trace = await answer(entrant.strategy, replace(entrant.sides, cloud=cloud), prompt, bench.sampling)
            local = await self._local(entrant, row, trace)
            found = Answer(trace=trace, local=local, leakage=leaked(row, cloud, trace))
        except (ConfigError, UnsupportedByBackend, RecordingMissing):
            raise  # every row would fail alike, or the recording is of another set
        except SelfRouteError as error:
            return failed(entrant, row, by_cloud, error)
        return await asyncio.to_thread(graded, bench, entrant, row, found, by_cloud)

    async def _local(self, entrant: Entrant, row: Row, trace: Trace) -> Trace | None:
        """What the device answers without a cloud, where the trace does not already say so."""
        by = answerer(trace)
        if by is None:
            return await self.device.trace(entrant.sides, row)
        if by == "device":
            return trace if trace.wants_cloud else None  # asked and was refused: the trace is the forced attempt
        prompt = entrant.sides.template.conversation(row.question)
        alone = replace(entrant.sides, budget=NoCloud())
        return await answer(entrant.strategy, alone, prompt, self.bench.sampling)

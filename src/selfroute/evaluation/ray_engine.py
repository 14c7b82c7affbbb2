"""The same evaluation on a Ray cluster: rows are dealt out to workers, each of which makes its own models.

Workers answer rows exactly as this process would (`answer_here`), so the records are the same but for the order of
lines and the measured seconds. Only this process writes, so a run goes on where it was, with either engine.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from importlib import import_module
from itertools import islice
from typing import Any

from selfroute.errors import ConfigError, SelfRouteError
from selfroute.evaluation.answering import answer_here
from selfroute.evaluation.bench import Answered, Bench, Engine, Todo
from selfroute.evaluation.records import Setting
from selfroute.tasks.base import Row

__all__ = ["ray_engine"]

MakeBench = Callable[[], AbstractAsyncContextManager[Bench]]
_Share = dict[Setting, list[Row]]


def ray_engine(make_bench: MakeBench, *, workers: int, rows_per_share: int = 64) -> Engine:
    """An engine over Ray workers.

    The cluster is that of the environment variable `RAY_ADDRESS`; without it, one is started on this machine and
    stopped at the end.

    Args:
        make_bench: makes the models on a worker, in this process's working folder where the worker has it; picklable.
        workers: how many; each holds its own models.
        rows_per_share: rows that a worker takes at a time. They are kept as soon as the worker is done with them.

    Raises:
        ConfigError: Ray is not installed.
    """
    try:
        ray: Any = import_module("ray")
    except ModuleNotFoundError:
        raise ConfigError("engine: 'ray' is not installed; pip install 'selfroute[ray]', or use engine=local") from None

    async def answer(bench: Bench, todo: Todo, advance: Callable[[int], None]) -> AsyncIterator[Sequence[Answered]]:
        shares = list(_shares(todo, rows_per_share))
        if not shares:
            return
        started_here = not ray.is_initialized()
        if started_here:
            ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
        try:
            actor = ray.remote(num_cpus=0, max_concurrency=2)(_Worker)
            team = [actor.remote(make_bench, os.getcwd()) for _ in range(min(workers, len(shares)))]
            async for answered in _dealt(team, shares, advance):
                yield answered
        finally:
            if started_here:
                ray.shutdown()

    return answer


def _shares(todo: Todo, size: int) -> Iterator[_Share]:
    """Rows with all the settings that still have to answer them, in parts."""
    rows = iter({row.id: row for missing in todo.values() for row in missing}.values())
    wanted = {setting: {row.id for row in missing} for setting, missing in todo.items()}
    while part := list(islice(rows, size)):
        yield {setting: [row for row in part if row.id in ids] for setting, ids in wanted.items()}


async def _dealt(
    team: Sequence[Any], shares: Sequence[_Share], advance: Callable[[int], None]
) -> AsyncIterator[Sequence[Answered]]:
    """What the workers make of the shares; a free worker takes the next one."""
    waiting = iter(shares)
    busy: dict[asyncio.Future[Any], Any] = {}

    def give(worker: Any) -> None:
        if (share := next(waiting, None)) is not None:
            busy[asyncio.ensure_future(_result(worker.answer.remote(share)))] = worker

    for worker in team:
        give(worker)
    while busy:
        done, _ = await asyncio.wait(busy, return_when=asyncio.FIRST_COMPLETED)
        for future in done:
            worker = busy.pop(future)
            answered, passes = _unpacked(future.result())
            give(worker)
            yield answered
            advance(passes)


async def _result(reference: Any) -> Any:
    return await reference


def _unpacked(result: Any) -> tuple[list[Answered], int]:
    """A worker's answers, or its error, raised here."""
    if isinstance(result, str):
        raise ConfigError(result)
    if isinstance(result, SelfRouteError):
        raise result
    answered, passes = result
    return answered, passes


class _Worker:
    """One place that answers rows; its models are made once."""

    def __init__(self, make_bench: MakeBench, folder: str) -> None:
        if os.path.isdir(folder):
            os.chdir(folder)
        self._make_bench = make_bench
        self._stack = AsyncExitStack()
        self._bench: Bench | None = None

    async def answer(self, todo: _Share) -> tuple[list[Answered], int] | SelfRouteError | str:
        """Answers and the passes they took; errors that end the run are handed over as values."""
        passes = 0

        def advance(count: int) -> None:
            nonlocal passes
            passes += count

        try:
            if self._bench is None:
                self._bench = await self._stack.enter_async_context(self._make_bench())
            answered = [pair async for part in answer_here(self._bench, todo, advance) for pair in part]
        except ConfigError as error:
            return str(error)
        except SelfRouteError as error:
            return SelfRouteError(f"{type(error).__name__}: {error}")
        return answered, passes

"""Workers in this process, as tasks of one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Literal

from selfroute.errors import BackendError, BudgetExceeded
from selfroute.tuning.consensus import Consensus, Order, Orders, Report
from selfroute.tuning.worker import Worker

__all__ = ["MOST_FAILURES", "End", "OnUpdate", "run_local"]

MOST_FAILURES = 8  # of a worker, after which it stays away
End = Literal["enough", "budget", "nobody"]
OnUpdate = Callable[[], bool]


async def run_local(
    server: Consensus,
    workers: Mapping[str, Worker],
    *,
    on_update: OnUpdate,
    rest_s: float = 5.0,
) -> End:
    """Run the workers until `on_update` says that it is enough, the budget ends, or nobody is left.

    A worker whose models fail is dropped; it comes back after a rest, from the consensus as it is then.

    Args:
        on_update: called after each update of the consensus.
        rest_s: seconds until a worker that failed comes back.

    Raises:
        SelfRouteError: what a worker raises, other than by its models.
    """
    team = _Team(server, workers, rest_s)
    team.start(server.begin())
    try:
        while team.running:
            done, _ = await asyncio.wait(team.running, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=lambda one: team.running[one][0]):
                orders, is_spent = team.told(task)
                if is_spent:
                    return "budget"
                if orders and on_update():
                    return "enough"
                team.start(orders)
        return "nobody"
    finally:
        await team.stop()


class _Team:
    """Who is at work.

    Attributes:
        running: tasks, with the order in which they began and whose they are.
    """

    def __init__(self, server: Consensus, workers: Mapping[str, Worker], rest_s: float) -> None:
        self.server, self.workers, self.rest_s = server, workers, rest_s
        self.running: dict[asyncio.Task[Report], tuple[int, str]] = {}
        self.failures: dict[str, int] = {}
        self._begun = 0

    def start(self, orders: Orders) -> None:
        for name, order in orders:
            self._begin(name, self.workers[name].work(order))

    def told(self, task: asyncio.Task[Report]) -> tuple[Orders, bool]:
        """Orders that follow from what a task came to, and whether the budget is spent."""
        _, name = self.running.pop(task)
        try:
            return self.server.receive(task.result()), False
        except BudgetExceeded:
            return [], True
        except BackendError:
            self.failures[name] = self.failures.get(name, 0) + 1
            if self.failures[name] <= MOST_FAILURES:
                self._begin(name, self._return(name))
            return self.server.drop(name), False

    async def stop(self) -> None:
        for task in self.running:
            task.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)

    async def _return(self, name: str) -> Report:
        await asyncio.sleep(self.rest_s)
        order: Order = self.server.join(name)
        return await self.workers[name].work(order)

    def _begin(self, name: str, work: Coroutine[Any, Any, Report]) -> None:
        self.running[asyncio.create_task(work)] = (self._begun, name)
        self._begun += 1

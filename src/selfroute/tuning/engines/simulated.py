"""Workers on a clock of their own: nothing waits for real, and the order of reports is that of their durations."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping

from selfroute.tuning.consensus import Consensus, Orders, Report
from selfroute.tuning.worker import Worker

__all__ = ["simulate"]


async def simulate(
    server: Consensus,
    workers: Mapping[str, Worker],
    duration: Callable[[str], float],
    *,
    on_update: Callable[[float], bool],
) -> float:
    """Run until `on_update` says so.

    Args:
        duration: how long a worker's next round takes.
        on_update: gets the time after each update; True ends the run.

    Returns:
        The time at the end.
    """
    running: list[tuple[float, int, str, Report]] = []
    started, now = 0, 0.0

    async def start(orders: Orders) -> None:
        nonlocal started
        for name, order in orders:
            report = await workers[name].work(order)
            heapq.heappush(running, (now + duration(name), started, name, report))
            started += 1

    await start(server.begin())
    while running:
        now, _, _, report = heapq.heappop(running)
        if orders := server.receive(report):
            if on_update(now):
                return now
            await start(orders)
    return now

"""From today's placement to a new one: how many experts move, and the placement that moves fewest."""

from __future__ import annotations

import time
from dataclasses import replace

from selfroute.errors import ConfigError
from selfroute.planning.problem import Bools, Plan, Problem, make_plan
from selfroute.planning.solvers import METHODS, solve

__all__ = ["moved", "replan"]

# Of the dearest expert's cost: too little to be worth a worse placement, enough to choose among equal ones.
_TIE = 1e-9


def moved(assign: Bools, before: Bools) -> int:
    """Experts, counted once for each rank, whose weights a rank has to fetch."""
    return int((assign & ~before).sum())


def replan(method: str, problem: Problem, before: Bools, *, price: float = 0.0) -> Plan:
    """Place the experts anew, moving as few as that allows.

    A rank that has to fetch an expert costs `price` more. With an exact method and a price of 0, what is chosen among
    the placements of least cost is one that moves fewest; ranks that are alike are then told apart by what they hold.

    Args:
        before: today's placement, shape (layers, experts, ranks).
        price: cost per token, in the problem's unit, that moving one expert has to save; 0 moves for any saving.

    Raises:
        ConfigError: the method cannot take the problem, or there are copies, which it cannot hold in place.
    """
    if problem.slots.redundant and price:
        raise ConfigError("move_price: redundant copies are placed without it; leave it out, or slots.redundant=0")
    free = solve(method, problem)
    if problem.slots.redundant:
        return free
    start = time.process_time()
    dearer = max(price, _TIE * (float(problem.cost.max()) or 1.0)) * ~before
    assign, _ = METHODS[method](replace(problem, cost=problem.cost + dearer))
    plan = make_plan(method, problem, assign, free.bound, cpu_s=free.cpu_s + time.process_time() - start)
    # Swaps and rounding promise nothing of ties.
    return plan if price or plan.objective <= free.objective * (1 + 1e-6) else free

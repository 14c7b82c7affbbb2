"""Ways to place experts: one table, one result type."""

from __future__ import annotations

import time
from collections.abc import Callable

from selfroute.errors import ConfigError
from selfroute.planning.problem import Bools, Plan, Problem, make_plan
from selfroute.planning.solvers.baselines import greedy, linear, round_robin, unweighted
from selfroute.planning.solvers.eplb import eplb
from selfroute.planning.solvers.flows import assignment, flow, has_flow
from selfroute.planning.solvers.programs import linear_program, milp
from selfroute.planning.solvers.rounding import rounding

__all__ = ["BASELINES", "METHODS", "best_method", "solve"]

# A placement, and a bound below which no placement can cost, if the method proves one.
Solver = Callable[[Problem], tuple[Bools, float | None]]

METHODS: dict[str, Solver] = {
    "assignment": assignment,
    "flow": flow,
    "lp": linear_program,
    "milp": milp,
    "rounding": rounding,
    "greedy": greedy,
    "unweighted": unweighted,
    "eplb": eplb,
    "linear": linear,
    "round_robin": round_robin,
}
# What stands beside a plan in every table.
BASELINES = ("greedy", "unweighted", "eplb", "linear", "round_robin")


def best_method(problem: Problem) -> str:
    """The cheapest method that is exact for a problem, or, with caps or copies, the one that comes with a bound."""
    if problem.cap is not None or problem.slots.redundant:
        return "rounding"
    if not problem.couples_layers:
        return "assignment"
    return "flow" if has_flow() else "lp"


def solve(method: str, problem: Problem) -> Plan:
    """Place the experts.

    Raises:
        ConfigError: an unknown method, or one that cannot take this problem; says which can.
    """
    if method not in METHODS:
        raise ConfigError(f"method: unknown method '{method}'; known: {', '.join(METHODS)}")
    start = time.process_time()
    assign, bound = METHODS[method](problem)
    return make_plan(method, problem, assign, bound, cpu_s=time.process_time() - start)

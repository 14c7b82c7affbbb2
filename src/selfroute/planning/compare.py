"""A plan beside the placements that cost nothing to find, in hops and in seconds, and over a range of load caps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from selfroute.errors import ConfigError
from selfroute.planning.moves import moved, replan
from selfroute.planning.problem import Bools, Plan, Problem, make_plan, objective
from selfroute.planning.solvers import best_method, solve

__all__ = ["Comparison", "Point", "Row", "compare"]

TODAY = "today"
# What savings are measured against, best first: what runs now, or what an engine starts with.
_REFERENCES = (TODAY, "linear", "round_robin")


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One placement.

    Attributes:
        costs: per token, in every unit that the cluster knows.
        moved: experts that ranks have to fetch to get from today's placement here; None if that is not known.
    """

    plan: Plan
    costs: Mapping[str, float]
    moved: int | None


@dataclass(frozen=True, slots=True)
class Point:
    """One point of the curve of cost against the busiest rank; `busiest` is a multiple of the mean load."""

    cap: float | None
    objective: float
    bound: float | None
    busiest: float


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """What was compared.

    Attributes:
        rows: the plan first.
        reference: name of the row that savings are measured against.
        left_out: method to the reason.
        pareto: from no cap to the tightest.
    """

    rows: Sequence[Row]
    reference: str
    left_out: Mapping[str, str]
    pareto: Sequence[Point]

    def saved(self, row: Row) -> float:
        """Part of the reference's cost that a placement saves."""
        before = next(r.plan.objective for r in self.rows if r.plan.method == self.reference)
        return 0.0 if row.plan.objective == before else 1 - row.plan.objective / before


def compare(
    problems: Mapping[str, Problem],
    unit: str,
    *,
    method: str | None,
    others: Sequence[str],
    caps: Sequence[float] = (),
    before: Bools | None = None,
    move_price: float = 0.0,
    on_progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> Comparison:
    """Place by one method, and by others to compare with; those that cannot take the problem are left out, with reason.

    Args:
        problems: the same problem in every unit that the cluster knows.
        unit: that the placements are made for.
        method: None takes the best for the problem.
        others: methods beside it.
        caps: of the curve, as multiples of the mean load.
        before: today's placement; see `selfroute.planning.moves.replan`.

    Raises:
        ConfigError: the method cannot take the problem.
    """
    problem = problems[unit]
    method = method or best_method(problem)
    names = [name for name in dict.fromkeys([*others, "linear"]) if name != method]
    steps = 1 + len(names) + len(caps)
    on_progress(0, steps, method)
    plan = solve(method, problem) if before is None else replan(method, problem, before, price=move_price)
    plans = [plan, *([] if before is None else [make_plan(TODAY, problem, before, None, cpu_s=0.0)])]
    beside, left_out = _solved(problem, names, lambda i, name: on_progress(1 + i, steps, name))
    plans += beside
    rows = [_row(problems, one, before) for one in plans]
    known = {one.method for one in plans}
    points = _pareto(problem, caps, lambda i, cap: on_progress(1 + len(names) + i, steps, f"cap {cap:g}"))
    on_progress(steps, steps, "")
    return Comparison(rows, next((r for r in _REFERENCES if r in known), method), left_out, points)


def _solved(
    problem: Problem, names: Sequence[str], on_method: Callable[[int, str], None]
) -> tuple[list[Plan], dict[str, str]]:
    """Plans of the methods that can take the problem, and the reasons of those that cannot."""
    plans, left_out = [], {}
    for number, name in enumerate(names):
        on_method(number, name)
        try:
            plans.append(solve(name, problem))
        except ConfigError as error:
            left_out[name] = str(error)
    return plans, left_out


def _row(problems: Mapping[str, Problem], plan: Plan, before: Bools | None) -> Row:
    costs = {unit: objective(problem, plan.assign) for unit, problem in problems.items()}
    return Row(plan, costs, None if before is None else moved(plan.assign, before))


def _pareto(problem: Problem, caps: Sequence[float], on_cap: Callable[[int, float], None]) -> list[Point]:
    """Cost for each cap, loosest first; caps that cannot be met end the curve."""
    if not caps:
        return []
    free = replace(problem, cap=None)
    found: list[tuple[float | None, Plan]] = [(None, solve(best_method(free), free))]
    for number, cap in enumerate(sorted(caps, reverse=True)):
        on_cap(number, cap)
        try:
            found.append((cap, solve("rounding", replace(problem, cap=cap))))
        except ConfigError:
            break
    return [Point(cap, plan.objective, plan.bound, _busiest(problem, plan)) for cap, plan in found]


def _busiest(problem: Problem, plan: Plan) -> float:
    """Of what the cap is over."""
    return (plan.busiest_total if problem.cap_over == "all" else plan.busiest) / plan.mean

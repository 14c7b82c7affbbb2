"""Load caps and redundant copies: a linear program for the bound, rounding, and swaps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from selfroute.errors import ConfigError
from selfroute.planning.problem import Bools, Floats, Problem, single
from selfroute.planning.solvers.copies import copies
from selfroute.planning.solvers.flows import assign_layer
from selfroute.planning.solvers.programs import relaxed
from selfroute.planning.solvers.swaps import within_limits

__all__ = ["rounding"]


def rounding(problem: Problem) -> tuple[Bools, float | None]:
    """Solve the linear program, keep most of each expert's parts together, and swap until no rank exceeds its limits.

    With redundant copies it is `selfroute.planning.solvers.copies.copies`.

    Raises:
        ConfigError: nothing satisfies the linear program, or there are both a cap and copies.
    """
    if problem.slots.redundant:
        if problem.cap is not None:
            raise ConfigError("cap: no method takes a cap and redundant copies; leave one out, and read busiest")
        return copies(problem)
    parts, bound = _relaxed(problem)
    # Among placements that keep as much together, the cheaper.
    tilt = 1e-6 / (float(problem.cost.max()) or 1.0)
    at = np.stack([assign_layer(tilt * c - p, problem.slots.layer) for c, p in zip(problem.cost, parts, strict=True)])
    return single(within_limits(problem, at), problem.ranks), bound


def _relaxed(problem: Problem) -> tuple[Floats, float]:
    """The linear program, layer by layer where that is the same."""
    if problem.couples_layers:
        return relaxed(problem)
    found = [relaxed(_layer(problem, number)) for number in range(problem.layers)]
    return np.concatenate([parts for parts, _ in found]), sum(value for _, value in found)


def _layer(problem: Problem, number: int) -> Problem:
    part = slice(number, number + 1)
    return replace(
        problem,
        visits=problem.visits[:, part],
        way=problem.way if problem.way.shape[1] == 1 else problem.way[:, part],
        cost=problem.cost[part],
        slots=replace(problem.slots, total=problem.slots.layer),
    )

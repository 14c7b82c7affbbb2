"""Placement as a linear program, and as an integer one, by HiGHS."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from selfroute.errors import ConfigError
from selfroute.planning.problem import Bools, Floats, Problem
from selfroute.planning.solvers.flows import refuse_caps

__all__ = ["TIME_LIMIT_S", "Constraints", "constraints", "linear_program", "milp", "relaxed"]

TIME_LIMIT_S = 60.0
_MOST_MILP = 20_000  # variables; beyond them load caps leave a gap of half after a minute
_WHOLE = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Constraints:
    """Rows over the variables x[layer, expert, rank], in C order: `equal` @ x = 1, `most` @ x ≤ `room`."""

    equal: Any
    most: Any
    room: Floats


def constraints(problem: Problem) -> Constraints:
    """Every expert once, C_layer, and where they bind C_total and the load cap."""
    from scipy import sparse

    layers, experts, ranks = problem.cost.shape
    equal = sparse.kron(sparse.eye_array(layers * experts), np.ones((1, ranks)), format="csr")
    each_rank = sparse.kron(np.ones((1, experts)), sparse.eye_array(ranks), format="csr")
    rows = [sparse.kron(sparse.eye_array(layers), each_rank, format="csr")]
    room = [np.full(layers * ranks, float(problem.slots.layer))]
    if problem.slots.total < layers * problem.slots.layer:
        rows.append(sparse.hstack([each_rank] * layers, format="csr"))
        room.append(np.full(ranks, float(problem.slots.total)))
    if problem.cap is not None:
        loaded = [sparse.kron(load[None], sparse.eye_array(ranks), format="csr") for load in problem.load]
        mean = problem.load.sum(axis=1) / ranks
        if problem.cap_over == "layer":
            rows.append(sparse.block_diag(loaded, format="csr"))
            room.append(problem.cap * np.repeat(mean, ranks))
        else:
            rows.append(sparse.hstack(loaded, format="csr"))
            room.append(np.full(ranks, problem.cap * mean.sum()))
    return Constraints(equal, sparse.vstack(rows, format="csr"), np.concatenate(room))


def relaxed(problem: Problem) -> tuple[Floats, float]:
    """The linear program: parts of experts on ranks, shape of the costs, and its value, below which nothing can cost.

    Raises:
        ConfigError: nothing satisfies all constraints.
    """
    from scipy.optimize import linprog

    rows = constraints(problem)
    found = linprog(
        problem.cost.ravel(), A_ub=rows.most, b_ub=rows.room, A_eq=rows.equal, b_eq=np.ones(rows.equal.shape[0]),
        bounds=(0, 1), method="highs",
    )  # fmt: skip
    if found.x is None:
        raise ConfigError(_nothing_fits(problem))
    return found.x.reshape(problem.cost.shape), float(found.fun)


def linear_program(problem: Problem) -> tuple[Bools, float]:
    """The linear program where it is a flow, and so has a whole solution.

    Raises:
        ConfigError: there are caps or copies.
    """
    refuse_caps(problem, "lp")
    parts, value = relaxed(problem)
    if np.abs(parts - parts.round()).max() > _WHOLE:
        raise ConfigError("method: lp ended between two placements of the same cost; take assignment or flow")
    return parts > 0.5, value


def milp(problem: Problem) -> tuple[Bools, float]:
    """The integer program, for toys and checks; stops after `TIME_LIMIT_S` with the bound it has by then.

    Raises:
        ConfigError: there are copies, the problem is too large, or nothing was found.
    """
    from scipy import optimize

    if problem.slots.redundant:
        raise ConfigError("method: milp takes no redundant copies; take rounding, or slots.redundant=0")
    if problem.cost.size > _MOST_MILP:
        raise ConfigError(
            f"method: milp is for toys of up to {_MOST_MILP} variables, this has {problem.cost.size}; take rounding, "
            "which says how far from the bound it is"
        )
    rows = constraints(problem)
    with _silenced():
        found = optimize.milp(
            problem.cost.ravel(),
            integrality=np.ones(problem.cost.size),
            bounds=optimize.Bounds(0, 1),
            constraints=[
                optimize.LinearConstraint(rows.equal, 1, 1),
                optimize.LinearConstraint(rows.most, ub=rows.room),
            ],
            options={"time_limit": TIME_LIMIT_S, "mip_rel_gap": 1e-7},
        )
    if found.x is None:
        raise ConfigError(_nothing_fits(problem))
    return found.x.reshape(problem.cost.shape) > 0.5, float(found.mip_dual_bound)


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep lines of HiGHS's own debugging, which no option turns off, out of the terminal."""
    sys.stdout.flush()
    kept = os.dup(1)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _nothing_fits(problem: Problem) -> str:
    if problem.cap is None:
        return "slots: no placement satisfies them; raise slots.layer or slots.total"
    return f"cap: no placement keeps every rank within {problem.cap:g} times the mean load; raise cap, or the slots"

"""What a plan has to beat: engines' own orders, heaviest first, and the paper's program without loads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from selfroute.errors import ConfigError
from selfroute.planning.problem import Bools, Problem, single, with_uniform_load
from selfroute.planning.solvers.flows import assignment, flow, has_flow
from selfroute.planning.solvers.programs import linear_program

__all__ = ["greedy", "linear", "round_robin", "unweighted"]


def greedy(problem: Problem) -> tuple[Bools, None]:
    """Heaviest expert first, each to the cheapest rank with a free slot.

    Raises:
        ConfigError: there are copies, or C_total leaves a last expert no rank with a slot in its layer.
    """
    _refuse_copies(problem, "greedy")
    layer_room = np.full((problem.layers, problem.ranks), problem.slots.layer)
    room = np.full(problem.ranks, problem.slots.total)
    at = np.empty((problem.layers, problem.experts), dtype=np.int64)
    for index in np.argsort(-problem.load, axis=None, kind="stable"):
        layer, expert = divmod(int(index), problem.experts)
        cost = np.where((layer_room[layer] > 0) & (room > 0), problem.cost[layer, expert], np.inf)
        rank = int(cost.argmin())
        if not np.isfinite(cost[rank]):
            raise ConfigError(
                f"method: greedy has no slot left for expert {expert} of layer {layer}; raise slots.total"
            )
        at[layer, expert] = rank
        layer_room[layer, rank] -= 1
        room[rank] -= 1
    return single(at, problem.ranks), None


def linear(problem: Problem) -> tuple[Bools, None]:
    """Experts in their own order, a block to each rank, as engines start; copies follow, from expert 0 on."""
    slots = problem.experts + problem.slots.redundant
    assign = np.zeros(problem.cost.shape, dtype=bool)
    slot = np.arange(slots)
    assign[:, slot % problem.experts, slot * problem.ranks // slots] = True
    return assign, None


def round_robin(problem: Problem) -> tuple[Bools, None]:
    """Dealt out like cards, on from layer to layer.

    Raises:
        ConfigError: there are copies.
    """
    _refuse_copies(problem, "round_robin")
    dealt = np.arange(problem.layers * problem.experts) % problem.ranks
    return single(dealt.reshape(problem.layers, problem.experts), problem.ranks), None


def unweighted(problem: Problem) -> tuple[Bools, None]:
    """The exact placement as if every expert were visited alike: the paper's ILP without load.

    Raises:
        ConfigError: there are copies.
    """
    _refuse_copies(problem, "unweighted")
    alike = replace(with_uniform_load(problem), cap=None)
    solver = assignment if not alike.couples_layers else flow if has_flow() else linear_program
    return solver(alike)[0], None


def _refuse_copies(problem: Problem, method: str) -> None:
    if problem.slots.redundant:
        raise ConfigError(f"method: {method} places no redundant copies; compare with linear and eplb")

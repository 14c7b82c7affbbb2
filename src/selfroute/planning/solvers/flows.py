"""Exact placement where it is an assignment problem or a minimum-cost flow."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np

from selfroute.errors import ConfigError
from selfroute.planning.problem import Bools, Floats, Ints, Problem, objective, single

__all__ = ["assign_layer", "assignment", "flow", "has_flow", "refuse_caps"]

# OR-tools counts in whole numbers, and multiplies costs by the number of nodes: the product stays below 2 ** 63.
_LARGEST_PRODUCT = 1e16


def has_flow() -> bool:
    """Whether OR-tools is installed."""
    return find_spec("ortools") is not None


def refuse_caps(problem: Problem, method: str) -> None:
    """For methods that place one copy and know no cap.

    Raises:
        ConfigError: the problem has a cap or copies; names a method that takes them.
    """
    if problem.cap is not None:
        raise ConfigError(f"method: {method} takes no cap; take rounding, or leave cap out")
    if problem.slots.redundant:
        raise ConfigError(f"method: {method} takes no redundant copies; take rounding, or slots.redundant=0")


def assignment(problem: Problem) -> tuple[Bools, float]:
    """One assignment problem per layer, by scipy: exact wherever layers do not share slots.

    Raises:
        ConfigError: there are caps or copies, or the best placement of each layer alone needs more than C_total.
    """
    refuse_caps(problem, "assignment")
    at = np.stack([assign_layer(cost, problem.slots.layer) for cost in problem.cost])
    held = np.bincount(at.ravel(), minlength=problem.ranks)
    over = int(held.max()) - problem.slots.total
    if over > 0:
        raise ConfigError(
            f"method: assignment would put {held.max()} experts on rank {held.argmax()}, {over} more than "
            f"slots.total={problem.slots.total}; take flow, or lp"
        )
    assign = single(at, problem.ranks)
    return assign, objective(problem, assign)


def assign_layer(cost: Floats, each: int) -> Ints:
    """The rank of every expert of one layer at the least sum of costs, at most `each` on a rank; shape (experts,).

    Args:
        cost: shape (experts, ranks).
    """
    from scipy.optimize import linear_sum_assignment

    _, slot = linear_sum_assignment(np.repeat(cost, each, axis=1))
    return np.asarray(slot // each, dtype=np.int64)


def flow(problem: Problem) -> tuple[Bools, float]:
    """A minimum-cost flow by OR-tools, exact with C_layer and C_total: expert → (layer, rank) → rank → sink.

    Raises:
        ConfigError: there are caps or copies, or OR-tools is not installed.
    """
    refuse_caps(problem, "flow")
    if not has_flow():
        raise ConfigError("method: flow needs ortools, which is not installed; pip install 'selfroute[planning]'")
    from ortools.graph.python.min_cost_flow import SimpleMinCostFlow

    tails, heads, room = _arcs(problem)
    scale = _LARGEST_PRODUCT / int(heads.max() + 1) / (float(problem.cost.max()) or 1.0)
    placing = np.rint(problem.cost * scale).astype(np.int64).ravel()
    costs = np.concatenate([placing, np.zeros(len(tails) - len(placing), dtype=np.int64)])
    network = SimpleMinCostFlow()
    arcs = network.add_arcs_with_capacity_and_unit_cost(tails, heads, room, costs)
    experts = problem.layers * problem.experts
    nodes = np.append(np.arange(experts), heads[-1]).astype(np.int32)
    network.set_nodes_supplies(nodes, np.append(np.ones(experts), -experts).astype(np.int64))
    status = network.solve()
    if status != network.OPTIMAL:
        raise ConfigError(f"method: flow found no placement ({status.name}); raise slots.layer or slots.total")
    assign = network.flows(arcs[: len(placing)]).reshape(problem.cost.shape).astype(bool)
    # Whole costs differ from the true ones by up to half a unit for each expert.
    return assign, (network.optimal_cost() - experts / 2) / scale


def _arcs(problem: Problem) -> tuple[Ints, Ints, Ints]:
    """Tails, heads and capacities: experts to (layer, rank), these to ranks, ranks to the sink."""
    layers, experts, ranks = problem.cost.shape
    layer, expert, rank = (grid.ravel() for grid in np.indices(problem.cost.shape))
    gate0, rank0 = layers * experts, layers * experts + layers * ranks
    gates, ends = np.arange(layers * ranks), np.arange(ranks)
    tails = np.concatenate([layer * experts + expert, gate0 + gates, rank0 + ends])
    heads = np.concatenate([gate0 + layer * ranks + rank, rank0 + gates % ranks, np.full(ranks, rank0 + ranks)])
    room = np.concatenate([
        np.ones(problem.cost.size), np.full(len(gates), problem.slots.layer), np.full(ranks, problem.slots.total)
    ])  # fmt: skip
    return tails.astype(np.int32), heads.astype(np.int32), room.astype(np.int64)

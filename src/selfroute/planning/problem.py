"""The problem of placing experts on ranks: what a visit costs, what fits, and what a placement comes to.

A *rank* holds experts: a server in arXiv 2508.09229, an expert-parallel rank in a serving engine. A *visit* is one
token sent to one expert; a token makes `top_k` of them in every layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from selfroute.errors import ConfigError
from selfroute.planning.cluster import Cluster
from selfroute.planning.load import Load
from selfroute.planning.shapes import Mixture, Unit

__all__ = [
    "Bools",
    "Floats",
    "Ints",
    "Plan",
    "Problem",
    "Slots",
    "check_cap",
    "check_slots",
    "even_homes",
    "homes_problem",
    "loads",
    "make_plan",
    "objective",
    "one_rank",
    "single",
    "sources_problem",
    "with_uniform_load",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Slots:
    """What fits on a rank.

    Attributes:
        layer: most experts of one layer on a rank, C_layer.
        total: most experts of all layers on a rank, C_total.
        redundant: copies of experts in each layer beyond one of each.
        equal: every rank has exactly `layer` experts of every layer, as serving engines want it.
    """

    layer: int
    total: int
    redundant: int = 0
    equal: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """One placement problem.

    Attributes:
        kind: "homes", where the tokens of a layer start on one rank, or "sources", where they start on every rank.
        visits: per token, shape (sources, layers, experts); each layer sums to the experts a token chooses.
        way: cost of a visit from a source to a rank and on, shape (sources, layers or 1, ranks).
        cost: what an expert costs per token if all its visits go to one rank, shape (layers, experts, ranks).
        slots: what fits.
        unit: of `way` and `cost`.
        cap: most load of a rank, as a multiple of the mean; None sets no limit.
        cap_over: whether the cap holds for `all` layers together or in each `layer`.
        split: a source sends to its `nearest` copy of an expert, or spreads its visits `even`ly over all.
    """

    kind: str
    visits: Floats
    way: Floats
    cost: Floats
    slots: Slots
    unit: Unit = "hops"
    cap: float | None = None
    cap_over: Literal["all", "layer"] = "all"
    split: Literal["nearest", "even"] = "nearest"

    @property
    def layers(self) -> int:
        return len(self.cost)

    @property
    def experts(self) -> int:
        return int(self.cost.shape[1])

    @property
    def ranks(self) -> int:
        return int(self.cost.shape[2])

    @property
    def load(self) -> Floats:
        """Visits per token of each expert, shape (layers, experts)."""
        return np.asarray(self.visits.sum(axis=0))

    @property
    def couples_layers(self) -> bool:
        """Whether what one layer takes leaves less to another."""
        return self.slots.total < self.layers * self.slots.layer or (self.cap is not None and self.cap_over == "all")

    @property
    def is_flat(self) -> bool:
        """Whether every placement of single copies costs exactly the same."""
        return bool((self.cost == self.cost[:, :, :1]).all())


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A placement and what it comes to; every solver gives one.

    Attributes:
        method: how it was found.
        assign: which rank holds which expert, shape (layers, experts, ranks).
        objective: cost per token, in the problem's unit.
        bound: no placement costs less; None if the method proves nothing.
        gap: (objective - bound) / bound, None without a bound.
        busiest: visits per token of the busiest rank of each layer, summed over layers: ranks wait for each other
            after every layer.
        mean: visits per token of the mean rank, summed over layers.
        busiest_total: visits per token of the rank that is busiest over all layers together.
        cpu_s: processor time of the solver, all threads.
    """

    method: str
    assign: Bools
    objective: float
    bound: float | None
    gap: float | None
    busiest: float
    mean: float
    busiest_total: float
    cpu_s: float


# --- problems ----------------------------------------------------------------------------------------------------


def homes_problem(
    load: Load,
    mixture: Mixture,
    cluster: Cluster,
    slots: Slots,
    *,
    homes: Sequence[int] | None = None,
    unit: Unit = "hops",
    **rest: Any,
) -> Problem:
    """The paper's problem: c[l,e,s] = f[l,e] · (D[h_l, s] + D[s, h_{l+1}]), arXiv 2508.09229.

    Args:
        homes: rank with each layer's attention, shape (layers,); None spreads the layers evenly, in order. What
            follows the last layer is on the rank of the last.
        rest: further fields of `Problem`.

    Raises:
        ConfigError: homes that are no ranks of the cluster, or slots that do not suffice.
    """
    at = np.asarray(even_homes(mixture.layers, cluster.ranks) if homes is None else homes)
    if at.shape != (mixture.layers,) or at.min() < 0 or at.max() >= cluster.ranks:
        raise ConfigError(
            f"homes: {at.tolist()} must be {mixture.layers} ranks, one per mixture layer, from 0 to {cluster.ranks - 1}"
        )
    between = cluster.costs(unit, mixture.bytes_per_token)
    way = (between[at] + between[:, np.append(at[1:], at[-1])].T)[None]
    visits = load.per_token(mixture).sum(axis=0, keepdims=True)
    return _problem("homes", visits, way, slots, unit=unit, **rest)


def even_homes(layers: int, ranks: int) -> list[int]:
    """Layer l of L on rank ⌊l · R / L⌋."""
    return [layer * ranks // layers for layer in range(layers)]


def sources_problem(
    load: Load, mixture: Mixture, cluster: Cluster, slots: Slots, *, unit: Unit = "hops", **rest: Any
) -> Problem:
    """The engines' problem: cost[l,e,r] = Σ_src visits[src,l,e] · (C[src,r] + C[r,src]).

    Args:
        load: of as many sources as ranks, or of fewer that divide them: each then feeds as many ranks, in order.
        rest: further fields of `Problem`.

    Raises:
        ConfigError: sources that do not divide the ranks, or slots that do not suffice.
    """
    visits = load.per_token(mixture)
    if cluster.ranks % len(visits):
        raise ConfigError(
            f"load: {len(visits)} sources do not divide {cluster.ranks} ranks; give one source per rank, or fewer "
            "that divide them"
        )
    each = cluster.ranks // len(visits)
    between = cluster.costs(unit, mixture.bytes_per_token)
    way = (between + between.T)[:, None, :]
    return _problem("sources", np.repeat(visits / each, each, axis=0), way, slots, unit=unit, **rest)


def _problem(kind: str, visits: Floats, way: Floats, slots: Slots, **rest: Any) -> Problem:
    problem = Problem(kind=kind, visits=visits, way=way, cost=_costs(visits, way), slots=slots, **rest)
    check_slots(problem)
    check_cap(problem)
    return problem


def _costs(visits: Floats, way: Floats) -> Floats:
    """Σ_src visits · way, such that alike sources on a symmetric network give exactly equal costs.

    Sources with the same visits are taken together, and their ways added in order of size: equal sets of ways then have
    equal sums, to the last digit.
    """
    alike, group = np.unique(visits.reshape(len(visits), -1), axis=0, return_inverse=True)
    total = np.zeros((visits.shape[1], visits.shape[2], way.shape[2]))
    for number, row in enumerate(alike):
        summed = np.sort(way[group.ravel() == number], axis=0).sum(axis=0)
        total += row.reshape(visits.shape[1:])[:, :, None] * summed[:, None, :]
    return total


def check_slots(problem: Problem) -> None:
    """Refuse what cannot fit, naming the capacity and what is missing.

    Raises:
        ConfigError: too few slots in a layer or in all, or equal slots that do not divide.
    """
    slots, ranks, needed = problem.slots, problem.ranks, problem.experts + problem.slots.redundant
    fits = ranks * slots.layer
    if fits < needed:
        raise ConfigError(
            f"slots: {ranks} ranks with {slots.layer} slots per layer hold {fits} experts of a layer that has "
            f"{needed}, {needed - fits} short; raise slots.layer to {-(-needed // ranks)} or more"
        )
    if slots.equal and fits != needed:
        raise ConfigError(
            f"slots: {needed} experts of a layer do not divide over {ranks} ranks; engines need equal slots, "
            f"{fits - needed} more redundant experts would fill them: slots.redundant={slots.redundant + fits - needed}"
        )
    everything = problem.layers * needed
    if ranks * slots.total < everything:
        raise ConfigError(
            f"slots: {ranks} ranks with {slots.total} slots in all hold {ranks * slots.total} of {everything} experts, "
            f"{everything - ranks * slots.total} short; raise slots.total to {-(-everything // ranks)} or more"
        )


def check_cap(problem: Problem) -> None:
    """Refuse a cap that a single expert exceeds.

    Raises:
        ConfigError: names the expert and the least cap.
    """
    if problem.cap is None or problem.slots.redundant:
        return
    load = problem.load
    mean = load.sum(axis=1, keepdims=True) / problem.ranks
    parts = load / (mean if problem.cap_over == "layer" else mean.sum())
    layer, expert = np.unravel_index(int(parts.argmax()), parts.shape)
    if parts[layer, expert] > problem.cap:
        raise ConfigError(
            f"cap: expert {expert} of layer {layer} alone has {parts[layer, expert]:.2f} times the mean load of a "
            f"rank, more than {problem.cap:g}; raise the cap, or add copies with slots.redundant"
        )


# --- what a placement comes to -----------------------------------------------------------------------------------


def single(ranks_of: NDArray[Any], ranks: int) -> Bools:
    """A placement of one copy each, from the rank of every expert, shape (layers, experts)."""
    assign: Bools = np.asarray(ranks_of)[:, :, None] == np.arange(ranks)
    return assign


def one_rank(assign: Bools) -> Ints | None:
    """The rank of every expert, shape (layers, experts); None if one has several copies."""
    if (assign.sum(axis=2) != 1).any():
        return None
    return np.asarray(assign.argmax(axis=2), dtype=np.int64)


def objective(problem: Problem, assign: Bools) -> float:
    """Cost per token of a placement, summed over layers."""
    at = one_rank(assign)
    if at is not None:
        return float(np.take_along_axis(problem.cost, at[:, :, None], axis=2).sum())
    ways = np.broadcast_to(problem.way, (len(problem.visits), problem.layers, problem.ranks))
    return float(sum((_sent(problem, assign, i) * ways[:, i, None, :]).sum() for i in range(problem.layers)))


def loads(problem: Problem, assign: Bools) -> Floats:
    """Visits per token that each rank serves, shape (layers, ranks)."""
    if one_rank(assign) is not None:
        return np.asarray(np.einsum("le,ler->lr", problem.load, assign))
    return np.stack([_sent(problem, assign, layer).sum(axis=(0, 1)) for layer in range(problem.layers)])


def _sent(problem: Problem, assign: Bools, layer: int) -> Floats:
    """Where the visits of a layer go, shape (sources, experts, ranks)."""
    held = assign[layer][None]
    if problem.split == "nearest":
        way = problem.way[:, min(layer, problem.way.shape[1] - 1), None, :]
        there = np.where(held, way, np.inf)
        held = there <= there.min(axis=2, keepdims=True)
    return np.asarray(problem.visits[:, layer, :, None] * held / held.sum(axis=2, keepdims=True))


def make_plan(method: str, problem: Problem, assign: Bools, bound: float | None, *, cpu_s: float) -> Plan:
    """Count what a placement comes to."""
    cost = objective(problem, assign)
    served = loads(problem, assign)
    if bound is not None:
        bound = min(bound, cost)
    gap = None if bound is None else (cost - bound) / bound if bound > 0 else 0.0 if cost == bound else float("inf")
    return Plan(
        method=method,
        assign=assign,
        objective=cost,
        bound=bound,
        gap=gap,
        busiest=float(served.max(axis=1).sum()),
        mean=float(served.sum() / problem.ranks),
        busiest_total=float(served.sum(axis=0).max()),
        cpu_s=cpu_s,
    )


def with_uniform_load(problem: Problem) -> Problem:
    """The same problem, as if every expert were chosen alike: the paper's unweighted ILP."""
    each = (problem.visits.sum(axis=2, keepdims=True) / problem.experts).round(12)  # sums differ in their last digit
    visits = np.broadcast_to(each, problem.visits.shape)
    return replace(problem, visits=visits, cost=_costs(visits, problem.way))

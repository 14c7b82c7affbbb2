"""Redundant copies of experts: where to put them for the network, and what no placement of them can cost less than."""

from __future__ import annotations

from typing import Any

import numpy as np

from selfroute.errors import ConfigError
from selfroute.planning.problem import Bools, Floats, Problem
from selfroute.planning.solvers.eplb import copy_counts
from selfroute.planning.solvers.flows import assign_layer

__all__ = ["MOST_PARTS", "copies"]

# (source, expert, rank) triples of a layer; beyond them the linear program takes minutes a layer, and is left out.
MOST_PARTS = 40_000


def copies(problem: Problem) -> tuple[Bools, float | None]:
    """Place every expert and its redundant copies.

    Where sources use their nearest copy it is a facility location problem: its linear program bounds the cost, its
    solution is rounded, and copies are exchanged on each rank while that saves anything. Where visits are spread
    evenly, the experts with most load get the copies, as in DeepSeek's balancer, and these are placed by a linear
    program that is a flow, so exactly; the bound then holds for these numbers of copies.

    Raises:
        ConfigError: more copies of an expert than ranks.
    """
    if problem.slots.redundant > problem.experts * (problem.ranks - 1):
        raise ConfigError(
            f"slots.redundant: {problem.slots.redundant} copies are more than {problem.experts} experts can have on "
            f"different ranks, {problem.experts * (problem.ranks - 1)}"
        )
    place = _spread if problem.split == "even" else _nearest
    placed = [place(problem, layer) for layer in range(problem.layers)]
    bounds = [bound for _, bound in placed if bound is not None]
    whole = sum(bounds) if len(bounds) == problem.layers else None
    return np.stack([held for held, _ in placed]), whole


# --- visits spread evenly ----------------------------------------------------------------------------------------


def _spread(problem: Problem, layer: int) -> tuple[Bools, float]:
    """Copies by load, placed by a transportation problem: no two copies of an expert on a rank."""
    from scipy import sparse
    from scipy.optimize import linprog

    experts, ranks = problem.experts, problem.ranks
    counts = np.minimum(copy_counts(problem.load[layer], experts + problem.slots.redundant), ranks)
    cost = problem.cost[layer] / counts[:, None]
    each_expert = sparse.kron(sparse.eye_array(experts), np.ones((1, ranks)), format="csr")
    each_rank = sparse.kron(np.ones((1, experts)), sparse.eye_array(ranks), format="csr")
    found = linprog(
        cost.ravel(), A_eq=each_expert, b_eq=counts, A_ub=each_rank, b_ub=np.full(ranks, problem.slots.layer),
        bounds=(0, 1), method="highs-ds",
    )  # fmt: skip
    if found.x is None:
        raise ConfigError("slots: no placement has room for the copies; raise slots.layer")
    return found.x.reshape(cost.shape) > 0.5, float(found.fun)


# --- visits to the nearest copy ----------------------------------------------------------------------------------


def _nearest(problem: Problem, layer: int) -> tuple[Bools, float | None]:
    visits = problem.visits[:, layer]
    way = np.broadcast_to(problem.way[:, min(layer, problem.way.shape[1] - 1)], (len(visits), problem.ranks))
    slots, copies_wanted = problem.slots.layer, problem.experts + problem.slots.redundant
    parts, bound = _facilities(visits, way, slots, copies_wanted)
    tilt = 1e-6 / (float(problem.cost[layer].max()) or 1.0)
    first = assign_layer(tilt * problem.cost[layer] - parts, slots)
    held = first[:, None] == np.arange(problem.ranks)
    _fill(held, visits, way, slots, copies_wanted)
    _exchange(held, visits, way)
    return held, bound


def _facilities(visits: Floats, way: Floats, slots: int, wanted: int) -> tuple[Floats, float | None]:
    """Facility location as a linear program: parts of copies on ranks, shape (experts, ranks), and its value.

    Variables: held[expert, rank], then sent[source, expert, rank], the part of a source's visits that goes there. A
    layer of more than `MOST_PARTS` is not solved: no parts, and no bound.
    """
    from scipy import sparse
    from scipy.optimize import linprog

    (sources, experts), ranks = visits.shape, way.shape[1]
    places = experts * ranks
    if sources * places > MOST_PARTS:
        return np.zeros((experts, ranks)), None
    cost = np.concatenate([np.zeros(places), (visits[:, :, None] * way[:, None, :]).ravel()])
    eye = sparse.eye_array(places)
    only_where_held = sparse.hstack([sparse.vstack([-eye] * sources), sparse.eye_array(sources * places)], format="csr")
    each_rank = sparse.kron(np.ones((1, experts)), sparse.eye_array(ranks))
    in_all = sparse.coo_array(np.ones((1, places)))
    most = sparse.vstack(
        [only_where_held, _padded(each_rank, sources * places), _padded(in_all, sources * places)], format="csr"
    )
    room = np.concatenate([np.zeros(sources * places), np.full(ranks, float(slots)), [float(wanted)]])
    sent = sparse.kron(sparse.eye_array(sources * experts), np.ones((1, ranks)))
    every_visit = sparse.hstack([sparse.csr_array((sources * experts, places)), sent], format="csr")
    found = linprog(
        cost, A_ub=most, b_ub=room, A_eq=every_visit, b_eq=np.ones(sources * experts), bounds=(0, 1), method="highs"
    )
    return found.x[:places].reshape(experts, ranks), float(found.fun)


def _padded(rows: Any, columns: int) -> Any:
    from scipy import sparse

    return sparse.hstack([rows, sparse.csr_array((rows.shape[0], columns))])


def _fill(held: Bools, visits: Floats, way: Floats, slots: int, wanted: int) -> None:
    """Add the copy that saves most, again and again, until there are as many as wanted."""
    saved = np.stack([_savings(held, visits, way, expert) for expert in range(len(held))])
    while held.sum() < wanted:
        open_ = ~held & (held.sum(axis=0) < slots)
        expert, rank = np.unravel_index(int(np.where(open_, saved, -1.0).argmax()), held.shape)
        held[expert, rank] = True
        saved[expert] = _savings(held, visits, way, int(expert))


def _savings(held: Bools, visits: Floats, way: Floats, expert: int) -> Floats:
    """What a further copy of an expert saves on each rank, shape (ranks,)."""
    nearest = way[:, held[expert]].min(axis=1, keepdims=True)
    return np.asarray(visits[:, expert] @ np.maximum(nearest - way, 0))


def _exchange(held: Bools, visits: Floats, way: Floats) -> None:
    """Replace one expert's copy on a rank by another expert's while that saves anything."""
    experts = range(len(held))
    gain = np.stack([_savings(held, visits, way, expert) for expert in experts])
    loss = np.stack([_losses(held, visits, way, expert) for expert in experts])
    while True:
        out, in_ = np.where(held, loss, np.inf).argmin(axis=0), np.where(held, -np.inf, gain).argmax(axis=0)
        better = gain[in_, np.arange(held.shape[1])] - loss[out, np.arange(held.shape[1])]
        rank = int(better.argmax())
        if not better[rank] > 1e-12 * visits.sum():
            return
        held[out[rank], rank], held[in_[rank], rank] = False, True
        for expert in (int(out[rank]), int(in_[rank])):
            gain[expert] = _savings(held, visits, way, expert)
            loss[expert] = _losses(held, visits, way, expert)


def _losses(held: Bools, visits: Floats, way: Floats, expert: int) -> Floats:
    """What it costs to give a copy of an expert up, shape (ranks,); infinite where there is none or it is the last."""
    lost = np.full(held.shape[1], np.inf)
    own = np.flatnonzero(held[expert])
    if len(own) < 2:
        return lost
    ordered = np.sort(way[:, own], axis=1)
    for rank in own:
        is_first = way[:, rank] <= ordered[:, 0]
        lost[rank] = visits[:, expert] @ (is_first * (ordered[:, 1] - ordered[:, 0]))
    return lost

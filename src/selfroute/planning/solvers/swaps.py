"""Swaps that bring every rank within its limits at the least cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from selfroute.planning.problem import Floats, Ints, Problem

__all__ = ["within_limits"]

_NOTHING = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class _Limit:
    """Something that ranks have so much of, over all layers or in each.

    Attributes:
        use: of each expert, shape (layers, experts).
        room: of every rank, shape (groups,).
        group: of each layer, shape (layers,).
    """

    use: Floats
    room: Floats
    group: Ints

    def used(self, at: Ints, ranks: int) -> Floats:
        """Shape (groups, ranks)."""
        total = np.zeros((len(self.room), ranks))
        np.add.at(total, (np.repeat(self.group, at.shape[1]), at.ravel()), self.use.ravel())
        return total

    def excess(self, used: Floats, group: Ints) -> Floats:
        """Part by which a use is over its room."""
        room = self.room[group]
        return np.asarray(np.maximum(used - room, 0) / room)


def _limits(problem: Problem) -> list[_Limit]:
    together, each = np.zeros(problem.layers, dtype=np.int64), np.arange(problem.layers)
    limits = []
    if problem.slots.total < problem.layers * problem.slots.layer:
        ones = np.ones((problem.layers, problem.experts))
        limits.append(_Limit(ones, np.array([float(problem.slots.total)]), together))
    if problem.cap is not None:
        load = problem.load
        mean = load.sum(axis=1) / problem.ranks
        room = problem.cap * (mean if problem.cap_over == "layer" else mean.sum(keepdims=True))
        limits.append(_Limit(load, room, each if problem.cap_over == "layer" else together))
    return limits


def within_limits(problem: Problem, at: Ints) -> Ints:
    """Swap two experts of a layer, or move one to a free slot, until no rank is over a limit, or nothing helps.

    Each step relieves the rank that is furthest over, by the change that costs least for what it relieves.

    Args:
        at: rank of every expert, shape (layers, experts).
    """
    limits, at = _limits(problem), at.copy()
    while (worst := _worst(limits, at, problem.ranks)) is not None:
        change = _best_change(problem, limits, at, *worst)
        if change is None:
            break
        layer, expert, other, rank = change
        if other >= 0:
            at[layer, other] = at[layer, expert]
        at[layer, expert] = rank
    return at


def _worst(limits: list[_Limit], at: Ints, ranks: int) -> tuple[Ints, int] | None:
    """The layers and the rank that are furthest over a limit."""
    most, found = _NOTHING, None
    for limit in limits:
        over = limit.excess(limit.used(at, ranks), np.arange(len(limit.room))[:, None])
        if over.max() > most:
            group, rank = np.unravel_index(int(over.argmax()), over.shape)
            most, found = float(over.max()), (np.flatnonzero(limit.group == group), int(rank))
    return found


def _best_change(
    problem: Problem, limits: list[_Limit], at: Ints, layers: Ints, full: int
) -> tuple[int, int, int, int] | None:
    """Layer, expert on the full rank, expert to take in its place (-1: none), and rank to go to."""
    layer, expert, other, rank = _changes(problem, at, layers, full)
    if not len(layer):
        return None
    cost, swapped = problem.cost, other >= 0
    dearer = cost[layer, expert, rank] - cost[layer, expert, full]
    dearer += swapped * (cost[layer, other, full] - cost[layer, other, rank])
    relief = np.zeros(len(layer))
    for limit in limits:
        used, group = limit.used(at, problem.ranks), limit.group[layer]
        moved = limit.use[layer, expert] - swapped * limit.use[layer, other]
        for place, change in ((full, -moved), (rank, moved)):
            before = used[group, place]
            relief += limit.excess(before, group) - limit.excess(before + change, group)
    helps = relief > _NOTHING
    if not helps.any():
        return None
    best = int(np.where(helps, dearer / np.where(helps, relief, 1.0), np.inf).argmin())
    return int(layer[best]), int(expert[best]), int(other[best]), int(rank[best])


def _changes(problem: Problem, at: Ints, layers: Ints, full: int) -> tuple[Ints, Ints, Ints, Ints]:
    """Every swap and move of an expert on the full rank: layer, expert, other, rank; each of shape (changes,)."""
    rows, own = np.nonzero(at[layers] == full)
    others = np.arange(problem.experts)
    layer, expert = np.repeat(layers[rows], problem.experts), np.repeat(own, problem.experts)
    other = np.tile(others, len(rows))
    rank = at[layer, other]
    swaps = rank != full
    held = (at[layers][:, :, None] == np.arange(problem.ranks)).sum(axis=1)
    move, free = np.nonzero((held < problem.slots.layer)[rows] & (np.arange(problem.ranks) != full))
    parts = [
        (layer[swaps], expert[swaps], other[swaps], rank[swaps]),
        (layers[rows][move], own[move], np.full(len(move), -1), free),
    ]
    layer, expert, other, rank = (np.concatenate(both) for both in zip(*parts, strict=True))
    return layer, expert, other, rank

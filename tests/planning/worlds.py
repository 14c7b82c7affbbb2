"""Small clusters, models and loads for the tests of planning."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from selfroute.planning.cluster import Cluster
from selfroute.planning.load import Load, generated_load
from selfroute.planning.problem import Bools, Problem, Slots, homes_problem, objective, single, sources_problem
from selfroute.planning.shapes import Mixture

EQUAL = Slots(layer=2, total=10**6, equal=True)


def cluster(costs: Any) -> Cluster:
    """A cluster of given costs between ranks, in hops."""
    between = np.asarray(costs, dtype=float)
    return Cluster("a test's network", between, None, None, np.arange(len(between)))


def line(ranks: int) -> Cluster:
    """Ranks in a row, one hop between neighbours."""
    return cluster(np.abs(np.arange(ranks)[:, None] - np.arange(ranks)))


def star(ranks: int) -> Cluster:
    """All ranks two hops apart."""
    return cluster(2 * (1 - np.eye(ranks)))


def equal_slots(mixture: Mixture, ranks: int, redundant: int = 0) -> Slots:
    each = (mixture.experts + redundant) // ranks
    return Slots(layer=each, total=each * mixture.layers, redundant=redundant, equal=True)


@st.composite
def problems(draw: st.DrawFn, *, most_experts: int = 6, is_equal: bool | None = None) -> Problem:
    """Problems of either kind, small enough to try every placement of a layer."""
    ranks = draw(st.integers(2, 3))
    each = draw(st.integers(1, most_experts // ranks))
    mixture = Mixture(layers=draw(st.integers(1, 3)), experts=ranks * each, top_k=1)
    costs = np.array(draw(st.lists(st.integers(0, 9), min_size=ranks**2, max_size=ranks**2))).reshape(ranks, ranks)
    network = cluster(costs * (1 - np.eye(ranks)))
    seed = draw(st.integers(0, 2**20))
    equal = draw(st.booleans()) if is_equal is None else is_equal
    room = each if equal else each + draw(st.integers(0, 2))
    slots = Slots(layer=room, total=room * mixture.layers, equal=equal)
    if draw(st.booleans()):
        return homes_problem(generated_load(mixture, seed=seed), mixture, network, slots)
    return sources_problem(generated_load(mixture, sources=ranks, own=0.5, seed=seed), mixture, network, slots)


def every_placement(problem: Problem) -> list[Bools]:
    """Every placement of one copy each that the slots allow."""
    of_layer = [
        at for at in itertools.product(range(problem.ranks), repeat=problem.experts)
        if max(np.bincount(at, minlength=problem.ranks)) <= problem.slots.layer
    ]  # fmt: skip
    found = []
    for choice in itertools.product(of_layer, repeat=problem.layers):
        assign = single(np.array(choice), problem.ranks)
        if assign.sum(axis=(0, 1)).max() <= problem.slots.total:
            found.append(assign)
    return found


def least(problem: Problem) -> float:
    """The least cost, by trying everything; layer by layer where layers do not share slots."""
    if problem.couples_layers:
        return min(objective(problem, assign) for assign in every_placement(problem))
    layers = [one_layer(problem, number) for number in range(problem.layers)]
    return sum(min(objective(layer, assign) for assign in every_placement(layer)) for layer in layers)


def one_layer(problem: Problem, number: int) -> Problem:
    part = slice(number, number + 1)
    way = problem.way if problem.way.shape[1] == 1 else problem.way[:, part]
    slots = replace(problem.slots, total=problem.slots.layer)
    return replace(problem, visits=problem.visits[:, part], way=way, cost=problem.cost[part], slots=slots)


def counted(visits: Any) -> Load:
    return Load(np.asarray(visits, dtype=float), "a test's load")

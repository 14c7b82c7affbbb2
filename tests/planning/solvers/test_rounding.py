"""Load caps and copies: within the bounds that the linear program proves."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.planning.worlds import counted, equal_slots, line, problems

from selfroute.errors import ConfigError
from selfroute.planning.cluster import fat_tree, with_ranks
from selfroute.planning.load import generated_load
from selfroute.planning.problem import Problem, Slots, homes_problem, loads, objective, sources_problem
from selfroute.planning.shapes import Link, Mixture
from selfroute.planning.solvers import solve
from selfroute.planning.solvers.eplb import rebalance
from selfroute.planning.solvers.swaps import within_limits

MIDDLE = Mixture(layers=27, experts=64, top_k=6)
SMALL = Mixture(layers=3, experts=8, top_k=2)


def capped(cap: float, mixture: Mixture = MIDDLE, servers: int = 32, **options: Any) -> Problem:
    network = fat_tree(servers=servers)
    return homes_problem(
        generated_load(mixture), mixture, network, equal_slots(mixture, servers), cap=cap, **options
    )  # fmt: skip


def test_a_cap_of_1_1_is_met_within_a_percent_of_the_bound() -> None:
    plan = solve("rounding", capped(1.1))
    assert plan.gap is not None and plan.gap <= 0.01
    assert plan.busiest_total / plan.mean <= 1.1 * 1.03
    assert (plan.assign.sum(axis=1) == 2).all(), "and slots stay equal"


def test_a_tighter_cap_costs_more() -> None:
    mixture = Mixture(layers=2, experts=16, top_k=2)
    costs = [solve("rounding", capped(cap, mixture, 8)).bound for cap in (3.0, 2.0, 1.5)]
    assert costs == sorted(costs)  # type: ignore[type-var]


def test_rounding_is_near_the_integer_program_on_a_toy() -> None:
    problem = capped(1.6, Mixture(layers=2, experts=8, top_k=2), 4)
    whole, rounded = solve("milp", problem), solve("rounding", problem)
    assert rounded.bound is not None and rounded.bound <= whole.objective + 1e-9
    assert whole.objective <= rounded.objective + 1e-9 <= 1.1 * whole.objective


def test_a_cap_in_each_layer_holds_in_each_layer() -> None:
    mixture = Mixture(layers=4, experts=32, top_k=4)
    problem = homes_problem(
        generated_load(mixture, concentration=5.0), mixture, fat_tree(servers=4), equal_slots(mixture, 4),
        cap=1.2, cap_over="layer",
    )  # fmt: skip
    served = loads(problem, solve("rounding", problem).assign)
    assert (served.max(axis=1) / served.mean(axis=1)).max() <= 1.2 * 1.03


@settings(max_examples=40)
@given(problems(), st.floats(1.0, 2.0), st.integers(0, 2**20))
def test_swaps_never_break_slots_and_never_make_the_excess_worse(problem: Problem, cap: float, seed: int) -> None:
    total = -(-problem.layers * problem.experts // problem.ranks)
    tight = replace(problem, cap=cap, slots=replace(problem.slots, total=total))
    each = np.arange(problem.experts) % problem.ranks
    start = np.stack([np.random.default_rng([seed, layer]).permutation(each) for layer in range(problem.layers)])
    end = within_limits(tight, start)
    for layer in end:
        assert np.bincount(layer, minlength=problem.ranks).max() <= problem.slots.layer

    def excess(at: Any) -> float:
        served = np.zeros(problem.ranks)
        np.add.at(served, at.ravel(), problem.load.ravel())
        held = np.bincount(at.ravel(), minlength=problem.ranks)
        room = cap * problem.load.sum() / problem.ranks
        return float(np.maximum(served / room - 1, 0).sum() + np.maximum(held / total - 1, 0).sum())

    assert excess(end) <= excess(start) + 1e-9


# --- copies ------------------------------------------------------------------------------------------------------


def copies_problem(seed: int, split: Any = "nearest", redundant: int = 1) -> Problem:
    mixture = Mixture(layers=1, experts=3, top_k=1)
    load = generated_load(mixture, sources=4, own=0.5, seed=seed)
    return sources_problem(load, mixture, line(4), equal_slots(mixture, 4, redundant), split=split)


def least_with_copies(problem: Problem) -> float:
    """The least cost over everything that fits the slots."""
    places = list(itertools.product(range(problem.experts), repeat=problem.ranks))  # one slot on each of 4 ranks
    costs = []
    for at in places:
        assign = (np.array(at)[None] == np.arange(problem.experts)[:, None])[None]
        if assign.any(axis=2).all():
            costs.append(objective(problem, assign))
    return min(costs)


@settings(max_examples=15)
@given(st.integers(0, 2**20))
def test_copies_are_between_the_bound_and_nothing_worse_than_the_best(seed: int) -> None:
    problem = copies_problem(seed)
    plan, best = solve("rounding", problem), least_with_copies(problem)
    assert plan.bound is not None and plan.bound <= best + 1e-9
    assert best - 1e-9 <= plan.objective <= 1.15 * best + 1e-9
    assert plan.assign.any(axis=2).all() and (plan.assign.sum(axis=(0, 1)) <= 1).all()


def test_copies_save_where_single_experts_cannot() -> None:
    """On a symmetric network with alike sources only copies bring anything."""
    network = with_ranks(fat_tree(servers=2, leaf=1), 2, Link())
    mixture = Mixture(layers=2, experts=8, top_k=2)
    load = generated_load(mixture, sources=4)
    flat = sources_problem(load, mixture, network, equal_slots(mixture, 4))
    more = sources_problem(load, mixture, network, equal_slots(mixture, 4, redundant=4))
    assert solve("rounding", more).objective < solve("assignment", flat).objective
    assert solve("rounding", more).objective < solve("eplb", more).objective


def test_visits_spread_evenly_go_to_the_experts_that_have_most() -> None:
    mixture = Mixture(layers=1, experts=3, top_k=1)
    load = counted([[[6, 1, 1]]])
    problem = sources_problem(load, mixture, line(4), equal_slots(mixture, 4, redundant=1), split="even")
    plan = solve("rounding", problem)
    assert plan.assign[0].sum(axis=1).tolist() == [2, 1, 1]
    assert plan.gap == pytest.approx(0, abs=1e-9)
    assert plan.busiest / plan.mean == pytest.approx(3 / 8 * 4)


def test_a_layer_too_large_for_its_program_is_placed_without_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfroute.planning.solvers.copies.MOST_PARTS", 10)
    plan = solve("rounding", copies_problem(1))
    assert plan.bound is None and plan.gap is None
    assert plan.objective <= solve("linear", copies_problem(1)).objective


def test_copies_that_cannot_be_are_refused() -> None:
    mixture = Mixture(layers=1, experts=2, top_k=1)
    with pytest.raises(ConfigError, match=r"slots\.redundant: 4 copies are more than 2 experts can have"):
        solve("rounding", sources_problem(generated_load(mixture), mixture, line(2), equal_slots(mixture, 2, 4)))
    with pytest.raises(ConfigError, match="no method takes a cap and redundant copies"):
        solve("rounding", replace(copies_problem(0), cap=1.5))


# --- DeepSeek's balancer -----------------------------------------------------------------------------------------


def test_the_balancer_gives_its_published_example() -> None:
    load = np.array([
        [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
        [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
    ], dtype=float)  # fmt: skip
    assert rebalance(load, 16, groups=4, nodes=2, ranks=8).tolist() == [
        [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1],
        [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1],
    ]


def test_the_balancer_balances() -> None:
    mixture = Mixture(layers=3, experts=32, top_k=2)
    problem = homes_problem(generated_load(mixture), mixture, line(4), equal_slots(mixture, 4))
    assert solve("eplb", problem).busiest < solve("linear", problem).busiest


def test_the_balancer_needs_equal_slots() -> None:
    mixture = Mixture(layers=1, experts=6, top_k=2)
    with pytest.raises(ConfigError, match="eplb needs equal slots, and 6 do not divide over 4 ranks"):
        solve("eplb", homes_problem(generated_load(mixture), mixture, line(4), Slots(layer=2, total=2)))

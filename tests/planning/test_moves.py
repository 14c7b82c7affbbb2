"""Fewest moves among the placements of least cost, and the price of a move."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.planning.worlds import equal_slots, every_placement, line, one_layer, problems, star

from selfroute.errors import ConfigError
from selfroute.planning.load import generated_load
from selfroute.planning.moves import moved, replan
from selfroute.planning.problem import Problem, homes_problem, objective, single, sources_problem
from selfroute.planning.shapes import Mixture
from selfroute.planning.solvers import solve


@settings(max_examples=50)
@given(problems(most_experts=4, is_equal=True), st.integers(0, 2**20))
def test_no_placement_of_least_cost_moves_fewer(problem: Problem, seed: int) -> None:
    each = np.arange(problem.experts) % problem.ranks
    start = np.stack([np.random.default_rng([seed, layer]).permutation(each) for layer in range(problem.layers)])
    before = single(start, problem.ranks)
    plan = replan("assignment", problem, before)
    assert plan.objective == pytest.approx(solve("assignment", problem).objective, rel=1e-7, abs=1e-9)
    for layer in range(problem.layers):
        own, there = one_layer(problem, layer), before[layer : layer + 1]
        costs = [(objective(own, assign), moved(assign, there)) for assign in every_placement(own)]
        least = min(cost for cost, _ in costs)
        fewest = min(moves for cost, moves in costs if cost <= least + 1e-12)
        assert moved(plan.assign[layer : layer + 1], there) <= fewest


def test_where_nothing_can_be_saved_nothing_moves() -> None:
    mixture = Mixture(layers=2, experts=8, top_k=1)
    problem = sources_problem(generated_load(mixture, sources=4), mixture, star(4), equal_slots(mixture, 4))
    before = solve("round_robin", problem).assign
    assert moved(replan("assignment", problem, before).assign, before) == 0


def test_a_higher_price_moves_less_and_costs_more() -> None:
    mixture = Mixture(layers=4, experts=16, top_k=2)
    problem = homes_problem(generated_load(mixture), mixture, line(8), equal_slots(mixture, 8))
    before = solve("linear", problem).assign
    plans = [replan("assignment", problem, before, price=price) for price in (0.0, 0.05, 0.5, 100.0)]
    moves, costs = [moved(plan.assign, before) for plan in plans], [plan.objective for plan in plans]
    assert moves == sorted(moves, reverse=True) and moves[0] > moves[1] > moves[-1] == 0
    assert costs == sorted(costs)
    assert all(plan.bound == pytest.approx(costs[0]) for plan in plans), "and the bound is that of free moves"


def test_copies_have_no_price() -> None:
    mixture = Mixture(layers=1, experts=4, top_k=1)
    problem = homes_problem(generated_load(mixture), mixture, line(2), equal_slots(mixture, 2, redundant=2))
    before = solve("linear", problem).assign
    with pytest.raises(ConfigError, match="move_price: redundant copies"):
        replan("rounding", problem, before, price=1.0)
    assert replan("rounding", problem, before).objective <= objective(problem, before)

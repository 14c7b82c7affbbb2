"""Costs as the formulas say, the zero that is exactly zero, and what a placement comes to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.planning.worlds import cluster, counted, equal_slots, line, problems, star

from selfroute.errors import ConfigError
from selfroute.planning.cluster import fat_tree, with_ranks
from selfroute.planning.load import generated_load
from selfroute.planning.problem import (
    Problem,
    Slots,
    even_homes,
    homes_problem,
    loads,
    make_plan,
    objective,
    single,
    sources_problem,
)
from selfroute.planning.shapes import Link, Mixture
from selfroute.planning.solvers import METHODS, solve

MIXTURE = Mixture(layers=3, experts=4, top_k=2)


def test_the_cost_of_homes_is_the_papers() -> None:
    network, load = line(4), generated_load(MIXTURE, seed=1)
    homes = [2, 0, 3]
    problem = homes_problem(load, MIXTURE, network, equal_slots(MIXTURE, 4), homes=homes)
    share, between = load.per_token(MIXTURE)[0], network.costs("hops", 1)
    for layer in range(3):
        following = homes[min(layer + 1, 2)]
        for expert in range(4):
            for rank in range(4):
                way = between[homes[layer], rank] + between[rank, following]
                assert problem.cost[layer, expert, rank] == pytest.approx(share[layer, expert] * way)


def test_the_cost_of_sources_is_there_and_back() -> None:
    network = cluster([[0, 1, 5], [2, 0, 1], [4, 3, 0]])
    mixture = Mixture(layers=1, experts=3, top_k=1)
    load = generated_load(mixture, sources=3, own=1.0)
    problem = sources_problem(load, mixture, network, equal_slots(mixture, 3))
    visits, between = load.per_token(mixture), network.costs("hops", 1)
    expected = np.einsum("sle,sr->ler", visits, between + between.T)
    np.testing.assert_allclose(problem.cost, expected, rtol=1e-12)


def test_fewer_sources_feed_as_many_ranks_each() -> None:
    mixture = Mixture(layers=1, experts=4, top_k=1)
    load = counted([[[4, 0, 0, 0]], [[0, 0, 0, 4]]])
    problem = sources_problem(load, mixture, line(4), equal_slots(mixture, 4))
    assert problem.visits[:, 0, 0].tolist() == [0.25, 0.25, 0, 0]
    with pytest.raises(ConfigError, match="3 sources do not divide 4 ranks"):
        sources_problem(generated_load(mixture, sources=3), mixture, line(4), equal_slots(mixture, 4))


@settings(max_examples=30)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**20))
def test_alike_sources_on_a_symmetric_network_save_exactly_nothing(
    servers: int, per_server: int, each: int, seed: int
) -> None:
    network = with_ranks(fat_tree(servers=servers, leaf=1), per_server, Link())
    mixture = Mixture(layers=3, experts=network.ranks * each, top_k=1)
    load = generated_load(mixture, sources=network.ranks, own=0.0, seed=seed)
    for unit in network.units:
        problem = sources_problem(load, mixture, network, equal_slots(mixture, network.ranks), unit=unit)
        assert problem.is_flat
        costs = {solve(method, problem).objective for method in METHODS if method not in ("milp", "lp", "flow")}
        assert len(costs) == 1, "equal to the last digit, whatever the method"


def test_an_asymmetric_network_is_not_flat() -> None:
    mixture = Mixture(layers=1, experts=4, top_k=1)
    load = generated_load(mixture, sources=4, own=0.0)
    assert not sources_problem(load, mixture, line(4), equal_slots(mixture, 4)).is_flat
    assert sources_problem(load, mixture, star(4), equal_slots(mixture, 4)).is_flat


@given(problems())
def test_every_visit_is_served_once(problem: Problem) -> None:
    assign = METHODS["linear"](problem)[0]
    np.testing.assert_allclose(loads(problem, assign).sum(axis=1), problem.load.sum(axis=1))


def test_a_source_goes_to_its_nearest_copy() -> None:
    mixture = Mixture(layers=1, experts=2, top_k=1)
    load = counted([[[2, 0]], [[0, 0]], [[1, 1]]])
    problem = sources_problem(load, mixture, line(3), Slots(layer=1, total=1, redundant=1, equal=True))
    assign = np.array([[[True, False, True], [False, True, False]]])
    assert objective(problem, assign) == pytest.approx(0.25 * 2), "expert 1 is one hop from rank 2, there and back"
    assert loads(problem, assign)[0].tolist() == pytest.approx([0.5, 0.25, 0.25])
    spread = replace(problem, split="even")
    assert loads(spread, assign)[0].tolist() == pytest.approx([0.375, 0.25, 0.375])
    assert objective(spread, assign) == pytest.approx(0.25 * 4 + 0.125 * 4 + 0.25 * 2)


@given(problems(is_equal=True))
def test_copies_of_one_kind_cost_what_single_ones_do(problem: Problem) -> None:
    """The two ways to count agree where both apply."""
    assign = METHODS["linear"](problem)[0]
    ways = np.broadcast_to(problem.way, (len(problem.visits), problem.layers, problem.ranks))
    by_source = np.einsum("sle,slr,ler->", problem.visits, ways, assign)
    assert objective(problem, assign) == pytest.approx(by_source)


def test_the_busiest_rank_is_taken_layer_by_layer() -> None:
    mixture = Mixture(layers=2, experts=2, top_k=1)
    load = counted([[[3, 1], [1, 3]]])
    problem = homes_problem(load, mixture, line(2), equal_slots(mixture, 2))
    plan = make_plan("a test's", problem, single(np.array([[0, 1], [0, 1]]), 2), None, cpu_s=0.0)
    assert plan.busiest == pytest.approx(1.5), "three quarters in each layer"
    assert plan.busiest_total == pytest.approx(1.0), "but a half over both"
    assert plan.mean == pytest.approx(1.0)
    assert plan.gap is None


def test_layers_are_spread_evenly() -> None:
    assert even_homes(5, 2) == [0, 0, 0, 1, 1]
    assert even_homes(2, 8) == [0, 4]


@pytest.mark.parametrize(
    ("slots", "told"),
    [
        (Slots(layer=1, total=99), "4 ranks with 1 slots per layer hold 4 experts of a layer that has 6, 2 short"),
        (Slots(layer=2, total=3), "4 ranks with 3 slots in all hold 12 of 18 experts, 6 short; raise .* to 5"),
        (Slots(layer=2, total=99, equal=True), "6 experts of a layer do not divide over 4 ranks.*redundant=2"),
    ],
)
def test_slots_that_do_not_suffice_are_refused(slots: Slots, told: str) -> None:
    mixture = Mixture(layers=3, experts=6, top_k=2)
    with pytest.raises(ConfigError, match=told):
        homes_problem(generated_load(mixture), mixture, line(4), slots)


def test_a_cap_below_one_expert_is_refused() -> None:
    mixture = Mixture(layers=1, experts=4, top_k=1)
    options: dict[str, Any] = {"cap": 1.5, "cap_over": "layer"}
    with pytest.raises(ConfigError, match=r"cap: expert 2 of layer 0 alone has 3\.08 times the mean"):
        homes_problem(counted([[[1, 1, 10, 1]]]), mixture, line(4), equal_slots(mixture, 4), **options)


def test_homes_have_to_be_ranks() -> None:
    with pytest.raises(ConfigError, match=r"homes: \[0, 4, 0\] must be 3 ranks, .* from 0 to 3"):
        homes_problem(generated_load(MIXTURE), MIXTURE, line(4), equal_slots(MIXTURE, 4), homes=[0, 4, 0])

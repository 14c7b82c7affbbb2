"""Solvers: exact where they say so, refusing where they cannot, and bounds that nothing goes below."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from tests.planning.worlds import counted, equal_slots, least, line, problems

from selfroute.errors import ConfigError
from selfroute.planning.cluster import dragonfly, fat_tree
from selfroute.planning.load import generated_load
from selfroute.planning.problem import Problem, Slots, homes_problem
from selfroute.planning.shapes import Mixture
from selfroute.planning.solvers import BASELINES, METHODS, best_method, solve
from selfroute.planning.solvers.flows import has_flow

EXACT = ("flow", "lp", "milp") if has_flow() else ("lp", "milp")
TOY = Mixture(layers=4, experts=16, top_k=2)
MIDDLE = Mixture(layers=27, experts=64, top_k=6)


def coupled(mixture: Mixture = TOY, servers: int = 8, seed: int = 0) -> Problem:
    """The paper's problem, where C_total binds."""
    each = mixture.experts // servers
    slots = Slots(layer=2 * each, total=int(1.25 * each * mixture.layers))
    return homes_problem(generated_load(mixture, seed=seed), mixture, dragonfly(servers=servers), slots)


@settings(max_examples=50)
@given(problems())
def test_exact_methods_give_the_least_cost(problem: Problem) -> None:
    best = least(problem)
    for method in (*EXACT, "assignment"):
        plan = solve(method, problem)
        assert plan.objective == pytest.approx(best, rel=1e-6, abs=1e-9)
        assert plan.bound is not None and plan.bound <= plan.objective
        assert plan.gap == pytest.approx(0, abs=1e-6) or best == pytest.approx(0, abs=1e-9)


@settings(max_examples=20)
@given(problems(most_experts=4, is_equal=False))
def test_flow_and_lp_give_the_least_cost_where_layers_share_slots(problem: Problem) -> None:
    total = -(-problem.layers * problem.experts // problem.ranks)
    tight = replace(problem, slots=replace(problem.slots, total=total))
    best = least(tight)
    for method in EXACT:
        plan = solve(method, tight)
        assert plan.objective == pytest.approx(best, rel=1e-6, abs=1e-9)
        assert plan.assign.sum(axis=(0, 1)).max() <= total


@given(problems())
def test_no_placement_of_a_baseline_is_below_the_least(problem: Problem) -> None:
    best = solve("assignment", problem).objective
    for method in BASELINES:
        try:
            assert solve(method, problem).objective >= best - 1e-9
        except ConfigError as error:
            assert method == "eplb" and "equal slots" in str(error)


@settings(max_examples=25)
@given(problems())
def test_every_expert_is_placed_within_the_slots(problem: Problem) -> None:
    for method in METHODS if has_flow() else set(METHODS) - {"flow"}:
        plan = solve(method, problem)
        assert (plan.assign.sum(axis=2) == 1).all()
        assert plan.assign.sum(axis=1).max() <= problem.slots.layer


def test_flow_lp_and_milp_agree_on_a_toy() -> None:
    problem = coupled()
    costs = [solve(method, problem).objective for method in EXACT]
    assert costs == pytest.approx([costs[0]] * len(costs), rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_with_homes_and_free_layers_heaviest_first_is_exact(seed: int) -> None:
    """A cost that is load times way is least if both are put in order (rearrangement inequality)."""
    network = fat_tree(servers=8, leaf=2, pod=2)
    problem = homes_problem(generated_load(TOY, seed=seed), TOY, network, equal_slots(TOY, 8))
    assert solve("greedy", problem).objective == pytest.approx(solve("assignment", problem).objective, rel=1e-12)


def test_where_layers_share_slots_heaviest_first_is_not() -> None:
    network = dragonfly(servers=32, sparse=0.3)
    slots = Slots(layer=4, total=int(1.25 * 2 * 27))
    problem = homes_problem(generated_load(MIDDLE), MIDDLE, network, slots)
    assert solve("greedy", problem).objective > 1.0001 * solve("lp", problem).objective


def test_the_best_method_fits_the_problem() -> None:
    problem = homes_problem(generated_load(TOY), TOY, line(8), equal_slots(TOY, 8))
    assert best_method(problem) == "assignment"
    assert best_method(coupled()) == ("flow" if has_flow() else "lp")
    assert best_method(replace(problem, cap=1.5)) == "rounding"


def test_the_order_of_the_paper() -> None:
    """Loads in the objective, then greedy, then no loads, then round robin."""
    problem = coupled(MIDDLE, servers=32)
    ordered = [solve(method, problem).objective for method in ("lp", "greedy", "unweighted", "round_robin")]
    for better, worse in itertools.pairwise(ordered):
        assert better <= worse * (1 + 1e-9)


def test_a_method_that_cannot_take_a_problem_names_one_that_can() -> None:
    with pytest.raises(ConfigError, match=r"assignment would put \d+ experts on rank \d, \d+ more than .*; take flow"):
        solve("assignment", coupled())
    for method in ("assignment", "flow", "lp"):
        with pytest.raises(ConfigError, match=f"{method} takes no cap; take rounding"):
            solve(method, replace(coupled(), cap=2.0))
    copies = homes_problem(generated_load(TOY), TOY, line(8), equal_slots(TOY, 8, redundant=8))
    for method in ("assignment", "flow", "lp", "milp", "greedy", "unweighted", "round_robin"):
        with pytest.raises(ConfigError, match="redundant copies"):
            solve(method, copies)
    with pytest.raises(ConfigError, match="milp is for toys of up to 20000 variables, this has 55296"):
        solve("milp", coupled(MIDDLE, servers=32))
    with pytest.raises(ConfigError, match="unknown method 'best'"):
        solve("best", copies)


def test_what_nothing_can_satisfy_is_refused() -> None:
    mixture = Mixture(layers=1, experts=4, top_k=1)
    problem = homes_problem(counted([[[3, 2, 2, 2]]]), mixture, line(2), equal_slots(mixture, 2), cap=1.05)
    with pytest.raises(ConfigError, match=r"no placement keeps every rank within 1\.05 times the mean load"):
        solve("milp", problem)


def test_the_same_problem_gives_the_same_plan() -> None:
    for method in ("assignment", "rounding", "greedy", "eplb"):
        problem = homes_problem(generated_load(TOY), TOY, line(8), equal_slots(TOY, 8))
        assert (solve(method, problem).assign == solve(method, problem).assign).all()


def test_unweighted_does_not_see_the_loads() -> None:
    one, other = (
        homes_problem(generated_load(TOY, seed=s), TOY, line(8), equal_slots(TOY, 8)) for s in (1, 2)
    )  # fmt: skip
    assert (solve("unweighted", one).assign == solve("unweighted", other).assign).all()
    assert (solve("assignment", one).assign != solve("assignment", other).assign).any()


def test_linear_starts_as_an_engine_does() -> None:
    problem = homes_problem(generated_load(TOY), TOY, line(8), equal_slots(TOY, 8, redundant=8))
    assign = solve("linear", problem).assign
    slots = [list(np.flatnonzero(assign[0, :, rank])) for rank in range(8)]
    assert slots[:2] == [[0, 1, 2], [3, 4, 5]]
    assert slots[5] == [0, 1, 15] and slots[7] == [5, 6, 7], "the redundant slots hold experts from 0 on"


@pytest.mark.skipif(not has_flow(), reason="needs ortools")
def test_the_flow_is_among_the_exact_methods() -> None:
    """What the tests above leave out without OR-tools; in CI it has to be there."""
    plan = solve("flow", coupled(MIDDLE, servers=32))
    assert plan.gap is not None and plan.gap < 1e-6
    assert plan.objective == pytest.approx(solve("lp", coupled(MIDDLE, servers=32)).objective, rel=1e-6)


def test_the_integer_program_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    solve("milp", replace(coupled(Mixture(layers=2, experts=8, top_k=2), servers=4), cap=1.6))
    assert capfd.readouterr().out == ""

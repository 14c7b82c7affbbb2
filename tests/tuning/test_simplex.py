"""Categoricals: the exact projection, draws, and the gradient that rewards alone give."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from selfroute.errors import ConfigError
from selfroute.tuning.base import Distributions
from selfroute.tuning.simplex import check_floor, draw, likeliest, project, score_gradient, uniform

VALUES = st.lists(st.floats(-3, 3), min_size=1, max_size=7)
FLOORS = st.floats(0, 0.14)


@given(VALUES, FLOORS)
def test_a_projection_is_a_distribution_above_the_floor(values: list[float], floor: float) -> None:
    found = project(np.array(values), floor)
    assert found.sum() == pytest.approx(1.0) and (found >= floor - 1e-12).all()


@given(VALUES, FLOORS)
def test_what_is_one_already_stays(values: list[float], floor: float) -> None:
    once = project(np.array(values), floor)
    assert project(once, floor) == pytest.approx(once, abs=1e-12)


@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=1, max_size=7), FLOORS)
def test_projecting_takes_no_two_points_further_apart(pairs: list[tuple[float, float]], floor: float) -> None:
    one, two = np.array(pairs).T
    apart = np.linalg.norm(project(one, floor) - project(two, floor))
    assert apart <= np.linalg.norm(one - two) + 1e-9


def test_it_is_the_nearest_one() -> None:
    values, floor = np.array([0.9, 0.4, -0.3, 0.05]), 0.05
    bounds, whole = [(floor, 1)] * 4, {"type": "eq", "fun": lambda p: p.sum() - 1}
    nearest = minimize(lambda p: ((p - values) ** 2).sum(), uniform([4])[0], bounds=bounds, constraints=whole)
    assert project(values, floor) == pytest.approx(nearest.x, abs=1e-6)


@pytest.mark.parametrize("sum_of", [0.2, 5.0])
def test_vectors_whose_sum_is_far_from_one_come_back(sum_of: float) -> None:
    assert project(np.full(5, sum_of / 5)) == pytest.approx(np.full(5, 0.2))


def test_a_floor_without_room_is_refused() -> None:
    check_floor(0.16, [6])
    with pytest.raises(ConfigError, match=r"^floor: 0\.2 does not leave room for 6 choices; take one below 0\.16"):
        check_floor(0.2, [3, 6])


def test_draws_are_as_frequent_as_they_are_likely() -> None:
    held: Distributions = (np.array([0.7, 0.2, 0.1]), np.array([0.5, 0.5]))
    drawn = np.array(draw(held, np.random.default_rng(0), 20_000))
    assert np.bincount(drawn[:, 0]) / 20_000 == pytest.approx(held[0], abs=0.01)
    assert likeliest(held) == (0, 0)


# --- the gradient --------------------------------------------------------------------------------------------------

P: Distributions = (np.array([0.2, 0.5, 0.3]), np.array([0.6, 0.4]))
REWARD = np.array([[0.3, 1.0], [0.0, 0.4], [0.9, 0.2]])


def tuples() -> list[tuple[tuple[int, int], float]]:
    """All choices with their probabilities."""
    return [((i, j), P[0][i] * P[1][j]) for i, j in itertools.product(range(3), range(2))]


def bdpl(choices: list[tuple[int, int]], rewards: list[float]) -> Distributions:
    """As BDPL's public code has it: 1/p for the drawn choice and -1/p for the others (arXiv 2201.08531)."""
    mean = sum(rewards) / len(rewards)
    found = [np.zeros(len(p)) for p in P]
    for chosen, reward in zip(choices, rewards, strict=True):
        for gradient, p, k in zip(found, P, chosen, strict=True):
            signs = np.where(np.arange(len(p)) == k, 1.0, -1.0)
            gradient += (reward - mean) / (len(rewards) - 1) * signs / p
    return tuple(found)


def expected(estimate: object) -> Distributions:
    """The exact mean of an estimator over every pair of draws."""
    total = [np.zeros(len(p)) for p in P]
    for (one, first), (two, second) in itertools.product(tuples(), repeat=2):
        found = estimate([one, two], [REWARD[one], REWARD[two]])  # type: ignore[operator]
        for sum_, part in zip(total, found, strict=True):
            sum_ += first * second * part
    return tuple(total)


def test_the_gradient_is_that_of_the_expected_reward_but_for_a_shift() -> None:
    """By exact enumeration; what is the same for all choices of a slot is projected away."""
    found = expected(lambda choices, rewards: score_gradient(P, choices, rewards))
    for slot, gradient in enumerate(found):
        exact = np.array([(REWARD * P[1]).sum(axis=1), (REWARD.T * P[0]).sum(axis=1)][slot])
        assert gradient - (P[slot] * gradient).sum() == pytest.approx(exact - (P[slot] * exact).sum())


def test_bdpls_derivative_is_exactly_twice_the_centred_score_function() -> None:
    ours = expected(lambda choices, rewards: score_gradient(P, choices, rewards))
    for gradient, theirs in zip(ours, expected(bdpl), strict=True):
        assert theirs == pytest.approx(2 * gradient)


def test_equal_rewards_and_ungraded_ones_give_no_gradient() -> None:
    for rewards in ([0.3] * 3, [None, 0.4, None]):
        found = score_gradient(P, [(0, 0), (1, 1), (2, 0)], rewards)
        assert all((gradient == 0.0).all() for gradient in found)

"""The dual price meets a budget in the mean, whatever the clouds cost."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.bandits.base import Arm
from selfroute.budget.pacing import DualPrice, affordable
from selfroute.errors import ConfigError

QUALITY, COST = np.array([0.79, 0.92, 0.93]), np.array([2.9e-5, 5.3e-4, 1.5e-2])


def spent(budget: float, *, seed: int = 0, requests: int = 4000) -> float:
    """Mean cost of buying the best arm at the price of the moment; qualities vary from request to request."""
    rng, pacer, total = np.random.default_rng(seed), DualPrice(budget), 0.0
    for _ in range(requests):
        worth = QUALITY + rng.normal(0, 0.2, 3) - pacer.price * COST
        cost = COST[worth.argmax()] * rng.lognormal(-0.125, 0.5)
        pacer.spend(cost)
        total += cost
    return total / requests


@pytest.mark.parametrize("budget", [8.3e-5, 2.3e-4, 6.6e-4, 1.9e-3, 5.3e-3])
def test_a_budget_is_met(budget: float) -> None:
    assert np.mean([spent(budget, seed=seed) for seed in range(3)]) == pytest.approx(budget, rel=0.05)


def test_a_budget_that_does_not_bind_costs_nothing_and_savings_end() -> None:
    pacer = DualPrice(1.0, bank=300.0)
    for _ in range(3000):
        pacer.spend(0.01)
    assert pacer.price < 1e-3
    assert pacer.debt == -300.0


@given(costs=st.lists(st.floats(0, 1e6), min_size=1, max_size=60), rate=st.floats(1e-4, 0.1))
def test_the_mean_cost_is_what_the_price_says(costs: list[float], rate: float) -> None:
    pacer = DualPrice(0.5, start=2.0, rate=rate)
    for cost in costs:
        pacer.spend(cost)
    assert np.mean(costs) == pytest.approx(0.5 * (1 + pacer.debt / len(costs)), abs=1e-6)
    assert pacer.price == pytest.approx(2.0 * np.exp(min(30.0, rate * pacer.debt)))
    again = DualPrice(0.5, start=2.0, rate=rate)
    again.restore(json.loads(json.dumps(pacer.state())))
    assert again.price == pacer.price


def test_the_cheapest_is_always_affordable() -> None:
    arms = [Arm("a", 0.1), Arm("b", 0.01), Arm("c", 0.5)]
    assert [arm.name for arm in affordable(arms, 0.2)] == ["a", "b"]
    assert [arm.name for arm in affordable(arms, 0.0)] == ["b"]


@pytest.mark.parametrize("budget", [0.0, -1.0, float("nan"), float("inf")])
def test_a_bad_budget_is_named(budget: float) -> None:
    with pytest.raises(ConfigError, match="budget_usd"):
        DualPrice(budget)


def test_a_bad_cost_is_named() -> None:
    with pytest.raises(ConfigError, match=r"usd: -1\.0"):
        DualPrice(1.0).spend(-1.0)

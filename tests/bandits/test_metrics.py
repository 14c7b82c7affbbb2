"""Metrics of exploration, on runs whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from selfroute.bandits.base import Arm, Context, Outcome
from selfroute.bandits.metrics import bayes_optimal, best_share, fit_growth, greedy_frequency, suffix_fails, win_rates
from selfroute.bandits.play import Played
from selfroute.config import Spec, make_policy
from selfroute.errors import ConfigError


def played(chosen: list[int], rewards: list[float], best: int = 0) -> Played:
    lost = np.array([0.0 if arm == best else 0.5 for arm in chosen])
    return Played(np.array(chosen), np.array(rewards), lost, lost == 0.0)


def test_shares_and_failures() -> None:
    run = played([0, 1, 1, 1], [0.0, 1.0, 1.0, 1.0])
    assert best_share(run) == 0.25
    assert suffix_fails(run)
    assert not suffix_fails(played([1, 1, 1, 0], [0.0] * 4))


def test_greedy_frequency_counts_choices_of_the_best_mean() -> None:
    assert greedy_frequency(played([0, 1, 1, 1], [0.0, 1.0, 1.0, 1.0]), 2) == pytest.approx(2 / 3)
    assert greedy_frequency(played([0, 0, 1, 0], [1.0, 1.0, 0.0, 1.0]), 2) == pytest.approx(2 / 3)


def test_the_growth_of_a_straight_line_is_its_slope() -> None:
    steps = np.arange(1.0, 1001.0)
    assert fit_growth(0.3 * steps).beta == pytest.approx(0.3, abs=1e-3)
    log = fit_growth(5.0 * np.log(steps) ** 2)
    assert log.beta == pytest.approx(0.0, abs=1e-3)
    assert log.error < 0.1
    both = fit_growth(4.0 * np.log(steps) / 0.5 + 0.05 * steps + 1.0, gap=0.5)
    assert (both.beta, both.alpha, both.log_part) == pytest.approx((0.05, 1.0, 4.0), abs=1e-2)


def test_who_is_surely_better_wins() -> None:
    rng = np.random.default_rng(0)
    low, high = rng.normal(10, 1, 30), rng.normal(20, 1, 30)
    assert win_rates({"low": [low, low], "high": [high, low + 1e-3]}) == {"low": 0.5, "high": 0.0}
    same = np.ones(30)
    assert win_rates({"a": [same], "b": [same], "c": [same + 1]}) == {"a": 0.5, "b": 0.5, "c": 0.0}
    with pytest.raises(ConfigError, match="two policies"):
        win_rates({"low": [low]})


def test_the_best_value_of_one_and_two_steps() -> None:
    assert bayes_optimal(1) == pytest.approx(0.5)
    # A success (1/2) is repeated at 2/3; after a failure the other arm has 1/2.
    assert bayes_optimal(2) == pytest.approx(0.5 + 0.5 * 2 / 3 + 0.5 * 0.5)


@pytest.mark.parametrize("name", ["thompson", "ucb", "greedy", "uniform"])
def test_nothing_beats_the_best_value(name: str) -> None:
    horizon, seeds = 20, 400
    rng = np.random.default_rng(0)
    earned = []
    for seed in range(seeds):
        means = dict(zip("ab", rng.random(2), strict=True))
        options = {} if name == "uniform" else {"floor": 0.0}
        policy = make_policy(Spec(name, None, options), arms=["a", "b"], seed=seed)
        total = 0.0
        for _ in range(horizon):
            arm = policy.choose(Context(), [Arm("a"), Arm("b")]).arm
            policy.update(arm, Outcome(float(rng.random() < means[arm])))
            total += means[arm]
        earned.append(total)
    error = np.std(earned) / seeds**0.5
    assert np.mean(earned) <= bayes_optimal(horizon) + 3 * error
    if name != "uniform":
        assert np.mean(earned) >= 0.9 * bayes_optimal(horizon) - 3 * error

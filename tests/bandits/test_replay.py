"""Replay estimates what it says, and refuses what it cannot say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from tests.bandits.worlds import ARMS, Soft, World, decision, learning_log, soft_log

from selfroute.bandits import catalogue
from selfroute.bandits.base import Choice, Context, Outcome
from selfroute.bandits.log import Decision
from selfroute.bandits.replay import Estimate, Replayed, _chi2_tail, check_support, feedback, replay
from selfroute.errors import ConfigError, SelfRouteError

TARGET = Soft([1.0, 0.0, 2.0, -1.0], floor=0.05)
LOGGER = Soft([2.0, 1.0, 0.0, 0.0], floor=0.1)


def both(found: list[Replayed]) -> tuple[list[Estimate], list[Estimate]]:
    """The two estimates of quality."""
    return [one.self_normalised["quality"] for one in found], [one.doubly_robust["quality"] for one in found]


def covered(estimates: list[Estimate], truth: float) -> float:
    return float(np.mean([one.low <= truth <= one.high for one in estimates]))


def test_intervals_hold_about_as_often_as_they_say() -> None:
    truth = TARGET.value(World(0))
    found = [replay(soft_log(world, LOGGER, 500), TARGET) for world in map(World, range(40))]
    assert np.mean([one.effective_n for one in found]) > 100
    for estimates in (
        [one.self_normalised["quality"] for one in found],
        [one.doubly_robust["quality"] for one in found],
    ):
        assert covered(estimates, truth) >= 0.85  # of 40 logs: 3.4 points of error each way
        assert np.mean([one.value for one in estimates]) == pytest.approx(truth, abs=0.015)


def test_they_hold_for_logs_of_a_policy_that_learns() -> None:
    truth = TARGET.value(World(0))
    names = [arm.name for arm in ARMS]
    found = []
    for seed in range(25):
        logger = catalogue.thompson(catalogue.Learning(floor=0.2), arms=names, seed=seed)
        found.append(replay(learning_log(World(seed), logger, 600), TARGET))
    for estimates in (
        [one.self_normalised["quality"] for one in found],
        [one.doubly_robust["quality"] for one in found],
    ):
        assert covered(estimates, truth) >= 0.8
        assert np.mean([one.value for one in estimates]) == pytest.approx(truth, abs=0.03)


def test_a_policy_replayed_on_its_own_log_has_the_logs_mean() -> None:
    log = soft_log(World(1), LOGGER, 500)
    found = replay(log, LOGGER)
    mean = np.mean([d.outcome.quality for d in log])
    assert found.effective_n == pytest.approx(found.n) == 500
    assert found.self_normalised["quality"].value == pytest.approx(mean)
    assert found.doubly_robust["quality"].value == pytest.approx(mean, abs=0.05)


def test_all_metrics_are_estimated_and_the_worth_is_their_sum() -> None:
    log = soft_log(World(2), LOGGER, 1500)
    fixed = catalogue.fixed("b", arms=[arm.name for arm in ARMS])
    found = replay(log, fixed)
    for estimates in (found.self_normalised, found.doubly_robust):
        assert estimates["cost_usd"].value == pytest.approx(0.002, rel=0.1)
        assert estimates["latency_s"].value == pytest.approx(1.0, abs=0.2)
    one = found.self_normalised
    assert one["worth"].value == pytest.approx(one["quality"].value - 20 * one["cost_usd"].value)


def test_where_neither_money_nor_time_counts_the_worth_is_the_quality() -> None:
    log = [dataclasses.replace(d, context=Context(d.context.features)) for d in soft_log(World(4), LOGGER, 200)]
    found = replay(log, TARGET)
    assert found.doubly_robust["worth"] == found.doubly_robust["quality"]


def test_a_learning_policy_is_replayed_as_it_learns() -> None:
    log = soft_log(World(3), Soft([0.0] * 4, floor=1.0), 1500)
    found = replay(log, catalogue.greedy(catalogue.Learning(floor=0.0), arms=[arm.name for arm in ARMS]))
    assert found.self_normalised["worth"].value == pytest.approx(0.72, abs=0.06)  # a, 0.8 - 20 · 0.004; uniform 0.49
    found.check("greedy")


def test_intervals_of_the_doubly_robust_are_narrower_where_features_tell() -> None:
    class Sure(World):
        start, slope = np.array([1.0, 0.0, 1.0, 0.0]), np.array([-1.0, 1.0, -0.5, 0.5])

        def outcome(self, context: Context, arm: str) -> Outcome:
            return Outcome(float(self.quality(context)["abcd".index(arm)]), None, context.features)

    found = replay(soft_log(Sure(0), LOGGER, 800), TARGET)
    normalised, robust = found.self_normalised["quality"], found.doubly_robust["quality"]
    assert robust.high - robust.low < 0.9 * (normalised.high - normalised.low)


# --- refusals ----------------------------------------------------------------------------------------------------


def test_too_few_are_refused() -> None:
    found = replay(soft_log(World(0), LOGGER, 120), Soft([0.0, 0.0, 0.0, 9.0], floor=0.0))
    with pytest.raises(SelfRouteError, match=r"mine: the log's 120 decisions with feedback are worth \d+ of its own"):
        found.check("mine")


def test_a_log_without_exploration_is_refused() -> None:
    policy = catalogue.ucb(catalogue.Learning(floor=0.0), arms=[arm.name for arm in ARMS])
    with pytest.raises(SelfRouteError, match="in 299 of 300 decisions some candidate could not have been chosen"):
        check_support(learning_log(World(0), policy, 300))
    check_support(learning_log(World(0), catalogue.ucb(arms=[arm.name for arm in ARMS]), 50))


def test_a_log_of_forced_decisions_is_refused() -> None:
    one = decision(0, Context(), Choice("a", 1.0, 1.0, None, True), Outcome(1.0))
    with pytest.raises(SelfRouteError, match="one candidate only"):
        check_support([one])


def test_no_feedback_is_refused() -> None:
    log = [dataclasses.replace(d, outcome=Outcome()) for d in soft_log(World(0), LOGGER, 20)]
    with pytest.raises(SelfRouteError, match="nothing to estimate from"):
        replay(log, TARGET)


def test_arms_and_features_must_be_the_logs() -> None:
    log = soft_log(World(0), LOGGER, 20)
    with pytest.raises(ConfigError, match="'a' is not one of x, y"):
        replay(log, catalogue.greedy(arms=["x", "y"]))
    with pytest.raises(ConfigError, match="1 numbers, and the policy was made for 2"):
        replay(log, catalogue.linucb(arms=[arm.name for arm in ARMS], features=2))


def silenced(log: list[Decision], shares: dict[str, float]) -> list[Decision]:
    rng = np.random.default_rng(0)
    return [d if rng.random() < shares[d.choice.arm] else dataclasses.replace(d, outcome=Outcome()) for d in log]


def test_feedback_that_depends_on_the_arm_is_told() -> None:
    log = soft_log(World(0), LOGGER, 2000)
    even = feedback(silenced(log, dict.fromkeys("abcd", 0.5)))
    uneven = feedback(silenced(log, {"a": 0.7, "b": 0.4, "c": 0.5, "d": 0.5}))
    assert even.share == pytest.approx(0.5, abs=0.05)
    assert not even.depends_on_arm
    assert uneven.depends_on_arm
    assert uneven.by_arm["a"] == pytest.approx(0.7, abs=0.05)


def test_the_tail_of_chi_squared_is_scipys() -> None:
    from scipy.stats import chi2

    for freedom in range(1, 9):
        for statistic in (0.0, 0.01, 1.0, 5.0, 40.0, 2000.0):
            assert _chi2_tail(statistic, freedom) == pytest.approx(chi2.sf(statistic, freedom), abs=1e-12)

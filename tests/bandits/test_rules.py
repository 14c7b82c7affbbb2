"""The rules beside MABWiser on one history, and beside formulas written out."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from selfroute.bandits.base import Outcome
from selfroute.bandits.linear import Ridges
from selfroute.bandits.rules import UCB, BernoulliThompson, GaussianThompson, LinUCB
from selfroute.bandits.tallies import Tallies

ARMS = ("a", "b", "c", "d")
RNG = np.random.default_rng(0)
CHOSEN = [ARMS[i] for i in RNG.integers(4, size=400)]
REWARDS = RNG.random(400)
CONTEXTS = RNG.normal(size=(400, 6))


def peer(policy: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mabwiser.mab import MAB

        return MAB(list(ARMS), policy)


def test_ucb_is_mabwisers() -> None:
    pytest.importorskip("mabwiser.mab", reason="mabwiser is not installed")
    from mabwiser.mab import LearningPolicy

    theirs = peer(LearningPolicy.UCB1(alpha=0.5))
    theirs.fit(CHOSEN, REWARDS)
    ours = UCB(Tallies(ARMS), alpha=0.5)
    for arm, reward in zip(CHOSEN, REWARDS, strict=True):
        ours.learn(arm, reward, Outcome())
    expected = theirs.predict_expectations()
    assert ours.rows(ARMS, (), RNG)[0] == pytest.approx([expected[arm] for arm in ARMS], abs=1e-9)


def test_linucb_is_mabwisers() -> None:
    pytest.importorskip("mabwiser.mab", reason="mabwiser is not installed")
    from mabwiser.mab import LearningPolicy

    theirs = peer(LearningPolicy.LinUCB(alpha=0.5, l2_lambda=1.0))
    theirs.fit(CHOSEN, REWARDS, CONTEXTS)
    ours = LinUCB(Ridges(ARMS, 6), alpha=0.5)
    for arm, reward, context in zip(CHOSEN, REWARDS, CONTEXTS, strict=True):
        ours.learn(arm, reward, Outcome(features=tuple(context)))
    for context in RNG.normal(size=(20, 6)):
        expected = theirs.predict_expectations(context[None])
        assert ours.rows(ARMS, tuple(context), RNG)[0] == pytest.approx([expected[arm] for arm in ARMS], abs=1e-9)


def test_forgetting_regression_is_the_weighted_one() -> None:
    ridges = Ridges(ARMS, 6, ridge=0.5, discount=0.97)
    for arm, reward, context in zip(CHOSEN, REWARDS, CONTEXTS, strict=True):
        ridges.add(arm, context, reward)
    last = CHOSEN[-1]  # of the arm just told, nothing is approximated
    rows = [i for i, arm in enumerate(CHOSEN) if arm == last]
    weights = 0.97 ** (399 - np.array(rows))
    told = (CONTEXTS[rows].T * weights) @ CONTEXTS[rows] + 0.5 * np.eye(6)
    theta = np.linalg.solve(told, (CONTEXTS[rows].T * weights) @ REWARDS[rows])
    x = RNG.normal(size=6)
    means, variances = ridges.predict([last], x)
    assert means[0] == pytest.approx(theta @ x)
    assert variances[0] == pytest.approx(x @ np.linalg.solve(told, x))


def test_an_arm_long_not_asked_becomes_unknown_and_no_more_than_that() -> None:
    ridges = Ridges("ab", 2, discount=0.9)
    x = (1.0, 0.5)
    for _ in range(50):
        ridges.add("a", x, 1.0)
    (known,) = ridges.predict("a", x)[1]
    for _ in range(5):
        ridges.add("b", x, 1.0)
    assert ridges.predict("a", x)[1][0] == pytest.approx(known / 0.9**5)
    for _ in range(500):
        ridges.add("b", x, 1.0)
    assert ridges.predict("a", x)[1][0] == pytest.approx(1.25)


def test_posteriors_have_their_mean_and_spread() -> None:
    bernoulli, gaussian = (
        BernoulliThompson(Tallies("a"), draws=20_000),
        GaussianThompson(Tallies("a"), noise=2.0, prior=3.0, draws=20_000),
    )
    for quality in (1.0, 0.0, 1.0, 0.5):
        bernoulli.learn("a", quality, Outcome())
        gaussian.learn("a", quality, Outcome())
    drawn = np.asarray(bernoulli.rows("a", (), np.random.default_rng(1)))
    assert drawn.mean() == pytest.approx(3.5 / 6, abs=0.01)
    precision = 1 / 9 + 4 / 4
    drawn = np.asarray(gaussian.rows("a", (), np.random.default_rng(1)))
    assert drawn.mean() == pytest.approx(2.5 / 4 / precision, abs=0.03)
    assert drawn.std() == pytest.approx(precision**-0.5, rel=0.03)


def test_the_bonus_is_the_papers() -> None:
    rule = UCB(Tallies("ab"), alpha=0.5, scale=3.0)
    assert rule.parts("a") == (0.0, np.inf)
    for _ in range(4):
        rule.learn("a", 0.5, Outcome())
    rule.learn("b", 0.5, Outcome())
    assert rule.parts("a") == pytest.approx((0.5, 3.0 * (0.5 * np.log(5) / 4) ** 0.5))

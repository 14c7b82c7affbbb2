"""Local answers paid by a learned score: what changes, and what does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.errors import ConfigError
from selfroute.grading import Outcome
from selfroute.rewards.hierarchical import Hierarchical
from selfroute.rewards.scored import Scored

PLAIN = Hierarchical(local=1.0, cloud=0.3)
LOCAL = Outcome(wants_cloud=False, device_correct=False, score=0.0)


def test_an_answer_is_paid_by_its_score_and_not_by_its_verdict() -> None:
    reward = Scored(reward=PLAIN)
    assert reward(LOCAL) == 0.5 == reward(replace(LOCAL, device_correct=True))
    assert reward(replace(LOCAL, score=100.0)) == pytest.approx(1.0)
    assert Scored(reward=PLAIN, zero=2.0, scale=0.5)(replace(LOCAL, score=2.0)) == 0.5


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(-100, 100), st.floats(0.01, 100))
def test_a_higher_score_is_never_paid_less_and_never_beyond_the_weights(
    low: float, high: float, zero: float, scale: float
) -> None:
    reward = Scored(reward=PLAIN, zero=zero, scale=scale)
    paid = [reward(replace(LOCAL, score=score)) for score in sorted((low, high))]
    assert paid[0] is not None and paid[1] is not None
    assert 0.0 <= paid[0] <= paid[1] <= 1.0


def test_hand_offs_and_what_was_not_judged_are_paid_as_ever() -> None:
    reward = Scored(reward=PLAIN)
    for outcome in (
        Outcome(wants_cloud=True, cloud_correct=True),
        Outcome(wants_cloud=True, cloud_correct=None),
        Outcome(wants_cloud=False, device_correct=False),
        Outcome(wants_cloud=False, device_correct=None),
    ):
        assert reward(outcome) == PLAIN(outcome)


def test_a_scale_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="scale: 0"):
        Scored(reward=PLAIN, scale=0.0)

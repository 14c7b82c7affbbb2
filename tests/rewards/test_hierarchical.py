from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.errors import ConfigError
from selfroute.grading import Outcome
from selfroute.rewards.hierarchical import Hierarchical, hierarchical

LOCAL_RIGHT = Outcome(wants_cloud=False, device_correct=True)
LOCAL_WRONG = Outcome(wants_cloud=False, device_correct=False)
CLOUD_RIGHT = Outcome(wants_cloud=True, cloud_correct=True)
CLOUD_WRONG = Outcome(wants_cloud=True, cloud_correct=False)

weights = st.lists(st.floats(0, 1e6), min_size=3, max_size=3, unique=True).map(lambda w: sorted(w, reverse=True))
outcomes = st.builds(
    Outcome,
    wants_cloud=st.booleans(),
    device_correct=st.sampled_from([True, False, None]),
    cloud_correct=st.sampled_from([True, False, None]),
    formatted=st.booleans(),
)


@pytest.mark.parametrize(
    ("outcome", "reward"), [(LOCAL_RIGHT, 1.0), (CLOUD_RIGHT, 0.3), (LOCAL_WRONG, 0.0), (CLOUD_WRONG, 0.0)]
)
def test_final_form_ignores_format(outcome: Outcome, reward: float) -> None:
    assert hierarchical(outcome) == reward


@pytest.mark.parametrize(
    ("wants", "device", "cloud", "formatted", "reward"),
    [
        (False, True, None, True, 2.2),
        (False, True, None, False, 2.0),
        (False, False, None, True, 0.2),
        (False, False, None, False, 0.0),
        (True, None, True, True, 0.5),
        (True, None, True, False, 0.5),
        (True, None, False, True, 0.0),
        (True, None, False, False, 0.0),
    ],
)
def test_first_form_is_the_papers_table(
    wants: bool, device: bool | None, cloud: bool | None, formatted: bool, reward: float
) -> None:
    outcome = Outcome(wants, device, cloud, formatted)
    assert hierarchical(outcome, local=2, cloud=0.5, format=0.2) == pytest.approx(reward)


@given(weights, outcomes, outcomes)
def test_local_success_beats_any_hand_off_and_any_failure(w: list[float], success: Outcome, other: Outcome) -> None:
    options = {"local": w[0], "cloud": w[1], "format": w[2]}
    a, b = hierarchical(success, **options), hierarchical(other, **options)
    if a is None or b is None:
        return
    succeeded = not success.wants_cloud and success.device_correct
    if succeeded and (other.wants_cloud or not other.device_correct):
        assert a > b


@given(outcomes)
def test_only_a_missing_judgement_of_the_deciding_side_gives_none(outcome: Outcome) -> None:
    deciding = outcome.cloud_correct if outcome.wants_cloud else outcome.device_correct
    assert (hierarchical(outcome) is None) == (deciding is None)


@pytest.mark.parametrize(
    "w", [*itertools.permutations((1.0, 0.3, 0.1)), (1, 1, 0), (1, 0, 0), (1, 0.5, -0.1), (math.nan, 0.3, 0)]
)
def test_weights_must_be_ordered(w: tuple[float, float, float]) -> None:
    options = {"local": w[0], "cloud": w[1], "format": w[2]}
    if w == (1.0, 0.3, 0.1):
        assert hierarchical(LOCAL_RIGHT, **options) == 1.0
    else:
        with pytest.raises(ConfigError, match=r"local > cloud > format >= 0, got local="):
            hierarchical(LOCAL_RIGHT, **options)


@given(st.floats(0, 1), st.booleans())
def test_a_quality_is_paid_in_proportion(quality: float, asks: bool) -> None:
    outcome = Outcome(asks, device_correct=None if asks else quality, cloud_correct=quality if asks else None)
    assert hierarchical(outcome) == pytest.approx(quality * (0.3 if asks else 1.0))


@given(outcomes, st.integers(0, 50))
def test_the_recipes_section_is_the_reward(outcome: Outcome, tokens: int) -> None:
    outcome = replace(outcome, device_tokens=tokens)
    reward = Hierarchical(local=2, cloud=0.5, format=0.2, token_price=0.01)
    assert reward(outcome) == hierarchical(outcome, local=2, cloud=0.5, format=0.2, token_price=0.01)

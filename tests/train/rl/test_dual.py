"""The price of a hand-off: which way it moves, where it stops, and that it meets a share."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.grading import Outcome
from selfroute.train.rl.dual import WINDOW, ShareMultiplier, ShareTarget, ShareTargets

shares = st.floats(0.05, 0.95)


def multiplier(share: float, **options: float) -> ShareMultiplier:
    return ShareMultiplier(share, **{"rate": 0.05, "damping": 0.4, "lowest": -0.5, "highest": 1.5, **options})


@given(shares, st.lists(st.floats(0, 1), max_size=200))
def test_the_price_stays_within_its_bounds(share: float, measured: list[float]) -> None:
    made = multiplier(share)
    for value in measured:
        made.update([value] * WINDOW)
        assert -0.5 <= made.value <= 1.5
        assert -0.5 <= made.price <= 1.5


@given(shares)
def test_asking_too_often_makes_it_dearer_and_too_rarely_cheaper(share: float) -> None:
    often, rarely = multiplier(share), multiplier(share)
    often.update([1.0] * WINDOW)
    rarely.update([0.0] * WINDOW)
    assert rarely.price < 0 < often.price


def test_without_damping_it_is_da_grpos_update_with_one_rate_for_all_shares() -> None:
    made = multiplier(0.3, damping=0.0)
    for measured in (0.35, 0.2, 0.4):
        made.update([measured] * WINDOW)
    assert made.price == made.value == pytest.approx(0.05 * (0.05 - 0.1 + 0.1) / (0.3 * 0.7))


def test_a_share_far_away_moves_it_no_faster_than_a_bound() -> None:
    for share, measured in ((0.1, 1.0), (0.5, 0.0)):
        made = multiplier(share, damping=0.0)
        made.update([measured] * WINDOW)
        assert abs(made.value) == pytest.approx(0.05 * 0.5)


def test_a_long_stretch_beyond_a_bound_is_forgotten_at_once() -> None:
    made = multiplier(0.3, damping=0.0)
    for _ in range(1000):
        made.update([1.0] * WINDOW)
    made.update([0.0] * WINDOW)
    assert made.price < 1.5


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("pays", [0.2, 0.5])
def test_a_policy_that_follows_with_a_delay_ends_at_the_share(share: float, pays: float) -> None:
    """Its log-odds of asking move by what asking pays beyond the price, as under a policy gradient."""
    made, logit = multiplier(share), 0.0
    for _ in range(400):
        asked = 1 / (1 + math.exp(-logit))
        made.update([asked] * WINDOW)
        logit += 0.5 * (pays - made.price)
    assert 1 / (1 + math.exp(-logit)) == pytest.approx(share, abs=0.01)
    assert made.price == pytest.approx(pays, abs=0.02)


def test_a_share_of_few_prompts_is_measured_over_several_steps() -> None:
    made = multiplier(0.5)
    for _ in range(WINDOW // 4):
        made.update([1.0, 0.0, 0.5, 0.5])
    made.update([1.0] * 4)
    assert made.violation == pytest.approx(math.log((WINDOW / 2 + 2) / (WINDOW / 2 - 2)))
    made.update([0.0, 1.0] * WINDOW)  # a step of more prompts counts whole
    assert len(made.recent) == 2 * WINDOW
    assert made.violation == pytest.approx(0.0)


def test_a_target_goes_on_where_it_was() -> None:
    target, again = (ShareTarget(0.3, multiplier(0.3)) for _ in range(2))
    assert target.multiplier is not None
    target.multiplier.update([0.9] * WINDOW)
    target.filter.carry = 0.25
    again.restore(json.loads(json.dumps(target.state())))
    assert again.state() == target.state()
    assert ShareTarget(0.3, None).price == 0.0


@given(st.lists(shares, min_size=1, max_size=6, unique=True), st.integers(0, 50), st.integers(0, 2**31), st.integers(0))
def test_shares_are_dealt_equally_often_and_the_same_to_everyone(
    wanted: list[float], groups: int, seed: int, step: int
) -> None:
    one, other = (ShareTargets([ShareTarget(share, None) for share in wanted], seed=seed) for _ in range(2))
    dealt = one.deal(groups, step)
    assert len(dealt) == groups
    counts = [dealt.count(share) for share in wanted]
    assert sum(counts) == groups and max(counts) - min(counts) <= 1
    assert dealt == other.deal(groups, step)


@given(st.integers(1, 40), st.integers(1, 80), st.integers(0, 2**31), st.integers(0))
def test_other_held_out_prompts_are_drawn_in_each_step_and_the_same_for_everyone(
    rows: int, count: int, seed: int, step: int
) -> None:
    one, other = (ShareTargets([ShareTarget(0.3, None)], seed=seed) for _ in range(2))
    ids = [f"row {i}" for i in range(rows)]
    drawn = one.draw(ids, count, step)
    assert drawn == other.draw(ids, count, step)
    assert len(drawn) == len(set(drawn)) == min(count, rows)
    assert set(drawn) <= set(ids)


def test_each_price_follows_the_groups_of_its_share() -> None:
    asks = Outcome(wants_cloud=True, device_correct=False, formatted=False, cloud_correct=True)
    keeps = Outcome(wants_cloud=False, device_correct=True, formatted=True)
    targets = ShareTargets([ShareTarget(share, multiplier(share)) for share in (0.25, 0.5)], seed=0)
    found = targets.update([[asks, asks], [keeps, keeps], [asks, keeps]], [0.25, 0.5, 0.5])
    assert found["handoff/0.25/gap"] == pytest.approx(0.75)
    assert found["handoff/0.5/gap"] == pytest.approx(-0.25)
    assert found["handoff/0.5/price"] < 0 < found["handoff/0.25/price"]
    again = ShareTargets([ShareTarget(share, multiplier(share)) for share in (0.25, 0.5)], seed=0)
    again.restore(json.loads(json.dumps(targets.state())))
    assert again.state() == targets.state()

"""The price of a hand-off: which way it moves, where it stops, and that it meets a share."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.train.rl.constraints.dual import WINDOW, Multiplier

shares = st.floats(0.05, 0.95)


def multiplier(share: float, **options: float) -> Multiplier:
    return Multiplier(share, **{"rate": 0.05, "damping": 0.4, "lowest": -0.5, "highest": 1.5, **options})


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

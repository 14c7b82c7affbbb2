"""Wanted shares: dealt to groups, each with a price that follows its own, and kept over a resume."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.grading import Outcome
from selfroute.train.rl.constraints.dual import WINDOW, Multiplier
from selfroute.train.rl.shares import ShareTarget, ShareTargets

shares = st.floats(0.05, 0.95)


def multiplier(share: float) -> Multiplier:
    return Multiplier(share, rate=0.05, damping=0.4, lowest=-0.5, highest=1.5)


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

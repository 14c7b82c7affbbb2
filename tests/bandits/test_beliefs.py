"""What is believed of clouds: told as lines, the same for whoever reads the same, and bounded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.bandits import catalogue
from selfroute.bandits.base import Arm, Context, Outcome
from selfroute.bandits.beliefs import Beliefs, Told
from selfroute.budget.pacing import DualPrice, FixedPrice
from selfroute.errors import ConfigError

ARMS = ("small", "middle", "large")
numbers = st.floats(0, 1)
told = st.builds(
    Told,
    arm=st.sampled_from(ARMS),
    outcome=st.builds(
        lambda quality, latency_s, weight: Outcome(
            quality, latency_s, (1.0, 0.5) if quality is not None else (), weight
        ),
        st.none() | numbers,
        st.none() | numbers,
        st.floats(0.1, 1),
    ),
    usd=st.none() | numbers,
    written_tokens=st.none() | st.integers(0, 5000),
    session=st.none() | st.sampled_from(["a", "b", "c", "d"]),
)


def beliefs(arms: tuple[str, ...] = ARMS, *, policy: str = "linucb", **options: Any) -> Beliefs:
    return Beliefs(getattr(catalogue, policy)(arms=arms, features=2), **options)


@given(told)
def test_a_line_says_all_of_it(one: Told) -> None:
    assert Told.read(one.line(7)) == (7, one)


@given(st.lists(told, max_size=30))
def test_a_state_goes_on_where_it_was(lines: list[Told]) -> None:
    first, other = beliefs(money=DualPrice(0.1), sessions=2), beliefs(money=DualPrice(0.1), sessions=2)
    for line in lines:
        first.take(line)
    other.restore(json.loads(json.dumps(first.state())))
    assert other.state() | {"policy": None} == first.state() | {"policy": None}
    context, arms = Context((1.0, 0.5)), [Arm(name) for name in ARMS]
    assert other.look(context, arms) == first.look(context, arms)
    assert other.price_weight == first.price_weight


@pytest.mark.parametrize("policy", ["thompson", "linucb", "ucb"])
def test_new_arms_are_unknown_and_arms_that_are_no_more_forgotten(policy: str) -> None:
    before = beliefs(policy=policy)
    for arm in ARMS:
        before.take(Told(arm=arm, outcome=Outcome(0.75, 2.0, (1.0, 0.5)), usd=0.1, session=arm))
    after = beliefs(("middle", "new"), policy=policy)
    after.restore(before.state())
    context = Context((1.0, 0.5))
    (was,) = before.look(context, [Arm("middle")])
    known, new = after.look(context, [Arm("middle"), Arm("new")])
    assert (known.quality, known.latency_s) == (was.quality, was.latency_s)
    assert new.latency_s is None and not new.quality
    assert [after.session(arm) for arm in ARMS] == [None, "middle", None]
    after.take(Told(arm="large", outcome=Outcome(1.0, features=(1.0, 0.5)), usd=1.0))  # a line of before
    assert after.usd("middle") == 0.1 and after.share("middle") == 1.0


def test_a_frozen_policy_still_counts_money() -> None:
    frozen = beliefs(policy="thompson", money=DualPrice(0.1))
    frozen.frozen = True
    before = frozen.price_weight
    frozen.take(Told(arm="small", outcome=Outcome(1.0, 1.0), usd=5.0))
    (look,) = frozen.look(Context(), [Arm("small")])
    assert (look.quality, look.latency_s) == (None, None)
    assert frozen.price_weight > before


def test_choices_of_others_count_as_trials() -> None:
    one = Beliefs(catalogue.thompson(catalogue.Learning(trials=1, floor=0.0), arms=ARMS))
    one.take(Told(arm="small", usd=0.1), elsewhere=True)
    one.take(Told(arm="middle", usd=0.1), elsewhere=True)
    assert one.choose(Context(), [Arm(name) for name in ARMS]).arm == "large"


def test_the_oldest_conversations_make_room() -> None:
    few = beliefs(policy="thompson", sessions=2)
    for key in ("a", "b", "a", "c"):
        few.take(Told(arm="small", session=key))
    assert [few.session(key) for key in "abc"] == ["small", None, "small"]


def test_without_money_no_price_counts() -> None:
    assert beliefs().price_weight == 0.0
    assert beliefs(money=FixedPrice(50.0)).price_weight == 50.0
    with pytest.raises(ConfigError, match="price_weight: -1 is not 0 or more"):
        FixedPrice(-1)

"""Several clouds as one backend: who can be chosen, with which probability, and what of it is learnt."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfroute.backends.base import complete, lacking
from selfroute.backends.clouds import About, Cloud, Clouds, width
from selfroute.backends.function import FunctionBackend
from selfroute.bandits import catalogue
from selfroute.bandits.beliefs import Beliefs
from selfroute.config import Spec, make_policy
from selfroute.errors import BackendStatusError, BackendUnavailable, ConfigError
from selfroute.prices import Price
from selfroute.types import Message, Sampling

NAMES = ("small", "middle", "large")
PRICES = {"small": Price(completion_usd=1), "middle": Price(completion_usd=4), "large": Price(completion_usd=40)}
ASK, SAMPLING = [Message("user", "2+2")], Sampling(max_tokens=10)


def says(name: str) -> FunctionBackend:
    return FunctionBackend(name, lambda messages, sampling: f"I am {name}")


def clouds(
    *, policy: str = "thompson", rule: dict[str, Any] | None = None, each: Sequence[Cloud] | None = None, **options: Any
) -> Clouds:
    each = each or [Cloud(backend=says(name), price=PRICES[name]) for name in NAMES]
    arms = list(dict.fromkeys(cloud.name for cloud in each))
    given = {"seed": 0, **(rule or {})}
    seed = given.pop("seed")
    made = make_policy(Spec(policy, None, given), arms=arms, features=width(options.get("tasks", ())), seed=seed)
    return Clouds(each, Beliefs(made), **options)


async def test_whoever_asks_without_a_strategy_teaches_too() -> None:
    several = clouds(rule={"trials": 1})
    texts = [(await complete(several, ASK, SAMPLING)).text for _ in range(3)]
    assert sorted(texts) == sorted(f"I am {name}" for name in NAMES)
    assert all(several.beliefs.usd(name) is not None for name in NAMES)


def test_one_seed_makes_all_draws() -> None:
    def chosen(seed: int) -> list[str]:
        several = clouds(rule={"seed": seed, "trials": 0, "floor": 0.5})
        return [several.asking(About()).pick(ASK, SAMPLING).arm for _ in range(40)]

    assert chosen(1) == chosen(1)
    assert chosen(1) != chosen(2)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
def test_what_is_logged_is_what_was_to_be_seen_beforehand(seed: int, open_: list[str]) -> None:
    """The propensity of a choice is the chance that the outlook gave it, of those that could be chosen."""
    lines: list[str] = []
    tags = {name: frozenset({"open"}) if name in open_ else frozenset() for name in NAMES}
    each = [Cloud(backend=says(name), price=PRICES[name], tags=tags[name]) for name in NAMES]
    several = clouds(policy="ucb", rule={"seed": seed, "floor": 0.3, "trials": 1}, each=each, log=lines.append)
    about = About(trace="t", tags=frozenset({"open"}))
    for _ in range(6):
        seen = {one.name: one.chance for one in several.outlook(ASK, SAMPLING, about)}
        assert sum(seen.values()) == pytest.approx(1.0)
        assert all((seen[name] > 0) == (name in open_) for name in NAMES)
        pick = several.asking(about).pick(ASK, SAMPLING)
        assert pick.propensity == pytest.approx(seen[pick.arm])
        assert set(json.loads(lines[-1])["prices_usd"]) == set(open_)
        pick.ended(usd=0.001, seconds=0.5, written_tokens=3)


def test_a_quote_follows_the_price_list_and_the_length_of_answers() -> None:
    several = clouds(rule={"trials": 0})
    before = {one.name: one.usd for one in several.candidates(ASK, Sampling(), About())}
    assert before["large"] == pytest.approx(10 * before["middle"]) == pytest.approx(40 * before["small"])
    for _ in range(3):
        several.asking(About(tags=frozenset({"large"}))).pick(ASK, SAMPLING).ended(
            usd=0.1, seconds=1, written_tokens=32
        )
    after = {one.name: one.usd for one in several.candidates(ASK, Sampling(), About())}
    assert after["large"] == pytest.approx(32 * 40 / 1e6)
    assert after["small"] == before["small"]


def test_what_is_too_dear_is_left_out_but_for_the_cheapest() -> None:
    several = clouds(most_usd=1e-7)
    excluded = {one.name: one.excluded for one in several.candidates(ASK, Sampling(), About())}
    assert excluded["small"] is None
    assert excluded["large"] == "its quote is above most_usd of 1e-07"


def test_features_are_numbers_whatever_the_score() -> None:
    several = clouds(tasks=("code", "chat"), clock=lambda: 6 * 3600.0)
    for score in (None, math.inf, math.nan, -1e9, 0.3):
        features = several.features(About(task="chat"), score, 100, Sampling(max_tokens=10))
        assert len(features) == width(("code", "chat"))
        assert all(math.isfinite(number) for number in features)
        assert features[-2:] == (0.0, 1.0) and features[5] == pytest.approx(1.0)


def test_what_is_wrong_with_a_request_is_no_fault_of_a_cloud() -> None:
    several = clouds(policy="greedy", rule={"trials": 0})
    for failure, quality in (
        (BackendStatusError("bad tool", backend="small", status_code=400), None),
        (BackendUnavailable("away", backend="small"), 0.0),
    ):
        pick = several.asking(About(tags=frozenset({"small"}))).pick(ASK, SAMPLING)
        pick.failed(failure)
        assert several.estimates()[0].quality == quality


def test_together_they_lack_what_the_best_of_them_lacks() -> None:
    class Can(FunctionBackend):
        lacks = frozenset({"audio"})  # type: ignore[assignment]

    each = [Cloud(backend=says("text")), Cloud(backend=Can("more", lambda messages, sampling: ""))]
    tools = Sampling(extra={"tools": [{"type": "function"}], "audio": {"voice": "x"}})
    assert lacking(clouds(each=each), ASK, tools) == ["audio"]


@pytest.mark.parametrize(
    ("names", "arms", "options", "message"),
    [
        (("a",), ("a",), {}, "clouds: one is no choice; name two or more, or write cloud: …"),
        (("a", "a"), ("a",), {}, "clouds: two are named 'a'; give each a name of its own"),
        (("a", "device"), ("a", "device"), {}, "clouds: 'device' is the device's name; give the cloud another one"),
        (("a", "b"), ("a", "c"), {}, "policy: it is for the arms a, c, and the clouds are a, b"),
        (("a", "b"), ("a", "b", "c"), {}, "policy: it is for the arms a, b, c, and the clouds are a, b"),
        (("a", "b"), ("a", "b"), {"default": "c"}, "default: 'c' is not one of a, b; name one of them"),
        (("a", "b"), ("a", "b"), {"explore": 2.0}, "floor: 2.0 is outside [0, 1]"),
    ],
)
def test_what_is_wrong_is_named(
    names: tuple[str, ...], arms: tuple[str, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Clouds([Cloud(backend=says(name)) for name in names], Beliefs(catalogue.thompson(arms=arms)), **options)
    assert message in str(caught.value)

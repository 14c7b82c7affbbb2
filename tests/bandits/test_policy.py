"""Every policy: propensities, first trials, quotes, feedback that is late or missing, state."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.bandits.conftest import FEATURES

from selfroute.bandits import catalogue
from selfroute.bandits.base import Arm, Context, Outcome
from selfroute.bandits.policy import Policy
from selfroute.config import POLICIES, Spec, make_policy
from selfroute.errors import ConfigError

Make = Callable[..., Policy]
ARMS = [Arm("a", 0.1), Arm("b", 0.05), Arm("c")]
CONTEXT = Context((1.0, 0.2, -0.3), price_weight=1.0, latency_weight=0.1)


def taught(policy: Policy, outcomes: int = 40, seed: int = 0) -> Policy:
    rng = np.random.default_rng(seed)
    for _ in range(outcomes):
        arm = policy.choose(CONTEXT, ARMS).arm
        policy.update(arm, Outcome(float(rng.random() < 0.6), float(rng.random()), CONTEXT.features))
    return policy


# --- choosing ----------------------------------------------------------------------------------------------------


def test_probabilities_are_probabilities(make: Make) -> None:
    policy = taught(make())
    for candidates in (ARMS, ARMS[1:], ARMS[:1]):
        chances = policy.probabilities(CONTEXT, candidates)
        assert sum(chances) == pytest.approx(1.0)
        assert min(chances) >= 0.0


def test_every_candidate_has_at_least_its_part_of_the_floor() -> None:
    for name in POLICIES:
        options = {} if name == "uniform" else {"floor": 0.3, **({"arm": "a"} if name == "fixed" else {})}
        policy = taught(make_policy(Spec(name, None, options), arms=["a", "b", "c"], features=FEATURES))
        choice = policy.choose(CONTEXT, ARMS)
        assert choice.least >= 0.1 - 1e-12, name
        assert choice.propensity >= choice.least


def test_what_is_logged_is_how_often_it_happens() -> None:
    policy = taught(catalogue.ucb(catalogue.Learning(floor=0.3), arms=["a", "b", "c"]))
    chances = dict(zip("abc", policy.probabilities(CONTEXT, ARMS), strict=True))
    counts = Counter()
    for _ in range(4000):
        choice = policy.choose(CONTEXT, ARMS)
        assert choice.propensity == pytest.approx(chances[choice.arm])
        counts[choice.arm] += 1
    for arm, chance in chances.items():
        assert counts[arm] / 4000 == pytest.approx(chance, abs=4 * (chance * (1 - chance) / 4000) ** 0.5)


def test_inverse_propensities_of_thompson_are_unbiased_at_any_number_of_draws() -> None:
    for draws in (1, 4, 32):
        policy = taught(catalogue.thompson(catalogue.Learning(floor=0.2), arms=["a", "b", "c"], draws=draws, seed=3))
        choices = [policy.choose(CONTEXT, ARMS) for _ in range(4000)]
        weights = np.array([[(choice.arm == arm.name) / choice.propensity for arm in ARMS] for choice in choices])
        assert choices[0].draws == draws
        assert np.all(np.abs(weights.mean(0) - 1.0) <= 4 * weights.std(0) / 4000**0.5)


def test_thompson_chooses_as_often_whatever_the_draws() -> None:
    shares = []
    for draws in (1, 64):
        policy = taught(catalogue.thompson(arms=["a", "b", "c"], draws=1, seed=1))
        state = policy.state()
        other = catalogue.thompson(arms=["a", "b", "c"], draws=draws, seed=1)
        other.restore(state)
        shares.append(np.mean([other.probabilities(CONTEXT, ARMS) for _ in range(3000 // draws)], axis=0))
    assert shares[0] == pytest.approx(shares[1], abs=0.04)


def test_arms_not_yet_asked_come_first_each_as_often_as_asked_for() -> None:
    policy = catalogue.greedy(catalogue.Learning(trials=2, floor=0.0), arms=["a", "b", "c"])
    first = [policy.choose(CONTEXT, ARMS).arm for _ in range(6)]  # without any feedback
    assert Counter(first) == {"a": 2, "b": 2, "c": 2}
    assert len(set(first[:3])) == 3


def test_an_arm_that_joins_later_gets_its_trials() -> None:
    policy = catalogue.ucb(catalogue.Learning(floor=0.0), arms=["a", "b", "c"])
    for _ in range(20):
        policy.update(policy.choose(CONTEXT, ARMS[:2]).arm, Outcome(1.0))
    assert policy.choose(CONTEXT, ARMS).arm == "c"


def test_one_candidate_is_forced(make: Make) -> None:
    choice = make().choose(CONTEXT, ARMS[1:2])
    assert choice.forced
    assert (choice.arm, choice.propensity) == ("b", pytest.approx(1.0))


def test_ties_share() -> None:
    policy = catalogue.greedy(catalogue.Learning(trials=0, floor=0.0), arms=["a", "b", "c"])
    for arm in "abc":
        policy.update(arm, Outcome(0.0 if arm == "c" else 1.0))
    assert policy.probabilities(Context(), ARMS) == [0.5, 0.5, 0.0]


def test_a_price_that_changes_moves_the_next_choice_without_learning() -> None:
    policy = catalogue.greedy(catalogue.Learning(trials=0, floor=0.0), arms=["a", "b"])
    for _ in range(50):
        policy.update("a", Outcome(0.9))
        policy.update("b", Outcome(0.6))
    context = Context(price_weight=1.0)
    assert policy.choose(context, [Arm("a", 0.1), Arm("b", 0.0)]).arm == "a"
    assert policy.choose(context, [Arm("a", 0.4), Arm("b", 0.0)]).arm == "b"
    assert policy.choose(Context(price_weight=0.1), [Arm("a", 0.4), Arm("b", 0.0)]).arm == "a"


def test_a_slow_arm_loses_where_seconds_count() -> None:
    policy = catalogue.greedy(catalogue.Learning(trials=0, floor=0.0), arms=["a", "b"])
    policy.update("a", Outcome(0.9, latency_s=4.0))
    policy.update("b", Outcome(0.8, latency_s=1.0))
    arms = [Arm("a"), Arm("b")]
    assert policy.choose(Context(), arms).arm == "a"
    assert policy.choose(Context(latency_weight=0.1), arms).arm == "b"


def test_a_fixed_arm_ignores_prices_and_gives_way_to_the_cheapest() -> None:
    policy = catalogue.fixed("a", arms=["a", "b", "c"])
    context = Context(price_weight=1e6)
    assert policy.choose(context, ARMS).arm == "a"
    assert policy.choose(context, ARMS[1:]).arm == "c"


# --- learning ----------------------------------------------------------------------------------------------------


def test_learning_draws_nothing(make: Make) -> None:
    policy, silent = taught(make(seed=5)), taught(make(seed=5))
    before = policy.state()["rng"]
    for arm in "abcab":
        policy.update(arm, Outcome(1.0, 0.1, CONTEXT.features))
    assert policy.state()["rng"] == before == silent.state()["rng"]


@pytest.mark.parametrize("name", ["greedy", "ucb", "thompson", "gaussian_thompson", "linucb"])
@given(order=st.permutations(range(8)))
def test_without_forgetting_late_feedback_is_worth_the_same(name: str, order: list[int]) -> None:
    outcomes = [("abc"[i % 3], Outcome(i % 2 / 1, 0.1 * i, (1.0, i / 8, 0.5))) for i in range(8)]
    spec = Spec(name, None, {"trials": 0})
    policies = [make_policy(spec, arms=["a", "b", "c"], features=FEATURES) for _ in range(2)]
    for policy, places in zip(policies, (range(8), order), strict=True):
        for place in places:
            policy.update(*outcomes[place])
    first, second = (policy.probabilities(CONTEXT, ARMS) for policy in policies)
    assert first == pytest.approx(second)


def test_latency_alone_teaches_no_quality() -> None:
    policy = catalogue.ucb(catalogue.Learning(trials=0), arms=["a", "b"])
    policy.update("a", Outcome(latency_s=1.0))
    assert policy.rule.state()["counts"] == {"a": 0.0, "b": 0.0}
    assert policy.latency.mean("a") == 1.0


def test_a_source_that_counts_half_moves_half_as_much() -> None:
    policy = catalogue.greedy(catalogue.Learning(trials=0), arms=["a"])
    policy.update("a", Outcome(1.0, weight=1.0))
    policy.update("a", Outcome(0.0, weight=0.5))
    assert policy.rule.rows(["a"], (), np.random.default_rng(0)) == [[pytest.approx(2 / 3)]]


# --- state -------------------------------------------------------------------------------------------------------


def test_after_a_restart_it_goes_on_draw_for_draw(make: Make) -> None:
    policy = taught(make(seed=3))
    kept = json.loads(json.dumps(policy.state()))
    again = make(seed=99)
    again.restore(kept)
    for step in range(60):
        left, right = policy.choose(CONTEXT, ARMS), again.choose(CONTEXT, ARMS)
        assert left == right
        for one in (policy, again):
            one.update(left.arm, Outcome(float(step % 3 == 0), 0.2, CONTEXT.features))


def test_its_state_does_not_grow(make: Make) -> None:
    policy = taught(make(), 100)
    before = len(json.dumps(policy.state()))
    assert len(json.dumps(taught(policy, 1500).state())) < before + 200


def test_one_seed_one_run(make: Make) -> None:
    def run(seed: int) -> list[str]:
        policy = make(seed=seed)
        return [policy.choose(CONTEXT, ARMS).arm for _ in range(30)]

    assert run(1) == run(1)


def test_a_state_of_another_policy_or_other_arms_is_refused(make: Make) -> None:
    state = make().state()
    with pytest.raises(ConfigError, match="it is for the arms a, b, c, and this policy has a, b, d"):
        make(arms=["a", "b", "d"]).restore(state)
    with pytest.raises(ConfigError, match="start anew"):
        make().restore(state | {"rule": "Other"})


# --- bad input ---------------------------------------------------------------------------------------------------


def test_bad_input_is_one_line(make: Make) -> None:
    policy = make()
    with pytest.raises(ConfigError, match="no candidate"):
        policy.choose(CONTEXT, [])
    with pytest.raises(ConfigError, match="'z' is not one of a, b, c"):
        policy.choose(CONTEXT, [*ARMS, Arm("z")])
    with pytest.raises(ConfigError, match="'z' is not one of a, b, c"):
        policy.update("z", Outcome(1.0))
    with pytest.raises(ConfigError, match="each once"):
        make(arms=["a", "a"])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"floor": 1.5}, "floor: 1.5"),
        ({"trials": -1}, "trials: -1"),
        ({"discount": 0.0}, "discount: 0.0"),
        ({"window": 0}, "window: 0"),
        ({"window": 5, "discount": 0.9}, "two ways to forget"),
        ({"alpha": -1.0}, "alpha: -1.0"),
    ],
)
def test_a_bad_option_is_named(options: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        make_policy(Spec("ucb", None, options), arms=["a"])


def test_a_linear_model_forgets_by_a_discount_alone() -> None:
    with pytest.raises(ConfigError, match=r"linucb\.window: 5 is no way for a linear model to forget; give a discount"):
        make_policy(Spec("linucb", None, {"window": 5}), arms=["a"], features=2)


def test_options_of_all_and_of_one_are_written_alike() -> None:
    with pytest.raises(ConfigError, match=r"policy\.ucb: unknown key 'discont'; did you mean 'discount'\?"):
        make_policy(Spec("ucb", None, {"discont": 0.9}), arms=["a"])
    with pytest.raises(ConfigError, match=r"policy\.ucb: discount: 'much' is not a number"):
        make_policy(Spec("ucb", None, {"discount": "much"}), arms=["a"])


def test_wrong_features_and_qualities_are_named() -> None:
    with pytest.raises(ConfigError, match="2 numbers, and the policy was made for 3"):
        catalogue.linucb(arms=["a", "b"], features=3).choose(Context((1.0, 2.0)), [Arm("a"), Arm("b")])
    with pytest.raises(ConfigError, match=r"quality: 3\.0 is outside"):
        catalogue.thompson(arms=["a"]).update("a", Outcome(3.0))
    with pytest.raises(ConfigError, match="'z' is not one of a"):
        catalogue.fixed("z", arms=["a"])


def test_a_decision_is_quick(make: Make) -> None:
    policy = make(arms=["a", "b", "c", "d", "e"])
    arms = [Arm(name, 0.01) for name in "abcde"]

    def seconds() -> float:
        start = time.process_time()
        for _ in range(300):
            policy.update(policy.choose(CONTEXT, arms).arm, Outcome(1.0, 0.1, CONTEXT.features))
        return (time.process_time() - start) / 300

    # The bar is 50 µs; benchmarks/bandits holds to it. Here a busy machine must not fail the test.
    assert min(seconds() for _ in range(5)) < 200e-6

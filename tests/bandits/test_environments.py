"""The settings of the paper, the drifts, and small versions of the benchmark's bars."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from selfroute.bandits import catalogue
from selfroute.bandits.environments import DRIFTS, NAMES, SETTINGS, Contextual, Drifting, MultiArmed, generated_ratings
from selfroute.bandits.play import Played, play
from selfroute.bandits.policy import Policy
from selfroute.config import Spec, make_policy
from selfroute.errors import ConfigError

# UCB(0.5), Thompson, greedy, uniform: mean regret of 1,000 seeds, and the standard error of a mean of 30.
EXPECTED = {
    "bernoulli-5-easy": {"ucb": (16.6, 0.8), "thompson": (14.2, 0.8), "greedy": (35.1, 11.0), "uniform": (120, 0.6)},
    "bernoulli-20-easy": {"ucb": (73.5, 2.0), "thompson": (62.2, 2.8), "greedy": (49.5, 10.7), "uniform": (142.5, 0.3)},
    "gaussian-5-easy": {"ucb": (20, 4), "thompson": (28, 3), "greedy": (40, 13), "uniform": (351, 27)},
}


def policy(name: str, setting: str, arms: tuple[str, ...], seed: int) -> Policy:
    kind, scale = SETTINGS[setting].kind, SETTINGS[setting].difficulty
    if name == "thompson" and kind == "gaussian":
        return catalogue.gaussian_thompson(
            catalogue.Learning(floor=0.0), arms=arms, seed=seed, draws=1, noise=scale, prior=scale
        )
    options: dict[str, Any] = {"thompson": {"floor": 0.0, "draws": 1}, "uniform": {}}.get(name, {"floor": 0.0})
    return make_policy(Spec(name, None, options), arms=arms, seed=seed)


def runs(name: str, setting: str, seeds: int) -> list[Played]:
    made = []
    for seed in range(seeds):
        environment = MultiArmed(SETTINGS[setting], seed=seed)
        made.append(play(policy(name, setting, environment.arms, 10_000 + seed), environment))
    return made


@pytest.mark.parametrize("setting", EXPECTED)
def test_the_regret_is_the_tables(setting: str) -> None:
    for name, (mean, error) in EXPECTED[setting].items():
        regrets = [run.regret.sum() for run in runs(name, setting, 30)]
        # Two runs of 30 and 1,000 seeds; three standard errors, since a dozen are compared.
        assert abs(np.mean(regrets) - mean) <= 3 * np.hypot(error, error * (30 / 1000) ** 0.5), (name, np.mean(regrets))


def test_there_are_the_papers_sixteen() -> None:
    assert len(SETTINGS) * len(NAMES) == 16
    assert all(len(set(names)) == 20 for names in NAMES.values())


def test_a_bernoulli_setting_has_one_best_arm_anywhere() -> None:
    places = set()
    for seed in range(60):
        means = MultiArmed(SETTINGS["bernoulli-5-hard"], seed=seed).means
        assert sorted(means) == pytest.approx([0.4, 0.4, 0.4, 0.4, 0.6])
        places.add(int(np.argmax(means)))
    assert places == set(range(5))


def test_one_seed_one_run() -> None:
    for setting in SETTINGS.values():
        first, second = (MultiArmed(setting, seed=7) for _ in range(2))
        assert [first.pull(i % 5) for i in range(20)] == [second.pull(i % 5) for i in range(20)]


def test_the_contextual_reward_is_linear_and_linucb_learns_it() -> None:
    ratings = generated_ratings(400, 10)
    names = [f"film {i}" for i in range(10)]

    def regret(name: str, seed: int) -> float:
        environment = Contextual(ratings, names, seed=seed, horizon=200, users=range(200, 400))
        options = {"features": len(environment.features()), "seed": seed}
        if name == "linucb":
            made = catalogue.linucb(catalogue.Learning(trials=0, floor=0.0), arms=environment.arms, **options)
        else:
            made = getattr(catalogue, name)(arms=environment.arms, **options)
        return float(play(made, environment).regret.sum())

    def mean(name: str) -> float:
        return float(np.mean([regret(name, seed) for seed in range(5)]))

    assert mean("linucb") < 0.8 * mean("uniform")


def test_users_of_training_and_judging_do_not_meet() -> None:
    ratings = generated_ratings(300, 10)
    made = [Contextual(ratings, range(10), seed=0, users=users) for users in (range(200), range(200, 300))]
    seen = [set() for _ in made]
    for own, environment in zip(seen, made, strict=True):
        for _ in range(300):
            own.add(environment.features())
            environment.pull(0)
    assert not seen[0] & seen[1]


def test_a_bad_table_is_named() -> None:
    with pytest.raises(ConfigError, match="5 users are fewer than the rank of 10"):
        Contextual(generated_ratings(5, 10), range(10), seed=0)
    with pytest.raises(ConfigError, match="users: 50 to 60"):
        Contextual(generated_ratings(20, 10), range(10), seed=0, users=range(50, 60))
    with pytest.raises(ConfigError, match="names: 'cars'"):
        MultiArmed(SETTINGS["bernoulli-5-easy"], seed=0, names="cars")


# --- drift -------------------------------------------------------------------------------------------------------


def drift(scenario: str, seeds: int, quotes: bool = True, name: str = "thompson", **options: float) -> float:
    regrets = []
    for seed in range(seeds):
        environment = Drifting(DRIFTS[scenario], seed=seed)
        spec = Spec(name, None, {"floor": 0.0, **options})
        made = make_policy(spec, arms=environment.arms, seed=1000 + seed)
        regrets.append(play(made, environment, quotes=quotes).regret.sum())
    return float(np.mean(regrets))


def test_what_a_fixed_choice_loses() -> None:
    lost = {}
    for scenario in DRIFTS:
        environment = Drifting(DRIFTS[scenario], seed=0)
        lost[scenario] = play(catalogue.fixed("A", arms=environment.arms), environment).regret.sum()
    assert lost == pytest.approx({"none": 0, "silent": 350, "price": 200, "both": 550, "rise": 460})


@pytest.mark.parametrize("scenario", ["silent", "both", "rise"])
def test_forgetting_halves_the_regret_of_silent_changes(scenario: str) -> None:
    assert drift(scenario, 6, draws=1, discount=0.995) <= 0.5 * drift(scenario, 6, draws=1)


def test_who_reads_the_quote_need_not_learn_the_price() -> None:
    blind = drift("price", 6, quotes=False, name="gaussian_thompson", draws=1, noise=0.5)
    assert drift("price", 6, draws=1) <= 0.2 * blind


def test_without_drift_forgetting_costs() -> None:
    assert drift("none", 6, draws=1, discount=0.995) > 2 * drift("none", 6, draws=1)

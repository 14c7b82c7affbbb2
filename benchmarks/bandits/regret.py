"""Regret in the eight settings of EVOLvE and in five drifts, and two arms beside the Bayes-optimal value."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from cells import Cell, Numbers

from selfroute.bandits import catalogue
from selfroute.bandits.base import Arm, Context, Outcome
from selfroute.bandits.environments import DRIFTS, SETTINGS, Drifting, MultiArmed, Setting
from selfroute.bandits.metrics import best_share, greedy_frequency, suffix_fails
from selfroute.bandits.play import play
from selfroute.bandits.policy import Policy

Make = Callable[..., Policy]
APART = 1_000_000  # between the seeds of an environment and of the policy in it

# Mean regret of 1,000 seeds, and the standard error of the mean of 30, as a prototype measured them.
EXPECTED: dict[str, dict[str, tuple[float, float]]] = {
    "bernoulli-5-easy": {"ucb": (16.6, 0.8), "thompson": (14.2, 0.8), "greedy": (35.1, 11.0), "uniform": (120, 0.6)},
    "bernoulli-5-hard": {"ucb": (39.5, 2.1), "thompson": (32.0, 2.9), "greedy": (92.9, 17.9), "uniform": (160, 0.5)},
    "bernoulli-20-easy": {"ucb": (73.5, 2.0), "thompson": (62.2, 2.8), "greedy": (49.5, 10.7), "uniform": (142.5, 0.3)},
    "bernoulli-20-hard": {
        "ucb": (141.9, 3.4),
        "thompson": (121.8, 4.9),
        "greedy": (113.9, 16.8),
        "uniform": (190, 0.2),
    },
    "gaussian-5-easy": {"ucb": (20, 4), "thompson": (28, 3), "greedy": (40, 13), "uniform": (351, 27)},
    "gaussian-5-hard": {"ucb": (207, 86), "thompson": (111, 13), "greedy": (340, 134), "uniform": (3515, 266)},
    "gaussian-20-easy": {"ucb": (71, 5), "thompson": (93, 5), "greedy": (82, 13), "uniform": (553, 25)},
    "gaussian-20-hard": {"ucb": (398, 106), "thompson": (369, 27), "greedy": (532, 136), "uniform": (5524, 250)},
}
# Rules in drift, and whether they see the quotes.
DRIFTING: dict[str, tuple[bool, Make]] = {
    "fixed on the first best": (True, partial(catalogue.fixed, "A")),
    "Thompson on utility": (
        False,
        partial(catalogue.gaussian_thompson, catalogue.Learning(floor=0.0), draws=1, noise=0.5),
    ),
    "Thompson": (True, partial(catalogue.thompson, catalogue.Learning(floor=0.0), draws=1)),
    "UCB(0.5)": (True, partial(catalogue.ucb, catalogue.Learning(floor=0.0))),
    "discounted Thompson .995": (
        True,
        partial(catalogue.thompson, catalogue.Learning(floor=0.0, discount=0.995), draws=1),
    ),
    "window 600 UCB(0.5)": (True, partial(catalogue.ucb, catalogue.Learning(floor=0.0, window=600))),
    "discounted UCB(0.5) .99": (True, partial(catalogue.ucb, catalogue.Learning(floor=0.0, discount=0.99))),
    "discounted UCB(0.15) .995": (
        True,
        partial(catalogue.ucb, catalogue.Learning(floor=0.0, discount=0.995), alpha=0.15),
    ),
    "discounted Thompson .995, floor 5 %": (True, partial(catalogue.thompson, catalogue.Learning(discount=0.995))),
}
TWO_ARMS: dict[str, Make] = {
    "thompson": partial(catalogue.thompson, catalogue.Learning(floor=0.0), draws=1),
    "ucb": partial(catalogue.ucb, catalogue.Learning(floor=0.0)),
    "greedy": partial(catalogue.greedy, catalogue.Learning(floor=0.0)),
    "uniform": catalogue.uniform,
}


def settings() -> dict[str, Cell]:
    """Cells of the multi-armed settings."""
    return {f"{setting}, {name}": partial(one_run, setting, name) for setting in SETTINGS for name in EXPECTED[setting]}


def one_run(setting: str, name: str, seed: int) -> Numbers:
    environment = MultiArmed(SETTINGS[setting], seed=seed)
    run = play(policy(name, SETTINGS[setting], environment.arms, APART + seed), environment)
    return {
        "regret": float(run.regret.sum()),
        "suffix_fail": float(suffix_fails(run)),
        "best_share": best_share(run),
        "greedy_frequency": greedy_frequency(run, len(environment.arms)),
    }


def policy(name: str, setting: Setting, arms: tuple[str, ...], seed: int) -> Policy:
    """One of the table's four, without a floor."""
    if name == "uniform":
        return catalogue.uniform(arms=arms, seed=seed)
    if name == "thompson" and setting.kind == "gaussian":
        scale = setting.difficulty
        return catalogue.gaussian_thompson(
            catalogue.Learning(floor=0.0), arms=arms, seed=seed, draws=1, noise=scale, prior=scale
        )
    make: Make = {"ucb": catalogue.ucb, "greedy": catalogue.greedy, "thompson": catalogue.thompson}[name]
    return make(catalogue.Learning(floor=0.0), arms=arms, seed=seed, **({"draws": 1} if name == "thompson" else {}))


def drifts() -> dict[str, Cell]:
    """Cells of the drift scenarios."""
    return {f"{scenario}, {name}": partial(one_drift, scenario, name) for scenario in DRIFTS for name in DRIFTING}


def one_drift(scenario: str, name: str, seed: int) -> Numbers:
    quotes, make = DRIFTING[name]
    environment = Drifting(DRIFTS[scenario], seed=seed)
    return {
        "regret": float(play(make(arms=environment.arms, seed=APART + seed), environment, quotes=quotes).regret.sum())
    }


def two_arms() -> dict[str, Cell]:
    """Cells of two Bernoulli arms with means from U(0, 1)."""
    return {f"T={horizon}, {name}": partial(one_pair, horizon, name) for horizon in (5, 10, 20) for name in TWO_ARMS}


def one_pair(horizon: int, name: str, seed: int) -> Numbers:
    rng = np.random.default_rng(seed)
    means = dict(zip("ab", rng.random(2).tolist(), strict=True))
    arms = [Arm("a"), Arm("b")]
    made = TWO_ARMS[name](arms=["a", "b"], seed=APART + seed)
    earned = 0.0
    for _ in range(horizon):
        arm = made.choose(Context(), arms).arm
        made.update(arm, Outcome(float(rng.random() < means[arm])))
        earned += means[arm]
    return {"earned": earned}

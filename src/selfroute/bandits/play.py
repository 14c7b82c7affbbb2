"""A bandit in an environment, step by step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from selfroute.bandits.base import Arm, Bandit, Context, Outcome
from selfroute.bandits.environments import Environment

__all__ = ["Played", "Tape", "play"]


@dataclass(frozen=True, slots=True, eq=False)
class Played:
    """One run; every array has shape (T,).

    Attributes:
        chosen: number of the arm.
        rewards: as observed, prices not taken off.
        regret: what the best arm of the step is expected to be worth more than the chosen one.
        best: whether the chosen arm was the best of its step.
    """

    chosen: npt.NDArray[np.int64]
    rewards: npt.NDArray[np.float64]
    regret: npt.NDArray[np.float64]
    best: npt.NDArray[np.bool_]


class Tape:
    """Pulls arms of an environment and keeps what came of it."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self._chosen: list[int] = []
        self._rewards: list[float] = []
        self._regret: list[float] = []

    def pull(self, arm: int) -> float:
        """The reward of an arm, without its price."""
        worth = self.environment.worth()
        self._regret.append(max(worth) - worth[arm])
        self._chosen.append(arm)
        self._rewards.append(self.environment.pull(arm))
        return self._rewards[-1]

    def played(self) -> Played:
        """The run so far."""
        regret = np.array(self._regret)
        return Played(np.array(self._chosen, dtype=np.int64), np.array(self._rewards), regret, regret == 0.0)


def play(bandit: Bandit, environment: Environment, *, quotes: bool = True) -> Played:
    """Play to the horizon.

    Args:
        quotes: show the prices and let the bandit learn quality; else it learns quality - price, blind to prices.
    """
    arms, tape = environment.arms, Tape(environment)
    number = {name: place for place, name in enumerate(arms)}
    shown, candidates = None, [Arm(name) for name in arms]
    weight = 1.0 if quotes else 0.0
    for _ in range(environment.horizon):
        prices, features = environment.prices(), environment.features()
        if prices is not shown:
            shown, candidates = prices, [Arm(name, price) for name, price in zip(arms, prices, strict=True)]
        arm = bandit.choose(Context(features, weight), candidates).arm
        place = number[arm]
        reward = tape.pull(place)
        bandit.update(arm, Outcome(reward if quotes else reward - prices[place], features=features))
    return tape.played()

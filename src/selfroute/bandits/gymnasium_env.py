"""The study's settings as gymnasium environments, for whoever brings an agent of their own.

`register()` makes `gymnasium.make("selfroute/bernoulli-5-easy-video-v0")` work; see `ids`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from selfroute.bandits.environments import NAMES, SETTINGS, Contextual, Environment, MultiArmed, generated_ratings

__all__ = ["BanditEnv", "films", "ids", "register"]

Observed = npt.NDArray[np.float32]
Info = dict[str, Any]


class BanditEnv(gymnasium.Env[Observed, np.int64]):
    """One environment of `selfroute.bandits.environments` behind gymnasium's interface.

    The observation is the context, shape (d,), d = 0 without one. The reward is the arm's, its price taken off; an
    episode is truncated at the horizon. `info` has "regret" and "best", which an agent must not see.

    Args:
        make: an environment for a seed.
    """

    def __init__(self, make: Callable[[int], Environment]) -> None:
        self._make = make
        self._environment = make(0)
        self._step = 0
        self.arms = self._environment.arms
        width = len(self._environment.features())
        self.action_space = spaces.Discrete(len(self.arms))
        self.observation_space = spaces.Box(-np.inf, np.inf, (width,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observed, dict[str, Any]]:
        """Draw a new run; the same seed draws the same."""
        super().reset(seed=seed)
        self._environment = self._make(int(self.np_random.integers(2**31)) if seed is None else seed)
        self._step = 0
        return self._observed(), {}

    def step(self, action: np.int64) -> tuple[Observed, float, bool, bool, Info]:
        """Pull an arm."""
        environment, arm = self._environment, int(action)
        worth, price = environment.worth(), environment.prices()[arm]
        regret = max(worth) - worth[arm]
        reward = environment.pull(arm) - price
        self._step += 1
        ended = self._step >= environment.horizon
        return self._observed(), float(reward), False, ended, {"regret": float(regret), "best": regret == 0.0}

    def _observed(self) -> Observed:
        return np.array(self._environment.features(), dtype=np.float32)


def films(seed: int, *, arms: int = 10, users: int = 1000) -> Contextual:
    """The contextual setting on a generated table of ratings; one of users 200 and up comes at each step."""
    names = [f"film {number + 1}" for number in range(arms)]
    return Contextual(generated_ratings(users, arms), names, seed=seed, users=range(200, users))


def ids() -> dict[str, Callable[[int], Environment]]:
    """Name of each environment, and the function that makes it from a seed."""

    def multi_armed(seed: int, *, setting: str, names: str) -> Environment:
        return MultiArmed(SETTINGS[setting], seed=seed, names=names)

    found: dict[str, Callable[[int], Environment]] = {
        f"selfroute/{setting}-{names}-v0": partial(multi_armed, setting=setting, names=names)
        for setting in SETTINGS
        for names in NAMES
    }
    return found | {f"selfroute/films-{arms}-v0": partial(films, arms=arms) for arms in (10, 30)}


def register() -> None:
    """Make the names known to `gymnasium.make`; names already known stay as they are."""
    for name, make in ids().items():
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point=f"{__name__}:BanditEnv", kwargs={"make": make})

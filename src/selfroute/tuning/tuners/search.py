"""Tuners that draw at random and remember what they were told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from selfroute.tuning.base import Choices, Floats
from selfroute.tuning.simplex import draw, uniform

__all__ = ["BestOf", "OneHotRidge", "RandomSearch"]


class RandomSearch:
    """Draws every time anew; the best is what had the highest mean reward.

    Args:
        sizes: choices of each slot.
        seed: of the draws.
    """

    def __init__(self, sizes: Sequence[int], *, seed: int = 0) -> None:
        self.sizes, self.seed = list(sizes), seed
        self.told: list[tuple[Choices, float]] = []
        self.asked = 0

    def ask(self, count: int) -> list[Choices]:
        """See `Tuner`."""
        self.asked += 1
        return draw(uniform(self.sizes), np.random.default_rng([self.seed, self.asked]), count)

    def tell(self, choices: Sequence[Choices], rewards: Sequence[float | None]) -> None:
        """See `Tuner`."""
        self.told += [(one, reward) for one, reward in zip(choices, rewards, strict=True) if reward is not None]

    def best(self) -> Choices:
        """See `Tuner`; where nothing was told, a draw."""
        rewards: dict[Choices, list[float]] = {}
        for one, reward in self.told:
            rewards.setdefault(one, []).append(reward)
        if not rewards:
            return draw(uniform(self.sizes), np.random.default_rng([self.seed, 0]), 1)[0]
        return max(rewards, key=lambda one: sum(rewards[one]) / len(rewards[one]))

    def state(self) -> dict[str, Any]:
        """See `Tuner`."""
        return {"asked": self.asked, "told": [[list(one), reward] for one, reward in self.told]}

    def restore(self, state: dict[str, Any]) -> None:
        """See `Tuner`."""
        self.asked = int(state["asked"])
        self.told = [(tuple(one), float(reward)) for one, reward in state["told"]]


class BestOf(RandomSearch):
    """Draws `candidates` once and asks for them in turn; the best has the highest mean reward.

    Args:
        candidates: how many.
    """

    def __init__(self, sizes: Sequence[int], *, seed: int = 0, candidates: int = 16) -> None:
        super().__init__(sizes, seed=seed)
        self.candidates = draw(uniform(sizes), np.random.default_rng([seed, 0]), candidates)

    def ask(self, count: int) -> list[Choices]:
        """See `Tuner`."""
        start = self.asked
        self.asked += count
        return [self.candidates[i % len(self.candidates)] for i in range(start, start + count)]


class OneHotRidge(RandomSearch):
    """Draws every time anew, and fits a line to the choices, one-hot: the best is the sum of each slot's best.

    Args:
        penalty: of the squared weights, beside rewards of any scale.
    """

    def __init__(self, sizes: Sequence[int], *, seed: int = 0, penalty: float = 1.0) -> None:
        super().__init__(sizes, seed=seed)
        self.penalty = penalty

    def best(self) -> Choices:
        """See `Tuner`."""
        if not self.told:
            return super().best()
        parts = np.split(self._weights(), np.cumsum(self.sizes)[:-1])
        return tuple(int(np.argmax(part)) for part in parts)

    def _weights(self) -> Floats:
        starts = np.cumsum([0, *self.sizes[:-1]])
        drawn = np.zeros((len(self.told), sum(self.sizes)))
        for row, (one, _) in enumerate(self.told):
            drawn[row, starts + np.array(one)] = 1.0
        rewards = np.array([reward for _, reward in self.told])
        normal = drawn.T @ drawn + self.penalty * np.eye(drawn.shape[1])
        weights: Floats = np.linalg.solve(normal, drawn.T @ (rewards - rewards.mean()))
        return weights

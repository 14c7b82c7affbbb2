"""The paper's parent: black-box discrete prompt learning, with all slots on one level (BDPL, arXiv 2201.08531)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from selfroute.tuning.base import Choices, Distributions
from selfroute.tuning.simplex import check_floor, draw, likeliest, project_all, score_gradient, uniform

__all__ = ["Gradient"]


class Gradient:
    """Independent categoricals, moved along the score function's gradient and projected exactly.

    Args:
        sizes: choices of each slot.
        step: of the probabilities.
        floor: least probability of a choice.

    Raises:
        ConfigError: a floor that is too high.
    """

    def __init__(self, sizes: Sequence[int], *, seed: int = 0, step: float = 0.02, floor: float = 0.01) -> None:
        check_floor(floor, sizes)
        self.step, self.floor, self.seed, self.asked = step, floor, seed, 0
        self.distributions: Distributions = uniform(sizes)

    def ask(self, count: int) -> list[Choices]:
        """See `Tuner`."""
        self.asked += 1
        return draw(self.distributions, np.random.default_rng([self.seed, self.asked]), count)

    def tell(self, choices: Sequence[Choices], rewards: Sequence[float | None]) -> None:
        """See `Tuner`; the choices are compared with each other."""
        gradient = score_gradient(self.distributions, choices, rewards)
        moved = [p + self.step * up for p, up in zip(self.distributions, gradient, strict=True)]
        self.distributions = project_all(moved, self.floor)

    def best(self) -> Choices:
        """See `Tuner`."""
        return likeliest(self.distributions)

    def state(self) -> dict[str, Any]:
        """See `Tuner`."""
        return {"asked": self.asked, "distributions": [p.tolist() for p in self.distributions]}

    def restore(self, state: dict[str, Any]) -> None:
        """See `Tuner`."""
        self.asked = int(state["asked"])
        self.distributions = tuple(np.array(p, dtype=np.float64) for p in state["distributions"])

"""What a tuner is: it asks what to try, and is told what that was worth."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Choices", "Distributions", "Floats", "Measure", "Tuner", "as_rewards"]

Floats = NDArray[np.float64]
Choices = tuple[int, ...]  # of each slot, which of its choices
Distributions = tuple[Floats, ...]  # of each slot, the probability of each choice

# Rewards of some choices, all on the same rows, which the round draws; None for one that could not be graded.
Measure = Callable[[Sequence[Choices], int], Awaitable[Sequence[float | None]]]


class Tuner(Protocol):
    """Finds good choices by their rewards alone."""

    def ask(self, count: int) -> list[Choices]:
        """Choices to try next."""
        ...

    def tell(self, choices: Sequence[Choices], rewards: Sequence[float | None]) -> None:
        """What choices were worth; None for those that could not be graded."""
        ...

    def best(self) -> Choices:
        """The choices to use, by what is known so far."""
        ...

    def state(self) -> dict[str, Any]:
        """Ready for JSON."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        ...


def as_rewards(rewards: Sequence[float | None]) -> Floats:
    """Shape (1, I), NaN for a reward that is None."""
    return np.array([[np.nan if reward is None else reward for reward in rewards]], dtype=np.float64)

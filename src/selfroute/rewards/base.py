"""What a reward is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from selfroute.grading import Outcome

__all__ = ["Moving", "Reward"]

# A pure function of what happened; None for a rollout that could not be graded, which is left out and not counted as 0.
Reward = Callable[[Outcome], float | None]


@runtime_checkable
class Moving(Protocol):
    """Optional: a reward whose prices move from step to step, by what happened in the last one."""

    def move(self, groups: Sequence[Sequence[Outcome]]) -> Mapping[str, float]:
        """Take in a step's outcomes, of all processes; what its prices were, as metrics."""
        ...

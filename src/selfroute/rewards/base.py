"""What a reward is."""

from __future__ import annotations

from collections.abc import Callable

from selfroute.grading import Outcome

__all__ = ["Reward"]

# A pure function of what happened; None for a rollout that could not be graded, which is left out and not counted as 0.
Reward = Callable[[Outcome], float | None]

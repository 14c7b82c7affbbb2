"""A reward whose local answers are paid by a learned score in place of a verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from selfroute.bounds import Positive, check_fields
from selfroute.grading import Outcome
from selfroute.rewards.base import Reward

__all__ = ["Scored"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Another reward, for which a local answer is right to the degree σ((score − zero) / scale).

    Weights, format and what a hand-off pays stay those of the other one. The outcome keeps its verdict, so that what
    was learned and what is true stand side by side in the metrics. An outcome without a score is paid as it is.

    Attributes:
        reward: the other one.
        zero: score at which an answer is as likely right as wrong; a score of pairs has none but its centring.
        scale: of the scores.
    """

    reward: Reward
    zero: float = 0.0
    scale: Positive = 1.0

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, outcome: Outcome) -> float | None:
        if outcome.wants_cloud or outcome.score is None:
            return self.reward(outcome)
        return self.reward(replace(outcome, device_correct=self.quality(outcome.score)))

    def quality(self, score: float) -> float:
        """The degree to which an answer counts as right, in [0, 1]."""
        return 0.5 * (1 + math.tanh(0.5 * (score - self.zero) / self.scale))

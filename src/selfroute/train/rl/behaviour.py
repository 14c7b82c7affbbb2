"""Where attempts come from beside the policy as it is: a tempered one, in the sampler alone, and a replay buffer.

The squared loss of a balance holds for attempts from anywhere, without importance weights; see `objectives.balance`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from selfroute.bounds import Count, Positive, Rate, check_fields
from selfroute.errors import ConfigError

__all__ = ["Behaviour"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How attempts are drawn that an off-policy objective learns from.

    Attributes:
        tempered: part of the steps whose attempts are drawn at another temperature; the loss knows nothing of it.
        coldest, hottest: between which that temperature is drawn.
        replayed: part of each group that comes from attempts at the same prompt in earlier steps.
        capacity: attempts that are kept of a prompt.
        recent: part of the replayed that are the newest; the others are drawn by exp(reward).
        alike: edit distance, as a part of the longer one, below which two attempts count as one.
        worked: begin each prompt's attempts with the task's own right completion.

    Raises:
        ConfigError: an option that cannot be.
    """

    tempered: Rate = 0.0
    coldest: Positive = 0.5
    hottest: Positive = 2.0
    replayed: Rate = 0.0
    capacity: Count = 50
    recent: Rate = 0.5
    alike: Rate = 0.25
    worked: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if self.worked and not self.replayed:
            raise ConfigError("worked: nothing is replayed that could begin with it; set replayed, or leave it out")
        if self.coldest > self.hottest:
            raise ConfigError(f"coldest: {self.coldest:g} is above hottest={self.hottest:g}; swap them")

    def heat(self, seed: int, step: int) -> float:
        """Temperature of a step's attempts, from the seed and the step alone."""
        luck = random.Random(f"heat/{seed}/{step}")
        return luck.uniform(self.coldest, self.hottest) if luck.random() < self.tempered else 1.0

"""The contract of a bandit: choose an arm and say how likely that was, learn what came of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from selfroute.errors import ConfigError

__all__ = ["Arm", "Bandit", "Choice", "Context", "Outcome", "check_quality"]


@dataclass(frozen=True, slots=True)
class Arm:
    """A candidate of one decision, with its quote of the moment.

    Attributes:
        price_usd: what this request is expected to cost there, in USD. Never learnt: a price list is known.
    """

    name: str
    price_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class Context:
    """What is known of a request when an arm is chosen. An arm is worth quality - λ·price - κ·latency.

    Attributes:
        features: x, shape (d,): hand-off score, lengths, hour, …; none for policies without context.
        price_weight: λ, quality per USD, as `selfroute.budget.pacing.DualPrice` has it.
        latency_weight: κ, quality per second.
    """

    features: tuple[float, ...] = ()
    price_weight: float = 0.0
    latency_weight: float = 0.0


class Choice(NamedTuple):
    """A decision and what a replay needs to know of it.

    Attributes:
        propensity: probability with which this arm was chosen, floor included, in (0, 1].
        least: the smallest probability of any candidate; 0 if some arm could not have been chosen.
        draws: of the posterior, where the propensity is a frequency among draws; None where it has a closed form.
        forced: there was one candidate only.
    """

    arm: str
    propensity: float
    least: float
    draws: int | None = None
    forced: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a choice, perhaps much later, perhaps in part.

    Attributes:
        quality: of the answer, in [0, 1] (environments of the study have any number); None if nobody said.
        latency_s: seconds until the answer was whole; None if it is not known or was told before.
        features: those of the context in which the arm was chosen.
        weight: how much the quality's source counts, above 0; a verifier 1.
    """

    quality: float | None = None
    latency_s: float | None = None
    features: tuple[float, ...] = ()
    weight: float = 1.0


class Bandit(Protocol):
    """One method to choose and one to learn.

    `update` draws nothing and reads no clock: replicas that take in the same outcomes in the same order believe the
    same, whatever each of them chose.
    """

    def choose(self, context: Context, arms: Sequence[Arm]) -> Choice:
        """Choose one of the candidates.

        Raises:
            ConfigError: there is no candidate, or one that the policy does not know.
        """
        ...

    def update(self, arm: str, outcome: Outcome) -> None:
        """Learn from what came of a choice; in any order, each outcome once, missing ones not at all."""
        ...

    def state(self) -> dict[str, Any]:
        """All that was learnt and the state of the draws, ready for JSON; its size does not grow for ever."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken, draw for draw.

        Raises:
            ConfigError: it is of another policy, or of one for other arms.
        """
        ...


def check_quality(quality: float) -> float:
    """A score that somebody gave, as a number in [0, 1].

    Raises:
        ConfigError: it is outside.
    """
    if not (math.isfinite(quality) and 0.0 <= quality <= 1.0):
        raise ConfigError(f"quality: {quality} is outside [0, 1]; give 0 for useless, 1 for right")
    return float(quality)

"""A price that moves until what it is put on happens as often as wanted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Multiplier"]

WINDOW = 32  # measurements that a rate is taken over, at least: of few it is mostly noise
_FARTHEST = 2.0  # of the violation in log-odds: a step without one event says no more than one with few
_STRIDE = 0.5  # most of it that λ takes in, per step


class Multiplier:
    """The price λ of an event, moved until it happens as often as wanted (DA-GRPO, arXiv 2602.00166).

    DA-GRPO takes λ ← max(0, λ + η·(J_c - τ)) with the measured rate J_c and the wanted one τ, which can only make
    the event dearer. Here λ may be negative: the rate is met from both sides, unless `lowest` says otherwise. A
    multiplier alone and a policy that follows it with a delay swing around the target, so the price has a second part,
    in proportion to the last step's violation (a PI controller; Stooke et al., arXiv 2007.03964).

    Both parts take the violation in log-odds, in which a policy moves about evenly, so that one η and one damping suit
    all targets: the second part as it is, λ to first order, (J_c - τ) / τ(1 - τ), whose mean over noise is not biased.
    λ takes at most 0.5 of it in a step, or it would still be under way when a far target is reached, and overshoot.

    Args:
        target: τ, in (0, 1).
        rate: η, per step.
        damping: of the second part.
        lowest: floor of the price.
        highest: its ceiling.

    Attributes:
        value: λ without the second part.
        violation: log-odds of J_c minus those of τ, as last measured.
        recent: the last measurements, at least `WINDOW` of them once there were so many.
    """

    def __init__(self, target: float, *, rate: float, damping: float, lowest: float, highest: float) -> None:
        self.target = target
        self.rate = rate
        self.damping = damping
        self.lowest = lowest
        self.highest = highest
        self.value = 0.0
        self.violation = 0.0
        self.recent: list[float] = []

    @property
    def price(self) -> float:
        """What the event costs now."""
        return self._within(self.value + self.damping * self.violation)

    def update(self, measured: Sequence[float]) -> None:
        """Take in one step: measurements in [0, 1], such as the share of each prompt's rollouts that ask."""
        self.recent = [*self.recent, *measured][-max(WINDOW, len(measured)) :]
        rate = sum(self.recent) / len(self.recent)
        self.violation = min(_FARTHEST, max(-_FARTHEST, _log_odds(rate) - _log_odds(self.target)))
        stride = (rate - self.target) / (self.target * (1.0 - self.target))
        # Bounds hold λ itself too, or it would have to come all the way back after a long stretch beyond them.
        self.value = self._within(self.value + self.rate * min(_STRIDE, max(-_STRIDE, stride)))

    def state(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"value": self.value, "violation": self.violation, "recent": self.recent}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.value, self.violation = float(state["value"]), float(state["violation"])
        self.recent = list(state["recent"])

    def _within(self, value: float) -> float:
        return min(self.highest, max(self.lowest, value))


def _log_odds(rate: float) -> float:
    rate = min(1.0 - 1e-6, max(1e-6, rate))
    return math.log(rate / (1.0 - rate))

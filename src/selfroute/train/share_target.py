"""A wanted call share in training: the filter that caps it, and the multiplier that meets it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from selfroute.train.prompt_filter import PromptFilter, ratio_from_share

__all__ = ["ShareMultiplier", "ShareTarget"]

WINDOW = 32  # prompts that a share is measured on, at least: of few the measure is mostly noise
_FARTHEST = 2.0  # of the violation in log-odds: a step without one hand-off says no more than one with few


class ShareMultiplier:
    """The price λ of a hand-off, moved until rollouts ask as often as wanted (DA-GRPO, arXiv 2602.00166).

    DA-GRPO takes λ ← max(0, λ + η·(J_c - τ)) with the measured share J_c and the wanted one τ, which can only make
    asking dearer. Here λ may be negative: the share is met from both sides. A multiplier alone and a policy that
    follows it with a delay swing around the target, so the price has a second part, in proportion to the last step's
    violation (a PI controller; Stooke et al., arXiv 2007.03964).

    Two measures keep a small share from being overshot, after which hardly a rollout asks and nothing is learnt about
    asking: the second part takes the violation in log-odds, in which a policy moves about evenly, and λ takes at most
    min(τ, 1 - τ) of it in a step, as far as it can lie on the other side.

    Attributes:
        share: τ.
        value: λ without the second part.
        violation: log-odds of J_c minus those of τ, as last measured.
        recent: share of each of the last prompts, at least `WINDOW` of them once there were so many.
    """

    def __init__(self, share: float, *, rate: float, damping: float, lowest: float, highest: float) -> None:
        self.share = share
        self.rate = rate
        self.damping = damping
        self.lowest = lowest
        self.highest = highest
        self.value = 0.0
        self.violation = 0.0
        self.recent: list[float] = []

    @property
    def price(self) -> float:
        """What a hand-off costs now, whether or not the cloud is right."""
        return self._within(self.value + self.damping * self.violation)

    def update(self, prompts: Sequence[float]) -> None:
        """Take in one step: the share of each prompt's rollouts that ask."""
        self.recent = [*self.recent, *prompts][-max(WINDOW, len(prompts)) :]
        measured = sum(self.recent) / len(self.recent)
        self.violation = min(_FARTHEST, max(-_FARTHEST, _log_odds(measured) - _log_odds(self.share)))
        reach = min(self.share, 1.0 - self.share)
        # Bounds hold λ itself too, or it would have to come all the way back after a long stretch beyond them.
        self.value = self._within(self.value + self.rate * min(reach, measured - self.share))

    def _within(self, value: float) -> float:
        return min(self.highest, max(self.lowest, value))


def _log_odds(share: float) -> float:
    share = min(1.0 - 1e-6, max(1e-6, share))
    return math.log(share / (1.0 - share))


class ShareTarget:
    """One wanted share with what enforces it; a run over several shares has one of these for each.

    Args:
        multiplier: None where hand-offs are paid at a fixed rate.
    """

    def __init__(self, share: float, multiplier: ShareMultiplier | None) -> None:
        self.share = share
        self.filter = PromptFilter(ratio_from_share(share))
        self.multiplier = multiplier

    @property
    def price(self) -> float:
        """What a hand-off costs beside its reward."""
        return 0.0 if self.multiplier is None else self.multiplier.price

    def state(self) -> dict[str, Any]:
        """Ready for JSON."""
        multiplier = self.multiplier
        return {
            "share": self.share,
            "filter_carry": self.filter.carry,
            "multiplier": None
            if multiplier is None
            else {"value": multiplier.value, "violation": multiplier.violation, "recent": multiplier.recent},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.filter.carry = float(state["filter_carry"])
        if self.multiplier is not None and state["multiplier"] is not None:
            for name, value in state["multiplier"].items():
                setattr(self.multiplier, name, value)

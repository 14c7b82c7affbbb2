"""Wanted call shares in training: the filter that caps each, and the multiplier that meets it."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from selfroute.grading import Outcome
from selfroute.train.rl.prompt_filter import PromptFilter, Selection, ratio_from_share

__all__ = ["ShareMultiplier", "ShareTarget", "ShareTargets"]

WINDOW = 32  # prompts that a share is measured on, at least: of few the measure is mostly noise
_FARTHEST = 2.0  # of the violation in log-odds: a step without one hand-off says no more than one with few
_STRIDE = 0.5  # most of it that λ takes in, per step


class ShareMultiplier:
    """The price λ of a hand-off, moved until rollouts ask as often as wanted (DA-GRPO, arXiv 2602.00166).

    DA-GRPO takes λ ← max(0, λ + η·(J_c - τ)) with the measured share J_c and the wanted one τ, which can only make
    asking dearer. Here λ may be negative: the share is met from both sides. A multiplier alone and a policy that
    follows it with a delay swing around the target, so the price has a second part, in proportion to the last step's
    violation (a PI controller; Stooke et al., arXiv 2007.03964).

    Both parts take the violation in log-odds, in which a policy moves about evenly, so that one η and one damping suit
    all shares: the second part as it is, λ to first order, (J_c - τ) / τ(1 - τ), whose mean over noise is not biased.
    λ takes at most 0.5 of it in a step, or it would still be under way when a far share is reached, and overshoot.

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
        stride = (measured - self.share) / (self.share * (1.0 - self.share))
        # Bounds hold λ itself too, or it would have to come all the way back after a long stretch beyond them.
        self.value = self._within(self.value + self.rate * min(_STRIDE, max(-_STRIDE, stride)))

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

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.filter.carry = float(state["filter_carry"])
        if self.multiplier is not None and state["multiplier"] is not None:
            self.multiplier.value = float(state["multiplier"]["value"])
            self.multiplier.violation = float(state["multiplier"]["violation"])
            self.multiplier.recent = list(state["multiplier"]["recent"])


class ShareTargets:
    """The wanted shares of a run, one or several.

    What is drawn comes from the seed and the step alone, so that it is the same on every process and after a resume.

    Args:
        targets: at least one, of different shares.
    """

    def __init__(self, targets: Sequence[ShareTarget], *, seed: int) -> None:
        self.of = {target.share: target for target in targets}
        self.seed = seed

    @property
    def shares(self) -> list[float]:
        return list(self.of)

    def deal(self, groups: int, step: int) -> list[float]:
        """The wanted share of each group of a step: all shares equally often, in random order."""
        shares = self.shares
        if len(shares) == 1:
            return shares * groups
        rng = random.Random(f"shares/{self.seed}/{step}")
        rng.shuffle(shares)
        dealt = [shares[i % len(shares)] for i in range(groups)]
        rng.shuffle(dealt)
        return dealt

    def draw(self, rows: Sequence[str], count: int, step: int) -> list[str]:
        """Rows of a step to measure the shares on: `count` different ones, or all where there are no more."""
        return random.Random(f"held_out/{self.seed}/{step}").sample(rows, min(count, len(rows)))

    def select(
        self, groups: Sequence[Sequence[Outcome]], shares: Sequence[float], step: int
    ) -> tuple[list[int], list[Selection]]:
        """Groups that take part in an update, each filtered by its own share; and what each filter saw."""
        rng = random.Random(f"filter/{self.seed}/{step}")
        chosen, selections = [], []
        for share, target in self.of.items():
            places = [i for i, wanted in enumerate(shares) if wanted == share]
            selection = target.filter.select([groups[i] for i in places], rng)
            chosen += [places[i] for i in selection.prompts]
            selections.append(selection)
        return chosen, selections

    def update(self, groups: Sequence[Sequence[Outcome]], shares: Sequence[float]) -> dict[str, float]:
        """Move each price by how often the groups of its share asked; returns metrics."""
        found: dict[str, float] = {}
        for share, target in self.of.items():
            mine = [group for group, wanted in zip(groups, shares, strict=True) if wanted == share]
            if target.multiplier is None or not mine:
                continue
            asked = [sum(outcome.wants_cloud for outcome in group) / len(group) for group in mine]
            target.multiplier.update(asked)
            name = "handoff" if len(self.of) == 1 else f"handoff/{share:g}"
            found |= {f"{name}/price": target.price, f"{name}/gap": sum(asked) / len(asked) - share}
        return found

    def state(self) -> list[dict[str, Any]]:
        """Ready for JSON."""
        return [target.state() for target in self.of.values()]

    def restore(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Go on where `state` was taken, of the same shares."""
        for state in states:
            self.of[state["share"]].restore(state)

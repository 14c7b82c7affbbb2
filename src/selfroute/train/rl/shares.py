"""Wanted call shares in training: the filter that caps each, and the multiplier that meets it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from selfroute.errors import ConfigError
from selfroute.grading import Outcome
from selfroute.train.rl.constraints.dual import Multiplier
from selfroute.train.rl.options import GAPGOptions
from selfroute.train.rl.prompt_filter import PromptFilter, Selection, ratio_from_share

__all__ = ["ShareTarget", "ShareTargets", "targets_of"]


class ShareTarget:
    """One wanted share with what enforces it; a run over several shares has one of these for each.

    Args:
        multiplier: None where hand-offs are paid at a fixed rate.
    """

    def __init__(self, share: float, multiplier: Multiplier | None) -> None:
        self.share = share
        self.filter = PromptFilter(ratio_from_share(share))
        self.multiplier = multiplier

    @property
    def price(self) -> float:
        """What a hand-off costs beside its reward."""
        return 0.0 if self.multiplier is None else self.multiplier.price

    def state(self) -> dict[str, Any]:
        """Ready for JSON."""
        multiplier = None if self.multiplier is None else self.multiplier.state()
        return {"share": self.share, "filter_carry": self.filter.carry, "multiplier": multiplier}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.filter.carry = float(state["filter_carry"])
        if self.multiplier is not None and state["multiplier"] is not None:
            self.multiplier.restore(state["multiplier"])


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

    def restore(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Go on where `state` was taken.

        Raises:
            ConfigError: it is that of other shares.
        """
        shares = [target["share"] for target in state]
        if shares != self.shares:
            raise ConfigError(f"was trained for shares {shares}, not {self.shares}")
        for target in state:
            self.of[target["share"]].restore(target)


def targets_of(options: GAPGOptions, *, seed: int) -> ShareTargets:
    """Those of a run."""
    return ShareTargets([_target(share, options) for share in options.shares], seed=seed)


def _target(share: float, options: GAPGOptions) -> ShareTarget:
    if not options.is_dual:
        return ShareTarget(share, None)
    # A hand-off is then worth between -α_a and 2·α_a. A share above what the device fails at takes more than α_a:
    # asking has to pay as much as an answer known to be right.
    local, cloud = options.reward.local, options.reward.cloud
    rate, damping = options.multiplier_rate, options.multiplier_damping
    return ShareTarget(
        share, Multiplier(share, rate=rate, damping=damping, lowest=cloud - 2 * local, highest=cloud + local)
    )

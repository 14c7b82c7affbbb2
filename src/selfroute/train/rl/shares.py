"""Wanted call shares in training: the filter that caps each, and the multiplier that meets it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from selfroute.errors import ConfigError
from selfroute.grading import Outcome
from selfroute.train.rl.constraints.dual import Multiplier
from selfroute.train.rl.options import GAPGOptions
from selfroute.train.rl.prompt_filter import PromptFilter, Selection, ratio_from_share
from selfroute.train.rl.rollouts.kinds import KINDS

__all__ = ["ShareTarget", "ShareTargets", "targets_of"]


class ShareTarget:
    """One wanted share with what enforces it; a run over several shares has one of these for each.

    Args:
        multiplier: None where hand-offs are paid at a fixed rate.
        ratio: ρ of the prompt filter; None takes that of the share.

    Attributes:
        usual: what attempts took of the cloud that took any, on average, as last measured: one that takes as much
            pays the whole price, whatever the wanted share. Where a hand-off takes all of it, 1.
    """

    def __init__(self, share: float, multiplier: Multiplier | None, *, ratio: float | None = None) -> None:
        self.share = share
        self.filter = PromptFilter(ratio_from_share(share) if ratio is None else ratio)
        self.multiplier = multiplier
        self.usual = 1.0

    @property
    def price(self) -> float:
        """What a hand-off costs beside its reward."""
        return 0.0 if self.multiplier is None else self.multiplier.price

    def cost(self, taken: float) -> float:
        """What an attempt pays for what it took of the cloud."""
        return self.price * taken / self.usual

    def update(self, groups: Sequence[Sequence[float]]) -> float:
        """Move the price by what the attempts of groups took; returns the mean."""
        assert self.multiplier is not None
        means = [sum(group) / len(group) for group in groups]
        self.multiplier.update(means)
        some = [taken for group in groups for taken in group if taken]
        self.usual = sum(some) / len(some) if some else self.usual
        return sum(means) / len(means)

    def state(self) -> dict[str, Any]:
        """Ready for JSON."""
        multiplier = None if self.multiplier is None else self.multiplier.state()
        return {
            "share": self.share,
            "filter_carry": self.filter.carry,
            "multiplier": multiplier,
            "usual": self.usual,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.filter.carry = float(state["filter_carry"])
        self.usual = float(state.get("usual", 1.0))
        if self.multiplier is not None and state["multiplier"] is not None:
            self.multiplier.restore(state["multiplier"])


class ShareTargets:
    """The wanted shares of a run, one or several.

    What is drawn comes from the seed and the step alone, so that it is the same on every process and after a resume.

    Args:
        targets: at least one, of different shares.
        takes: what an attempt takes of the cloud, in [0, 1]; by default one that asks takes all of it.
    """

    def __init__(
        self, targets: Sequence[ShareTarget], *, seed: int, takes: Callable[[Outcome], float] = KINDS["single"].takes
    ) -> None:
        self.of = {target.share: target for target in targets}
        self.seed = seed
        self.takes = takes

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
        """Move each price by how much the groups of its share took of the cloud; returns metrics."""
        found: dict[str, float] = {}
        for share, target in self.of.items():
            mine = [group for group, wanted in zip(groups, shares, strict=True) if wanted == share]
            if target.multiplier is None or not mine:
                continue
            taken = target.update([[self.takes(outcome) for outcome in group] for group in mine])
            name = "handoff" if len(self.of) == 1 else f"handoff/{share:g}"
            found |= {f"{name}/price": target.price, f"{name}/gap": taken - share}
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
    targets = [_target(share, options) for share in options.shares]
    return ShareTargets(targets, seed=seed, takes=options.kind.takes)


def _target(share: float, options: GAPGOptions) -> ShareTarget:
    ratio = options.kind.ratio(share)
    if not options.is_dual:
        return ShareTarget(share, None, ratio=ratio)
    lowest, highest = options.kind.bounds(options.reward)
    rate, damping = options.multiplier_rate, options.multiplier_damping
    price = Multiplier(share, rate=rate, damping=damping, lowest=lowest, highest=highest)
    return ShareTarget(share, price, ratio=ratio)

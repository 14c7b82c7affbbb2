"""Money pacing: the price λ of a dollar in quality, moved until requests cost what they may."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from selfroute.bandits.base import Arm
from selfroute.errors import ConfigError

__all__ = ["DualPrice", "FixedPrice", "affordable"]

_FARTHEST = 30.0  # of the exponent; at 10^13 λ₀ the cheapest arm is chosen anyway


class DualPrice:
    """λ = λ₀ exp(η D), with D = C/B - t: what t requests cost beyond the budget, counted in requests at the budget.

    The multiplicative update of bandits with knapsacks (Badanidiyuru, Kleinberg and Slivkins, arXiv 1305.2545), summed
    up. So the mean cost of t requests is B (1 + ln(λ/λ₀) / (η t)): the nearer λ₀ is to the price at which the budget is
    met, or the longer the run, the nearer is its cost to the budget, whatever the requests cost one by one.

    Hard limits stay what a budget is for (`selfroute.budget`); this only makes them rare.

    Args:
        budget_usd: B, what a request may cost in the mean, above 0.
        start: λ₀, quality per USD; None is 0.1/B: a request at the budget has to be worth a tenth in quality.
        rate: η, above 0: e^η is the factor for one request's budget too much.
        bank: most that may be saved up, in requests at the budget; beyond, what is not spent is lost.

    Raises:
        ConfigError: a value out of range.
    """

    def __init__(
        self, budget_usd: float, *, start: float | None = None, rate: float = 0.02, bank: float = 500.0
    ) -> None:
        if not (math.isfinite(budget_usd) and budget_usd > 0.0):
            raise ConfigError(f"budget_usd: {budget_usd} is not above 0; give USD per request, e.g. 0.0005")
        start = 0.1 / budget_usd if start is None else start
        for name, value in (("start", start), ("rate", rate), ("bank", bank)):
            if not (math.isfinite(value) and value > 0.0):
                raise ConfigError(f"{name}: {value} is not above 0; leave it out for its default")
        self._budget = budget_usd
        self._start = start
        self._rate = rate
        self._bank = bank
        self._debt = 0.0

    @property
    def price(self) -> float:
        """λ, quality per USD, for `Context.price_weight`."""
        return self._start * math.exp(min(_FARTHEST, self._rate * self._debt))

    @property
    def debt(self) -> float:
        """D, in requests at the budget; below 0 it is what was saved up."""
        return self._debt

    def spend(self, usd: float) -> None:
        """Take in what one request cost.

        Raises:
            ConfigError: it is negative or not a number.
        """
        if not (math.isfinite(usd) and usd >= 0.0):
            raise ConfigError(f"usd: {usd} is not a cost; give 0 or more")
        self._debt = max(-self._bank, self._debt + usd / self._budget - 1.0)

    def state(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"debt": self._debt}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken, of the same budget."""
        self._debt = state.get("debt", 0.0)


class FixedPrice:
    """λ that stays as it is."""

    def __init__(self, price: float) -> None:
        if not (math.isfinite(price) and price >= 0.0):
            raise ConfigError(f"price_weight: {price} is not 0 or more; give quality per USD, e.g. 50")
        self._price = price

    @property
    def price(self) -> float:
        """λ, quality per USD."""
        return self._price

    def spend(self, usd: float) -> None:
        """What was spent changes nothing."""

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """There is nothing to restore."""


def affordable(arms: Sequence[Arm], ceiling_usd: float) -> list[Arm]:
    """The candidates whose quote is at most a ceiling, the cheapest always among them.

    An exploration floor asks every candidate now and then, a dear one too; with three clouds that differ by a factor
    of 500, a floor of 1 % spends the budget of the cheapest on the dearest. Leave that one out.
    """
    cheapest = min(arm.price_usd for arm in arms)
    return [arm for arm in arms if arm.price_usd <= max(ceiling_usd, cheapest)]

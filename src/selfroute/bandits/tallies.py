"""Counts and sums per arm, with one of two ways to forget."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from selfroute.errors import ConfigError

__all__ = ["Tallies"]

_LARGEST = 1e100  # of a new observation's stored weight; beyond, everything is scaled down


class Tallies:
    """Weighted number n and sum of the values of each arm.

    Args:
        discount: γ in (0, 1]: every observation of any arm counts γ of what it did after the next one
            (Garivier and Moulines, arXiv 0805.3415, section 2). 1 forgets nothing.
        window: the last so many observations count, of all arms together; None for all of them.

    Raises:
        ConfigError: a value out of range, or both ways at once.
    """

    def __init__(self, arms: Sequence[str], *, discount: float = 1.0, window: int | None = None) -> None:
        if not 0.0 < discount <= 1.0:
            raise ConfigError(f"discount: {discount} is outside (0, 1]; 0.995 halves a weight in 138 outcomes")
        if window is not None and window < 1:
            raise ConfigError(f"window: {window} is below 1; give a number of outcomes, e.g. 600")
        if window is not None and discount < 1.0:
            raise ConfigError(f"window: {window} and discount: {discount} are two ways to forget; give one of them")
        self._discount = discount
        self._window = window
        # An observation's weight is stored multiplied by γ^-t, so that one step touches one arm.
        self._scale = 1.0
        self._counts = dict.fromkeys(arms, 0.0)
        self._sums = dict.fromkeys(arms, 0.0)
        self._recent: deque[tuple[str, float, float]] = deque()
        self._inside = dict.fromkeys(arms, 0)  # how many of the recent are of this arm
        self._stored = 0.0

    def add(self, arm: str, value: float, weight: float = 1.0) -> None:
        """Take in one observation; all earlier ones count for less, or the oldest for nothing."""
        self._scale /= self._discount
        self._put(arm, value, weight * self._scale)
        if self._scale > _LARGEST:
            self._rescale()
        if self._window is not None:
            self._recent.append((arm, value, weight))
            self._inside[arm] += 1
            if len(self._recent) > self._window:
                self._drop_oldest()

    def count(self, arm: str) -> float:
        """n of an arm: how many observations of it count."""
        return self._counts[arm] / self._scale

    def total(self) -> float:
        """n over all arms."""
        return self._stored / self._scale

    def sum(self, arm: str) -> float:
        """Weighted sum of an arm's values."""
        return self._sums[arm] / self._scale

    def mean(self, arm: str) -> float | None:
        """Weighted mean of an arm's values; None if nothing of it counts."""
        count = self._counts[arm]
        return self._sums[arm] / count if count else None

    def _put(self, arm: str, value: float, stored: float) -> None:
        self._counts[arm] += stored
        self._sums[arm] += stored * value
        self._stored += stored

    def _drop_oldest(self) -> None:
        arm, value, weight = self._recent.popleft()
        self._put(arm, value, -weight)
        self._inside[arm] -= 1
        if not self._inside[arm]:  # drop what rounding left over
            self._stored -= self._counts[arm]
            self._counts[arm] = self._sums[arm] = 0.0

    def _rescale(self) -> None:
        for table in (self._counts, self._sums):
            table.update({arm: value / self._scale for arm, value in table.items()})
        self._stored /= self._scale
        self._scale = 1.0

    def state(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "scale": self._scale,
            "counts": dict(self._counts),
            "sums": dict(self._sums),
            "stored": self._stored,
            "recent": [list(one) for one in self._recent],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken; arms that are no more are forgotten, new ones are unknown."""
        gone = [arm for arm in state["counts"] if arm not in self._counts]
        self._scale = state["scale"]
        self._stored = state["stored"] - sum(state["counts"][arm] for arm in gone)
        self._counts = {arm: state["counts"].get(arm, 0.0) for arm in self._counts}
        self._sums = {arm: state["sums"].get(arm, 0.0) for arm in self._counts}
        self._recent = deque((arm, value, weight) for arm, value, weight in state["recent"] if arm not in gone)
        self._inside = dict.fromkeys(self._counts, 0)
        for arm, _, _ in self._recent:
            self._inside[arm] += 1

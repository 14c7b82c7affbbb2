"""A reward less a price for what a rollout violates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from selfroute.grading import Outcome
from selfroute.rewards.base import Reward

__all__ = ["Fixed", "Penalised", "Price"]


class Price(Protocol):
    """What a violation costs, e.g. a fixed price, or a `Multiplier` that meets a share."""

    @property
    def price(self) -> float: ...

    def update(self, measured: Sequence[float]) -> None: ...

    def state(self) -> Any: ...

    def restore(self, state: Any) -> None: ...


class Fixed:
    """A price that does not move."""

    def __init__(self, price: float) -> None:
        self.price = price

    def update(self, measured: Sequence[float]) -> None:
        """Nothing moves."""

    def state(self) -> None:
        """Nothing to keep."""

    def restore(self, state: None) -> None:
        """Nothing was kept."""


class Penalised:
    """Another reward less, for each attribute, its price times how much the rollout violates it.

    A rollout whose channel is empty violates nothing. Each attribute has a price of its own beside that of a hand-off.

    Args:
        reward: that it is taken off.
        prices: by the attribute's name.
    """

    def __init__(self, reward: Reward, prices: Mapping[str, Price]) -> None:
        self.reward = reward
        self.prices = dict(prices)

    def __call__(self, outcome: Outcome) -> float | None:
        paid = self.reward(outcome)
        if paid is None:
            return None
        return paid - sum(price.price * outcome.violations.get(name, 0.0) for name, price in self.prices.items())

    def move(self, groups: Sequence[Sequence[Outcome]]) -> Mapping[str, float]:
        """Move each price by the step's violations; see `selfroute.rewards.base.Moving`."""
        moved = {}
        for name, price in self.prices.items():
            moved[f"violation/{name}/price"] = price.price
            rates = [o.violations[name] for group in groups for o in group if name in o.violations]
            if rates:
                price.update(rates)
        return moved

    def state(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {name: price.state() for name, price in self.prices.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        for name, price in self.prices.items():
            price.restore(state[name])

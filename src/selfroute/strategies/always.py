"""The two ends of the scale: never the cloud, always the cloud."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

from selfroute.backends.base import Backend
from selfroute.budget.base import Budget, Unlimited
from selfroute.prices import Prices
from selfroute.prompts import PromptTemplate
from selfroute.strategies.sides import answer_on_device, ask_cloud, closing
from selfroute.types import Event, Message, Sampling

__all__ = ["AlwaysCloud", "AlwaysDevice"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlwaysDevice:
    """Every request stays on the device, which is not offered a hand-off.

    Args:
        device: the model that answers.
        cloud: never called; taken so that all strategies are made alike.
        template: the device's prompt.
        budget: never asked nor told, so that nothing but the device is touched.
        prices: USD per million tokens.
        name: in traces and reports.
    """

    device: Backend
    cloud: Backend | None = None
    template: PromptTemplate
    budget: Budget = field(default_factory=Unlimited)
    prices: Prices = field(default_factory=Prices)
    name: str = "always_device"

    def with_budget(self, budget: Budget) -> AlwaysDevice:
        """The same strategy under another budget."""
        return replace(self, budget=budget)

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Event]:
        """See `selfroute.strategies.base.Strategy`."""
        async with closing(answer_on_device(self, messages, sampling, reason="always")) as events:
            async for event in events:
                yield event


@dataclass(frozen=True, slots=True, kw_only=True)
class AlwaysCloud:
    """Every request goes to the cloud; the device steps in when the budget refuses or the cloud fails.

    Args:
        device: the model that steps in.
        cloud: the model that answers; sees the conversation alone.
        template: the device's prompt.
        budget: asked before each cloud call.
        prices: USD per million tokens.
        name: in traces and reports.
    """

    device: Backend
    cloud: Backend
    template: PromptTemplate
    budget: Budget = field(default_factory=Unlimited)
    prices: Prices = field(default_factory=Prices)
    name: str = "always_cloud"

    def with_budget(self, budget: Budget) -> AlwaysCloud:
        """The same strategy under another budget."""
        return replace(self, budget=budget)

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Event]:
        """See `selfroute.strategies.base.Strategy`."""
        async with closing(ask_cloud(self, messages, sampling, reason="always")) as events:
            async for event in events:
                yield event

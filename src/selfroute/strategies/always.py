"""The two ends of the scale: never the cloud, always the cloud."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from selfroute.strategies.base import Needs, Sides
from selfroute.strategies.sides import Decision, answer_on_device, ask_cloud
from selfroute.types import Event, Message, Sampling

__all__ = ["AlwaysCloud", "AlwaysDevice"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlwaysDevice:
    """Every request stays on the device, which is not offered a hand-off.

    The budget is neither asked nor told, so that nothing but the device is touched.
    """

    name: str = "always_device"

    @property
    def needs(self) -> Needs:
        return Needs(cloud=None)

    def stream(self, sides: Sides, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Event]:
        """See `selfroute.strategies.base.Strategy`."""
        return answer_on_device(sides, messages, sampling, Decision(strategy=self.name, reason="always"))


@dataclass(frozen=True, slots=True, kw_only=True)
class AlwaysCloud:
    """Every request goes to the cloud; the device steps in when the budget refuses or the cloud fails."""

    name: str = "always_cloud"

    @property
    def needs(self) -> Needs:
        return Needs()

    def stream(self, sides: Sides, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Event]:
        """See `selfroute.strategies.base.Strategy`."""
        return ask_cloud(sides, messages, sampling, Decision(strategy=self.name, reason="always"))

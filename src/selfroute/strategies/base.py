"""The strategy contract: a prompt and two sides go in, a stream of events comes out, a trace ends it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from selfroute.backends.base import Backend, find_capability
from selfroute.budget.base import Budget, Unlimited
from selfroute.errors import ConfigError
from selfroute.network.link import Network
from selfroute.prices import Prices
from selfroute.prompts import TEMPLATES, PromptTemplate
from selfroute.types import Event, Finished, Message, Sampling, Trace

__all__ = [
    "Checked",
    "Discreet",
    "Knobbed",
    "Needs",
    "Oracle",
    "Sides",
    "Strategy",
    "Tellable",
    "answer",
    "check_cloud",
    "check_sides",
    "is_discreet",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """The two models of a request and what stands between them; given to a strategy with every call.

    Attributes:
        device: the model at hand.
        cloud: the model that is paid for; None where there is none.
        template: the device's prompt.
        budget: asked before the cloud is.
        prices: USD per million tokens.
        network: the link to the cloud, for strategies that reckon with it; None where it is not stated.
        strip_cloud_tags: show the cloud's text as the device's: without `<think>`, `<answer>` and hand-offs.
    """

    device: Backend
    cloud: Backend | None = None
    template: PromptTemplate = TEMPLATES["think"]
    budget: Budget = field(default_factory=Unlimited)
    prices: Prices = field(default_factory=Prices)
    network: Network | None = None
    strip_cloud_tags: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a strategy asks of the sides beyond text; see `check_sides`.

    Attributes:
        device: capabilities, as `selfroute.backends.base.capability` takes them.
        cloud: the same of the cloud; None for a strategy that never asks one.
    """

    device: tuple[type, ...] = ()
    cloud: tuple[type, ...] | None = ()


class Strategy(Protocol):
    """A way to split work between a device and a cloud. It decides, and holds no model.

    `messages` is the conversation as the user sees it: any system prompt that tells the device how to hand off is the
    strategy's business, and never reaches the cloud.
    """

    @property
    def name(self) -> str:
        """Shown in traces and reports."""
        ...

    @property
    def needs(self) -> Needs:
        """What the sides must be able to do."""
        ...

    def stream(self, sides: Sides, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Event]:
        """Answer; the last event is `Finished` with the trace.

        A cloud failure or a budget that refuses ends in a forced local attempt, and the trace says so.

        Raises:
            BackendError: no side could answer.
        """
        ...


@runtime_checkable
class Tellable(Protocol):
    """Optional: a strategy that tells its device the wanted call share can be told another one."""

    def told(self, share: float) -> Strategy: ...


@runtime_checkable
class Knobbed(Protocol):
    """Optional: a strategy with a knob is evaluated at each of its points, as one strategy.

    Attributes:
        knob: the option that a point sets.
        points: where its knob is to stand, finite and different.
    """

    @property
    def knob(self) -> str: ...

    @property
    def points(self) -> Sequence[float]: ...

    def at(self, point: float) -> Strategy:
        """The strategy with its knob at a point, under the same name."""
        ...


@runtime_checkable
class Discreet(Protocol):
    """Optional: a strategy whose device writes what the cloud sees; nobody sends the conversation in its place.

    Attributes:
        discreet: whether it does.
    """

    @property
    def discreet(self) -> bool: ...


@runtime_checkable
class Oracle(Protocol):
    """Optional: a strategy may say that it decides by what nobody can know in time, such as the cloud's answer.

    Attributes:
        oracle: whether it does; reports mark it, and count it as a bound and not as a way to work.
    """

    @property
    def oracle(self) -> bool: ...


@runtime_checkable
class Checked(Protocol):
    """Optional: a strategy that asks more of its sides than `needs` can say."""

    def check(self, sides: Sides) -> None:
        """See that loaded sides will do.

        Raises:
            ConfigError: they will not; names the side and the way out.
        """
        ...


def check_sides(strategy: Strategy, sides: Sides) -> None:
    """See, before any request, that the sides have what a strategy needs; the models must be loaded.

    Raises:
        ConfigError: as `check_cloud`, or a side lacks a capability, through all that is wrapped around it.
    """
    check_cloud(strategy, sides.cloud)
    for role, side, kinds in (
        ("device", sides.device, strategy.needs.device),
        ("cloud", sides.cloud, strategy.needs.cloud or ()),
    ):
        for kind in kinds:
            if side is not None and find_capability(side, kind) is None:
                raise ConfigError(
                    f"strategy: '{strategy.name}' needs a {role} with {kind.__name__}, and {side.name} has none; "
                    "name another model or strategy"
                )
    if isinstance(strategy, Checked):
        strategy.check(sides)


def check_cloud(strategy: Strategy, cloud: Backend | None) -> None:
    """See that there is a cloud if a strategy needs one; it may still have to be loaded.

    Raises:
        ConfigError: there is none.
    """
    if strategy.needs.cloud is not None and cloud is None:
        raise ConfigError(f"strategy: '{strategy.name}' needs a cloud; name one, or write strategy: always_device")


def is_discreet(strategy: Strategy) -> bool:
    """Whether a strategy lets its device write what the cloud sees."""
    return isinstance(strategy, Discreet) and strategy.discreet


async def answer(strategy: Strategy, sides: Sides, messages: Sequence[Message], sampling: Sampling) -> Trace:
    """Drain a strategy's stream and return its trace."""
    trace: Trace | None = None
    async for event in strategy.stream(sides, messages, sampling):
        if isinstance(event, Finished):
            trace = event.trace
    if trace is None:
        raise RuntimeError(f"strategy '{strategy.name}' ended without a Finished event")
    return trace

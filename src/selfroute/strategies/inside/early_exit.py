"""One model in two places: the device runs its first layers and leaves where an exit is sure; where none is, the cloud
goes on from the hidden states.

After CE-CoLLM (arXiv 2411.02829), of which no working code is public; see docs/early-exit.md.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from selfroute.backends.base import capability
from selfroute.backends.layers import (
    Exiting,
    ExitRule,
    ExitSession,
    KeyValues,
    Layered,
    Sending,
    check_whole,
)
from selfroute.errors import ConfigError
from selfroute.scores.tokens import RandomScore
from selfroute.strategies.base import Needs, Sides
from selfroute.strategies.inside.cut import Halves, check_deadline, written_by_halves
from selfroute.strategies.inside.joint import check_limit
from selfroute.types import Event, Message, Sampling

__all__ = ["EarlyExit", "ExitMode"]

ExitMode = Literal["collaborative", "standalone"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyExit:
    """A token stands at the first exit whose largest probability reaches its threshold; else the cloud writes it.

    With every threshold above 1 the answer is the whole model's, token for token. A token that the cloud does not give
    in time is the last exit's; after three such in a row, or a refusal, the rest is.

    Args:
        thresholds: least score that stands at each exit of the device; one number is for all. Above 1, an exit is not
            looked at.
        mode: `standalone` never asks: the last exit's token stands in any case.
        sending: how hidden states are sent.
        keys: see `selfroute.backends.layers.ExitRule`.
        cloud_from: number of the exit, from 0, behind which the cloud goes on. The first is the earliest upload; behind
            a later one no layer is run twice.
        control: score tokens at random, by this seed; None scores them by probability.
        max_cloud_tokens: most that the cloud writes of an answer; None for all.
        points: thresholds of an evaluation.

    Raises:
        ConfigError: a number is out of range.
    """

    thresholds: tuple[float, ...] = (0.9,)
    mode: ExitMode = "collaborative"
    sending: Sending = field(default_factory=Sending)
    keys: KeyValues = "recompute"
    cloud_from: int = 0
    control: int | None = None
    max_cloud_tokens: int | None = None
    points: Sequence[float] = field(default=(0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.01))
    name: str = "early_exit"

    def __post_init__(self) -> None:
        if not self.thresholds:
            raise ConfigError("thresholds: none is given; give the least probability that stands, e.g. 0.9")
        for threshold in self.thresholds:
            if not math.isfinite(threshold) or threshold < 0:
                raise ConfigError(f"thresholds: {threshold} is no threshold; give the least probability that stands")
        check_deadline(self.sending)
        check_limit(self.max_cloud_tokens)

    @property
    def knob(self) -> str:
        """See `selfroute.strategies.base.Knobbed`."""
        return "thresholds"

    def at(self, point: float) -> EarlyExit:
        """See `selfroute.strategies.base.Knobbed`."""
        return replace(self, thresholds=(point,))

    @property
    def needs(self) -> Needs:
        return Needs(device=(Exiting,), cloud=(Layered,) if self.mode == "collaborative" else None)

    def check(self, sides: Sides) -> None:
        """See `selfroute.strategies.base.Checked`.

        Raises:
            ConfigError: the thresholds do not fit the device's exits, or the cloud does not hold the other layers of
                the device's model.
        """
        device = capability(sides.device, Exiting)
        self._each(device.exits)
        if self.mode == "collaborative":
            assert sides.cloud is not None
            check_whole(device.whole, capability(sides.cloud, Layered).tail(self._first(device.exits)))

    def stream(self, sides: Sides, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Event]:
        """See `selfroute.strategies.base.Strategy`."""
        side = capability(sides.device, Exiting)

        def device(alone: bool, send: Callable[[int, Any], object] | None) -> ExitSession:
            return side.exiting(messages, sampling, self._rule(side.exits, alone), send)

        halves = Halves(
            device=device,
            whole=side.whole,
            first=self._first(side.exits),
            sending=self.sending,
            alone=self.mode == "standalone",
        )
        return written_by_halves(
            halves, sides, messages, sampling, strategy=self.name, max_cloud_tokens=self.max_cloud_tokens
        )

    def _rule(self, exits: Sequence[int], alone: bool) -> ExitRule:
        return ExitRule(
            thresholds=self._each(exits),
            score=None if self.control is None else RandomScore(self.control),
            last_stands=alone,
            keys=self.keys,
            sends=self.cloud_from,
        )

    def _each(self, exits: Sequence[int]) -> tuple[float, ...]:
        """A threshold for each exit.

        Raises:
            ConfigError: there are others than exits.
        """
        if len(self.thresholds) not in (1, len(exits)):
            raise ConfigError(
                f"thresholds: {len(self.thresholds)} values, and the device has exits behind {list(exits)} layers; "
                "give one for each, or one for all"
            )
        return self.thresholds * len(exits) if len(self.thresholds) == 1 else self.thresholds

    def _first(self, exits: Sequence[int]) -> int:
        """The cloud's first layer.

        Raises:
            ConfigError: there is no such exit.
        """
        if not 0 <= self.cloud_from < len(exits):
            raise ConfigError(f"cloud_from: {self.cloud_from} is no exit of the device; give 0 to {len(exits) - 1}")
        return exits[self.cloud_from]

"""One model in two places, cut where a policy says under the link of the day: the device runs the first layers of every
token, and the cloud the others.

After adaptive layer splitting (arXiv 2406.02616); see docs/split.md for what is different.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from selfroute.backends.base import capability
from selfroute.backends.layers import ExitSession, Layered, Sending, Splitting, check_whole
from selfroute.errors import ConfigError
from selfroute.network.channel import Air, Channel, Weather
from selfroute.strategies.base import Needs, Sides
from selfroute.strategies.inside.choosers import Chooser, Fixed, PolicyFolder
from selfroute.strategies.inside.cut import Halves, check_deadline, written_by_halves
from selfroute.strategies.inside.joint import check_limit
from selfroute.types import Event, Message, Sampling

__all__ = ["Split"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Every token is the cloud's, from hidden states behind a layer that is chosen once for an answer.

    A token that does not come, or a cloud that refuses, leaves the device to write with all layers that it has.

    Args:
        choose: number of layers on the device, from what it makes of the link.
        folder: what `choose` was made for; None for one that was not trained.
        channel: the lossy link that states go over; None for one that delivers.
        weather: its loss over the messages of an answer, drawn anew for each.
        pilots: known symbols by which the device estimates the loss before it chooses.
        seed: of the channel, for each question.
        sending: how hidden states are sent.
        max_cloud_tokens: most that the cloud writes of an answer; None for all.
        points: of an evaluation: weights of quality against the device's load for a policy, places for a fixed one.

    Raises:
        ConfigError: a number is out of range.
    """

    choose: Chooser
    folder: PolicyFolder | None = None
    channel: Channel | None = None
    weather: Weather = field(default_factory=Weather)
    pilots: int = 64
    seed: int = 0
    sending: Sending = field(default_factory=lambda: Sending(upload="late"))
    max_cloud_tokens: int | None = None
    points: Sequence[float] = field(default=(1.0,))
    name: str = "split"

    def __post_init__(self) -> None:
        if self.pilots < 1:
            raise ConfigError(f"pilots: {self.pilots} symbols say nothing of a link; write at least 1")
        if self.channel is not None and self.channel.arq and max(self.weather.good, self.weather.bad) == 1:
            raise ConfigError("weather: with channel.arq a loss of 1 delivers nothing; write below 1")
        check_deadline(self.sending)
        check_limit(self.max_cloud_tokens)

    @property
    def knob(self) -> str:
        """See `selfroute.strategies.base.Knobbed`."""
        return "place" if self.folder is None else "weight"

    def at(self, point: float) -> Split:
        """See `selfroute.strategies.base.Knobbed`."""
        return replace(self, choose=Fixed(int(point)) if self.folder is None else self.folder.chooser(point))

    @property
    def needs(self) -> Needs:
        return Needs(device=(Splitting,), cloud=(Layered,))

    def check(self, sides: Sides) -> None:
        """See `selfroute.strategies.base.Checked`.

        Raises:
            ConfigError: the policy is for another model or for layers that the device lacks, or the cloud does not
                hold the others.
        """
        assert sides.cloud is not None
        whole, places = capability(sides.device, Splitting).cuts()
        if self.folder is not None:
            self.folder.check(whole, places)
        wanted = (self.choose.place,) if isinstance(self.choose, Fixed) else places[:1]
        if self.folder is not None:
            wanted = self.folder.places
        for place in wanted:
            if place not in places:
                near = min(places, key=lambda each: abs(each - place))
                raise ConfigError(
                    f"place: {place} is no place to cut {sides.device.name}, which holds {places[-1]} layers of "
                    f"{whole.layers}; write {near}"
                )
        check_whole(whole, capability(sides.cloud, Layered).tail(min(wanted)))

    def stream(self, sides: Sides, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Event]:
        """See `selfroute.strategies.base.Strategy`."""
        side = capability(sides.device, Splitting)
        whole, _ = side.cuts()
        air = self._air(messages, whole.width)
        place = self.choose(0.0 if air is None else air.pilots(self.pilots))

        def device(alone: bool, send: Callable[[int, Any], object] | None) -> ExitSession:
            return side.splitting(messages, sampling, place, send)

        halves = Halves(device=device, whole=whole, first=place, sending=self.sending, air=air)
        return written_by_halves(
            halves, sides, messages, sampling, strategy=self.name, max_cloud_tokens=self.max_cloud_tokens
        )

    def _air(self, messages: Sequence[Message], width: int) -> Air | None:
        """The link of an answer: the same for the same question."""
        if self.channel is None:
            return None
        import numpy as np

        said = repr((self.seed, [(message.role, message.content) for message in messages]))
        seed = int.from_bytes(hashlib.blake2b(said.encode(), digest_size=8).digest())
        return Air(self.channel, self.weather, width, np.random.default_rng(seed))

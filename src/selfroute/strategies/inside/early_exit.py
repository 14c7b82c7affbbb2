"""One model in two places: the device runs its first layers and leaves where an exit is sure; where none is, the cloud
goes on from the hidden states.

After CE-CoLLM (arXiv 2411.02829), of which no working code is public; see docs/early-exit.md.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from selfroute.backends.base import capability
from selfroute.backends.layers import (
    Exiting,
    ExitRule,
    ExitSession,
    KeyValues,
    Layered,
    Sending,
    TailSession,
    check_whole,
)
from selfroute.backends.sessions import Session, Written
from selfroute.errors import BackendTimeout, BackendUnavailable, ConfigError
from selfroute.scores.tokens import RandomScore
from selfroute.strategies.base import Needs, Sides
from selfroute.strategies.inside.joint import Ends, Joint, check_limit, joint
from selfroute.types import Event, Finished, Message, Sampling, TextDelta

__all__ = ["EarlyExit", "ExitMode"]

ExitMode = Literal["collaborative", "standalone"]

_CHUNK = 256  # most tokens that the device writes before they are shown
_MOST_MISSES = 3  # questions in a row without a token, after which the rest of the answer is the device's


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
        deadline_s = self.sending.deadline_s
        if deadline_s is not None and not (math.isfinite(deadline_s) and deadline_s > 0):
            raise ConfigError(f"deadline_s: {deadline_s} is not above 0; null waits for ever")
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

    async def stream(self, sides: Sides, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Event]:
        """See `selfroute.strategies.base.Strategy`."""
        opened = _Opened(self, sides, messages, sampling)
        async with joint(
            sides,
            messages,
            sampling,
            strategy=self.name,
            max_cloud_tokens=self.max_cloud_tokens,
            ends=Ends(opened.device, opened.cloud),
        ) as answer:
            if opened.uploads and self.sending.upload == "eager" and answer.cloud_left > 0:
                await answer.open_cloud()
            misses = 0
            while not answer.over:
                said, misses = await self._turn(answer, opened.session, misses)
                opened.uploads &= not answer.failed
                for each in said:
                    yield each
            yield Finished(await answer.finish())

    async def _turn(self, answer: Joint, device: ExitSession, misses: int) -> tuple[list[TextDelta], int]:
        """The device writes until it is shown or unsure; then the cloud writes a token, or else the last exit.

        Args:
            misses: questions in a row without a token before it; returned as they are after it.
        """
        written = await answer.device_writes(min(_CHUNK, answer.left))
        said = answer.settle("device", written) if written else []
        if device.unsure is None or answer.over:
            return said, misses
        token = None
        if not answer.failed and answer.cloud_left > 0:
            token = await self._asked(answer, 1 - device.unsure)
            misses = 0 if token is not None else misses + 1
            answer.failed |= misses >= _MOST_MISSES
        if token is not None:
            return said + answer.settle("cloud", [token]), misses
        return said + answer.settle("device", [await device.standalone()]), misses

    async def _asked(self, answer: Joint, doubt: float) -> Written | None:
        """The cloud's token; None if there is none in time, or none at all."""

        async def ask(cloud: Session) -> list[Written]:
            try:
                written = await cloud.write(1)
            except (BackendTimeout, BackendUnavailable) as error:
                answer.note(error)
                return []
            await answer.device.read([written[0].token_id])
            return written

        written = await answer.asking(ask, score=doubt)
        return replace(written[0], score=1 - doubt) if written else None

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


class _Opened:
    """What opens both ends of an answer.

    The device is asked as the whole model is, in the words that a cloud gets: it begins the same answer.

    Attributes:
        session: the device's.
        uploads: whether the cloud is still to be told of states.
    """

    session: ExitSession

    def __init__(self, strategy: EarlyExit, sides: Sides, messages: Sequence[Message], sampling: Sampling) -> None:
        self._strategy, self._sides, self._messages, self._sampling = strategy, sides, messages, sampling
        self._tail: TailSession | None = None
        self._early: list[tuple[int, object]] = []  # states from before the cloud's session is open
        self.uploads = strategy.mode == "collaborative" and sides.cloud is not None

    def device(self, messages: Sequence[Message]) -> ExitSession:
        side = capability(self._sides.device, Exiting)
        strategy = self._strategy
        rule = ExitRule(
            thresholds=strategy._each(side.exits),
            score=None if strategy.control is None else RandomScore(strategy.control),
            last_stands=not self.uploads,
            keys=strategy.keys,
            sends=strategy.cloud_from,
        )
        self.session = side.exiting(self._messages, self._sampling, rule, self._send if self.uploads else None)
        return self.session

    def cloud(self, messages: Sequence[Message]) -> Session:
        """The conversation reaches it as states."""
        assert self._sides.cloud is not None
        side, strategy = capability(self._sides.device, Exiting), self._strategy
        self._tail = TailSession(
            capability(self._sides.cloud, Layered).tail(strategy._first(side.exits)),
            side.whole,
            self._sampling,
            sending=strategy.sending,
            luck=self.session.luck,
            prompt_tokens=self.session.prompt_tokens,
        )
        for first, states in self._early:
            self._tail.put(first, states)
        self._early.clear()
        return self._tail

    def _send(self, first: int, states: object) -> None:
        if self._tail is not None and self.uploads:
            self._tail.put(first, states)
        elif self.uploads:
            self._early.append((first, states))

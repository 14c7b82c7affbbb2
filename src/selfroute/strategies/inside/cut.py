"""An answer of one model in two places: the device's layers write what they may, and the cloud goes on from hidden
states where they do not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from selfroute.backends.base import capability
from selfroute.backends.layers import ExitSession, Layered, Sending, TailSession, Whole
from selfroute.backends.sessions import Session, Written
from selfroute.errors import BackendTimeout, BackendUnavailable, ConfigError
from selfroute.network.channel import Air
from selfroute.strategies.base import Sides
from selfroute.strategies.inside.joint import Ends, Joint, joint
from selfroute.types import Event, Finished, Message, Sampling, TextDelta

__all__ = ["Halves", "check_deadline", "written_by_halves"]

_CHUNK = 256  # most tokens that the device writes before they are shown
_MOST_MISSES = 3  # questions in a row without a token, after which the rest of the answer is the device's


@dataclass(frozen=True, slots=True, kw_only=True)
class Halves:
    """How the two halves of a model are opened for an answer.

    Attributes:
        device: opens the device's, told whether it has to write every token itself and what takes its states.
        whole: the model that both are of.
        first: the cloud's first layer, from 0.
        sending: how hidden states are sent.
        air: the lossy link that they go over; None for one that delivers.
        alone: whether the cloud is never asked.
    """

    device: Callable[[bool, Callable[[int, Any], object] | None], ExitSession]
    whole: Whole
    first: int
    sending: Sending
    air: Air | None = None
    alone: bool = False


async def written_by_halves(
    halves: Halves,
    sides: Sides,
    messages: Sequence[Message],
    sampling: Sampling,
    *,
    strategy: str,
    max_cloud_tokens: int | None,
) -> AsyncIterator[Event]:
    """The events of an answer. A token that the cloud does not give in time is the device's; after three such in a row,
    or a refusal, the rest is."""
    opened = _Opened(halves, sides, sampling)
    ends = Ends(opened.device, opened.cloud)
    async with joint(
        sides, messages, sampling, strategy=strategy, max_cloud_tokens=max_cloud_tokens, ends=ends
    ) as answer:
        if opened.uploads and halves.sending.upload != "late" and answer.cloud_left > 0:
            await answer.open_cloud()
        chunk = 1 if halves.sending.upload == "blocking" else _CHUNK
        misses = 0
        while not answer.over:
            said, misses = await _turn(answer, opened, misses, chunk)
            opened.uploads &= not answer.failed
            for each in said:
                yield each
        yield Finished(await answer.finish())


def check_deadline(sending: Sending) -> None:
    """See that a deadline is one.

    Raises:
        ConfigError: it is not above 0.
    """
    deadline_s = sending.deadline_s
    if deadline_s is not None and not 0 < deadline_s < float("inf"):
        raise ConfigError(f"deadline_s: {deadline_s} is not above 0; null waits for ever")


async def _turn(answer: Joint, opened: _Opened, misses: int, chunk: int) -> tuple[list[TextDelta], int]:
    """The device writes until it is shown or unsure; then the cloud writes a token, or else the device itself.

    Args:
        misses: questions in a row without a token before it; returned as they are after it.
        chunk: most tokens that the device writes; after one, it waits until its states have arrived.
    """
    device = opened.session
    written = await answer.device_writes(min(chunk, answer.left))
    if chunk == 1 and opened.tail is not None and opened.uploads and not answer.failed:
        await answer.asking(opened.arrived)
    said = answer.settle("device", written) if written else []
    if device.unsure is None or answer.over:
        return said, misses
    token = None
    if not answer.failed and answer.cloud_left > 0:
        token = await _asked(answer, 1 - device.unsure)
        misses = 0 if token is not None else misses + 1
        answer.failed |= misses >= _MOST_MISSES
    if token is not None:
        return said + answer.settle("cloud", [token]), misses
    return said + answer.settle("device", [await device.standalone()]), misses


async def _asked(answer: Joint, doubt: float) -> Written | None:
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


class _Opened:
    """What opens both ends of an answer.

    The device is asked as the whole model is, in the words that a cloud gets: it begins the same answer.

    Attributes:
        session: the device's.
        tail: the cloud's, once it is open.
        uploads: whether the cloud is still to be told of states.
    """

    session: ExitSession

    def __init__(self, halves: Halves, sides: Sides, sampling: Sampling) -> None:
        self._halves, self._sides, self._sampling = halves, sides, sampling
        self.tail: TailSession | None = None
        self._early: list[tuple[int, object]] = []  # states from before the cloud's session is open
        self.uploads = not halves.alone and sides.cloud is not None

    def device(self, messages: Sequence[Message]) -> ExitSession:
        self.session = self._halves.device(not self.uploads, self._send if self.uploads else None)
        return self.session

    def cloud(self, messages: Sequence[Message]) -> Session:
        """The conversation reaches it as states."""
        assert self._sides.cloud is not None
        self.tail = TailSession(
            capability(self._sides.cloud, Layered).tail(self._halves.first),
            self._halves.whole,
            self._sampling,
            sending=self._halves.sending,
            luck=self.session.luck,
            prompt_tokens=self.session.prompt_tokens,
            air=self._halves.air,
        )
        for first, states in self._early:
            self.tail.put(first, states)
        self._early.clear()
        return self.tail

    async def arrived(self, cloud: Session) -> bool:
        """Wait for what is on its way to the cloud."""
        assert self.tail is not None
        await self.tail.arrived()
        return True

    def _send(self, first: int, states: object) -> None:
        if self.tail is not None and self.uploads:
            self.tail.put(first, states)
        elif self.uploads:
            self._early.append((first, states))

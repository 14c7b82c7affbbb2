"""The device writes, and asks the cloud for a few tokens itself: self-routing inside the answer.

After RelayLLM (arXiv 2601.05167): the device writes `<call>5</call>`, the cloud goes on with the answer for five
tokens, and the device goes on from there. What a call is and what is no part of the answer says `selfroute.calls`; the
device learns when to call with `selfroute train` and `algorithm: relay`. See docs/relay.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

from selfroute.backends.base import capability
from selfroute.backends.sessions import Sessions, Written
from selfroute.calls import CALL_END, CallReader, Stretch
from selfroute.errors import ConfigError
from selfroute.strategies.base import Sides
from selfroute.strategies.inside.joint import ExchangesIds, Joint, check_limit, joint
from selfroute.types import Event, Finished, Message, Sampling, TextDelta

__all__ = ["MOST_TOKENS", "LimitedRelay", "Relay", "refused"]

MOST_TOKENS = 64  # that one call may ask for
_CHUNK = 256  # most tokens that the device writes before they are shown


def refused(count: int | None, *, most: int, left: int) -> str:
    """Why a call is not followed, for the trace; empty for one that is.

    Args:
        count: tokens that it asks for, None if it is malformed.
        most: that one call may ask for.
        left: that the cloud may still write of the answer.
    """
    if count is None:
        return "malformed call"
    if not 0 < count <= most:
        return f"a call for {count} tokens; 1 to {most} are given"
    return f"a call for {count} tokens, of which {max(left, 0)} are left" if count > left else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay(ExchangesIds):
    """The cloud writes the tokens that the device asks for in its answer, as many as the call says.

    A call that is malformed, asks for too many tokens or for more than are left is passed over, and so is every call
    once the cloud has refused or failed: the device goes on from where the text stands. The trace holds each call as a
    "void" segment, with a note where it was passed over. Calls count to the length of the answer.

    Args:
        most_tokens: that one call may ask for.
        max_cloud_tokens: most that the cloud writes of an answer; None for all.

    Raises:
        ConfigError: a number is out of range.
    """

    most_tokens: int = MOST_TOKENS
    max_cloud_tokens: int | None = None
    name: str = "relay"

    def __post_init__(self) -> None:
        if self.most_tokens < 1:
            raise ConfigError(f"most_tokens: {self.most_tokens} is below 1; give how many tokens one call may ask for")
        check_limit(self.max_cloud_tokens)

    async def stream(self, sides: Sides, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Event]:
        """See `selfroute.strategies.base.Strategy`."""
        async with joint(
            sides,
            messages,
            sampling,
            strategy=self.name,
            reason="hand-off",
            max_cloud_tokens=self.max_cloud_tokens,
        ) as answer:
            reader = CallReader(capability(sides.device, Sessions).speller())
            unread = deque[Written]()
            while not answer.over:
                async for said in self._turn(answer, reader, unread):
                    yield said
            yield Finished(await answer.finish())

    async def _turn(self, answer: Joint, reader: CallReader, unread: deque[Written]) -> AsyncIterator[TextDelta]:
        """The device writes until it is shown or has called; then the cloud takes its turn.

        Args:
            unread: tokens that may still become a call; changed.
        """
        room = answer.left - len(unread)
        written = await answer.device_writes(min(_CHUNK, room), until=(CALL_END,))
        unread += written
        stretches = reader.feed(token.token_id for token in written)
        if len(written) == room or written[-1].ends:
            stretches += reader.close()
        for stretch in stretches:
            if answer.over:
                break
            tokens = [unread.popleft() for _ in stretch.token_ids]
            for said in await self._follow(answer, stretch, tokens):
                yield said

    async def _follow(self, answer: Joint, stretch: Stretch, tokens: Sequence[Written]) -> list[TextDelta]:
        """Let a stretch stand, or the cloud write what a call asks for."""
        if not stretch.is_call:
            return answer.settle("device", tokens)
        left = min(answer.cloud_left, answer.left - len(tokens))  # the call counts to the length
        note = refused(stretch.count, most=self.most_tokens, left=left)
        answer.throw("device", tokens, note=note, hidden=True)
        replaced = None if stretch.count is None or note else await answer.cloud_writes(stretch.count)
        if replaced is not None:
            return answer.settle("cloud", replaced)
        return answer.settle("device", []) if answer.over else []  # what is held back of its text


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitedRelay(Relay):
    """The same at several limits of the cloud's tokens, for an evaluation.

    Args:
        points: `max_cloud_tokens`.
    """

    points: Sequence[float] = field(default=(0.0, 2.0, 4.0, 8.0, 16.0))

    @property
    def knob(self) -> str:
        """See `selfroute.strategies.base.Knobbed`."""
        return "max_cloud_tokens"

    def at(self, point: float) -> LimitedRelay:
        """See `selfroute.strategies.base.Knobbed`."""
        return replace(self, max_cloud_tokens=int(point))

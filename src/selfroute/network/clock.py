"""How long an answer takes that two sides write in turn, on a stated network; nothing waits for real.

The device works; what it has to say goes up; the cloud reads, writes, and its text comes down as it is written. With
`ahead` the device sends each token as it is there, so that only the last one is waited for at a turn: uploads overlap
with its computing, and prompts whose answer never needs the cloud are sent all the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from selfroute.network.link import Network
from selfroute.types import Segment, Usage

__all__ = ["Timing", "Turn", "timing", "turns_of"]


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side does before the other goes on.

    Attributes:
        cloud: whether it is the cloud's.
        read, written: tokens.
        trips: round trips to the cloud.
        up, down: bytes to the cloud and from it.
    """

    cloud: bool
    read: int = 0
    written: int = 0
    trips: int = 0
    up: int = 0
    down: int = 0


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one answer.

    Attributes:
        seconds: until it is all there.
        stall_s: of them, how long the device waited for the cloud.
    """

    seconds: float
    stall_s: float


def timing(turns: Iterable[Turn], network: Network, *, ahead: bool = False) -> Timing:
    """Go through the turns on a clock that starts at 0."""
    now = began = stall = 0.0
    last = Turn(cloud=False)
    for turn in turns:
        if not turn.cloud:
            began, last = now, turn
            now += network.device_s(float(turn.read), float(turn.written))
            continue
        sending = network.up_s(float(turn.up))
        # Of what the device wrote meanwhile, all but its last token may be there already.
        sent = max(began + sending, now + sending / max(1, last.written)) if ahead else now + sending
        done = sent + turn.trips * network.rtt_s + network.answer_s(turn.read, turn.written, turn.down)
        stall += done - now
        began, now, last = done, done, Turn(cloud=False)
    return Timing(now, stall)


def turns_of(segments: Iterable[Segment]) -> list[Turn]:
    """The turns of a trace; a side that goes on after a token was thrown away is still at its turn."""
    turns: list[Turn] = []
    for segment in segments:
        turn = _turn(segment.source == "cloud", segment.usage)
        if turns and turns[-1].cloud == turn.cloud:
            turn = _joined(turns.pop(), turn)
        turns.append(turn)
    return turns


def _turn(cloud: bool, usage: Usage) -> Turn:
    trips = (usage.round_trips or usage.calls) if cloud else 0
    return Turn(cloud, usage.prompt_tokens, usage.completion_tokens, trips, usage.up_bytes, usage.down_bytes)


def _joined(one: Turn, two: Turn) -> Turn:
    return Turn(
        one.cloud,
        one.read + two.read,
        one.written + two.written,
        one.trips + two.trips,
        one.up + two.up,
        one.down + two.down,
    )

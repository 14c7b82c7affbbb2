"""What a lossy link does to hidden states on their way: to the bytes of a block, and from message to message.

The header of a block arrives; its body may be damaged. p is the link's loss, a number in [0, 1]:

============ ==============================================================================================
kind         what happens
============ ==============================================================================================
element_drop each state is 0 with probability p, no rescaling (arXiv 2406.02616)
packet_drop  the body goes in packets of some bytes, each lost with probability p; its states are 0
noise        white noise of p times the mean square of each position: as much power as element_drop takes
bit_flips    each bit is wrong with probability p; what no state can be is 0
outage       the whole message is lost with probability p
============ ==============================================================================================

With `arq` a lost packet goes again until it arrives: nothing is lost, and 1 / (1 - p) times the bytes go.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from selfroute.bounds import Count, Rate
from selfroute.errors import ConfigError
from selfroute.network.states import HEADER_BYTES, Block, blank_states, decode_states, encode_states

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Generator: TypeAlias = np.random.Generator
    Losses: TypeAlias = npt.NDArray[np.float64]

__all__ = ["KINDS", "Air", "Arrived", "Channel", "ChannelKind", "Weather", "check_loss"]

ChannelKind = Literal["element_drop", "packet_drop", "noise", "bit_flips", "outage"]
KINDS: tuple[ChannelKind, ...] = get_args(ChannelKind)


def check_loss(p: float, where: str) -> None:
    """See that a loss is one.

    Raises:
        ConfigError: it is not between 0 and 1; names the nearest that is.
    """
    if not 0 <= p <= 1:
        near = 1 if p > 1 else 0
        raise ConfigError(f"{where}: {p:g} is no loss of a link, which is 0 to 1; write {near}")


@dataclass(frozen=True, slots=True)
class Arrived:
    """What came of a block that was sent.

    Attributes:
        block: what the receiver makes of it; None if nothing came.
        sent: bytes that went over the link for it.
        tries: how often the packet went that went most often.
    """

    block: Block | None
    sent: int
    tries: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A lossy link.

    Attributes:
        kind: what is lost.
        packet_bytes: of the body of a block, an even number.
        arq: send lost packets again.

    Raises:
        ConfigError: packets of an odd size, or nothing that could be sent again.
    """

    kind: ChannelKind = "element_drop"
    packet_bytes: Count = 32
    arq: bool = False

    def __post_init__(self) -> None:
        if self.packet_bytes < 2 or self.packet_bytes % 2:
            near = max(2, self.packet_bytes - 1)
            raise ConfigError(f"channel.packet_bytes: {self.packet_bytes} cuts a number in two; write {near}")
        if self.arq and self.kind != "packet_drop":
            raise ConfigError(f"channel.arq: {self.kind} loses no packets that could go again; write kind: packet_drop")

    def carry(self, data: bytes, p: float, rng: Generator, *, width: int) -> Arrived:
        """Send a block of `selfroute.network.states` at loss p.

        Raises:
            BadMessage: the bytes are no block of this width.
            ConfigError: p is no loss, or 1 where packets go until they arrive.
        """
        check_loss(p, "p")
        if self.arq:
            return self._sent_again(data, p, rng, width)
        return Arrived(_DAMAGE[self.kind](self, data, p, rng, width), len(data))

    def packets(self, data: bytes) -> int:
        """How many a block's body takes."""
        return math.ceil((len(data) - HEADER_BYTES) / self.packet_bytes)

    def _sent_again(self, data: bytes, p: float, rng: Generator, width: int) -> Arrived:
        if p == 1:
            raise ConfigError("p: a link that loses every packet delivers none however often it goes; write below 1")
        tries = rng.geometric(1 - p, self.packets(data))
        sizes = [self.packet_bytes] * (len(tries) - 1) + [
            len(data) - HEADER_BYTES - (len(tries) - 1) * self.packet_bytes
        ]
        sent = HEADER_BYTES + sum(int(n) * size for n, size in zip(tries, sizes, strict=True))
        return Arrived(decode_states(data, width=width), sent, int(max(tries, default=1)))


# --- what is lost --------------------------------------------------------------------------------------------------


def _element_drop(channel: Channel, data: bytes, p: float, rng: Generator, width: int) -> Block:
    block = decode_states(data, width=width)
    block.states[rng.random(block.states.shape) < p] = 0
    return block


def _packet_drop(channel: Channel, data: bytes, p: float, rng: Generator, width: int) -> Block:
    import numpy as np

    lost = np.repeat(rng.random(channel.packets(data)) < p, channel.packet_bytes)[: len(data) - HEADER_BYTES]
    body, blank = (np.frombuffer(each, np.uint8, offset=HEADER_BYTES) for each in (data, blank_states(data)))
    came = np.where(lost, blank, body).astype(np.uint8)
    return decode_states(data[:HEADER_BYTES] + came.tobytes(), width=width, mend=True)


def _noise(channel: Channel, data: bytes, p: float, rng: Generator, width: int) -> Block:
    import numpy as np

    block = decode_states(data, width=width)
    power = np.square(block.states).mean(axis=1, keepdims=True)
    noise = rng.normal(size=block.states.shape) * np.sqrt(p * power)
    return Block(block.first, block.states + noise.astype(np.float32))


def _bit_flips(channel: Channel, data: bytes, p: float, rng: Generator, width: int) -> Block:
    import numpy as np

    body = np.frombuffer(data, np.uint8, offset=HEADER_BYTES)
    flips = np.packbits(rng.random(8 * len(body)) < p)
    return decode_states(data[:HEADER_BYTES] + (body ^ flips).tobytes(), width=width, mend=True)


def _outage(channel: Channel, data: bytes, p: float, rng: Generator, width: int) -> Block | None:
    return None if rng.random() < p else decode_states(data, width=width)


_DAMAGE: dict[ChannelKind, Callable[[Channel, bytes, float, Generator, int], Block | None]] = {
    "element_drop": _element_drop,
    "packet_drop": _packet_drop,
    "noise": _noise,
    "bit_flips": _bit_flips,
    "outage": _outage,
}


# --- over time -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """The loss of a link over time: a chain of two states that nobody at either end moves (Gilbert and Elliott).

    Attributes:
        good, bad: loss in each state; alike for one that does not change.
        worsens, clears: probability that a good step is followed by a bad one, and a bad one by a good one.

    Raises:
        ConfigError: a number is not in [0, 1].
    """

    good: Rate = 0.1
    bad: Rate = 0.6
    worsens: Rate = 0.1
    clears: Rate = 0.1

    def __post_init__(self) -> None:
        for name in ("good", "bad", "worsens", "clears"):
            check_loss(getattr(self, name), f"weather.{name}")

    @property
    def bad_share(self) -> float:
        """Part of all steps, in the long run, that are bad."""
        moves = self.worsens + self.clears
        return self.worsens / moves if moves else 0.0

    def loss(self, bad: bool) -> float:
        """p in a state."""
        return self.bad if bad else self.good

    def begin(self, rng: Generator) -> bool:
        """Whether a step is bad of which nothing is known."""
        return bool(rng.random() < self.bad_share)

    def next(self, bad: bool, rng: Generator) -> bool:
        """Whether the step is bad that follows a bad or good one."""
        return bool(rng.random() < ((1 - self.clears) if bad else self.worsens))

    def trace(self, steps: int, rng: Generator) -> Losses:
        """Losses of steps that follow each other, shape (steps,)."""
        import numpy as np

        losses, bad = np.empty(steps), self.begin(rng)
        for step in range(steps):
            losses[step], bad = self.loss(bad), self.next(bad, rng)
        return losses


class Air:
    """The link of one answer: its messages go through a channel whose weather changes from one to the next.

    Args:
        channel, weather: of the link.
        width: of the states.
        rng: of everything that happens by chance.
    """

    def __init__(self, channel: Channel, weather: Weather, width: int, rng: Generator) -> None:
        self._channel, self._weather, self._width, self._rng = channel, weather, width, rng
        self._bad = weather.begin(rng)

    @property
    def loss(self) -> float:
        """p of the next message; the ends do not know it."""
        return self._weather.loss(self._bad)

    def pilots(self, count: int) -> float:
        """What the device makes of the loss: the part of `count` known symbols that did not come as they were sent."""
        return float(self._rng.binomial(count, self.loss)) / count

    def carry(self, data: bytes) -> tuple[bytes | None, int]:
        """What comes of a block, in fp32 and None for nothing, and how many bytes went over the link for it."""
        loss, self._bad = self.loss, self._weather.next(self._bad, self._rng)
        arrived = self._channel.carry(data, loss, self._rng, width=self._width)
        came = None if arrived.block is None else encode_states(arrived.block, "fp32")
        return came, arrived.sent

"""A model that is cut in two: what both ends must hold alike, and the device's end of an answer.

The device runs the first layers and sends the hidden states of each position once; the cloud runs the other layers over
them, and gives the token behind the last one when it is asked. Importing this module loads nothing heavy; who can go on
with hidden states is found with `selfroute.backends.base.capability`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol, runtime_checkable

from selfroute.backends.sessions import Judge, Session, View, Written
from selfroute.errors import BackendError, BackendTimeout, BackendUnavailable, ConfigError, UnsupportedByBackend
from selfroute.network.channel import Air
from selfroute.network.layer_messages import ASK_BYTES, NAME_BYTES, Continued, Push, decode_continued, encode_push
from selfroute.network.messages import BadMessage
from selfroute.network.states import APART, Block, Codec, encode_states
from selfroute.types import Message, Sampling, Usage

__all__ = [
    "ExitRule",
    "ExitSession",
    "Exiting",
    "KeyValues",
    "Layered",
    "Sending",
    "Splitting",
    "Tail",
    "TailSession",
    "Upload",
    "Whole",
    "check_whole",
]

Upload = Literal["eager", "late", "blocking"]
KeyValues = Literal["recompute", "copy"]
_CLOSE_S = 0.1  # how long an end that is let go of is waited for


@dataclass(frozen=True, slots=True)
class Whole:
    """The model that is cut; ends that differ in any of this cannot work together.

    Attributes:
        weights: fingerprint of all its weights, 16 hexadecimal digits.
        layers: how many it has.
        width: of its hidden states.
        dtype: type of its weights, e.g. "float32".
        vocabulary: fingerprint of what the ids mean.
    """

    weights: str
    layers: int
    width: int
    dtype: str
    vocabulary: str

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Whole:
        """From plain values.

        Raises:
            ValueError: one is missing or no such value.
        """
        try:
            weights, dtype, vocabulary = (str(values[name]) for name in ("weights", "dtype", "vocabulary"))
            return cls(weights, int(values["layers"]), int(values["width"]), dtype, vocabulary)
        except (KeyError, TypeError) as error:
            raise ValueError(f"it does not say its {error}") from None


class Tail(Protocol):
    """The layers of a model from one on, here or elsewhere.

    Attributes:
        name: of the backend that holds them.
        whole: the model that they belong to; None while that cannot be found out.
        first: the first layer, from 0.
    """

    @property
    def name(self) -> str: ...

    @property
    def whole(self) -> Whole | None: ...

    @property
    def first(self) -> int: ...

    async def carry(self, data: bytes) -> bytes:
        """Take a message of `selfroute.network.layer_messages` there, and bring what comes back.

        Raises:
            BackendError: it is refused, or does not arrive.
        """
        ...


@runtime_checkable
class Layered(Protocol):
    """Optional capability: a model that goes on with hidden states from one of its layers on."""

    def tail(self, first: int) -> Tail:
        """Its layers from `first` on, from 0.

        Raises:
            ConfigError: it has no such layers, or does not give them.
        """
        ...


def check_whole(device: Whole, tail: Tail, *, where: str = "cloud") -> None:
    """See that an end holds the other layers of the device's model; one that cannot be reached yet refuses later.

    Raises:
        ConfigError: it holds those of another; names the first thing in which they differ.
    """
    if tail.whole is None:
        return
    for each in fields(Whole):
        ours, theirs = (getattr(whole, each.name) for whole in (device, tail.whole))
        if ours != theirs:
            raise ConfigError(
                f"{where}: {tail.name} holds a model whose {each.name} is {theirs}, and the device's is {ours}; "
                "serve the model that the exits were made for, in the same type"
            )


# --- the device's end ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitRule:
    """When a device lets its own token stand.

    Attributes:
        thresholds: least score that stands, for each exit; an exit above 1 is not looked at.
        score: of a token at an exit; None is its exit's largest probability.
        last_stands: whether the last exit's token stands in any case (standalone).
        keys: what becomes of the keys and values of layers that a token left out: computed when they are needed, or
            made from the state at which it left.
        sends: number of the exit, from 0, whose states the cloud goes on with.
    """

    thresholds: tuple[float, ...]
    score: Callable[[Sequence[Written]], Sequence[float]] | None = None
    last_stands: bool = False
    keys: KeyValues = "recompute"
    sends: int = 0

    def looks_beyond(self, exit_number: int) -> bool:
        """Whether a token may still stand at an exit behind this one."""
        return self.last_stands or any(threshold <= 1 for threshold in self.thresholds[exit_number + 1 :])


class ExitSession(Session, Protocol):
    """The device's part of an answer: its `write` ends before the first token of which no exit is sure enough.

    Attributes:
        unsure: what the last exit that was looked at made of that token, 0 if none was; None if all that was wanted
            is written.
        prompt_tokens: how many stand before the answer.
    """

    @property
    def unsure(self) -> float | None: ...

    @property
    def prompt_tokens(self) -> int: ...

    def luck(self, place: int) -> float:
        """The number that draws the token at a place of the answer, whoever draws it."""
        ...

    async def standalone(self) -> Written:
        """The last exit's token at the next place; it stands."""
        ...


@runtime_checkable
class Exiting(Protocol):
    """Optional capability: the first layers of a model, with exits.

    Attributes:
        whole: the model that they are of.
        exits: behind how many layers each exit stands, rising.
    """

    @property
    def whole(self) -> Whole: ...

    @property
    def exits(self) -> tuple[int, ...]: ...

    def exiting(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        rule: ExitRule,
        send: Callable[[int, Any], object] | None,
    ) -> ExitSession:
        """Open an answer.

        Args:
            send: called in the event loop with the position of the first and the states, shape (positions, width), of
                what the cloud goes on with, each position once, as soon as they are there; None sends nothing.

        Raises:
            BackendError: the conversation cannot be encoded.
            ConfigError: the rule does not fit the exits.
        """
        ...


@runtime_checkable
class Splitting(Protocol):
    """Optional capability: layers of a model that can be left behind any of them."""

    def cuts(self) -> tuple[Whole, tuple[int, ...]]:
        """The model, and how many of its layers the device may run before the cloud goes on, rising.

        Raises:
            ConfigError: it does not run apart.
        """
        ...

    def splitting(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        place: int,
        send: Callable[[int, Any], object] | None,
    ) -> ExitSession:
        """Open an answer of which every token is the cloud's: the device runs `place` layers and writes none.

        Its `standalone` tokens are of all layers that it has.

        Args:
            send: as in `Exiting`; None lets the device write every token itself.

        Raises:
            BackendError: the conversation cannot be encoded.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """How states are sent.

    Attributes:
        codec, apart: see `selfroute.network.states`.
        upload: as soon as they are there, while the device goes on; in one burst with the next question; or as soon as
            they are there, while the device waits until they have arrived (to compare with).
        deadline_s: how long a token is waited for; None for ever.
    """

    codec: Codec = "fp16"
    apart: int = APART
    upload: Upload = "eager"
    deadline_s: float | None = None


class TailSession:
    """The cloud's part of an answer, see `selfroute.backends.sessions.Session`: it writes one token at a time, behind
    the states that were put.

    Args:
        tail: the layers.
        whole: the model that the device's layers are of.
        sampling: how tokens are drawn.
        luck: of a place of the answer.
        prompt_tokens: how many positions stand before it.
        air: the lossy link that states go over; None for one that delivers.
    """

    def __init__(
        self,
        tail: Tail,
        whole: Whole,
        sampling: Sampling,
        *,
        sending: Sending,
        luck: Callable[[int], float],
        prompt_tokens: int,
        air: Air | None = None,
    ) -> None:
        self.vocabulary = whole.vocabulary
        self._tail, self._sampling, self._sending, self._luck, self._air = tail, sampling, sending, luck, air
        self._begin = prompt_tokens
        self._name, self._model = secrets.token_bytes(NAME_BYTES), bytes.fromhex(whole.weights)
        self._ids: list[int] = []
        self._unsent: list[Block] = []
        self._through = 0  # positions that were put
        self._sending_now: asyncio.Task[None] | None = None
        self._stuck = self._opened = self._closed = False
        self._used = Usage()

    @property
    def ids(self) -> Sequence[int]:
        """See `Session`."""
        return self._ids

    @property
    def used(self) -> Usage:
        """See `Session`; what it read are positions that went through its layers."""
        return self._used

    def put(self, first: int, states: Any) -> None:
        """States that are new; all but a late session send them in the background."""
        self._unsent.append(Block(first, states))
        self._through = first + len(states)
        if self._sending.upload != "late" and not (self._stuck or self._closed) and self._sending_now is None:
            self._sending_now = asyncio.create_task(self._upload())

    async def arrived(self) -> None:
        """Wait until what was put is there, or could not be sent."""
        if self._sending_now is not None:
            await asyncio.wait([self._sending_now])

    async def read(self, ids: Sequence[int], *, every: bool = False) -> list[View]:
        """See `Session`; what it needs of tokens comes as states."""
        if every:
            raise UnsupportedByBackend("layers give no views of given tokens")
        self._ids += ids
        return []

    async def write(
        self, limit: int, *, until: Sequence[str] = (), judge: Judge | None = None, within_s: float | None = None
    ) -> list[Written]:
        """One token, as the device has to run its layers before the next.

        Raises:
            BackendTimeout: it is not there within `deadline_s`.
            BackendError: the other end refused or failed.
        """
        place = self._through - self._begin
        taken = self._take()
        try:
            async with asyncio.timeout(self._sending.deadline_s):
                reply = await self._exchange(taken, wanted=self._through, luck=self._luck(place))
        except TimeoutError:
            self._give_back(taken)
            raise self._late() from None
        except BackendError:
            self._give_back(taken)
            raise
        self._stuck = False
        if reply.token is None:
            raise BackendError(f"{self._tail.name}: it gave no token", backend=self._tail.name)
        self._ids.append(reply.token)
        self._used += Usage(completion_tokens=1, round_trips=1)
        return [Written(reply.token, reply.logprob, reply.ends)]

    async def drop(self, count: int) -> None:
        """See `Session`; what was sent is not taken back."""
        if count:
            raise UnsupportedByBackend("layers keep what was sent")

    async def close(self) -> None:
        """See `Session`; an end that cannot be told forgets it by itself."""
        if self._closed:
            return
        self._closed = True
        if self._sending_now is not None:
            self._sending_now.cancel()
        if self._opened:
            with suppress(BackendError, TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await self._exchange([], closes=True)

    async def _upload(self) -> None:
        """Send what is there until nothing is; what could not be sent goes with the next question."""
        try:
            while self._unsent:
                taken = self._take()
                try:
                    await self._exchange(taken)
                except BackendError:
                    self._give_back(taken)
                    self._stuck = True
                    return
        finally:
            self._sending_now = None

    async def _exchange(
        self, blocks: Sequence[Block], *, wanted: int = 0, luck: float = 0.0, closes: bool = False
    ) -> Continued:
        name = self._tail.name
        try:
            states, extra = self._over_the_air(self._encoded(blocks))
            data = encode_push(
                Push(
                    session=self._name,
                    model=self._model,
                    first=self._tail.first,
                    wanted=wanted,
                    temperature=self._sampling.temperature,
                    top_p=self._sampling.top_p,
                    luck=luck,
                    closes=closes,
                    states=states,
                )
            )
            self._opened = True
            self._used += Usage(up_bytes=len(data) + extra)
            answer = await self._tail.carry(data)
            self._used += Usage(down_bytes=len(answer))
            reply = decode_continued(answer)
        except BadMessage as error:
            raise BackendError(f"{name}: {error}", backend=name) from error
        self._note(reply)
        return reply

    def _over_the_air(self, states: bytes) -> tuple[bytes, int]:
        """What comes of a block, and by how many bytes more or less of them went over the link.

        Raises:
            BackendUnavailable: nothing came.
        """
        if self._air is None or not states:
            return states, 0
        came, sent = self._air.carry(states)
        if came is None:
            self._used += Usage(up_bytes=ASK_BYTES + sent)
            name = self._tail.name
            raise BackendUnavailable(f"{name}: the link is out", backend=name)
        return came, sent - len(came)

    def _encoded(self, blocks: Sequence[Block]) -> bytes:
        if not blocks:
            return b""
        return encode_states(_joined(blocks), self._sending.codec, apart=self._sending.apart)

    def _note(self, reply: Continued) -> None:
        """What the other end has computed so far; replies may overtake each other."""
        read = max(0, reply.read - self._used.prompt_tokens)
        computed = max(0, reply.layer_tokens - self._used.layer_tokens)
        self._used += Usage(prompt_tokens=read, layer_tokens=computed)

    def _take(self) -> list[Block]:
        taken, self._unsent = self._unsent, []
        return taken

    def _give_back(self, blocks: list[Block]) -> None:
        self._unsent = [*blocks, *self._unsent]

    def _late(self) -> BackendTimeout:
        name = self._tail.name
        return BackendTimeout(f"{name}: no token within {self._sending.deadline_s:g} s", backend=name)


def _joined(blocks: Sequence[Block]) -> Block:
    import numpy as np

    return blocks[0] if len(blocks) == 1 else Block(blocks[0].first, np.concatenate([b.states for b in blocks]))

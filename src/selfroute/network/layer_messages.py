"""What the two ends of a model that is cut in two say to each other, as bytes.

The device sends hidden states as they come, and may ask for the token behind the last of them; both can be one message.
Every message says of which model and from which layer on it wants to be continued, so that an end which holds another
one can refuse it. The bytes of states are those of `selfroute.network.states`. All numbers are little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from selfroute.network.messages import BadMessage

__all__ = [
    "ASK_BYTES",
    "MODEL_BYTES",
    "NAME_BYTES",
    "REPLY_BYTES",
    "Continued",
    "Push",
    "decode_continued",
    "decode_push",
    "encode_continued",
    "encode_push",
]

NAME_BYTES, MODEL_BYTES = 16, 8
# Session, model, first layer, flags, positions before the wanted token, temperature, top_p, luck.
_PUSH = struct.Struct(f"<{NAME_BYTES}s{MODEL_BYTES}sHBIddd")
# Flags, token, log-probability, positions held, positions read, tokens times layers.
_REPLY = struct.Struct("<BIfIIQ")
ASK_BYTES, REPLY_BYTES = _PUSH.size, _REPLY.size
_CLOSE, _TOKEN, _ENDS = 1, 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """What the device says.

    Attributes:
        session: its name, 16 bytes that nobody guesses; one that is not open yet opens.
        model: fingerprint of the whole model's weights, 8 bytes.
        first: layer from which on the states are to be continued, from 0.
        wanted: how many positions stand before the token that is asked for; 0 asks for none.
        temperature, top_p: how it is drawn.
        luck: a number in [0, 1) that draws it.
        closes: the answer is over.
        states: bytes of a block; empty for none.
    """

    session: bytes
    model: bytes
    first: int
    wanted: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    luck: float = 0.0
    closes: bool = False
    states: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Continued:
    """What comes back.

    Attributes:
        token, logprob: the one that was asked for; None for none.
        ends: it ends the answer.
        held: positions that have come without a gap.
        read: positions that went through the layers.
        layer_tokens: positions times layers that were computed for the session so far.
    """

    token: int | None = None
    logprob: float = 0.0
    ends: bool = False
    held: int = 0
    read: int = 0
    layer_tokens: int = 0


def encode_push(push: Push) -> bytes:
    """Its bytes: `ASK_BYTES` and the states.

    Raises:
        BadMessage: a number does not fit.
    """
    head = (push.session, push.model, push.first, _CLOSE * push.closes, push.wanted)
    try:
        return _PUSH.pack(*head, push.temperature, push.top_p, push.luck) + push.states
    except struct.error as error:
        raise BadMessage(f"a number does not fit: {error}") from None


def decode_push(data: bytes) -> Push:
    """The message that these bytes hold; its states are not looked into.

    Raises:
        BadMessage: they are too few, or a number is out of range.
    """
    if len(data) < ASK_BYTES:
        raise BadMessage(f"{len(data)} bytes are too few")
    session, model, first, flags, wanted, temperature, top_p, luck = _PUSH.unpack_from(data)
    if not (temperature >= 0 and 0 < top_p <= 1 and 0 <= luck < 1):
        raise BadMessage(f"temperature {temperature:g}, top_p {top_p:g}, luck {luck:g}: one is out of range")
    return Push(
        session=session,
        model=model,
        first=first,
        wanted=wanted,
        temperature=temperature,
        top_p=top_p,
        luck=luck,
        closes=bool(flags & _CLOSE),
        states=data[ASK_BYTES:],
    )


def encode_continued(reply: Continued) -> bytes:
    """Its bytes."""
    flags = _TOKEN * (reply.token is not None) | _ENDS * reply.ends
    counts = (reply.held, reply.read, reply.layer_tokens)
    return _REPLY.pack(flags, reply.token or 0, reply.logprob, *counts)


def decode_continued(data: bytes) -> Continued:
    """The reply that these bytes hold.

    Raises:
        BadMessage: they hold none.
    """
    if len(data) != REPLY_BYTES:
        raise BadMessage(f"{len(data)} bytes, not {REPLY_BYTES}")
    flags, token, logprob, held, read, layer_tokens = _REPLY.unpack(data)
    found = token if flags & _TOKEN else None
    return Continued(
        token=found, logprob=logprob, ends=bool(flags & _ENDS), held=held, read=read, layer_tokens=layer_tokens
    )

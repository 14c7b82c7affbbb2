"""What two sides of one answer say to each other, as bytes.

An ask says what is new since the last one: how many of the last tokens to forget, the tokens that the other side wrote
meanwhile, and what is wanted: to write on, to a mark if one is given, or to judge these tokens. The first one carries
the conversation. Token ids take two bytes where the vocabulary allows it, else four. All numbers are little-endian.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Ask", "BadMessage", "Judged", "Reply", "decode_ask", "decode_reply", "encode_ask", "encode_reply"]

# Session, flags, forgotten tokens, tokens wanted, ids, bytes of text.
_ASK = struct.Struct("<IBHHHI")
# Flags, ids, judged places, tokens read, tokens times layers.
_REPLY = struct.Struct("<BHHIQ")
_PLACE = struct.Struct("<f")
_WIDE, _EVERY, _ENDS, _UNTIL = 1, 2, 4, 8
_NARROW_IDS = 1 << 16


class BadMessage(ValueError):
    """Bytes that are no message; `str(error)` is a short phrase."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What one side asks the other's session.

    Attributes:
        session: its number.
        drop: how many of the last tokens to forget, before the rest.
        ids: tokens to append.
        limit: most tokens to write; 0 for none.
        every: judge each of `ids`.
        opening: what opens the session, plain JSON values; None after the first ask.
        until: marks in the text, after the first of which to stop writing.
    """

    session: int
    drop: int = 0
    ids: tuple[int, ...] = ()
    limit: int = 0
    every: bool = False
    opening: Any = None
    until: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Judged:
    """A place: the token that the session would write there, and the log-probability of the one that was read.

    The place after the last token has none.
    """

    drawn: int
    given: float | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What comes back.

    Attributes:
        ids: that were written.
        ends: the last of them ends the answer.
        places: of each token that was to be judged, and after the last one.
        read: tokens that the session has read so far.
        layer_tokens: tokens times layers that it has computed so far.
    """

    ids: tuple[int, ...] = ()
    ends: bool = False
    places: tuple[Judged, ...] = ()
    read: int = 0
    layer_tokens: int = 0


def encode_ask(ask: Ask) -> bytes:
    """Its bytes.

    Raises:
        BadMessage: more than 65,535 tokens at once.
    """
    wide = any(token >= _NARROW_IDS for token in ask.ids)
    said = [ask.opening, ask.until] if ask.until else ask.opening
    text = b"" if said is None else json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode()
    flags = _WIDE * wide | _EVERY * ask.every | _UNTIL * bool(ask.until)
    try:
        head = _ASK.pack(ask.session, flags, ask.drop, ask.limit, len(ask.ids), len(text))
    except struct.error as error:
        raise BadMessage(f"a number does not fit: {error}") from None
    return head + _packed(ask.ids, wide) + text


def decode_ask(data: bytes) -> Ask:
    """The ask that these bytes hold.

    Raises:
        BadMessage: they hold none.
    """
    session, flags, drop, limit, count, length = _head(_ASK, data)
    ids, rest = _unpacked(data[_ASK.size :], count, wide=bool(flags & _WIDE))
    if len(rest) != length:
        raise BadMessage(f"{len(rest)} bytes of text, not {length}")
    try:
        said = json.loads(rest) if length else None
    except ValueError:
        raise BadMessage("the text is no JSON") from None
    opening, until = _with_marks(said) if flags & _UNTIL else (said, ())
    return Ask(session, drop, ids, limit, bool(flags & _EVERY), opening, until)


def encode_reply(reply: Reply) -> bytes:
    """Its bytes.

    Raises:
        BadMessage: more than 65,535 tokens at once.
    """
    drawn = [place.drawn for place in reply.places]
    wide = any(token >= _NARROW_IDS for token in (*reply.ids, *drawn))
    try:
        flags = _WIDE * wide | _ENDS * reply.ends
        head = _REPLY.pack(flags, len(reply.ids), len(drawn), reply.read, reply.layer_tokens)
    except struct.error as error:
        raise BadMessage(f"a number does not fit: {error}") from None
    given = b"".join(_PLACE.pack(place.given) for place in reply.places if place.given is not None)
    return head + _packed(reply.ids, wide) + _packed(drawn, wide) + given


def decode_reply(data: bytes) -> Reply:
    """The reply that these bytes hold.

    Raises:
        BadMessage: they hold none.
    """
    flags, count, judged, read, layer_tokens = _head(_REPLY, data)
    ids, rest = _unpacked(data[_REPLY.size :], count, wide=bool(flags & _WIDE))
    drawn, rest = _unpacked(rest, judged, wide=bool(flags & _WIDE))
    if len(rest) != _PLACE.size * max(0, judged - 1):
        raise BadMessage(f"{len(rest)} bytes behind the ids of {judged} places")
    given = [value for (value,) in _PLACE.iter_unpack(rest)] + [None] * bool(judged)
    places = tuple(Judged(*pair) for pair in zip(drawn, given, strict=True))
    return Reply(ids, bool(flags & _ENDS), places, read, layer_tokens)


def _with_marks(said: Any) -> tuple[Any, tuple[str, ...]]:
    opening, marks = said if isinstance(said, list) and len(said) == 2 else (None, None)
    if not isinstance(marks, list) or not all(isinstance(mark, str) and mark for mark in marks):
        raise BadMessage("the text holds no marks")
    return opening, tuple(marks)


def _head(shape: struct.Struct, data: bytes) -> tuple[int, ...]:
    if len(data) < shape.size:
        raise BadMessage(f"{len(data)} bytes are too few")
    return shape.unpack_from(data)


def _packed(ids: Sequence[int], wide: bool) -> bytes:
    return struct.pack(f"<{len(ids)}{'I' if wide else 'H'}", *ids)


def _unpacked(data: bytes, count: int, *, wide: bool) -> tuple[tuple[int, ...], bytes]:
    """Ids, and what comes behind them."""
    size = count * (4 if wide else 2)
    if len(data) < size:
        raise BadMessage(f"{len(data)} bytes are too few for {count} ids")
    return struct.unpack(f"<{count}{'I' if wide else 'H'}", data[:size]), data[size:]

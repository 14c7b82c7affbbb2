"""Hidden states of a model as bytes: what one end of a model that is cut in two sends to the other.

A block holds the states of positions that follow each other, shape (positions, width). Its header says where they
begin, how wide they are and how they are written; the body has the same number of bytes for each position:

========== ====================== =============================================================================
codec      bytes for each         what is kept
========== ====================== =============================================================================
fp32       4 d                    everything
fp16       2 d                    11 bits; bf16 instead, with 8 bits, for a block that has values beyond 65,504
bf16       2 d                    8 bits
int8       d + 4 + 6 k            255 steps of each position's largest value, and its k largest channels as they are
int8_plain d + 4                  the same without channels apart
int4       ⌈d / 2⌉ + 4 + 6 k      15 steps, with channels apart
========== ====================== =============================================================================

d is the width. A few channels of pretrained models are a thousand times larger than the others (754 and 24,891 beside
7 and 50 in SmolLM2), and the steps of a position that holds one are too wide for the rest; hence the channels apart.
All numbers are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from selfroute.network.messages import BadMessage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats: TypeAlias = npt.NDArray[np.float32]

__all__ = [
    "APART",
    "CODECS",
    "HEADER_BYTES",
    "Block",
    "Codec",
    "blank_states",
    "decode_states",
    "encode_states",
    "position_bytes",
]

Codec = Literal["fp32", "fp16", "bf16", "int8", "int8_plain", "int4"]
CODECS: tuple[Codec, ...] = get_args(Codec)

APART = 8  # channels of a position that int8 and int4 keep as they are
# Codec, channels apart, width, first position, positions.
_HEADER = struct.Struct("<BBHIH")
HEADER_BYTES = _HEADER.size
_MOST_POSITIONS = 0xFFFF
_MOST_FP16 = 65504.0


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """States of positions that follow each other.

    Attributes:
        first: position of the first one, from 0.
        states: shape (positions, width).
    """

    first: int
    states: Floats


def position_bytes(codec: Codec, width: int, *, apart: int = APART) -> int:
    """Bytes of one position in the body of a block.

    Args:
        apart: k, for the codecs that have channels apart.
    """
    way = _WAYS[codec]
    return way.size(width) + (_APART_BYTES * min(apart, width) if way.apart else 0)


def encode_states(block: Block, codec: Codec, *, apart: int = APART) -> bytes:
    """Its bytes: `HEADER_BYTES` and `position_bytes` for each position.

    Args:
        apart: k, at most 255.

    Raises:
        BadMessage: a state is not finite, or there are more than 65,535 positions.
    """
    import numpy as np

    states = np.ascontiguousarray(block.states, dtype=np.float32)
    if states.ndim != 2 or not np.isfinite(states).all():
        raise BadMessage("a state is not finite")
    if codec == "fp16" and states.size and float(np.abs(states).max()) > _MOST_FP16:
        codec = "bf16"
    way, width = _WAYS[codec], states.shape[1]
    kept = min(apart, width) if way.apart else 0
    try:
        header = _HEADER.pack(CODECS.index(codec), kept, width, block.first, len(states))
    except struct.error as error:
        raise BadMessage(f"a number does not fit: {error}") from None
    if not kept:
        return header + way.encode(states)
    where, values = _largest(states, kept)
    rest = states.copy()
    np.put_along_axis(rest, where.astype(np.int64), 0.0, axis=1)
    return header + where.tobytes() + values.tobytes() + way.encode(rest)


def blank_states(data: bytes) -> bytes:
    """The same block with every state 0, byte for byte as long; a receiver puts it where bytes are missing.

    Args:
        data: of `encode_states`.
    """
    number, kept, width, _, count = _HEADER.unpack_from(data)
    codec = CODECS[number]
    beside, steps = _APART_BYTES * kept * count, position_bytes(codec, width, apart=0) * count
    body = bytearray(beside + steps)
    if codec == "int4":
        scales = beside + 4 * count
        body[scales:] = b"\x88" * (len(body) - scales)
    return data[:HEADER_BYTES] + bytes(body)


def decode_states(data: bytes, *, width: int, mend: bool = False) -> Block:
    """The block that these bytes hold.

    Args:
        width: that the model's states have.
        mend: take a body whose bits may be wrong: a state that is not finite is 0, one beyond 65,504 is that, and a
            channel apart outside the width is passed over.

    Raises:
        BadMessage: they hold none of this width, are cut or too long, or a state is not finite.
    """
    import numpy as np

    if len(data) < HEADER_BYTES:
        raise BadMessage(f"{len(data)} bytes are too few for states")
    number, kept, wide, first, count = _HEADER.unpack_from(data)
    if number >= len(CODECS):
        raise BadMessage(f"states of the unknown type {number}")
    if wide != width:
        raise BadMessage(f"states of width {wide}, and the model's have {width}")
    codec = CODECS[number]
    way, body = _WAYS[codec], memoryview(data)[HEADER_BYTES:]
    if kept > width or (kept and not way.apart):
        raise BadMessage(f"{kept} channels apart in {codec} states of width {width}")
    beside = _APART_BYTES * kept * count
    if len(body) != beside + way.size(width) * count:
        raise BadMessage(f"{len(body)} bytes of states, not {beside + way.size(width) * count}")
    with np.errstate(over="ignore", invalid="ignore"):
        states = way.decode(body[beside:], count, width)
    if kept:
        _put_back(states, body[:beside], kept, mend=mend)
    if mend:
        states = np.nan_to_num(states, posinf=0.0, neginf=0.0).clip(-_MOST_FP16, _MOST_FP16)
    elif not np.isfinite(states).all():
        raise BadMessage("a state is not finite")
    return Block(first, states)


# --- channels apart ------------------------------------------------------------------------------------------------

_APART_BYTES = 6  # which channel in two bytes, its value in four


def _largest(states: Floats, kept: int) -> tuple[npt.NDArray[np.uint16], Floats]:
    """Which channels of each position are its largest, and their values; shapes (positions, kept)."""
    import numpy as np

    where = np.argpartition(-np.abs(states), kept - 1, axis=1)[:, :kept]
    return where.astype("<u2"), np.take_along_axis(states, where, axis=1).astype("<f4")


def _put_back(states: Floats, data: memoryview, kept: int, *, mend: bool) -> None:
    import numpy as np

    count, width = states.shape
    where = np.frombuffer(data, "<u2", count * kept).reshape(count, kept).astype(np.int64)
    values = np.frombuffer(data, "<f4", offset=2 * count * kept).reshape(count, kept)
    within = where < width
    if not within.all() and not mend:
        raise BadMessage(f"channel {int(where.max())} of states of width {width}")
    rows = np.nonzero(within)[0]
    states[rows, where[within]] = values[within]


# --- the codecs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Way:
    """How a codec writes positions: bytes of one of a width, and both directions."""

    size: Callable[[int], int]
    encode: Callable[[Floats], bytes]
    decode: Callable[[memoryview, int, int], Floats]
    apart: bool = False


def _plain(kind: str, size: int) -> _Way:
    """A floating-point type of numpy."""

    def encode(states: Floats) -> bytes:
        return states.astype(kind).tobytes()

    def decode(data: memoryview, count: int, width: int) -> Floats:
        import numpy as np

        states: Floats = np.frombuffer(data, kind).reshape(count, width).astype(np.float32)
        return states

    return _Way(lambda width: size * width, encode, decode)


def _to_bf16(states: Floats) -> bytes:
    import numpy as np

    bits = states.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))  # to the nearest, ties to even
    return (rounded >> 16).astype("<u2").tobytes()


def _from_bf16(data: memoryview, count: int, width: int) -> Floats:
    import numpy as np

    bits = np.frombuffer(data, "<u2").astype(np.uint32) << np.uint32(16)
    states: Floats = bits.view(np.float32).reshape(count, width)
    return states


def _steps(states: Floats, most: int) -> tuple[Floats, npt.NDArray[np.int8]]:
    """Scale of each position, shape (positions, 1), and its values in steps of that."""
    import numpy as np

    scale = np.abs(states).max(axis=1, keepdims=True, initial=0.0) / most
    scale = np.where(scale > 0, scale, 1.0).astype("<f4")
    return scale, np.clip(np.rint(states / scale), -most, most).astype(np.int8)


def _to_int8(states: Floats) -> bytes:
    scale, steps = _steps(states, 127)
    return scale.tobytes() + steps.tobytes()


def _from_int8(data: memoryview, count: int, width: int) -> Floats:
    import numpy as np

    scale = np.frombuffer(data, "<f4", count).reshape(count, 1)
    steps = np.frombuffer(data, np.int8, offset=4 * count).reshape(count, width)
    states: Floats = (steps * scale).astype(np.float32)
    return states


def _to_int4(states: Floats) -> bytes:
    import numpy as np

    scale, steps = _steps(states, 7)
    nibbles = (steps + 8).astype(np.uint8)
    if nibbles.shape[1] % 2:
        nibbles = np.pad(nibbles, ((0, 0), (0, 1)))
    return scale.tobytes() + (nibbles[:, ::2] | (nibbles[:, 1::2] << 4)).tobytes()


def _from_int4(data: memoryview, count: int, width: int) -> Floats:
    import numpy as np

    scale = np.frombuffer(data, "<f4", count).reshape(count, 1)
    pairs = np.frombuffer(data, np.uint8, offset=4 * count).reshape(count, (width + 1) // 2)
    nibbles = np.stack([pairs & 15, pairs >> 4], axis=2).reshape(count, 2 * pairs.shape[1])[:, :width]
    states: Floats = ((nibbles.astype(np.float32) - 8) * scale).astype(np.float32)
    return states


_WAYS: dict[Codec, _Way] = {
    "fp32": _plain("<f4", 4),
    "fp16": _plain("<f2", 2),
    "bf16": _Way(lambda width: 2 * width, _to_bf16, _from_bf16),
    "int8": _Way(lambda width: width + 4, _to_int8, _from_int8, apart=True),
    "int8_plain": _Way(lambda width: width + 4, _to_int8, _from_int8),
    "int4": _Way(lambda width: (width + 1) // 2 + 4, _to_int4, _from_int4, apart=True),
}

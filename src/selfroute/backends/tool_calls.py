"""Pieces of tool calls, told apart: servers repeat an index or an id, wipe one, or send none."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["ToolCalls"]


@dataclass(slots=True)
class _Call:
    """A call of the answer: what the server named it by, and what has come of it.

    Attributes:
        id: the one that the reader is given.
    """

    id: str
    said_id: str | None
    said_index: int | None
    name: str = ""
    arguments: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether its arguments are an object that nothing can be put to."""
        try:
            return isinstance(json.loads(self.arguments), dict)
        except ValueError:
            return False


class ToolCalls:
    """The calls of one answer; each has an index and an id of its own, whatever the server sends."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []

    def __bool__(self) -> bool:
        return bool(self._calls)

    def read(self, pieces: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The pieces of one chunk, as OpenAI's servers write them: id, type and name once, where a call begins.

        Raises:
            AttributeError, TypeError: they are none.
        """
        read: list[dict[str, Any]] = []
        taken: set[int] = set()
        for at, piece in enumerate(pieces):
            place = self._place(piece, at if len(pieces) > 1 else None, taken)
            begins = place == len(self._calls)
            if begins:
                self._calls.append(self._new(piece))
            taken.add(place)
            read.append(_written(piece, self._calls[place], place, begins=begins))
        return read

    def _place(self, piece: Mapping[str, Any], at: int | None, taken: set[int]) -> int:
        """Which call a piece is of; one behind the last if it begins a call.

        Args:
            at: which piece of its chunk it is, None if it is the only one.
            taken: calls that the chunk has pieces of already; only what goes on with one may be of them.
        """
        said_id, index = piece.get("id") or None, _index(piece)
        begins = said_id is not None or bool((piece.get("function") or {}).get("name"))
        free = [place for place in range(len(self._calls)) if not begins or place not in taken]
        if said_id is not None:
            found = [place for place in free if self._is_named(place, said_id, index)]
        elif index is not None:
            found = [place for place in free if self._calls[place].said_index == index]
        else:
            found = [at] if at in free else free
        if not found or self._begins_anew(piece, self._calls[found[-1]]):
            return len(self._calls)
        return found[-1]

    def _is_named(self, place: int, said_id: str, index: int | None) -> bool:
        """Whether a call has this id and no other index, or has this index and no id yet."""
        call = self._calls[place]
        if call.said_id is None:
            return index is not None and call.said_index == index
        return call.said_id == said_id and (index is None or call.said_index in (None, index))

    def _begins_anew(self, piece: Mapping[str, Any], call: _Call) -> bool:
        """Whether a piece that is named as a known call is of another one: of another function, or behind its end."""
        function = piece.get("function") or {}
        name = function.get("name")
        if not name or not call.name:
            return False
        repeats = piece.get("id") and not function.get("arguments")
        return name != call.name or (call.is_whole and not repeats)

    def _new(self, piece: Mapping[str, Any]) -> _Call:
        said_id = piece.get("id") or None
        is_free = isinstance(said_id, str) and all(call.id != said_id for call in self._calls)
        given = said_id if isinstance(said_id, str) and is_free else f"call_{secrets.token_hex(12)}"
        return _Call(given, said_id, _index(piece))


def _index(piece: Mapping[str, Any]) -> int | None:
    index = piece.get("index")
    return index if isinstance(index, int) else None


def _written(piece: Mapping[str, Any], call: _Call, place: int, *, begins: bool) -> dict[str, Any]:
    """A piece for the reader; what it says of its call is noted."""
    call.said_id = call.said_id or piece.get("id") or None
    written = {key: value for key, value in piece.items() if key not in ("id", "type", "index") and value is not None}
    written["index"] = place
    if begins:
        written |= {"id": call.id, "type": piece.get("type") or "function"}
    if (function := piece.get("function")) is not None:
        written["function"] = _function(function, call)
    return written


def _function(function: Mapping[str, Any], call: _Call) -> dict[str, Any]:
    arguments = function.get("arguments")
    if arguments is None:
        arguments = ""
    elif not isinstance(arguments, str):  # as some servers write an object
        arguments = json.dumps(arguments, ensure_ascii=False)
    call.arguments += arguments
    written = {**function, "arguments": arguments}
    name = written.pop("name", None)
    if name and name != call.name:
        call.name += name
        written["name"] = name
    return written

"""Server-sent events, as the standard allows them and as servers send them, to the JSON that they carry.

Read are any line end, several data lines, comments, a byte order mark, events of other kinds; and what the standard
does not know: no empty line behind an event, JSON without `data:` (an error, or the whole answer of a server that does
not stream), and no line end behind `[DONE]`.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Any

__all__ = ["DONE", "Event", "EventReader", "Malformed", "error_message"]

DONE = "[DONE]"
Event = dict[str, Any] | str  # its JSON object; `DONE`, or the text of one that holds something else
_BARE_END = (b"data: [DONE]", b"data:[DONE]")


class Malformed(Exception):
    """The server's answer is not what it should be; the message says in which way."""


class EventReader:
    """Reads the bytes of one answer, however they are cut; an event is there as soon as its last byte is.

    A data line that is a JSON object by itself is an event at once: some servers leave out the empty line behind it.
    So each event is parsed once, but for those that are written over several lines.

    Args:
        is_json: the server calls its answer JSON, which some do with a stream, too.
    """

    def __init__(self, *, is_json: bool = False) -> None:
        self._is_json = is_json
        self._rest = b""  # of a line that has not ended
        self._after_cr = False  # whether a line feed that comes now belongs to the line end before it
        self._begun = False
        self._kind = ""
        self._data: list[str] = []
        self._last = ""  # an event that was given before the end of its block
        self._in_document = False
        self._gave = False
        self._strange = ""

    def read(self, block: bytes) -> Iterator[Event]:
        """The events that a block ends.

        Raises:
            Malformed: one of them reports an error.
        """
        for line in self._lines(block):
            if (event := self._line(line)) is not None:
                self._gave = True
                yield event
        if self._rest in _BARE_END:
            self._rest, self._gave = b"", True
            yield DONE

    def end(self) -> Iterator[Event]:
        """The event that the end of the answer ends.

        Raises:
            Malformed: it reports an error, or nothing that came was an event.
        """
        yield from self.read(b"\n")
        if (event := self._end()) is not None:
            yield event
        elif self._strange and not self._gave:
            if self._is_json:
                yield self._strange
                return
            raise Malformed(f"not a stream of events, check base_url: {self._strange}")

    def _lines(self, block: bytes) -> list[bytes]:
        if self._after_cr and block:
            block, self._after_cr = block.removeprefix(b"\n"), False
        data = self._rest + block
        if not self._begun:
            if len(data) < len(codecs.BOM_UTF8) and codecs.BOM_UTF8.startswith(data):
                self._rest = data
                return []
            self._begun, data = True, data.removeprefix(codecs.BOM_UTF8)
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, self._rest = data.split(b"\n")
        return lines

    def _line(self, line: bytes) -> Event | None:
        """The event that a line ends."""
        if self._in_document:
            return self._document(line.decode("utf-8", "replace"))
        if line.startswith(b"data:"):
            return self._take(line[5:].decode("utf-8", "replace").removeprefix(" "))
        return self._end() if not line.strip() else self._other(line.decode("utf-8", "replace"))

    def _take(self, data: str) -> Event | None:
        """A line of data: an event of its own, or a part of one that an empty line ends."""
        event = None if self._data else _whole(data)
        if event is None:
            self._data.append(data)
            return None
        self._last = data
        if self._kind == "error":
            return self._end()
        self._kind = ""
        return event

    def _other(self, line: str) -> Event | None:
        field, _, value = line.partition(":")
        if field == "event":
            self._kind = value.strip()
        elif line.startswith("{"):  # no event at all, but what some servers write in place of one
            event = self._take(line)
            self._in_document = event is None
            return event
        elif field == "data" or line.strip() == DONE:
            return self._take(line.removeprefix("data"))
        elif field not in ("", "id", "retry"):
            self._strange = self._strange or line
        return None

    def _document(self, line: str) -> Event | None:
        """A line of JSON that is written over several, up to the brace that closes it."""
        self._data.append(line)
        event = _whole("\n".join(self._data)) if line.startswith("}") else None
        if event is not None:
            self._data, self._in_document = [], False
        return event

    def _end(self) -> Event | None:
        """The event that an empty line ends."""
        if not self._data and not self._kind:
            self._last = ""
            return None
        data, kind = "\n".join(self._data).strip(), self._kind
        last, self._data, self._kind, self._last = self._last, [], "", ""
        if kind == "error":
            raise Malformed(f"the server reported an error: {error_message(data or last)}")
        if not data:
            return None
        event = _whole(data)
        if event is None and (not kind or data.startswith(("{", "["))):
            return data
        return event


def _whole(data: str) -> Event | None:
    """The event that a text is by itself."""
    data = data.strip()
    if data == DONE:
        return DONE
    if not data.startswith("{"):
        return None
    try:
        event: dict[str, Any] = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return event


def error_message(body: str) -> str:
    """What a server says in an error body: `{"error": {"message": …}}` or one of its relatives."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return body
    if isinstance(said, list) and len(said) == 1:
        said = said[0]
    for key in ("error", "message", "detail", "msg"):
        if isinstance(said, dict) and said.get(key):
            said = said[key]
    return said if isinstance(said, str) else body

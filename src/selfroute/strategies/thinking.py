"""The cloud's text to reasoning and answer: a `<think>` block is told apart at its very beginning, or where its server
has set the tags."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from selfroute.handoff import Piece, StreamParser
from selfroute.types import Delta, TextDelta

__all__ = ["CloudReader", "Part", "ThinkSplitter"]

Part = tuple[Literal["reasoning", "content"], str]
_OPEN, _CLOSE = "<think>", "</think>"


class ThinkSplitter:
    """Splits a text while it is written; any cut into chunks gives the same text per kind.

    Everything outside a leading `<think>` block is passed on as it is, except blanks before the block and right
    behind it. Held back is only what may still become one of the two tags.
    """

    def __init__(self) -> None:
        self._state: Literal["start", "thinking", "after", "content"] = "start"
        self._held = ""
        self._is_first = True

    def open(self) -> None:
        """The next chunk begins with a block of its own, wherever in the text: its model's server says so."""
        if self._state == "content":
            self._state, self._is_first = "start", False

    def feed(self, text: str) -> list[Part]:
        """Take the next chunk and give what is certain by now."""
        if self._state == "content":
            return [("content", text)] if text else []
        parts: list[Part] = []
        self._held += text
        while self._step(parts):
            pass
        return parts

    def close(self) -> list[Part]:
        """Give what was held back; call once, at the end."""
        held, self._held = self._held, ""
        if not held or self._state == "after":
            return []
        return [("reasoning" if self._state == "thinking" else "content", held)]

    def _step(self, parts: list[Part]) -> bool:
        """Read on in the held text; whether there may be more to read."""
        match self._state:
            case "start":
                return self._start()
            case "thinking":
                return self._think(parts)
            case "after":
                self._held = self._held.lstrip() if self._is_first else self._held
                if self._held:
                    self._state = "content"
                return bool(self._held)
            case _:
                if self._held:
                    parts.append(("content", self._held))
                self._held = ""
                return False

    def _start(self) -> bool:
        text = self._held.lstrip()
        if text.startswith(_OPEN):
            self._held, self._state = text[len(_OPEN) :], "thinking"
        elif text and not _OPEN.startswith(text):
            self._state = "content"
        return self._state != "start"

    def _think(self, parts: list[Part]) -> bool:
        thought, close, rest = self._held.partition(_CLOSE)
        keep = 0 if close else next((n for n in range(len(_CLOSE) - 1, 0, -1) if thought.endswith(_CLOSE[:n])), 0)
        said = thought[: len(thought) - keep]
        if said:
            parts.append(("reasoning", said))
        if close:
            self._held, self._state = rest, "after"
        else:
            self._held = thought[len(said) :]
        return bool(close)


class CloudReader:
    """A cloud's deltas for a reader: what it thought apart from what it answers.

    Args:
        strip_tags: read its text as the device's, without tags, hand-offs, and blanks before the content; else only a
            leading `<think>` block is told apart, and what its server tells apart itself.

    Attributes:
        silent: whether its reader has been told nothing so far but thoughts.
    """

    def __init__(self, *, strip_tags: bool) -> None:
        self.silent = True
        self._splitter = ThinkSplitter()
        self._parser = StreamParser() if strip_tags else None

    def read(self, delta: Delta) -> list[TextDelta]:
        """What is certain by now; tokens and further fields come with the last piece."""
        if delta.aside:
            self._splitter.open()
        parts = self._splitter.feed(delta.text) if self._parser is None else _shown(self._parser.feed(delta.text))
        said = self._told(parts)
        self.silent &= not delta.extra
        if delta.tokens or delta.extra:
            last = said.pop() if said else TextDelta("", "cloud")
            said.append(TextDelta(last.text, "cloud", last.kind, delta.tokens, delta.extra))
        return said

    def close(self) -> list[TextDelta]:
        """What was held back; call once, at the end."""
        parts = self._splitter.close() if self._parser is None else _shown(self._parser.close())
        return self._told(parts)

    def _told(self, parts: Sequence[Part]) -> list[TextDelta]:
        said = []
        for kind, text in parts:
            if kind == "content":
                text = text.lstrip() if self.silent and self._parser is not None else text
                self.silent &= not text
            if text:
                said.append(TextDelta(text, "cloud", kind))
        return said


def _shown(pieces: Iterable[Piece]) -> list[Part]:
    return [(piece.kind, piece.text) for piece in pieces if piece.kind == "reasoning" or piece.kind == "content"]

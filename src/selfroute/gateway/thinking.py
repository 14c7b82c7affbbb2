"""The cloud's text to reasoning and answer: only a `<think>` block at its very beginning is told apart."""

from __future__ import annotations

from typing import Literal

__all__ = ["Part", "ThinkSplitter"]

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
                self._held = self._held.lstrip()
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

"""Characters that come in halves: JSON writes one above U+FFFF as two surrogates, and a server may cut between them."""

from __future__ import annotations

import re

__all__ = ["Halves", "mended"]

_HALF = re.compile("[\ud800-\udfff]")
_LOST = "\ufffd"


def mended(text: str) -> str:
    """The text as characters: halves that stand together are one, and U+FFFD stands for a half alone."""
    if text.isascii() or not _HALF.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class Halves:
    """Mends a text that comes in pieces: the first half of a character waits for the second one."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, piece: str) -> str:
        """What is certain once the next piece is there."""
        if not self._held and piece.isascii():
            return piece
        text, self._held = self._held + piece, ""
        if "\ud800" <= text[-1] <= "\udbff":
            text, self._held = text[:-1], text[-1]
        return mended(text)

    def close(self) -> str:
        """What stands for a half that waits in vain."""
        lost, self._held = _LOST if self._held else "", ""
        return lost

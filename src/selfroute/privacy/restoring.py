"""Placeholders back to their values, in texts and in streams that cut them anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from selfroute.privacy.table import Table

__all__ = ["Restorer", "restored"]


def restored(text: str, table: Table, *, within_json: bool = False) -> str:
    """The text with values in place of placeholders.

    Args:
        within_json: the text is JSON, in whose strings the values have to be escaped.
    """
    restorer = Restorer(table, within_json=within_json)
    return restorer.feed(text) + restorer.close()


class Restorer:
    """Restores a stream: however it is cut, the same text comes out.

    What may be the begin of a placeholder waits for more; that is never more than a placeholder less one character.

    Args:
        within_json: as in `restored`.
    """

    def __init__(self, table: Table, *, within_json: bool = False) -> None:
        put: Callable[[str], str] = _escaped if within_json else str
        self._values: Mapping[str, str] = {mark: put(value) for mark, value in table.values.items()}
        self._waiting = ""

    def feed(self, piece: str) -> str:
        """What can be told of the text so far, beyond what was told before."""
        text, out = self._waiting + piece, []
        while (start := text.find("[")) >= 0:
            out.append(text[:start])
            text = text[start:]
            mark = next((mark for mark in self._values if text.startswith(mark)), None)
            if mark is not None:
                out.append(self._values[mark])
                text = text[len(mark) :]
            elif any(mark.startswith(text) for mark in self._values):
                self._waiting = text
                return "".join(out)
            else:
                out.append(text[0])
                text = text[1:]
        self._waiting = ""
        return "".join(out) + text

    def close(self) -> str:
        """What was still waiting when the text ended."""
        waiting, self._waiting = self._waiting, ""
        return waiting


def _escaped(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)[1:-1]

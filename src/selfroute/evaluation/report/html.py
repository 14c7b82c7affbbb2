"""Pieces of the page: escaped text, tables, lists of terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

__all__ = ["code", "definitions", "sentence", "table", "table_line"]


def code(text: str) -> str:
    """Escaped, with `code` marked as such."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))


def sentence(text: str) -> str:
    """Escaped, and with no line break between a number and its per cent sign."""
    return escape(text).replace(" %", "&nbsp;%")


def table_line(name: str, *cells: str, kind: str = "bound") -> str:
    """A line of a table; the cells are HTML.

    Args:
        kind: "bound" is faint, "best" stands out, "own" is neither.
    """
    return f'<tr class="{kind}"><td>{escape(name)}</td>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def table(names: Sequence[str], lines: Sequence[str], note: str) -> str:
    """A table of many columns, which may scroll, and below it a note, which does not."""
    head = "".join(f"<th>{escape(name)}</th>" for name in ("strategy", *names))
    body = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<div class="scroll wide">{body}</div><p class="faint">{escape(note)}</p>'


def definitions(terms: Mapping[str, str]) -> str:
    """The inside of a `<dl>`."""
    return "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in terms.items())

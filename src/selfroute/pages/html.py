"""Pages and their pieces: the frame around all of them, escaped text, tables, lists of terms."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape, unescape
from importlib.resources import files
from string import Template

__all__ = ["code", "definitions", "page", "scrolling", "sentence", "sentences", "table", "table_line"]

# Pixels of a letter in a head, in a cell and in the small print below it, somewhat more than most take; around a cell.
_HEAD, _CELL, _SMALL, _GAP = 7.4, 8.0, 6.6, 17
_WRAPS = 26  # letters of small print on a line
_EDGES = 40  # pixels beside the text of a page
_STEP = 100  # between the widths for which the style sheet has a rule


def page(title: str, lead: Sequence[str], body: str) -> str:
    """A whole page; it refers to nothing outside itself.

    Args:
        lead: what matters, in plain sentences, the most important first.
        body: HTML.
    """
    return Template(_asset("page.html")).substitute(
        style=_asset("style.css"), title=escape(title), body=f"{sentences(lead)}\n{body}"
    )


def _asset(name: str) -> str:
    return files("selfroute.pages").joinpath(name).read_text(encoding="utf-8")


def code(text: str) -> str:
    """Escaped, with `code` marked as such."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))


def sentence(text: str) -> str:
    """Escaped, and with no line break between a number and its unit."""
    return re.sub(r"(?<=\d) (?=%|hops|points)", "&nbsp;", escape(text))


def sentences(texts: Sequence[str]) -> str:
    """Paragraphs, the first of which stands out."""
    first, *rest = texts
    return f'<p class="lead">{sentence(first)}</p>' + "".join(f"<p>{sentence(text)}</p>" for text in rest)


def table_line(name: str, *cells: str, kind: str = "bound") -> str:
    """A line of a table; the cells are HTML.

    Args:
        kind: "bound" is faint, "best" stands out, "own" is neither.
    """
    return f'<tr class="{kind}"><td>{escape(name)}</td>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def table(names: Sequence[str], lines: Sequence[str], note: str, *, first: str = "strategy") -> str:
    """A table of many columns, which may scroll and then says so, and below it a note, which does not.

    Args:
        names: heads of the columns behind the first.
    """
    return f'{scrolling([first, *names], lines, kind="wide")}<p class="faint">{escape(note)}</p>'


def scrolling(heads: Sequence[str], lines: Sequence[str], *, kind: str = "", of: str = "") -> str:
    """A table that scrolls where it is wider than the screen, and says so there.

    Args:
        kind: "wide" may be wider than the text.
        of: class of the table.
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = f'<table class="{of}"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    over = -(-_width(heads, lines) // _STEP)  # in steps
    return (
        f'<p class="sideways over-{over}">The table goes on to the right: scroll it sideways.</p>'
        f'<div class="scroll {kind}" tabindex="0" role="region" aria-label="{escape(heads[0])} table">{body}</div>'
    )


def _width(heads: Sequence[str], lines: Sequence[str]) -> int:
    """About the width of the screen, in pixels, below which a table does not fit."""
    rows = [re.findall(r"<td>(.*?)</td>", line, re.DOTALL) for line in lines]
    widest = [_HEAD * max(map(len, head.split()), default=0) for head in heads]
    for row in rows:
        for place, cell in enumerate(row[: len(widest)]):
            large, _, small = (unescape(re.sub(r"<(?!small)[^>]+>", "", cell))).partition("<small>")
            widest[place] = max(widest[place], _CELL * len(large), _SMALL * min(len(small), _WRAPS))
    return int(sum(widest)) + _GAP * len(widest) + _EDGES


def definitions(terms: Mapping[str, str]) -> str:
    """The inside of a `<dl>`."""
    return "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in terms.items())

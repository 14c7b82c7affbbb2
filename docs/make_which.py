"""Writes docs/which.md: its template with the numbers of the results.

    python docs/make_which.py

A number of the template stands as `[[PAGE | SECTION | ROW | COLUMN]]`: a cell of a table on a committed page of
results, by the title of its section (empty for a page without), the first cell of its row and the head of its column.
It becomes a link to that section. A test fails while the page and the results differ.
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE, PAGE = ROOT / "docs/which.template", ROOT / "docs/which.md"
_NUMBER = re.compile(r"\[\[(.+?)\]\]")
_TABLE = re.compile(r"(?:^\|.*\|\n?)+", re.MULTILINE)
_SECTION = re.compile(r"^#+ (.+)$", re.MULTILINE)


def written(template: str) -> str:
    """A page with its numbers."""
    return _NUMBER.sub(lambda found: linked(*(part.strip() for part in found.group(1).split("|"))), template)


def linked(page: str, section: str, row: str, column: str) -> str:
    """A cell as a link to its section."""
    title = re.sub(r"[^\w\- ]", "", section.lower()).replace(" ", "-")
    place = os.path.relpath(ROOT / page, PAGE.parent).replace(os.sep, "/")
    return f"[{number(page, section, row, column)}]({place}{f'#{title}' if title else ''})"


def number(page: str, section: str, row: str, column: str) -> str:
    """A cell, without the marks of the table.

    Raises:
        KeyError: the page has no such cell.
    """
    found = [table[row][column] for table in tables(page, section) if column in table.get(row, {})]
    if not found:
        raise KeyError(f"{page}: no cell '{row}', '{column}' in section '{section}'")
    return found[0].rstrip("*")


@cache
def tables(page: str, section: str) -> list[dict[str, dict[str, str]]]:
    """Tables of a section: cells by row and column."""
    text = (ROOT / page).read_text(encoding="utf-8")
    if section:
        starts = {found.group(1): found.end() for found in _SECTION.finditer(text)}
        text = text[starts[section] :]
        following = _SECTION.search(text)
        text = text if following is None else text[: following.start()]
    return [_table(found.group(0)) for found in _TABLE.finditer(text)]


def _table(text: str) -> dict[str, dict[str, str]]:
    heads, _, *rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in text.splitlines()]
    return {cells[0]: dict(zip(heads, cells, strict=False)) for cells in rows}


def main() -> None:
    PAGE.write_text(written(TEMPLATE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

"""The canvas of a figure: one for a screen and one for a phone, so that letters and marks keep their size on both."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape

__all__ = ["NARROW", "WIDE", "Canvas", "on_both", "whole"]


@dataclass(frozen=True, slots=True)
class Canvas:
    """Size of a figure and of the margins around what is plotted, in pixels.

    Attributes:
        ticks: most labels along the horizontal axis.
    """

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    ticks: int


WIDE = Canvas(860, 430, 52, 14, 12, 44, 6)
NARROW = Canvas(350, 330, 42, 12, 12, 44, 5)


def whole(label: str, parts: Iterable[str], *, width: float, height: float) -> str:
    """An `<svg>` element, with its label for those who do not see it."""
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}" font-size="12">'
        + "".join(parts)
        + "</svg>"
    )


def on_both(make: Callable[[Canvas], str]) -> str:
    """A figure for a screen and one for a phone; the page shows that which fits."""
    return f'<div class="roomy">{make(WIDE)}</div><div class="tight">{make(NARROW)}</div>'

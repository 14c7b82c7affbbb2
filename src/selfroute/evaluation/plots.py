"""The figure, accuracy against call share: `curve.png` for a README, inline SVG for the report."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path

import numpy as np

from selfroute.evaluation.metrics import Floats
from selfroute.evaluation.summary import Curves, Line

__all__ = ["COLOURS", "curve_png", "curve_svg", "leader", "legend_mark"]

# Okabe and Ito's palette, which the common kinds of colour blindness can tell apart; marks and dashes differ as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#7F7F7F")
_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES = ("6 3", "7 3", "2 3", "9 3 2 3", "12 4", "4 2", "1 2", "6 2 1 2")  # the leader is solid


def curve_png(drawn: Curves, path: Path, *, share: float, title: str = "") -> None:
    """Draw the figure into a PNG of 1280 × 800 pixels.

    Args:
        share: where strategies are compared; drawn as a vertical line.
    """
    # Without pyplot: no window system, no global state, safe in a thread.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    x = 100 * drawn.shares
    axes.plot(x, 100 * drawn.oracle, color="#444444", lw=1.2, label="oracle (reference device)")
    axes.plot(x, 100 * drawn.random, color="#999999", lw=1.2, ls=(0, (4, 3)), label="random (reference device)")
    axes.axvline(100 * share, color="#999999", lw=0.8, ls=":")
    for number, line in enumerate(drawn.lines):
        colour, mark = COLOURS[number % len(COLOURS)], _MARKS[number % len(_MARKS)]
        if not line.fixed:
            axes.plot(x, 100 * line.accuracy, color=colour, lw=2)
            axes.fill_between(x, 100 * line.low, 100 * line.high, color=colour, alpha=0.10, lw=0)
        axes.plot(
            100 * line.raw_share, 100 * line.raw_accuracy, mark, color=colour, ms=8, mec="white", label=line.name,
            ls="none" if line.fixed else "-", lw=2, clip_on=False, zorder=5,
        )  # fmt: skip
    low, high = _range(drawn)
    axes.set(xlim=(0, 100), ylim=(100 * low, 100 * high), title=title)
    axes.set_xlabel("call share: requests answered by the cloud, %")
    axes.set_ylabel("overall accuracy, %")
    axes.grid(color="#DDDDDD", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right", fontsize=9)
    figure.savefig(path, metadata={"Software": None})


# --- the same as SVG -------------------------------------------------------------------------------------------

_WIDTH, _HEIGHT = 860, 430
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 12, 44


def curve_svg(drawn: Curves, *, share: float) -> str:
    """The figure as an `<svg>` element for an HTML page.

    Colours come from the page's `--c0` … `--c7`, `--ink`, `--faint` and `--page`, so that it follows its light or dark.
    """
    low, high = _range(drawn)
    frame = _Frame(low, high)
    parts = [*_axes(frame), frame.path(drawn.shares, drawn.random, "stroke:var(--faint);stroke-dasharray:5 4")]
    parts.append(frame.path(drawn.shares, drawn.oracle, "stroke:var(--ink);stroke-width:1.2"))
    parts += [frame.vertical(share)]
    for number, line in enumerate(drawn.lines):
        parts += _strategy(frame, drawn.shares, line, number, _stroke(number, number == leader(drawn, share)))
    label = "Overall accuracy against call share, one line per strategy"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}" font-size="12">'
        + "".join(parts)
        + "</svg>"
    )


def leader(drawn: Curves, share: float) -> int | None:
    """Number of the line that is highest at a share, None if every strategy is fixed; it is drawn solid."""
    at = int(np.argmin(np.abs(drawn.shares - share)))
    moving = [number for number, line in enumerate(drawn.lines) if not line.fixed]
    return max(moving, key=lambda number: drawn.lines[number].accuracy[at], default=None)


def legend_mark(number: int, *, fixed: bool, first: bool = False) -> str:
    """The sign of a strategy as in the figure, as a small `<svg>`."""
    stroke = "" if fixed else f'<path d="M1 8H35" style="{_stroke(number, first)}"/>'
    return f'<svg width="36" height="16" aria-hidden="true">{stroke}{_mark(18, 8, number)}</svg>'


class _Frame:
    """From shares and accuracies to pixels."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def x(self, share: float) -> float:
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, accuracy: float) -> float:
        part = (accuracy - self.low) / (self.high - self.low)
        return _HEIGHT - _BOTTOM - part * (_HEIGHT - _TOP - _BOTTOM)

    def points(self, shares: Iterable[float], accuracies: Iterable[float]) -> str:
        return " ".join(f"{self.x(s):.1f},{self.y(a):.1f}" for s, a in zip(shares, accuracies, strict=True))

    def path(self, shares: Floats, accuracies: Floats, style: str) -> str:
        return f'<polyline points="{self.points(shares, accuracies)}" style="fill:none;{style}"/>'

    def vertical(self, share: float) -> str:
        x = self.x(share)
        return (
            f'<path d="M{x:.1f} {_TOP}V{_HEIGHT - _BOTTOM}" style="stroke:var(--faint);stroke-dasharray:2 3"/>'
            f'<text x="{x + 4:.1f}" y="{_TOP + 10}" fill="var(--faint)">compared here</text>'
        )


def _axes(frame: _Frame) -> list[str]:
    parts = []
    for percent in range(0, 101, 20):
        x = frame.x(percent / 100)
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 26}" text-anchor="middle" fill="var(--faint)">{percent}</text>')
    for percent in _ticks(frame.low, frame.high):
        y = frame.y(percent / 100)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" style="stroke:var(--rule)"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="var(--faint)">{percent}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle" fill="var(--ink)">'
        "call share: requests answered by the cloud, %</text>"
        f'<text transform="translate(14 {_HEIGHT / 2 - 14}) rotate(-90)" text-anchor="middle" fill="var(--ink)">'
        "overall accuracy, %</text>"
    )
    return parts


def _stroke(number: int, first: bool) -> str:
    style = "stroke-width:3" if first else f"stroke-width:2;stroke-dasharray:{_DASHES[number % len(_DASHES)]}"
    return f"stroke:var(--c{number % len(COLOURS)});{style}"


def _strategy(frame: _Frame, shares: Floats, line: Line, number: int, stroke: str) -> list[str]:
    colour = f"var(--c{number % len(COLOURS)})"
    point = _mark(frame.x(line.raw_share), frame.y(line.raw_accuracy), number)
    as_run = f"as run {100 * line.raw_share:.1f} % sent, {100 * line.raw_accuracy:.1f} % right"
    mark = f"<g><title>{escape(line.name)}: {as_run}</title>{point}</g>"
    if line.fixed:
        return [mark]
    band = f"{frame.points(shares, line.low)} {frame.points(shares[::-1], line.high[::-1])}"
    return [
        f'<polygon points="{band}" style="fill:{colour};opacity:.10"/>',
        frame.path(shares, line.accuracy, stroke),
        mark,
    ]


def _mark(x: float, y: float, number: int) -> str:
    """A sign of its own for each strategy, about 10 pixels wide."""
    shapes = (
        "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0",
        "M-4.5-4.5h9v9h-9z",
        "M0-5.5L5.5 4.5h-11z",
        "M0-6L6 0L0 6L-6 0z",
        "M0 5.5L5.5-4.5h-11z",
        "M-2-6h4v4h4v4h-4v4h-4v-4h-4v-4h4z",
        "M-6-3L-3-6L0-3L3-6L6-3L3 0L6 3L3 6L0 3L-3 6L-6 3L-3 0z",
        "M0-6.5L2-2h4.5L3 1L4.5 6L0 3L-4.5 6L-3 1L-6.5-2h4.5z",
    )
    style = f"fill:var(--c{number % len(COLOURS)});stroke:var(--page);stroke-width:1.2"
    return f'<path transform="translate({x:.1f} {y:.1f})" d="{shapes[number % len(shapes)]}" style="{style}"/>'


def _range(drawn: Curves) -> tuple[float, float]:
    """Accuracies to show: all lines, points and bands, out to the next 5 per cent."""
    shown = [drawn.random, drawn.oracle, *(np.r_[line.low, line.high] for line in drawn.lines if not line.fixed)]
    marks = [line.raw_accuracy for line in drawn.lines]
    low = min(*(float(np.nanmin(values)) for values in shown), *marks)
    high = max(*(float(np.nanmax(values)) for values in shown), *marks)
    return max(0.0, np.floor(20 * low - 0.2) / 20), min(1.0, np.ceil(20 * high + 0.2) / 20)


def _ticks(low: float, high: float) -> range:
    step = 5 if high - low <= 0.4 else 10
    first = -(-round(100 * low) // step) * step
    return range(first, round(100 * high) + 1, step)

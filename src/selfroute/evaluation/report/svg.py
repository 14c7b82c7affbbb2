"""The figures inside the report: SVG that follows the page's light or dark, and what they are drawn with.

Colours come from the page's `--c0` … `--c7`, `--ink`, `--faint`, `--rule` and `--page`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np

from selfroute.evaluation.counting.curves import Curves, Line
from selfroute.evaluation.counting.metrics import Floats
from selfroute.evaluation.report.choice import COLOURS, leader, range_of
from selfroute.pages.svg import WIDE, Canvas, whole

__all__ = [
    "Frame",
    "cost_svg",
    "curve_svg",
    "legend",
    "legend_mark",
    "mark",
    "reliability_svg",
    "scales",
    "stroke_of",
]

_DASHES = ("6 3", "7 3", "2 3", "9 3 2 3", "12 4", "4 2", "1 2", "6 2 1 2")  # the leader is solid


def curve_svg(drawn: Curves, *, share: float, canvas: Canvas = WIDE) -> str:
    """Accuracy against call share as an `<svg>` element; the band is that of the highest at the share."""
    frame = Frame((0, 1), range_of(drawn), canvas)
    parts = [*scales(frame, x_label="call share: requests answered by the cloud, %", x_scale=100)]
    parts.append(frame.path(drawn.shares, drawn.random, "stroke:var(--faint);stroke-dasharray:5 4"))
    parts.append(frame.path(drawn.shares, drawn.oracle, "stroke:var(--ink);stroke-width:1.2"))
    parts += [frame.vertical(share)]
    first = leader(drawn, share)
    for number, line in enumerate(drawn.lines):
        as_run = f"as run {100 * line.raw_share:.1f} % sent, {100 * line.raw_accuracy:.1f} % right"
        parts += _strategy(frame, drawn.shares, line, number, number == first, line.raw_share, as_run)
    return frame.whole("Overall accuracy against call share, one line per strategy", parts)


def cost_svg(drawn: Curves, *, share: float, canvas: Canvas = WIDE) -> str:
    """Accuracy against the cost of 1,000 requests, likewise."""
    known = [line for line in drawn.lines if line.usd_per_1000 is not None]
    low = min(float(line.usd_per_1000.min()) for line in known if line.usd_per_1000 is not None)
    high = max(float(line.usd_per_1000.max()) for line in known if line.usd_per_1000 is not None)
    frame = Frame((low - 0.02 * (high - low), high + 0.02 * (high - low)), range_of(drawn), canvas)
    parts = scales(frame, x_label="cost of 1,000 requests, $", x_scale=1)
    first = leader(drawn, share)
    for number, line in enumerate(drawn.lines):
        if line.usd_per_1000 is None or line.raw_usd_per_1000 is None:
            continue
        as_run = f"as run ${line.raw_usd_per_1000:.2f} per 1,000, {100 * line.raw_accuracy:.1f} % right"
        parts += _strategy(frame, line.usd_per_1000, line, number, number == first, line.raw_usd_per_1000, as_run)
    return frame.whole("Overall accuracy against the cost of 1,000 requests, one line per strategy", parts)


def reliability_svg(
    bins: Sequence[Mapping[str, float]], *, number: int, x_label: str, y_label: str, canvas: Canvas = WIDE
) -> str:
    """Rates by bin with their intervals, as an `<svg>` element.

    Args:
        number: of the strategy, for its colour and mark.
    """
    x = np.array([found["mean"] for found in bins])
    width = max(float(x.max() - x.min()), 1e-9)
    frame = Frame((float(x.min()) - 0.03 * width, float(x.max()) + 0.03 * width), (0.0, 1.0), canvas)
    colour = f"var(--c{number % len(COLOURS)})"
    parts = scales(frame, x_label=x_label, x_scale=1, y_label=y_label)
    rates = np.array([found["rate"] for found in bins])
    parts.append(frame.path(x, rates, f"stroke:{colour};stroke-width:2"))
    for found in bins:
        at = frame.x(found["mean"])
        span = f"{found['n']} prompts, {100 * found['rate']:.1f} % ({_span(found)})"
        parts.append(
            f'<g><title>{span}</title><path d="M{at:.1f} {frame.y(found["rate_low"]):.1f}V'
            f'{frame.y(found["rate_high"]):.1f}" style="stroke:{colour};stroke-width:1.5"/>'
            f"{mark(at, frame.y(found['rate']), number)}</g>"
        )
    return frame.whole(f"{y_label} against {x_label}", parts)


def _span(found: Mapping[str, float]) -> str:
    return f"{100 * found['rate_low']:.1f} to {100 * found['rate_high']:.1f}"


def legend_mark(number: int, *, fixed: bool, first: bool = False) -> str:
    """The sign of a strategy as in the figure, as a small `<svg>`."""
    stroke = "" if fixed else f'<path d="M1 8H35" style="{stroke_of(number, first)}"/>'
    return f'<svg width="36" height="16" aria-hidden="true">{stroke}{mark(18, 8, number)}</svg>'


def legend(signs: Sequence[tuple[str, str]], *, bounds: bool) -> str:
    """The key of a figure: a sign and a name each.

    Args:
        bounds: whether it shows the oracle and chance as well.
    """
    line = '<svg width="36" height="16" aria-hidden="true"><path d="M1 8H35" style="stroke:var({});{}"/></svg>'
    ends = [
        (line.format("--ink", "stroke-width:1.2"), "oracle, reference device"),
        (line.format("--faint", "stroke-dasharray:5 4"), "random, reference device"),
    ]
    items = "".join(f"<li>{sign} {escape(name)}</li>" for sign, name in [*signs, *(ends if bounds else [])])
    return f'<ul class="legend">{items}</ul>'


class Frame:
    """From values to pixels."""

    def __init__(self, across: tuple[float, float], up: tuple[float, float], canvas: Canvas = WIDE) -> None:
        self.left, self.right = across
        self.low, self.high = up
        self.canvas = canvas
        self.end, self.bottom = canvas.width - canvas.right, canvas.height - canvas.bottom  # of what is plotted

    def x(self, value: float) -> float:
        return self.canvas.left + (value - self.left) / (self.right - self.left) * (self.end - self.canvas.left)

    def y(self, value: float) -> float:
        part = (value - self.low) / (self.high - self.low)
        return self.bottom - part * (self.bottom - self.canvas.top)

    def whole(self, label: str, parts: Iterable[str]) -> str:
        return whole(label, parts, width=self.canvas.width, height=self.canvas.height)

    def points(self, xs: Iterable[float], ys: Iterable[float]) -> str:
        return " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in zip(xs, ys, strict=True))

    def path(self, xs: Floats, ys: Floats, style: str) -> str:
        return f'<polyline points="{self.points(xs, ys)}" style="fill:none;{style}"/>'

    def vertical(self, share: float) -> str:
        x = self.x(share)
        return (
            f'<path d="M{x:.1f} {self.canvas.top}V{self.bottom}" style="stroke:var(--faint);stroke-dasharray:2 3"/>'
            f'<text x="{x + 4:.1f}" y="{self.canvas.top + 10}" fill="var(--faint)">compared here</text>'
        )


def scales(frame: Frame, *, x_label: str, x_scale: float, y_label: str = "overall accuracy, %") -> list[str]:
    parts, canvas = [], frame.canvas
    for value in _ticks(x_scale * frame.left, x_scale * frame.right, canvas.ticks):
        x = frame.x(value / x_scale)
        parts.append(
            f'<text x="{x:.1f}" y="{canvas.height - 26}" text-anchor="middle" fill="var(--faint)">{value:g}</text>'
        )
    for value in _ticks(100 * frame.low, 100 * frame.high, 8):
        y = frame.y(value / 100)
        parts.append(f'<path d="M{canvas.left} {y:.1f}H{frame.end}" style="stroke:var(--rule)"/>')
        parts.append(
            f'<text x="{canvas.left - 8}" y="{y + 4:.1f}" text-anchor="end" fill="var(--faint)">{value:g}</text>'
        )
    middle = (canvas.left + frame.end) / 2
    parts.append(
        f'<text x="{middle}" y="{canvas.height - 6}" text-anchor="middle" fill="var(--ink)">{escape(x_label)}</text>'
        f'<text transform="translate(12 {canvas.height / 2 - 14}) rotate(-90)" text-anchor="middle" fill="var(--ink)">'
        f"{escape(y_label)}</text>"
    )
    return parts


def stroke_of(number: int, first: bool) -> str:
    style = "stroke-width:3" if first else f"stroke-width:2;stroke-dasharray:{_DASHES[number % len(_DASHES)]}"
    return f"stroke:var(--c{number % len(COLOURS)});{style}"


def _strategy(frame: Frame, x: Floats, line: Line, number: int, first: bool, raw_x: float, as_run: str) -> list[str]:
    sign = mark(frame.x(raw_x), frame.y(line.raw_accuracy), number)
    point = f"<g><title>{escape(line.name)}: {as_run}</title>{sign}</g>"
    if line.fixed:
        return [point]
    band = f"{frame.points(x, line.low)} {frame.points(x[::-1], line.high[::-1])}"
    colour = f"var(--c{number % len(COLOURS)})"
    shade = [f'<polygon points="{band}" style="fill:{colour};opacity:.14"/>'] if first else []
    return [*shade, frame.path(x, line.accuracy, stroke_of(number, first)), point]


def mark(x: float, y: float, number: int) -> str:
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


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from low to high, at most so many."""
    span = max(high - low, 1e-12)
    power = 10.0 ** np.floor(np.log10(span / most))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= most)
    first = np.ceil(low / step - 1e-9)
    count = int(np.floor(high / step + 1e-9) - first) + 1
    return [round(float((first + i) * step), 10) for i in range(count)]

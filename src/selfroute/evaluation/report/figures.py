"""The figures: accuracy against call share and against cost, and how reliable the best score is.

Each is an inline SVG for the report and a PNG beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from selfroute.evaluation.counting.metrics import Floats
from selfroute.evaluation.counting.summary import Curves, Line
from selfroute.evaluation.files import replacing
from selfroute.evaluation.report.words import best

__all__ = [
    "COLOURS",
    "cost_svg",
    "curve_png",
    "curve_svg",
    "has_costs",
    "leader",
    "legend_mark",
    "reliability_svg",
    "shown",
    "write_figures",
]

# Okabe and Ito's palette, which the common kinds of colour blindness can tell apart; marks and dashes differ as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#7F7F7F")
_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES = ("6 3", "7 3", "2 3", "9 3 2 3", "12 4", "4 2", "1 2", "6 2 1 2")  # the leader is solid


def shown(drawn: Curves, share: float) -> Curves:
    """The lines that a reader can tell apart: the fixed strategies and the best at the share, eight at most."""
    if len(drawn.lines) <= len(COLOURS):
        return drawn
    at = int(np.argmin(np.abs(drawn.shares - share)))
    by_rank = sorted(drawn.lines, key=lambda line: (not line.fixed, -line.accuracy[at]))
    kept = {line.name for line in by_rank[: len(COLOURS)]}
    return replace(drawn, lines=[line for line in drawn.lines if line.name in kept])


def has_costs(drawn: Curves) -> bool:
    return any(line.usd_per_1000 is not None and line.usd_per_1000.max() > 0 for line in drawn.lines)


def write_figures(summary: Mapping[str, Any], drawn: Curves, out: Path) -> None:
    """`curve.png`, and where there is something to show `cost.png` and `reliability.png`."""
    share, top = summary["call_share_target"], best(summary)
    title = f"{summary['task']}, n = {summary['n']}".removeprefix(", ")
    curve_png(shown(drawn, share), out / "curve.png", share=share, title=title)
    if has_costs(drawn):
        _cost_png(shown(drawn, share), out / "cost.png", title=title)
    if len(top["reliability"]) > 1:
        _reliability_png(top["reliability"], out / "reliability.png", title=f"{top['name']}: {title}")


def curve_png(drawn: Curves, path: Path, *, share: float, title: str = "") -> None:
    """Draw accuracy against call share into a PNG of 1280 × 800 pixels.

    Args:
        share: where strategies are compared; drawn as a vertical line.
    """
    figure, axes = _canvas()
    x = 100 * drawn.shares
    axes.plot(x, 100 * drawn.oracle, color="#444444", lw=1.2, label="oracle (reference device)")
    axes.plot(x, 100 * drawn.random, color="#999999", lw=1.2, ls=(0, (4, 3)), label="random (reference device)")
    axes.axvline(100 * share, color="#999999", lw=0.8, ls=":")
    for number, line in enumerate(drawn.lines):
        _draw(axes, number, line, x, 100 * line.raw_share)
    axes.set(xlim=(0, 100), title=title)
    axes.set_xlabel("call share: requests answered by the cloud, %")
    _finish(figure, axes, drawn, path)


def _cost_png(drawn: Curves, path: Path, *, title: str) -> None:
    figure, axes = _canvas()
    for number, line in enumerate(drawn.lines):
        if line.usd_per_1000 is not None and line.raw_usd_per_1000 is not None:
            _draw(axes, number, line, line.usd_per_1000, line.raw_usd_per_1000)
    axes.set(title=title)
    axes.set_xlabel("cost of 1,000 requests, $")
    _finish(figure, axes, drawn, path)


def _reliability_png(bins: Sequence[Mapping[str, float]], path: Path, *, title: str) -> None:
    figure, axes = _canvas()
    rate = np.array([found["rate"] for found in bins])
    spread = [
        [100 * (found["rate"] - found["rate_low"]) for found in bins],
        [100 * (found["rate_high"] - found["rate"]) for found in bins],
    ]
    x = [found["mean"] for found in bins]
    axes.errorbar(x, 100 * rate, yerr=spread, color=COLOURS[0], marker="o", ms=7, lw=2, capsize=3)
    axes.set(ylim=(0, 100), title=title, xlabel="score (tenths of the prompts)", ylabel="device wrong, %")
    axes.grid(color="#DDDDDD", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _canvas() -> tuple[Any, Any]:
    # Without pyplot: no window system, no global state, safe in a thread.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _draw(axes: Any, number: int, line: Line, x: Floats, raw_x: float) -> None:
    colour, mark = COLOURS[number % len(COLOURS)], _MARKS[number % len(_MARKS)]
    if not line.fixed:
        axes.plot(x, 100 * line.accuracy, color=colour, lw=2)
        axes.fill_between(x, 100 * line.low, 100 * line.high, color=colour, alpha=0.10, lw=0)
    axes.plot(
        raw_x, 100 * line.raw_accuracy, mark, color=colour, ms=8, mec="white", label=line.name,
        ls="none" if line.fixed else "-", lw=2, clip_on=False, zorder=5,
    )  # fmt: skip


def _finish(figure: Any, axes: Any, drawn: Curves, path: Path) -> None:
    low, high = _range(drawn)
    axes.set(ylim=(100 * low, 100 * high), ylabel="overall accuracy, %")
    axes.grid(color="#DDDDDD", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right", fontsize=9)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    with replacing(path) as partial:
        figure.savefig(partial, metadata={"Software": None})


# --- the same as SVG -------------------------------------------------------------------------------------------

_WIDTH, _HEIGHT = 860, 430
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 12, 44


def curve_svg(drawn: Curves, *, share: float) -> str:
    """Accuracy against call share as an `<svg>` element for an HTML page.

    Colours come from the page's `--c0` … `--c7`, `--ink`, `--faint` and `--page`, so that it follows its light or dark.
    """
    frame = _Frame((0, 1), _range(drawn))
    parts = [*_axes(frame, x_label="call share: requests answered by the cloud, %", x_scale=100)]
    parts.append(frame.path(drawn.shares, drawn.random, "stroke:var(--faint);stroke-dasharray:5 4"))
    parts.append(frame.path(drawn.shares, drawn.oracle, "stroke:var(--ink);stroke-width:1.2"))
    parts += [frame.vertical(share)]
    first = leader(drawn, share)
    for number, line in enumerate(drawn.lines):
        as_run = f"as run {100 * line.raw_share:.1f} % sent, {100 * line.raw_accuracy:.1f} % right"
        parts += _strategy(frame, drawn.shares, line, number, _stroke(number, number == first), line.raw_share, as_run)
    return _svg("Overall accuracy against call share, one line per strategy", parts)


def cost_svg(drawn: Curves, *, share: float) -> str:
    """Accuracy against the cost of 1,000 requests, likewise."""
    known = [line for line in drawn.lines if line.usd_per_1000 is not None]
    low = min(float(line.usd_per_1000.min()) for line in known if line.usd_per_1000 is not None)
    high = max(float(line.usd_per_1000.max()) for line in known if line.usd_per_1000 is not None)
    frame = _Frame((low - 0.02 * (high - low), high + 0.02 * (high - low)), _range(drawn))
    parts = _axes(frame, x_label="cost of 1,000 requests, $", x_scale=1)
    first = leader(drawn, share)
    for number, line in enumerate(drawn.lines):
        if line.usd_per_1000 is None or line.raw_usd_per_1000 is None:
            continue
        as_run = f"as run ${line.raw_usd_per_1000:.2f} per 1,000, {100 * line.raw_accuracy:.1f} % right"
        stroke = _stroke(number, number == first)
        parts += _strategy(frame, line.usd_per_1000, line, number, stroke, line.raw_usd_per_1000, as_run)
    return _svg("Overall accuracy against the cost of 1,000 requests, one line per strategy", parts)


def reliability_svg(bins: Sequence[Mapping[str, float]], *, number: int, x_label: str, y_label: str) -> str:
    """Rates by bin with their intervals, as an `<svg>` element.

    Args:
        number: of the strategy, for its colour and mark.
    """
    x = np.array([found["mean"] for found in bins])
    width = max(float(x.max() - x.min()), 1e-9)
    frame = _Frame((float(x.min()) - 0.03 * width, float(x.max()) + 0.03 * width), (0.0, 1.0))
    colour = f"var(--c{number % len(COLOURS)})"
    parts = _axes(frame, x_label=x_label, x_scale=1, y_label=y_label)
    rates = np.array([found["rate"] for found in bins])
    parts.append(frame.path(x, rates, f"stroke:{colour};stroke-width:2"))
    for found in bins:
        at = frame.x(found["mean"])
        span = f"{found['n']} prompts, {100 * found['rate']:.1f} % ({_span(found)})"
        parts.append(
            f'<g><title>{span}</title><path d="M{at:.1f} {frame.y(found["rate_low"]):.1f}V'
            f'{frame.y(found["rate_high"]):.1f}" style="stroke:{colour};stroke-width:1.5"/>'
            f"{_mark(at, frame.y(found['rate']), number)}</g>"
        )
    return _svg(f"{y_label} against {x_label}", parts)


def _span(found: Mapping[str, float]) -> str:
    return f"{100 * found['rate_low']:.1f} to {100 * found['rate_high']:.1f}"


def _svg(label: str, parts: Iterable[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}" font-size="12">'
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
    """From values to pixels."""

    def __init__(self, across: tuple[float, float], up: tuple[float, float]) -> None:
        self.left, self.right = across
        self.low, self.high = up

    def x(self, value: float) -> float:
        return _LEFT + (value - self.left) / (self.right - self.left) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        part = (value - self.low) / (self.high - self.low)
        return _HEIGHT - _BOTTOM - part * (_HEIGHT - _TOP - _BOTTOM)

    def points(self, xs: Iterable[float], ys: Iterable[float]) -> str:
        return " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in zip(xs, ys, strict=True))

    def path(self, xs: Floats, ys: Floats, style: str) -> str:
        return f'<polyline points="{self.points(xs, ys)}" style="fill:none;{style}"/>'

    def vertical(self, share: float) -> str:
        x = self.x(share)
        return (
            f'<path d="M{x:.1f} {_TOP}V{_HEIGHT - _BOTTOM}" style="stroke:var(--faint);stroke-dasharray:2 3"/>'
            f'<text x="{x + 4:.1f}" y="{_TOP + 10}" fill="var(--faint)">compared here</text>'
        )


def _axes(frame: _Frame, *, x_label: str, x_scale: float, y_label: str = "overall accuracy, %") -> list[str]:
    parts = []
    for value in _ticks(x_scale * frame.left, x_scale * frame.right, 6):
        x = frame.x(value / x_scale)
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 26}" text-anchor="middle" fill="var(--faint)">{value:g}</text>')
    for value in _ticks(100 * frame.low, 100 * frame.high, 8):
        y = frame.y(value / 100)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" style="stroke:var(--rule)"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="var(--faint)">{value:g}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle" fill="var(--ink)">{escape(x_label)}</text>'
        f'<text transform="translate(14 {_HEIGHT / 2 - 14}) rotate(-90)" text-anchor="middle" fill="var(--ink)">'
        f"{escape(y_label)}</text>"
    )
    return parts


def _stroke(number: int, first: bool) -> str:
    style = "stroke-width:3" if first else f"stroke-width:2;stroke-dasharray:{_DASHES[number % len(_DASHES)]}"
    return f"stroke:var(--c{number % len(COLOURS)});{style}"


def _strategy(frame: _Frame, x: Floats, line: Line, number: int, stroke: str, raw_x: float, as_run: str) -> list[str]:
    colour = f"var(--c{number % len(COLOURS)})"
    point = _mark(frame.x(raw_x), frame.y(line.raw_accuracy), number)
    mark = f"<g><title>{escape(line.name)}: {as_run}</title>{point}</g>"
    if line.fixed:
        return [mark]
    band = f"{frame.points(x, line.low)} {frame.points(x[::-1], line.high[::-1])}"
    return [
        f'<polygon points="{band}" style="fill:{colour};opacity:.10"/>',
        frame.path(x, line.accuracy, stroke),
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
    curves = [drawn.random, drawn.oracle, *(np.r_[line.low, line.high] for line in drawn.lines if not line.fixed)]
    marks = [line.raw_accuracy for line in drawn.lines]
    low = min(*(float(np.nanmin(values)) for values in curves), *marks)
    high = max(*(float(np.nanmax(values)) for values in curves), *marks)
    return max(0.0, np.floor(20 * low - 0.2) / 20), min(1.0, np.ceil(20 * high + 0.2) / 20)


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from low to high, at most so many."""
    span = max(high - low, 1e-12)
    power = 10.0 ** np.floor(np.log10(span / most))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= most)
    first = np.ceil(low / step - 1e-9)
    count = int(np.floor(high / step + 1e-9) - first) + 1
    return [round(float((first + i) * step), 10) for i in range(count)]

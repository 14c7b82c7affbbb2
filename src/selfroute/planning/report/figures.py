"""Figures of a plan, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from selfroute.pages.svg import WIDE, Canvas, whole
from selfroute.planning.report.words import amount, seconds

__all__ = ["bars_svg", "pareto_svg"]

_ROW, _TOP, _NAMES, _GAP = 26, 34, 96, 26
_LEFT = 70  # labels of times are longer than those of a canvas
_NAME_AT = 90  # the room on the right that the name of a mark takes
_LINE = 13  # of a label

Entry = Mapping[str, Any]


def bars_svg(methods: Sequence[Entry], canvas: Canvas = WIDE) -> str:
    """Cost and load method by method: hops, time, busiest rank of a layer, and of all layers; side by side, or on a
    phone one below the other.
    """
    panels: list[tuple[str, Callable[[Entry], float | None], Callable[[float], str]]] = [
        ("hops per token", lambda e: e["hops"], amount),
        ("time per token", lambda e: e["seconds"], seconds),
        ("busiest rank of a layer / mean", lambda e: e["busiest"] / e["mean"], lambda v: f"{v:.2f}"),
        ("busiest of all layers / mean", lambda e: e["busiest_total"] / e["mean"], lambda v: f"{v:.2f}"),
    ]
    panels = [panel for panel in panels if all(panel[1](entry) is not None for entry in methods)]
    across = len(panels) if canvas.width >= WIDE.width else 1
    width, height = (canvas.width - _NAMES) / across, _TOP + _ROW * len(methods) + 8
    parts: list[str] = []
    for number, (title, value, form) in enumerate(panels):
        place = f'<g transform="translate({_NAMES + number % across * width:.1f} {number // across * height})">'
        names = [] if number % across else _names(methods)
        values = [float(value(entry) or 0.0) for entry in methods]
        parts += [place, *names, *_panel(title, values, form, width - _GAP, number), "</g>"]
    whole_height = height * -(-len(panels) // across)
    return whole("Cost and load, method by method", parts, width=canvas.width, height=whole_height)


def _names(methods: Sequence[Entry]) -> list[str]:
    """Left of the first panel of a row."""
    return [
        f'<text x="-10" y="{_middle(i)}" text-anchor="end" fill="var(--ink)">{escape(e["method"])}</text>'
        for i, e in enumerate(methods)
    ]


def _panel(title: str, values: Sequence[float], form: Callable[[float], str], width: float, number: int) -> list[str]:
    most = max(max(values), 1e-300)
    room = width - 58  # for the figure behind the longest bar
    parts = [f'<text x="0" y="18" fill="var(--faint)">{escape(title)}</text>']
    for i, value in enumerate(values):
        long = room * value / most
        parts.append(
            f'<rect x="0" y="{_TOP + _ROW * i + 4}" width="{long:.1f}" height="{_ROW - 8}" rx="2" '
            f'style="fill:var(--c{0 if number < 2 else 1});opacity:{1 if i == 0 else 0.5}"/>'
            f'<text x="{long + 6:.1f}" y="{_middle(i)}" fill="var(--ink)">{escape(form(value))}</text>'
        )
    return parts


def _middle(row: int) -> float:
    return _TOP + _ROW * row + _ROW / 2 + 4


def pareto_svg(
    points: Sequence[Mapping[str, Any]], unit: str, others: Sequence[Entry], over: str, canvas: Canvas = WIDE
) -> str:
    """Cost against the busiest rank: the curve of caps, and the methods as marks.

    Args:
        others: methods to show beside the curve.
        over: `all` or `layer`, what the busiest rank is of.
    """
    of = "busiest_total" if over == "all" else "busiest"
    marks = [(entry[of] / entry["mean"], entry["objective"], entry["method"]) for entry in others]
    line = [(point["busiest"], point["objective"]) for point in points]
    xs, ys = ([at[i] for at in [*line, *marks]] for i in (0, 1))
    x = _scale(xs, _LEFT, canvas.width - canvas.right - _NAME_AT)
    y = _scale(ys, canvas.height - canvas.bottom, 30)
    form = seconds if unit == "seconds" else amount
    parts = _axes(xs, ys, x, y, form, "all layers" if over == "all" else "a layer", canvas)
    parts.append(
        f'<text x="{_LEFT - 8}" y="16" fill="var(--ink)">{"time" if unit == "seconds" else unit} per token</text>'
    )
    path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in line)
    parts.append(f'<polyline points="{path}" style="fill:none;stroke:var(--c0);stroke-width:2.5"/>')
    for point, (a, b) in zip(points, line, strict=True):
        told = "no cap" if point["cap"] is None else f"cap {point['cap']:g}"
        label = f"{told}: {form(b)}, busiest {a:.2f}"
        parts.append(f'<g><title>{label}</title><circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="4.5" fill="var(--c0)"/></g>')
    for a, b, _ in marks:
        at = f"translate({x(a):.1f} {y(b):.1f})"
        parts.append(f'<path transform="{at}" d="M-4.5-4.5h9v9h-9z" style="fill:var(--c1)"/>')
    for a, b, name in _apart([(x(a), y(b), name) for a, b, name in marks]):
        parts.append(f'<text x="{a + 9:.1f}" y="{b - 6:.1f}" fill="var(--ink)">{escape(name)}</text>')
    label = "Cost against the load of the busiest rank"
    return whole(label, parts, width=canvas.width, height=canvas.height)


def _apart(labels: Sequence[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Labels from the lowest up, each raised above those that it would cover."""
    placed: list[tuple[float, float, str]] = []
    for x, y, name in sorted(labels, key=lambda label: -label[1]):
        while any(
            abs(y - other) < _LINE and x < at + 7 * len(text) and at < x + 7 * len(name) for at, other, text in placed
        ):
            y -= _LINE  # fmt: skip
        placed.append((x, y, name))
    return placed


def _scale(values: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
    low, high = low - margin, high + margin
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _axes(
    xs: Sequence[float],
    ys: Sequence[float],
    x: Callable[[float], float],
    y: Callable[[float], float],
    form: Callable[[float], str],
    over: str,
    canvas: Canvas,
) -> list[str]:
    parts, end = [], canvas.width - canvas.right
    for value in _round_numbers(min(ys), max(ys)):
        parts.append(
            f'<path d="M{_LEFT} {y(value):.1f}H{end}" style="stroke:var(--rule)"/>'
            f'<text x="{_LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end" fill="var(--faint)">{form(value)}</text>'
        )
    for value in _round_numbers(min(xs), max(xs)):
        at = f'x="{x(value):.1f}" y="{canvas.height - 26}"'
        parts.append(f'<text {at} text-anchor="middle" fill="var(--faint)">{value:g}</text>')
    label = f"load of the busiest rank of {over} / mean"
    middle = (_LEFT + end) / 2
    parts.append(f'<text x="{middle}" y="{canvas.height - 8}" text-anchor="middle" fill="var(--ink)">{label}</text>')
    return parts


def _round_numbers(low: float, high: float) -> list[float]:
    """Round numbers from low to high, about five; one value if they are the same."""
    if low == high:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if (high - low) / (power * factor) <= 6)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]

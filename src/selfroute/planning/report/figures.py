"""Figures of a plan, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from selfroute.planning.report.words import amount, seconds

__all__ = ["bars_svg", "pareto_svg"]

_WIDTH = 900
_ROW, _TOP, _NAMES, _GAP = 26, 34, 110, 26
_HEIGHT, _LEFT, _RIGHT, _BOTTOM = 380, 74, 24, 52
_LINE = 13  # of a label

Entry = Mapping[str, Any]


def bars_svg(methods: Sequence[Entry]) -> str:
    """Cost and load side by side, method by method: hops, time, busiest rank of a layer, and of all layers."""
    panels: list[tuple[str, Callable[[Entry], float | None], Callable[[float], str]]] = [
        ("hops per token", lambda e: e["hops"], amount),
        ("time per token", lambda e: e["seconds"], seconds),
        ("busiest rank of a layer / mean", lambda e: e["busiest"] / e["mean"], lambda v: f"{v:.2f}"),
        ("busiest of all layers / mean", lambda e: e["busiest_total"] / e["mean"], lambda v: f"{v:.2f}"),
    ]
    panels = [panel for panel in panels if all(panel[1](entry) is not None for entry in methods)]
    width = (_WIDTH - _NAMES) / len(panels)
    parts = [
        f'<text x="{_NAMES - 10}" y="{_middle(i)}" text-anchor="end" fill="var(--ink)">{escape(e["method"])}</text>'
        for i, e in enumerate(methods)
    ]
    for number, (title, value, form) in enumerate(panels):
        values = [float(value(entry) or 0.0) for entry in methods]
        parts += _panel(title, values, form, _NAMES + number * width, width - _GAP, number)
    height = _TOP + _ROW * len(methods) + 8
    return _svg("Cost and load, method by method", parts, height)


def _panel(
    title: str, values: Sequence[float], form: Callable[[float], str], left: float, width: float, number: int
) -> list[str]:
    most = max(max(values), 1e-300)
    room = width - 58  # for the figure behind the longest bar
    parts = [f'<text x="{left:.0f}" y="18" fill="var(--faint)">{escape(title)}</text>']
    for i, value in enumerate(values):
        long = room * value / most
        parts.append(
            f'<rect x="{left:.1f}" y="{_TOP + _ROW * i + 4}" width="{long:.1f}" height="{_ROW - 8}" rx="2" '
            f'style="fill:var(--c{0 if number < 2 else 1});opacity:{1 if i == 0 else 0.5}"/>'
            f'<text x="{left + long + 6:.1f}" y="{_middle(i)}" fill="var(--ink)">{escape(form(value))}</text>'
        )
    return parts


def _middle(row: int) -> float:
    return _TOP + _ROW * row + _ROW / 2 + 4


def pareto_svg(points: Sequence[Mapping[str, Any]], unit: str, others: Sequence[Entry], over: str) -> str:
    """Cost against the busiest rank: the curve of caps, and the methods as marks.

    Args:
        others: methods to show beside the curve.
        over: `all` or `layer`, what the busiest rank is of.
    """
    of = "busiest_total" if over == "all" else "busiest"
    marks = [(entry[of] / entry["mean"], entry["objective"], entry["method"]) for entry in others]
    line = [(point["busiest"], point["objective"]) for point in points]
    xs, ys = ([at[i] for at in [*line, *marks]] for i in (0, 1))
    x, y = _scale(xs, _LEFT, _WIDTH - _RIGHT - 90), _scale(ys, _HEIGHT - _BOTTOM, 30)
    form = seconds if unit == "seconds" else amount
    parts = _axes(xs, ys, x, y, form, "all layers" if over == "all" else "a layer")
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
    return _svg("Cost against the load of the busiest rank", parts, _HEIGHT)


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
) -> list[str]:
    parts = []
    for value in _round_numbers(min(ys), max(ys)):
        parts.append(
            f'<path d="M{_LEFT} {y(value):.1f}H{_WIDTH - _RIGHT}" style="stroke:var(--rule)"/>'
            f'<text x="{_LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end" fill="var(--faint)">{form(value)}</text>'
        )
    for value in _round_numbers(min(xs), max(xs)):
        at = f'x="{x(value):.1f}" y="{_HEIGHT - 30}"'
        parts.append(f'<text {at} text-anchor="middle" fill="var(--faint)">{value:g}</text>')
    label = f"load of the busiest rank of {over}, as a multiple of the mean"
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle" fill="var(--ink)">{label}</text>')
    return parts


def _round_numbers(low: float, high: float) -> list[float]:
    """Round numbers from low to high, about five; one value if they are the same."""
    if low == high:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if (high - low) / (power * factor) <= 6)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _svg(label: str, parts: Sequence[str], height: float) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(label)}" font-size="12">'
        + "".join(parts)
        + "</svg>"
    )

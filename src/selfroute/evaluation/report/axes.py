"""Accuracy against any resource: a figure and a table for each axis of the summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from typing import Any

import numpy as np

from selfroute.evaluation.counting.axes import AXES, Chart, ChartLine
from selfroute.evaluation.counting.metrics import Floats
from selfroute.evaluation.report.choice import COLOURS
from selfroute.evaluation.report.svg import Frame, legend, legend_mark, mark, scales, stroke_of
from selfroute.evaluation.report.words import interval, is_matched, percent
from selfroute.pages.html import sentence, table, table_line
from selfroute.pages.svg import WIDE, Canvas, on_both

__all__ = ["axes_section"]

_NOTE = (
    "Lines: what a strategy can be set to; between two settings, a draw between both. Marks: as run. Band: 95 % "
    "interval of the best one at the budgets below."
)

_READ = (
    "Accuracy when so much of what the cloud alone spends is spent, with its interval; a star marks what a paired "
    "interval does not tell apart from the best at that budget, oracles left aside. A dash: it treats every prompt "
    "alike, or the budget is "
    "below its cheapest setting."
)


def axes_section(summary: Mapping[str, Any], charts: Sequence[Chart]) -> str:
    """The section; empty where only calls were asked for and every strategy is in the figure of call shares."""
    others = any(not entry["fixed"] and not is_matched(entry) for entry in summary["strategies"])
    if not others and {chart.name for chart in charts} <= {"calls"}:
        return ""
    made = [_axis(section, chart) for section, chart in zip(summary["axes"], charts, strict=True)]
    return "<h2>Accuracy for the same resource</h2>" + "".join(made)


def _axis(section: Mapping[str, Any], chart: Chart) -> str:
    label = AXES[chart.name].label
    title = f"<h3>{escape(label[0].upper() + label[1:])}</h3>"
    if section["cloud_spent"] is None:
        return title + "<p>The records do not tell.</p>"
    seen = _shown(chart, section)
    signs = [
        (legend_mark(number, fixed=line.path is None, first=number == 0), line.name) for number, line in enumerate(seen)
    ]
    left_out = len(chart.lines) - len(seen)
    note = f"{_NOTE} {left_out} strategies are in the table only." if left_out else _NOTE
    figure = f"{on_both(partial(_svg, chart, seen))}{legend(signs, bounds=True)}<figcaption>{escape(note)}</figcaption>"
    return f"{title}<figure>{figure}</figure>{_table(section)}"


def _shown(chart: Chart, section: Mapping[str, Any]) -> list[ChartLine]:
    """The lines that a reader can tell apart: the best one first, eight at most."""
    rank = {line["name"]: _rank(line) for line in section["lines"]}
    return sorted(chart.lines, key=lambda line: rank[line.name], reverse=True)[: len(COLOURS)]


def _rank(line: Mapping[str, Any]) -> tuple[float, ...]:
    """Higher at the largest budget is better; what treats every prompt alike comes late, and oracles last."""
    return (float(not line["oracle"]), *(-1.0 if value is None else value for value in reversed(line["accuracy"])))


# --- the figure ------------------------------------------------------------------------------------------------


def _svg(chart: Chart, lines: Sequence[ChartLine], canvas: Canvas) -> str:
    axis = AXES[chart.name]
    frame = _frame(chart, lines, canvas)
    parts = scales(frame, x_label=axis.label, x_scale=axis.scale)
    parts += [frame.path(*chart.random, "stroke:var(--faint);stroke-dasharray:5 4")]
    parts += [frame.path(*chart.oracle, "stroke:var(--ink);stroke-width:1.2")]
    for number, line in enumerate(lines):
        parts += _drawn(frame, chart, line, number)
    return frame.whole(f"Overall accuracy against {axis.label}, one line per strategy", parts)


def _drawn(frame: Frame, chart: Chart, line: ChartLine, number: int) -> list[str]:
    parts = []
    known = np.isfinite(line.bands).all(1)
    if number == 0 and known.sum() > 1:
        x, (low, high) = chart.budgets[known], line.bands[known].T
        band = f"{frame.points(x, low)} {frame.points(x[::-1], high[::-1])}"
        parts.append(f'<polygon points="{band}" style="fill:var(--c{number % len(COLOURS)});opacity:.10"/>')
    if line.path is not None:
        parts.append(frame.path(*line.path, stroke_of(number, number == 0)))
    for name, spent, accuracy in line.marks:
        told = f"{line.name} {name}: {_amount(chart.name, spent)}, {100 * accuracy:.1f} % right"
        point = mark(frame.x(spent), frame.y(accuracy), number)
        parts.append(f"<g><title>{escape(told)}</title>{point}</g>")
    return parts


def _frame(chart: Chart, lines: Sequence[ChartLine], canvas: Canvas = WIDE) -> Frame:
    """Everything that is drawn, with a little room, and accuracies out to the next 5 per cent."""
    paths = [chart.random, chart.oracle, *(line.path for line in lines if line.path is not None)]
    marks = np.array([found[1:] for line in lines for found in line.marks]).reshape(-1, 2)
    bands = np.concatenate([line.bands.ravel() for line in lines]) if lines else np.empty(0)
    x = _finite(np.r_[marks[:, 0], *(path[0] for path in paths)])
    y = _finite(np.r_[marks[:, 1], bands, *(path[1] for path in paths)])
    left, right = float(x.min()), max(float(x.max()), float(x.min()) + 1e-9)
    low, high = np.floor(20 * y.min() - 0.2) / 20, np.ceil(20 * y.max() + 0.2) / 20
    room = 0.01 * (right - left)
    return Frame((left - room, right + room), (max(0.0, float(low)), min(1.0, float(high))), canvas)


def _finite(values: Floats) -> Floats:
    return values[np.isfinite(values)]


# --- the table -------------------------------------------------------------------------------------------------


def _table(section: Mapping[str, Any]) -> str:
    name = section["axis"]
    budgets = [_budget(name, part, section["cloud_spent"]) for part in section["fractions"]]
    empty = [""] * len(budgets)
    ends = [
        (end, [_amount(name, section[f"{end}_spent"]), percent(section[f"{end}_accuracy"])])
        for end in ("device", "cloud")
    ]
    bounds = [
        table_line(kind, "", "", *(percent(value) for value in section[f"{kind}_accuracy"]))
        for kind in ("oracle", "random")
    ]
    lines = sorted(section["lines"], key=_rank, reverse=True)
    made = [_line(name, line, is_best=number == 0 and _rank(line)[1] >= 0) for number, line in enumerate(lines)]
    alone = [table_line(f"{end} alone", *cells, *empty) for end, cells in ends]
    return table(["spent as run", "right as run", *budgets], [bounds[0], *made, bounds[1], *alone], _READ)


def _budget(axis: str, part: float, whole: float) -> str:
    """A part of what the cloud alone spends, and how much that is where it is not the same."""
    share, amount = f"{100 * part:g}", _amount(axis, part * whole)
    return f"{share} %" if share == amount else f"{share} % ({amount})"


def _line(axis: str, line: Mapping[str, Any], *, is_best: bool) -> str:
    points = [found for found in line["points"] if found["spent"] is not None]
    run = ["", ""]
    if len(points) == 1:
        run = [_amount(axis, points[0]["spent"]), percent(points[0]["accuracy"])]
    elif points:
        run = [f"{len(points)} points", ""]
    values = zip(line["accuracy"], line["ci95"], line["near_best"], strict=True)
    cells = [_cell(value, band, near) for value, band, near in values]
    name = f"{line['name']} (oracle)" if line["oracle"] else line["name"]
    return table_line(name, *run, *cells, kind="best" if is_best else "own")


def _cell(value: float | None, band: Sequence[float] | None, near: bool | None) -> str:
    star = "*" if near else ""
    return f"{sentence(percent(value))}{star}<small>{interval(band, scale=100, digits=1)}</small>"


def _amount(axis: str, spent: float) -> str:
    """A resource as a person reads it, in the unit of the axis."""
    value = AXES[axis].scale * spent
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"

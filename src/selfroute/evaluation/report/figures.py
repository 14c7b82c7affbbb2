"""The figures beside the report, as PNG: accuracy against call share and against cost, and how reliable the best is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selfroute.evaluation.counting.curves import Curves, Line
from selfroute.evaluation.counting.metrics import Floats
from selfroute.evaluation.files import replacing
from selfroute.evaluation.report.choice import COLOURS, has_costs, leader, range_of, shown
from selfroute.evaluation.report.words import best

__all__ = ["curve_png", "write_figures"]

_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")


def write_figures(summary: Mapping[str, Any], drawn: Curves, out: Path) -> None:
    """`curve.png`, and where there is something to show `cost.png` and `reliability.png`."""
    share, top = summary["call_share_target"], best(summary)
    title = f"{summary['task']}, n = {summary['n']}".removeprefix(", ")
    curve_png(shown(drawn, share), out / "curve.png", share=share, title=title)
    if has_costs(drawn):
        _cost_png(shown(drawn, share), out / "cost.png", share=share, title=title)
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
    first = leader(drawn, share)
    for number, line in enumerate(drawn.lines):
        _draw(axes, number, line, x, 100 * line.raw_share, banded=number == first)
    axes.set(xlim=(0, 100), title=title)
    axes.set_xlabel("call share: requests answered by the cloud, %")
    _finish(figure, axes, drawn, path)


def _cost_png(drawn: Curves, path: Path, *, share: float, title: str) -> None:
    figure, axes = _canvas()
    first = leader(drawn, share)
    for number, line in enumerate(drawn.lines):
        if line.usd_per_1000 is not None and line.raw_usd_per_1000 is not None:
            _draw(axes, number, line, line.usd_per_1000, line.raw_usd_per_1000, banded=number == first)
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


def _draw(axes: Any, number: int, line: Line, x: Floats, raw_x: float, *, banded: bool) -> None:
    colour, mark = COLOURS[number % len(COLOURS)], _MARKS[number % len(_MARKS)]
    if not line.fixed:
        axes.plot(x, 100 * line.accuracy, color=colour, lw=2)
        if banded:
            axes.fill_between(x, 100 * line.low, 100 * line.high, color=colour, alpha=0.14, lw=0)
    axes.plot(
        raw_x, 100 * line.raw_accuracy, mark, color=colour, ms=8, mec="white", label=line.name,
        ls="none" if line.fixed else "-", lw=2, clip_on=False, zorder=5,
    )  # fmt: skip


def _finish(figure: Any, axes: Any, drawn: Curves, path: Path) -> None:
    low, high = range_of(drawn)
    axes.set(ylim=(100 * low, 100 * high), ylabel="overall accuracy, %")
    axes.grid(color="#DDDDDD", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right", fontsize=9)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    with replacing(path) as partial:
        figure.savefig(partial, metadata={"Software": None})

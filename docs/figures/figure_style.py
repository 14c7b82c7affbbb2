"""What figures share: a transparent background, and mid-tones that read on a white page and on a dark one."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, LINE = "#737d8a", "#8b949e"
COLOURS = ("#0072B2", "#E08A00", "#009E73", "#b0607f")


def canvas(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    matplotlib.rcParams.update({"svg.hashsalt": "selfroute", "svg.fonttype": "none", "font.size": 9})
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tone(axes: Axes, grid: Literal["both", "x", "y"] = "both", *, spines: bool = True) -> None:
    """Ink and grid of a panel whose contents are drawn."""
    axes.grid(axis=grid, color=LINE, alpha=0.35, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelcolor=INK)
    for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
        text.set_color(INK)
    axes.title.set_fontsize(9)
    for spine in axes.spines.values():
        spine.set_color(LINE)
        spine.set_alpha(0.5)
        spine.set_visible(spines)
    if (legend := axes.get_legend()) is not None:
        legend.set_frame_on(False)
        for text in legend.get_texts():
            text.set_color(INK)


def save(figure: Figure, out: Path) -> None:
    """As SVG, the same for the same data, or as PNG."""
    figure.savefig(out, transparent=True, metadata={"Date": None} if out.suffix == ".svg" else None)

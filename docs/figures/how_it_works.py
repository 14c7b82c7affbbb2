"""Draws the README's figure beside this file.

    python docs/figures/how_it_works.py            # how_it_works.svg
    python docs/figures/how_it_works.py out.png    # anywhere, as SVG or PNG

The background is transparent: boxes bring their own light fill, and everything outside them is mid-tone, so that
the figure reads on a white page and on a dark one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

INK, LOOSE, LINE = "#1b2530", "#737d8a", "#8b95a1"  # text in boxes, text outside them, arrows
PLAIN = ("#eef1f5", "#aab4c0")  # fill and edge
DEVICE = ("#dbeafa", "#0072B2")
CLOUD = ("#fdebd2", "#E08A00")
RIGHT = ("#d8f1e6", "#009E73")
WRONG = ("#f3e1e8", "#b0607f")
# One group of eight attempts per prompt, as in training: + solved, - wrong, ? asked and the cloud solved it.
GROUPS = (
    ("+-++?-+-", "solved by the device\nat least once", "all of these take part"),
    ("-?--?-??", "never by the device,\nbut by the cloud", "at most ρ = 3/7 of these\nper one of the first kind"),
    ("--------", "by nobody", "no reward, no gradient"),
)


def box(
    axes: Axes, x: float, y: float, width: float, height: float, colours: tuple[str, str], *, rounding: float = 0.11
) -> None:
    """A rounded box by its lower left corner."""
    fill, edge = colours
    style = f"round,pad=0,rounding_size={rounding}"
    shape = FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=fill, edgecolor=edge, linewidth=1.3)
    axes.add_patch(shape)


def labelled(
    axes: Axes, x: float, y: float, width: float, height: float, colours: tuple[str, str], title: str, text: str
) -> None:
    """A box with a bold title and smaller lines below it."""
    box(axes, x, y, width, height, colours)
    lines = text.count("\n") + 1
    middle = x + width / 2
    top = y + height / 2 + 0.105 * lines
    axes.text(middle, top, title, ha="center", va="center", fontsize=10.5, fontweight="bold", color=INK)
    axes.text(middle, top - 0.17, text, ha="center", va="top", fontsize=8.6, color=INK, linespacing=1.35)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], *, bend: float = 0.0) -> None:
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=12, color=LINE, linewidth=1.5, shrinkA=2, shrinkB=2,
            connectionstyle=f"arc3,rad={bend}",
        )
    )  # fmt: skip


def loose(axes: Axes, x: float, y: float, text: str, *, size: float = 8.6, left: bool = False, **style: str) -> None:
    """Text on the page itself."""
    axes.text(
        x, y, text, ha="left" if left else "center", va="center", fontsize=size, color=LOOSE, linespacing=1.3, **style
    )


def heading(axes: Axes, y: float, title: str, rest: str) -> None:
    loose(axes, 0.05, y, title, size=11, left=True, weight="bold")
    loose(axes, 1.45, y, rest, size=9.4, left=True)


def serving(axes: Axes) -> None:
    """The upper half: one request."""
    heading(axes, 5.2, "One request", "the device decides after it has tried; its call for help is plain text")
    labelled(axes, 0.05, 3.65, 1.5, 0.95, PLAIN, "Prompt", "numbers 3, 5, 7\ntarget 26")
    labelled(
        axes, 2.45, 3.35, 2.3, 1.55, DEVICE, "Device model",
        "tries, checks each result,\nthen answers or writes\n“I need external assistance”",
    )  # fmt: skip
    labelled(axes, 6.2, 4.1, 1.9, 0.8, CLOUD, "Cloud model", "sees the prompt alone")
    labelled(axes, 9.1, 4.1, 1.85, 0.8, PLAIN, "Answer", "from the cloud")
    labelled(axes, 9.1, 3.0, 1.85, 0.8, PLAIN, "Answer", "from the device")
    arrow(axes, (1.55, 4.12), (2.45, 4.12))
    arrow(axes, (4.75, 4.5), (6.2, 4.5))
    loose(axes, 5.45, 4.66, "asks", weight="bold")
    arrow(axes, (4.75, 3.55), (9.1, 3.35))
    loose(axes, 5.45, 3.36, "answers", weight="bold")
    arrow(axes, (8.1, 4.5), (9.1, 4.5))
    arrow(axes, (7.3, 4.1), (9.1, 3.55), bend=0.1)
    loose(axes, 6.55, 3.8, "no budget, or no answer:\nthe device tries again", size=8)


def training(axes: Axes) -> None:
    """The lower half: one step of GAPG."""
    heading(axes, 2.55, "Training", "one step of GAPG: eight attempts per prompt, rewards, a filter, one update")
    for row, (attempts, who, rule) in enumerate(GROUPS):
        y = 1.6 - 0.78 * row
        for column, kind in enumerate(attempts):
            colours = {"+": RIGHT, "-": WRONG, "?": CLOUD}[kind]
            box(axes, 0.05 + 0.4 * column, y, 0.34, 0.5, colours)
            sign = {"+": "1", "-": "0", "?": "0.3"}[kind]
            axes.text(0.22 + 0.4 * column, y + 0.25, sign, ha="center", va="center", fontsize=8.6, color=INK)
        loose(axes, 3.45, y + 0.25, who, left=True)
        if row < 2:
            arrow(axes, (5.0, y + 0.25), (5.55, y + 0.25))
            arrow(axes, (7.55, y + 0.25), (8.5, 1.25 + 0.2 * (1 - row)))
        loose(axes, 5.65, y + 0.25, rule, left=True)
    labelled(
        axes,
        8.5,
        0.75,
        2.45,
        1.2,
        DEVICE,
        "Update",
        "reward minus group mean\ntimes ∇ log π of the device,\nno division by deviation",
    )
    for x, colours, text in ((8.5, RIGHT, "solved"), (9.3, CLOUD, "asked"), (10.05, WRONG, "wrong")):
        box(axes, x, 0.18, 0.2, 0.2, colours, rounding=0.05)
        axes.text(x + 0.28, 0.22, text, ha="left", va="baseline", fontsize=8.2, color=LOOSE)


def draw(path: Path) -> None:
    """Write the figure to a file; its suffix says which kind."""
    # Text as outlines: it looks the same wherever it is shown. A fixed salt keeps the file equal from run to run.
    with matplotlib.rc_context({"svg.hashsalt": "selfroute", "svg.fonttype": "path", "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(11.1, 5.5))
        FigureCanvasAgg(figure)
        figure.patch.set_alpha(0)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(-0.05, 11.05), ylim=(-0.05, 5.45))
        axes.set_aspect("equal")
        axes.axis("off")
        serving(axes)
        training(axes)
        figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else {"Software": None})


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix(".svg"))

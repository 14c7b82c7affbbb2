"""Draws attributes.svg from benchmarks/attributes/results.json: how many messages leak, how often the pair is right.

python benchmarks/attributes/run.py all    # first: the cells
python docs/figures/attributes.py          # attributes.svg beside this file
python docs/figures/attributes.py out.png  # anywhere, as SVG or PNG
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "benchmarks" / "attributes" / "results.json"
INK, GRID = "#737d8a", "#c9d0d8"  # mid-tones: the background is transparent
COLOURS = {"unseen": "#0072B2", "seen": "#E08A00"}


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "attributes.svg"
    cells = json.loads(RESULTS.read_text(encoding="utf-8"))["cells"]
    arms = [arm for arm in dict.fromkeys(cell["arm"] for cell in cells) if arm not in ("send all", "rules")]
    matplotlib.rcParams.update({"svg.hashsalt": "selfroute", "svg.fonttype": "none", "font.size": 9})
    figure = Figure(figsize=(7.2, 0.42 * len(arms) + 1.0), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    measures = {"leaking": "messages that leak, %", "pair_correct": "pair right, %"}
    for axes, (key, words) in zip(panels, measures.items(), strict=True):
        for shift, (split, colour) in zip((-0.14, 0.14), COLOURS.items(), strict=True):
            for place, arm in enumerate(arms):
                values = [100 * cell["splits"][split][key] for cell in cells if cell["arm"] == arm]
                axes.plot(values, [place + shift] * len(values), "|", color=colour, markersize=7)
                label = f"{split} wording" if place == 0 else None
                axes.plot(statistics.mean(values), place + shift, "o", color=colour, markersize=5, label=label)
        axes.set_xlabel(words, color=INK)
        axes.set_xlim(left=0)
        axes.grid(axis="x", color=GRID, linewidth=0.6)
        axes.tick_params(colors=INK, length=0)
        axes.spines[:].set_visible(False)
    panels[0].set_yticks(range(len(arms)), arms, color=INK)
    panels[0].invert_yaxis()
    panels[1].legend(frameon=False, labelcolor=INK, loc="lower left")
    figure.savefig(out, transparent=True, metadata={"Date": None} if out.suffix == ".svg" else None)


if __name__ == "__main__":
    main()

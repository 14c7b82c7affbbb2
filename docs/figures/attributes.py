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

sys.path.insert(0, str(Path(__file__).resolve().parent))

from figure_style import INK, canvas, save, tone

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parents[1] / "benchmarks" / "attributes" / "results.json"
COLOURS = {"unseen": "#0072B2", "seen": "#E08A00"}


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "attributes.svg"
    cells = json.loads(RESULTS.read_text(encoding="utf-8"))["cells"]
    arms = [arm for arm in dict.fromkeys(cell["arm"] for cell in cells) if arm not in ("send all", "rules")]
    figure = canvas(7.2, 0.42 * len(arms) + 1.3)
    panels = figure.subplots(1, 2, sharey=True)
    measures = {"leaking": "messages that leak, %", "pair_correct": "pair right, %"}
    for axes, (key, words) in zip(panels, measures.items(), strict=True):
        for shift, (split, colour) in zip((-0.14, 0.14), COLOURS.items(), strict=True):
            for place, arm in enumerate(arms):
                values = [100 * cell["splits"][split][key] for cell in cells if cell["arm"] == arm]
                axes.plot(values, [place + shift] * len(values), "|", color=colour, markersize=7)
                label = f"{split} wording" if place == 0 else None
                axes.plot(statistics.mean(values), place + shift, "o", color=colour, markersize=5, label=label)
        axes.set_xlabel(words)
        axes.set_xlim(left=0)
        tone(axes, "x", spines=False)
        axes.tick_params(length=0)
    panels[0].set_yticks(range(len(arms)), arms, color=INK)
    panels[0].invert_yaxis()
    handles, labels = panels[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False, labelcolor=INK)
    save(figure, out)


if __name__ == "__main__":
    main()

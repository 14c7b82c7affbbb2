"""Draws objectives.svg from benchmarks/objectives/arithmetic.json: sums with a calculator, by what was learned how.

python benchmarks/objectives/arithmetic.py all && python benchmarks/objectives/arithmetic.py report  # first: the cells
python docs/figures/objectives.py          # objectives.svg beside this file
python docs/figures/objectives.py out.png  # anywhere, as SVG or PNG
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from figure_style import COLOURS, INK, canvas, save, tone

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parents[1] / "benchmarks" / "objectives" / "arithmetic.json"
ARMS = {"begun": "as it was begun", "sft": "imitation", "vargrad_tb": "vargrad_tb", "grpo": "GRPO"}


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "objectives.svg"
    cells = json.loads(RESULTS.read_text(encoding="utf-8"))
    figure = canvas(7.2, 2.9)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (kind, words) in zip(panels, {"single": "one attempt", "vote": "vote of ten"}.items(), strict=True):
        for place, (arm, colour) in enumerate(zip(ARMS, (INK, *COLOURS), strict=False)):
            found = [cell["found"] for cell in cells if cell["arm"] == arm]
            for at, numbers in enumerate(found[0]):
                values = [100 * one[numbers][kind] for one in found]
                across = at + 0.16 * (place - 1.5)
                axes.plot([across] * len(values), values, "_", color=colour, markersize=7)
                label = ARMS[arm] if at == 0 else None
                axes.plot(across, statistics.mean(values), "o", color=colour, markersize=5, label=label)
        axes.set_xticks(range(3), [f"{numbers} numbers" for numbers in cells[0]["found"]])
        axes.set_title(words)
        axes.set_ylim(0, 103)
        tone(axes, "y", spines=False)
        axes.tick_params(length=0)
    panels[0].set_ylabel("right, %")
    tone(panels[0], "y", spines=False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, labelcolor=INK)
    save(figure, out)


if __name__ == "__main__":
    main()

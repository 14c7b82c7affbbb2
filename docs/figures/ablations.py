"""Draws ablations.svg from benchmarks/beyond/results.json: what each part of the method does, three seeds each.

python benchmarks/beyond/run.py ablations    # first: the runs, about three hours on two cores
python docs/figures/ablations.py             # ablations.svg beside this file
python docs/figures/ablations.py out.png     # anywhere, as SVG or PNG
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

sys.path.insert(0, str(Path(__file__).resolve().parent))

from figure_style import INK, canvas, save, tone

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parents[1] / "benchmarks" / "beyond" / "results.json"
COLOURS = {"fixed": "#0072B2", "dual": "#E08A00"}
GRID_RUNS = {
    "GRPO": "grpo",
    "GRPO + filter": "grpo_filter",
    "Dr. GRPO": "dr_grpo",
    "Dr. GRPO + filter": "dr_grpo_filter",
    "GAPG estimator": "gapg_no_filter",
    "GAPG": "gapg",
}
PLAIN = "gapg-fixed"  # GAPG with its filter, a reward of 0.5 and groups of 8


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "ablations.svg"
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    if "group-16" not in results:
        raise SystemExit(f"{RESULTS} holds no ablations; run: python benchmarks/beyond/run.py ablations")
    rows = {name: run["figures"]["0.3"] for name, run in results.items() if "0.3" in run["figures"]}
    figure = canvas(9.0, 5.4)
    panels = figure.subplot_mosaic([["right", "right", "asks", "asks"], ["size", "size", "reward", "reward"]])
    for name, key, words in (
        ("right", "overall", "right at a 30 % share, %"),
        ("asks", "greedy_share", "asks, greedy, %"),
    ):
        draw_grid(panels[name], rows, key, words)
    draw_line(panels["size"], rows, {2: "group-2", 4: "group-4", 8: PLAIN, 16: "group-16"}, "attempts of a group")
    rewards = {0.3: "reward-0.3", 0.4: "reward-0.4", 0.5: PLAIN, 0.6: "reward-0.6", 0.7: "reward-0.7"}
    draw_line(panels["reward"], rows, rewards, "reward of a hand-off that the cloud solves")
    for axes in panels.values():
        tone(axes)
    keys = [panels[name].get_legend_handles_labels() for name in ("right", "size")]
    handles, labels = ([one for part in parts for one in part] for parts in zip(*keys, strict=True))
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, labelcolor=INK)
    save(figure, out)


def draw_grid(axes: Axes, rows: dict[str, dict[str, Any]], key: str, words: str) -> None:
    """One line per estimator, one colour per reward of a hand-off: the mean, and a dot per seed."""
    for place, (label, run) in enumerate(reversed(GRID_RUNS.items())):
        for shift, kind in ((0.15, "fixed"), (-0.15, "dual")):
            values = percents(rows[f"{run}-{kind}"][key])
            axes.plot(values, [place + shift] * len(values), "o", color=COLOURS[kind], alpha=0.35, markersize=4)
            first = label == "GAPG"
            axes.plot(np.mean(values), place + shift, "|", color=COLOURS[kind], markersize=12, markeredgewidth=2.5,
                      label=f"{kind} reward" if first else None)  # fmt: skip
    axes.set_yticks(range(len(GRID_RUNS)), list(reversed(GRID_RUNS)))
    axes.set_ylim(-0.6, len(GRID_RUNS) - 0.4)
    axes.set_xlabel(words)


def draw_line(axes: Axes, rows: dict[str, dict[str, Any]], runs: dict[Any, str], words: str) -> None:
    places = range(len(runs))
    for key, label, colour in (
        ("overall", "right at a 30 % share", "#009E73"),
        ("greedy_share", "asks, greedy", "#b0607f"),
    ):
        values = [percents(rows[run][key]) for run in runs.values()]
        axes.plot(places, [np.mean(seeds) for seeds in values], color=colour, label=label)
        for place, seeds in zip(places, values, strict=True):
            axes.plot([place] * len(seeds), seeds, "o", color=colour, alpha=0.35, markersize=4)
    axes.set_xticks(places, [str(value) for value in runs])
    axes.set_xlabel(words)
    axes.set_ylabel("%")


def percents(values: Sequence[float]) -> list[float]:
    return [100 * value for value in values]


if __name__ == "__main__":
    main()

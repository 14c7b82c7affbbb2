"""What the ablations settle: spread between seeds, tests between runs, means over a factor, and what the filter did.

    python benchmarks/beyond/run.py ablations    # first: the runs, about three hours on two cores
    python benchmarks/beyond/ablations.py        # writes ablations.md beside this file

The last table needs the runs' folders under `out/beyond`, where they were trained.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import f_oneway, norm, tukey_hsd

HERE = Path(__file__).parent
OUT = Path("out/beyond")
WITHOUT_FILTER, WITH_FILTER = ("grpo", "dr_grpo", "gapg_no_filter"), ("grpo_filter", "dr_grpo_filter", "gapg")
REWARDS = ("fixed", "dual")
GRID = [f"{algorithm}-{reward}" for algorithm in (*WITHOUT_FILTER, *WITH_FILTER) for reward in REWARDS]
SIZES = ["group-2", "group-4", "gapg-fixed", "group-16"]
CLOUD_REWARDS = ["reward-0.3", "reward-0.4", "gapg-fixed", "reward-0.6", "reward-0.7"]
RUNS = list(dict.fromkeys([*GRID, *SIZES, *CLOUD_REWARDS]))
FIGURES = {
    "right at 30 %": "overall",
    "right at 30 %, sampled": "sampled_overall",
    "hand-off disabled": "alone",
    "asks, greedy": "greedy_share",
    "asks, sampled": "sampled_share",
    "right as run": "as_run",
}
TRAINED = {
    "prompts that only the cloud solved": "filter/cloud_prompts_seen",
    "of these kept": "filter/cloud_prompts",
    "prompts that the device solved": "filter/device_prompts",
    "gradient norm": "grad_norm",
}
SMALLEST = 3.0  # points that are worth telling apart
Values = NDArray[np.float64]


def values(runs: Iterable[str], key: str) -> Values:
    """In %, shape (runs, seeds)."""
    results = json.loads((HERE / "results.json").read_text(encoding="utf-8"))
    return 100 * np.array([results[run]["figures"]["0.3"][key] for run in runs], dtype=np.float64)


def pooled(found: Values) -> float:
    """Standard deviation between the seeds of a run."""
    return float(np.sqrt(found.var(axis=1, ddof=1).mean()))


def row(*cells: object) -> str:
    return "| " + " | ".join(f"{cell:.2g}" if isinstance(cell, float) else str(cell) for cell in cells) + " |"


def table(heads: Iterable[str], rows: Iterable[str]) -> list[str]:
    heads = list(heads)
    return [row(*heads), "|" + "---|" * len(heads), *rows, ""]


def spreads() -> list[str]:
    rows = []
    right = values(RUNS, "overall").ravel()
    for name, key in FIGURES.items():
        least = float(tukey_hsd(*values(GRID, key)).pvalue.min())
        anova = [float(f_oneway(*values(runs, key)).pvalue) for runs in (SIZES, CLOUD_REWARDS)]
        along = float(np.corrcoef(right, values(RUNS, key).ravel())[0, 1])
        rows.append(row(name, f"{pooled(values(RUNS, key)):.1f}", least, *anova, f"{along:.2f}"))
    heads = (
        "figure",
        "between seeds",
        "least p in the grid",
        "p, group sizes",
        "p, rewards",
        "along with right at 30 %",
    )
    return table(heads, rows)


def factors() -> list[str]:
    chosen = {
        "GRPO": ("grpo", "grpo_filter"),
        "Dr. GRPO": ("dr_grpo", "dr_grpo_filter"),
        "GAPG's estimator": ("gapg_no_filter", "gapg"),
        "without the filter": WITHOUT_FILTER,
        "with it": WITH_FILTER,
    }
    grid = {name: [f"{a}-{r}" for a, r in product(algorithms, REWARDS)] for name, algorithms in chosen.items()}
    grid |= {f"{reward} reward": [run for run in GRID if run.endswith(reward)] for reward in REWARDS}
    rows = []
    for name, runs in grid.items():
        seeds = {key: values(runs, key).mean(axis=0) for key in FIGURES.values()}
        rows.append(row(name, *(f"{s.mean():.1f} ({', '.join(f'{v:.1f}' for v in s)})" for s in seeds.values())))
    return table(("mean over its runs (seeds 1, 2, 3)", *FIGURES), rows)


def in_training() -> list[str]:
    rows = []
    for run in RUNS:
        files = sorted(OUT.glob(f"{run}-[0-9]/metrics.jsonl"))
        lines = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
        if lines and all(TRAINED["of these kept"] in line for line in lines):
            rows.append(row(run, *(f"{np.mean([line[key] for line in lines]):.2f}" for key in TRAINED.values())))
    return table(("mean over steps and seeds", *TRAINED), rows)


def main() -> None:
    spread = pooled(values(RUNS, "overall"))
    seeds = math.ceil(2 * ((norm.ppf(0.975) + norm.ppf(0.8)) * spread / SMALLEST) ** 2)
    lines = [
        "# What the ablations settle",
        "",
        "`python benchmarks/beyond/ablations.py`, from results.json and the runs' own metrics. In points or %.",
        "p: Tukey's test between the twelve runs of the grid, analysis of variance along group sizes and rewards.",
        f"Along with: linear correlation over {values(RUNS, 'overall').size} trainings. To tell two runs apart by",
        f"{SMALLEST:g} points (5 % level, power 0.8) takes {seeds} seeds of each.",
        "",
        *spreads(),
        *factors(),
        *in_training(),
    ]
    (HERE / "ablations.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

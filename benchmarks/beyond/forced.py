"""What the table of forced attempts leaves open: tests between runs, what training saw, and other problems.

    python benchmarks/beyond/run.py forced    # first: the runs, about an hour and a half on two cores
    python benchmarks/beyond/forced.py        # a few minutes more; writes forced.md beside this file

The last two tables need the runs' folders under `out/beyond`, where they were trained.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ablations import row, table, values
from run import CACHE, EXPERIMENTS, HERE, OUT, Job, Run, in_parallel, selfroute
from scipy.stats import ttest_ind

SEEDS = (1, 2, 3)
OTHER_PROBLEMS, LIMIT = 1001, 1000  # the runs are judged on those of seed 1000
AT_THE_ENDS = 10  # steps
ASKED_ABOUT = "forced-beside"
AGAINST = ("plain", "plain-12", "task_tuning", "task_tuning-12")
FIGURES = {"hand-off disabled": "alone", "right at 30 %": "overall"}


def known(names: Sequence[str]) -> list[Run]:
    """The runs of these names whose trained policies are here."""
    return [run for run in EXPERIMENTS["forced"] if run.name in names and run.folder(SEEDS[-1]).is_dir()]


def differences() -> list[str]:
    rows = []
    for other in AGAINST:
        cells = []
        for key in FIGURES.values():
            ours, theirs = values([ASKED_ABOUT, other], key)
            cells += [f"{ours.mean() - theirs.mean():+.1f}", float(ttest_ind(ours, theirs, equal_var=False).pvalue)]
        rows.append(row(other, *cells))
    return table((f"{ASKED_ABOUT} against", *(head for name in FIGURES for head in (name, "p"))), rows)


def in_training() -> list[str]:
    def ends(lines: list[list[dict[str, float]]], key: str) -> str:
        parts = ([line[:AT_THE_ENDS] for line in lines], [line[-AT_THE_ENDS:] for line in lines])
        found = [[step[key] for run in part for step in run if key in step] for part in parts]
        return ", ".join(f"{100 * np.mean(some):.1f}" for some in found) if all(found) else "–"

    rows = []
    for run in known([run.name for run in EXPERIMENTS["forced"] if run.steps]):
        files = [run.folder(seed) / "metrics.jsonl" for seed in SEEDS]
        lines = [[json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] for file in files]
        length = np.mean([step["grad_norm"] for steps in lines for step in steps])
        rows.append(row(run.name, f"{length:.1f}", ends(lines, "rollouts/forced_correct")))
    return table(
        ("mean over seeds", "gradient norm", f"forced attempts right, first and last {AT_THE_ENDS} steps"), rows
    )


def folder(run: Run) -> Path:
    return OUT / f"others-{run.name}"


def judging(run: Run) -> Job:
    policies = ", ".join(f"{run.name}-{seed}: '{run.policy(seed)}'" for seed in SEEDS)
    words = selfroute(
        "evaluate", "recipes/countdown/evaluate.yaml", f"seed={OTHER_PROBLEMS}", f"limit={LIMIT}", "share=0.3",
        f"policies={{{policies}}}", "strategies=[]", "alone=true", f"cache={CACHE}", f"out={folder(run)}",
    )  # fmt: skip
    return Job(folder(run).name, words.copy, folder(run) / "summary.json")


def on_other_problems(runs: Sequence[Run]) -> list[str]:
    rows = []
    for run in runs:
        summary = json.loads((folder(run) / "summary.json").read_text(encoding="utf-8"))
        found = {entry["name"]: entry for entry in summary["strategies"]}
        names = [f"{run.name}-{seed}" for seed in SEEDS]
        measured = (
            [100 * found[f"{name}, alone"]["local_accuracy"] for name in names],
            [100 * found[name]["overall_accuracy"] for name in names],
        )
        rows.append(row(run.name, *(f"{np.mean(some):.1f} ± {np.std(some, ddof=1):.1f}" for some in measured)))
    return table((f"problems of seed {OTHER_PROBLEMS}", *FIGURES), rows)


def main() -> None:
    runs = known((ASKED_ABOUT, *AGAINST))
    in_parallel(map(judging, runs), 2, OUT)
    lines = [
        "# What forced attempts are worth",
        "",
        "`python benchmarks/beyond/forced.py`, from results.json, the runs' own metrics, and their policies judged on",
        f"{LIMIT} other problems. In points or %; p: Welch's test, three seeds each. Runs: results.md.",
        "",
        *differences(),
        *in_training(),
        *on_other_problems(runs),
    ]
    (HERE / "forced.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

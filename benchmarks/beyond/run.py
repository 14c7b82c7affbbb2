"""What goes beyond the paper, on embedded Countdown: docs/beyond-the-paper.md says what each experiment asks.

    python benchmarks/beyond/run.py                    # all, about six hours on two cores
    python benchmarks/beyond/run.py share seeds=1,2    # one of them
    python benchmarks/beyond/run.py early jobs=1       # one run at a time

Experiments: share, any, early, forced, and ablations, the longest with two hours. Each run is one `selfroute train`
of recipes/countdown/gapg.yaml, and all are judged on the same 1,000 held-out problems. Stopped and started again, it
goes on where it was. Writes `results.json` and `results.md` beside this file, of every experiment whose runs are there;
the runs lie under `out/beyond`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from selfroute.environment import provenance
from selfroute.train.folder import can_resume
from selfroute.train.gapg import STATE_FILE

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
OUT = Path("out/beyond")
CACHE = OUT / "answers.sqlite"
PROBLEMS = 1000
TEMPERATURES = (0.0, 1.0)  # greedy, and as in training
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)
PRICES = (0.001, 0.002, 0.004)  # of a token before a hand-off
WARM_PRICES, WARM_PRICES_AT_A_SHARE = (0.001, 0.002), (0.002, 0.004, 0.008)
REWARDS = (0.3, 0.4, 0.6, 0.7)  # α_c around the recipe's 0.5
ROLLOUTS = 256  # of a step, however many of them are of one prompt
# GRPO, Dr. GRPO and the paper's estimator, each without and with the filter.
ALGORITHMS = ("grpo", "grpo_filter", "dr_grpo", "dr_grpo_filter", "gapg_no_filter", "gapg")
TRAINED, WARM = "embedded:device-gapg", "embedded:device"  # the shipped policy, and what it was trained from


@dataclass(frozen=True)
class Run:
    """One training and the shares that it is judged at."""

    name: str
    model: str
    steps: int
    options: tuple[str, ...]
    shares: tuple[float, ...] = (0.3,)
    told: bool = False

    def folder(self, seed: int) -> Path:
        return OUT / f"{self.name}-{seed}"


# The shipped policy trained on as it was: plain GAPG, which is cut by its score at any share.
ONWARD = Run("early-0", TRAINED, 60, ("reward.token_price=0",))


def _meeting(share: float) -> Run:
    return Run(f"share-{share:g}", TRAINED, 80, ("handoff_reward=dual", f"share={share:g}"), (share,))


def _warm_early(price: float, *options: str) -> Run:
    name = f"early-warm-{'share-' if options else ''}{price:g}"
    return Run(name, WARM, 80, (f"reward.token_price={price:g}", *options))


def _ablation(name: str, *options: str) -> Run:
    return Run(name, WARM, 50, options)


# Runs of one list are judged together, at the shares of the first.
EXPERIMENTS: dict[str, list[list[Run]]] = {
    "share": [[_meeting(share), ONWARD] for share in SHARES],
    "any": [
        [Run("any", TRAINED, 150, ("handoff_reward=dual", f"told_shares={[*SHARES, 0.6]}"), (*SHARES, 0.6), told=True)],
        [_meeting(0.6), ONWARD],
    ],
    "early": [
        [ONWARD, *(Run(f"early-{price:g}", TRAINED, 60, (f"reward.token_price={price:g}",)) for price in PRICES)],
        # The shipped policy has unlearnt to ask early; the device that it was trained from still does.
        [
            *(_warm_early(price) for price in WARM_PRICES),
            *(_warm_early(price, "handoff_reward=dual", "share=0.3") for price in WARM_PRICES_AT_A_SHARE),
        ],
    ],
    "forced": [
        [
            Run("plain", WARM, 80, ()),
            Run("forced", WARM, 80, ("forced_attempts=2",)),
            Run("task_tuning", WARM, 80, ("algorithm=task_tuning",)),
        ],
        # Two attempts tell little of a prompt; more of them, or less weight on them, is less noise.
        [
            Run("forced-4", WARM, 80, ("forced_attempts=4",)),
            Run("forced-light", WARM, 80, ("forced_attempts=2", "forced_weight=0.33")),
        ],
    ],
    "ablations": [
        [
            *(
                _ablation(f"{algorithm}-{reward}", f"algorithm={algorithm}", f"handoff_reward={reward}")
                for algorithm in ALGORITHMS
                for reward in ("fixed", "dual")
            ),
            *(
                _ablation(f"group-{size}", f"group_size={size}", f"prompts_per_step={ROLLOUTS // size}")
                for size in (2, 4, 16)
            ),
            *(_ablation(f"reward-{reward:g}", f"reward.cloud={reward:g}") for reward in REWARDS),
        ]
    ],
}


def selfroute(*words: str) -> list[str]:
    return [sys.executable, "-m", "selfroute.cli", *words]


def resumed(out: Path, marker: str) -> list[str]:
    """The option that goes on with a run; of one stopped before its first checkpoint, nothing is left."""
    if can_resume(out, marker=marker):
        return ["--resume"]
    shutil.rmtree(out, ignore_errors=True)
    return []


def training(run: Run, seed: int) -> list[str]:
    """The command that trains a run, or goes on with it."""
    out = run.folder(seed)
    return selfroute(
        "train", "recipes/countdown/gapg.yaml", f"model={run.model}", f"steps={run.steps}", f"seed={seed}",
        "bf16=true", f"task={{countdown: {{limit: {32 * run.steps}}}}}", "ask_ahead=true", f"cache={CACHE}",
        f"out={out}", *run.options, *resumed(out, STATE_FILE),
    )  # fmt: skip


def judged_in(runs: Sequence[Run], share: float, temperature: float) -> Path:
    """Where the runs of a group are judged at a share."""
    names = "-".join(run.name for run in runs) if len(runs) < 5 else f"{runs[0].name}-and-{len(runs) - 1}"
    return OUT / f"judged-{names}-{share:g}-{temperature:g}"


def judging(runs: Sequence[Run], seeds: Iterable[int], share: float, temperature: float) -> list[str]:
    """The command that judges all runs of a group at a share."""
    policies = {f"{run.name}-{seed}": f"transformers:{run.folder(seed)}/checkpoint" for run in runs for seed in seeds}
    told = any(run.told for run in runs)
    if not told:  # the shipped policy has never been told a share
        policies["shipped"] = TRAINED
    given = ", ".join(f"{name}: '{model}'" for name, model in policies.items())
    return selfroute(
        "evaluate", "recipes/countdown/evaluate.yaml", "seed=1000", f"limit={PROBLEMS}", f"share={share:g}",
        f"temperature={temperature:g}", f"policies={{{given}}}", "strategies=[always_device]",
        f"alone={str(temperature == 0).lower()}", f"tell_share={str(told).lower()}", f"cache={CACHE}",
        f"out={judged_in(runs, share, temperature)}",
    )  # fmt: skip


def in_parallel(commands: Sequence[tuple[str, list[str]]], jobs: int, logs: Path) -> None:
    """Run commands, `jobs` at a time, with one thread each and a log in `logs`; the first that fails ends all."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running: dict[str, subprocess.Popen[bytes]] = {}
    waiting = list(commands)
    while waiting or running:
        while waiting and len(running) < jobs:
            name, command = waiting.pop(0)
            print(name, flush=True)
            log = (logs / f"{name}.log").open("ab")
            running[name] = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=ROOT)
        for name, process in list(running.items()):
            try:
                code = process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                continue
            del running[name]
            if code:
                raise SystemExit(f"{name} failed with exit code {code}; see {logs / name}.log; start again to go on")


def judge_all(name: str, seeds: Sequence[int], jobs: int) -> None:
    """Every evaluation of an experiment that is not there yet."""
    wanted = [
        (judged_in(group, share, temperature), judging(group, seeds, share, temperature))
        for group in EXPERIMENTS[name]
        for share in group[0].shares
        for temperature in TEMPERATURES
    ]
    in_parallel([(out.name, words) for out, words in wanted if not (out / "summary.json").exists()], jobs, OUT)


def judged(runs: Sequence[Run], share: float, temperature: float) -> dict[str, Any]:
    """Figures of every policy at a share, by name."""
    folder = judged_in(runs, share, temperature)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    figures: dict[str, Any] = {entry["name"]: entry for entry in summary["strategies"]}
    for name, tokens in tokens_handed_off(folder / "records.jsonl").items():
        figures[name]["tokens_handed_off"] = tokens
    return figures


def tokens_handed_off(records: Path) -> dict[str, float]:
    """Mean device tokens of the requests that each strategy wants to hand off."""
    found: dict[str, list[float]] = {}
    for line in records.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if record["wants_cloud"]:
            found.setdefault(record["strategy"], []).append(record["device_tokens"])
    return {name: float(np.mean(tokens)) for name, tokens in found.items()}


def rows_of(name: str, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """One row per run and share: every figure of every seed."""
    rows = []
    for group in EXPERIMENTS[name]:
        for share in group[0].shares:
            greedy, sampled = (judged(group, share, temperature) for temperature in TEMPERATURES)
            for run in group:
                mine = [f"{run.name}-{seed}" for seed in seeds]
                figure = partial(_figures, names=mine)
                rows.append(
                    {
                        "run": run.name,
                        "share": share,
                        "sampled_share": figure(sampled, key="raw_call_share"),
                        "greedy_share": figure(greedy, key="raw_call_share"),
                        "overall": figure(greedy, key="overall_accuracy"),
                        "as_run": figure(greedy, key="raw_overall_accuracy"),
                        "alone": [greedy[f"{one}, alone"]["local_accuracy"] for one in mine],
                        "tokens_handed_off": figure(greedy, key="tokens_handed_off"),
                        "shipped": greedy.get("shipped", {}).get("overall_accuracy"),
                    }
                )
    return rows


def _figures(summary: dict[str, Any], *, names: Sequence[str], key: str) -> list[float | None]:
    return [summary[name].get(key) for name in names]


def markdown(name: str, rows: Sequence[dict[str, Any]], seeds: Sequence[int]) -> str:
    heads = ("run", "wanted", "asks, sampled", "asks, greedy", "right at the share", "right as run",
             "hand-off disabled", "tokens before a hand-off", "shipped policy cut by score")  # fmt: skip
    lines = [
        f"## {name}",
        "",
        f"n = {PROBLEMS} held-out problems, training seeds {', '.join(map(str, seeds))}; mean ± standard deviation "
        "over seeds, in %.",
        "",
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
    ]
    for row in rows:
        percents = ("sampled_share", "greedy_share", "overall", "as_run", "alone")
        cells = [row["run"], f"{100 * row['share']:.0f}", *(_cell(row[key], 100) for key in percents)]
        cells += [_cell(row["tokens_handed_off"], 1), _cell([row["shipped"]], 100)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(values: Sequence[float | None], scale: float) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    spread = f" ± {scale * np.std(known, ddof=1):.1f}" if len(known) > 1 else ""
    return f"{scale * np.mean(known):.1f}{spread}"


def main() -> None:
    words = [word for word in sys.argv[1:] if "=" not in word] or list(EXPERIMENTS)
    options = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    seeds = [int(seed) for seed in options.pop("seeds", "1,2,3").split(",")]
    jobs = int(options.pop("jobs", "2"))
    if unknown := [*options, *(word for word in words if word not in EXPERIMENTS)]:
        raise SystemExit(f"unknown: {unknown[0]}; known: {', '.join(EXPERIMENTS)}, seeds=1,2,3, jobs=2")
    OUT.mkdir(parents=True, exist_ok=True)
    file = HERE / "results.json"
    results = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for name in words:
        missing = [
            (f"{run.name}-{seed}", training(run, seed))
            for run in {run.name: run for group in EXPERIMENTS[name] for run in group}.values()
            for seed in seeds  # runs side by side are of different seeds, so that the cloud is not asked twice
            if not (run.folder(seed) / "run.json").exists()
        ]
        in_parallel(missing, jobs, OUT)
        judge_all(name, seeds, jobs)
        command = f"python benchmarks/beyond/run.py {name} seeds={','.join(map(str, seeds))}"
        results[name] = {"command": command, "seeds": seeds, **provenance(), "rows": rows_of(name, seeds)}
        file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        tables = [markdown(known, results[known]["rows"], results[known]["seeds"]) for known in results]
        (HERE / "results.md").write_text("\n".join(tables), encoding="utf-8")
        print(tables[list(results).index(name)], flush=True)


if __name__ == "__main__":
    main()

"""The evidence: GAPG and its baselines on Countdown, three seeds, at a 30 % call share.

    python benchmarks/countdown/run.py                    # everything, about three hours on two cores
    python benchmarks/countdown/run.py seeds=1 steps=40   # a quick look
    python benchmarks/countdown/run.py steps=400 until_flat=40 out=out/evidence-long results=benchmarks/countdown/long \
        algorithms=[task_tuning,gapg,gapg_no_filter,grpo,gapg_priced]    # to the end; four_share=1.0: four numbers
    python benchmarks/countdown/run.py algorithms=[task_tuning,gapg,balance] out=out/balance \
        results=benchmarks/objectives/countdown                    # beside trajectory balance (docs/objectives.md)

Every run starts from the shipped warm-up device. Stopped and started again it goes on where it was: finished runs
and evaluations are kept. Writes `results.json` and `results.md` beside this file, and the runs themselves under `out`.
With `results=` elsewhere it also writes `seed-N.json` there, all that the results need of a seed that is done: seeds
may be run one by one, on several machines, and count where that file lies.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from selfroute.assemble.evaluating import evaluate_recipe
from selfroute.assemble.pieces import remembered
from selfroute.assemble.training import ask_ahead, train_recipe
from selfroute.config import EvaluateRecipe, Spec, TrainRecipe, build, make_task, parse_overrides
from selfroute.environment import provenance
from selfroute.rewards.hierarchical import Hierarchical
from selfroute.train.folder import goes_on
from selfroute.train.rl.behaviour import Behaviour
from selfroute.train.rl.checkpoint import STATE_FILE

HERE = Path(__file__).parent
# Names in the results, and what they stand for.
ALGORITHMS: dict[str, dict[str, Any]] = {
    "task_tuning": {"algorithm": "task_tuning"},
    "gapg": {"algorithm": "gapg"},
    "gapg_no_filter": {"algorithm": "gapg", "prompt_filter": False},
    "dr_grpo": {"algorithm": "dr_grpo"},
    "grpo": {"algorithm": "grpo"},
    "gapg_priced": {"algorithm": "gapg", "prompt_filter": False, "handoff_reward": "dual"},  # beyond the paper
    "balance": {
        "algorithm": "balance",
        "objective": Spec("vargrad_tb", options={"temperature": 0.25}),
        "behaviour": Behaviour(tempered=0.5, replayed=0.25),
    },
}
PAPER = ("task_tuning", "gapg", "gapg_no_filter", "dr_grpo", "grpo")
CLOUD = Spec("embedded", "cloud")
CACHE = "answers.sqlite"
PROMPTS = 32  # per step
MAX_TOKENS = 512  # of the cloud in training
TUNED = "task_tuning"  # the device of the baselines, as in the paper
STRETCH = 10  # least steps that a point of the training curves covers, and at most so many points
SHARES = {"rollouts/call_share": "asks", "rollouts/device_correct": "solves", "rollouts/all_asked_groups": "all asked"}
# Options without which the numbers would be others.
DECIDING = ("algorithms", "steps", "until_flat", "four_share", "share", "cloud_reward", "bf16", "rows")
CURVES = (*SHARES, "filter/device_prompts", "filter/cloud_prompts_seen")
FIGURES = (
    "overall_accuracy",
    "overall_accuracy_excess_wrong",
    "raw_call_share",
    "raw_overall_accuracy",
    "conditional_local_accuracy",
    "forced_local_accuracy",
    "oracle_gain",
    "auroc",
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What can be changed with key=value."""

    seeds: tuple[int, ...] = (1, 2, 3)
    algorithms: tuple[str, ...] = PAPER
    steps: int = 80
    until_flat: int | None = None
    four_share: float = 0.5
    share: float = 0.3
    cloud_reward: float = 0.5
    bf16: bool = True
    rows: int = 1000
    jobs: int = 2
    out: Path = Path("out/evidence")
    results: Path = HERE


def main() -> None:
    values = parse_overrides(sys.argv[1:])
    if isinstance(values.get("seeds"), int):
        values["seeds"] = [values["seeds"]]
    options = build(Options, values, where="benchmarks/countdown/run.py")
    if os.environ.get("SELFROUTE_ONE_RUN"):
        algorithm, seed = os.environ["SELFROUTE_ONE_RUN"].split("/")
        train_one(options, algorithm, int(seed))
        return
    options.results.mkdir(parents=True, exist_ok=True)
    todo = [seed for seed in options.seeds if not kept(options, seed).exists()]
    if options.until_flat is None:  # else most of the problems may never be reached, and runs ask as they go
        for seed in todo:
            answers(options, seed)
    train_all(options, todo)
    for seed in todo:
        told = json.dumps(seed_results(options, seed), indent=1, default=str)
        kept(options, seed).write_text(f"{told}\n", encoding="utf-8")
    write_results(options, {seed: read_kept(options, seed) for seed in options.seeds})


def kept(options: Options, seed: int) -> Path:
    """File of what the results need of a seed: with the runs, or beside results that are not those of this file."""
    return (options.out if options.results == HERE else options.results) / f"seed-{seed}.json"


def folder(options: Options, algorithm: str, seed: int) -> Path:
    return options.out / f"{algorithm}-{seed}"


def problems(options: Options) -> Spec:
    """Training problems for one epoch: each is seen once, and the cloud is asked for no other."""
    return Spec("countdown", options={"limit": options.steps * PROMPTS, "four_share": options.four_share})


def answers(options: Options, seed: int) -> None:
    """Ask the cloud for every training problem of a seed, into the cache that all runs share."""

    def show(done: int, total: int) -> None:
        print(f"seed {seed}: the cloud has answered {done}/{total}", flush=True)

    cloud = remembered(CLOUD, options.out / CACHE, where="cloud")
    task = make_task(problems(options), seed=seed)
    ask_ahead(cloud, task, max_tokens=MAX_TOKENS, concurrency=1, on_progress=show)


def read_kept(options: Options, seed: int) -> dict[str, Any]:
    """What was kept of a seed.

    Raises:
        SystemExit: it is of other runs.
    """
    found: dict[str, Any] = json.loads(kept(options, seed).read_text(encoding="utf-8"))
    for name, value in found["options"].items():
        if value != (here := json.loads(json.dumps(getattr(options, name)))):
            raise SystemExit(
                f"{kept(options, seed)}: {name} is {value} there and {here} here; choose another out= or results=, or "
                "delete it"
            )
    return found


def train_all(options: Options, seeds: Sequence[int]) -> None:
    """One process a run, `jobs` at a time, one thread each."""
    waiting = [
        (algorithm, seed)
        for seed in seeds
        for algorithm in options.algorithms
        if not (folder(options, algorithm, seed) / "run.json").exists()
    ]
    running: list[subprocess.Popen[bytes]] = []
    for algorithm, seed in waiting:
        while len(running) >= options.jobs:
            running = _reap(running)
        environment = {**os.environ, "SELFROUTE_ONE_RUN": f"{algorithm}/{seed}", "OMP_NUM_THREADS": "1"}
        running.append(subprocess.Popen([sys.executable, __file__, *sys.argv[1:]], env=environment))
    while running:
        running = _reap(running)


def _reap(running: Sequence[subprocess.Popen[bytes]]) -> list[subprocess.Popen[bytes]]:
    """Wait a little; raise if a run failed."""
    left = []
    for process in running:
        try:
            code = process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            left.append(process)
            continue
        if code:
            raise SystemExit(f"a training run failed with exit code {code}; start again to go on")
    return left


def train_one(options: Options, algorithm: str, seed: int) -> None:
    out = folder(options, algorithm, seed)
    recipe = TrainRecipe(
        task=problems(options),
        **ALGORITHMS[algorithm],
        share=options.share,
        cloud=CLOUD,
        reward=Hierarchical(cloud=options.cloud_reward),
        bf16=options.bf16,
        steps=options.steps,
        until_flat=options.until_flat,
        prompts_per_step=PROMPTS,
        seed=seed,
        out=out,
        cache=options.out / CACHE,
        resume=goes_on(out, marker=STATE_FILE),
    )

    def show(step: int, steps: int, now: Mapping[str, float]) -> None:
        if step % 10 == 0:
            asked, solved = now.get("rollouts/call_share", 0.0), now.get("rollouts/device_correct", 0.0)
            print(f"{out.name}: step {step}/{steps}  asks {asked:.0%}  solves {solved:.0%}", flush=True)

    train_recipe(recipe, on_progress=show)


def evaluate_one(options: Options, seed: int) -> dict[str, Any]:
    """All policies of one training seed on the same held-out problems."""
    policies = {
        algorithm: Spec("transformers", str(folder(options, algorithm, seed) / "checkpoint"))
        for algorithm in options.algorithms
        if algorithm != TUNED
    }
    recipe = EvaluateRecipe(
        task=Spec("countdown", options={"four_share": options.four_share}),
        limit=options.rows,
        seed=1000,  # the same problems for every training seed
        share=options.share,
        device=Spec("transformers", str(folder(options, TUNED, seed) / "checkpoint")),
        policies=policies,
        alone=True,
        router_rows=1000,
        max_tokens=256,
        out=options.out / f"evaluation-{seed}",
        cache=options.out / CACHE,
    )
    print(f"evaluating seed {seed}", flush=True)
    return asyncio.run(evaluate_recipe(recipe))


def seed_results(options: Options, seed: int) -> dict[str, Any]:
    """What the results need of a seed."""
    summary = evaluate_one(options, seed)
    given = {name: getattr(options, name) for name in DECIDING}
    runs = {algorithm: folder(options, algorithm, seed) for algorithm in options.algorithms}
    return {
        "options": given,
        "summary": {key: value for key, value in summary.items() if key != "comparisons"},
        "runs": {run.name: json.loads((run / "run.json").read_text(encoding="utf-8")) for run in runs.values()},
        "training": [curve for algorithm, run in runs.items() for curve in training_curves(options, algorithm, run)],
    }


def write_results(options: Options, found: Mapping[int, Mapping[str, Any]]) -> None:
    summaries = {seed: one["summary"] for seed, one in found.items()}
    table = [_row(name, summaries) for name in _names(summaries)]
    result = {
        "options": {**asdict(options), "out": str(options.out), "results": "benchmarks/countdown"},
        "command": "python benchmarks/countdown/run.py " + " ".join(sys.argv[1:]),
        **provenance(),
        "runs": {name: run for one in found.values() for name, run in one["runs"].items()},
        "per_seed": summaries,
        "strategies": table,
        "training": mean_curves([one["training"] for one in found.values()]),
    }
    (options.results / "results.json").write_text(json.dumps(result, indent=1, default=str) + "\n", encoding="utf-8")
    text = markdown(table, summaries, options) + curves_markdown(result["training"])
    (options.results / "results.md").write_text(text, encoding="utf-8")
    print(text)


def training_curves(options: Options, algorithm: str, run: Path) -> list[dict[str, Any]]:
    """What the rollouts of a training did, at temperature 1, as means over stretches of steps; None behind its end."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    curves, long = [], max(STRETCH, options.steps // STRETCH)
    for first in range(0, options.steps, long):
        means = {name: mean_of([line.get(name) for line in lines[first : first + long]]) for name in CURVES}
        curves.append({"algorithm": algorithm, "steps": [first + 1, first + long], **means})
    return curves


def mean_curves(seeds: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The same as means over seeds, of those that came so far."""
    return [
        {**curves[0], **{name: mean_of([curve[name] for curve in curves]) for name in CURVES}}
        for curves in zip(*seeds, strict=True)
    ]


def mean_of(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def curves_markdown(curves: Sequence[Mapping[str, Any]]) -> str:
    """One row per algorithm and quantity, one column per stretch of steps."""
    stretches = list(dict.fromkeys(tuple(curve["steps"]) for curve in curves))
    lines = [
        "\nRollouts in training, temperature 1, mean over seeds, in %, by steps.\n",
        "| algorithm | share | " + " | ".join(f"{first}–{last}" for first, last in stretches) + " |",
        "|---|---|" + "---|" * len(stretches),
    ]
    for algorithm in dict.fromkeys(curve["algorithm"] for curve in curves):
        for name in SHARES:
            of = [curve[name] for curve in curves if curve["algorithm"] == algorithm]
            cells = ["–" if share is None else f"{100 * share:.0f}" for share in of]
            lines.append(f"| {algorithm} | {SHARES[name]} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _names(summaries: Mapping[int, Mapping[str, Any]]) -> list[str]:
    first = next(iter(summaries.values()))
    return [entry["name"] for entry in first["strategies"]]


def _row(name: str, summaries: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and spread over training seeds of every figure of one strategy."""
    entries = [next(e for e in summary["strategies"] if e["name"] == name) for summary in summaries.values()]
    row: dict[str, Any] = {"name": name, "seeds": len(entries)}
    for figure in FIGURES:
        values = [entry[figure] for entry in entries if entry.get(figure) is not None]
        row[figure] = {
            "mean": float(np.mean(values)) if values else None,
            "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        }
    return row


def markdown(table: Sequence[Mapping[str, Any]], summaries: Mapping[int, Mapping[str, Any]], options: Options) -> str:
    first = next(iter(summaries.values()))
    heads = ("strategy", "overall at share", "excess wrong", "calls as run", "right as run", "kept and right",
             "hand-off disabled", "oracle gain", "AUROC")  # fmt: skip
    lines = [
        f"Countdown, {options.share:.0%} call share, n = {first['n']} held-out problems, training seeds "
        f"{', '.join(map(str, summaries))}; mean ± standard deviation over seeds, in %.",
        "",
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
    ]
    for row in table:
        cells = [_cell(row[figure], 1.0 if figure in ("oracle_gain", "auroc") else 100.0) for figure in FIGURES]
        lines.append("| " + " | ".join([str(row["name"]), *cells]) + " |")
    for name in ("device_accuracy", "cloud_accuracy", "either_accuracy", "random_accuracy", "oracle_accuracy"):
        values = [float(summary[name]) for summary in summaries.values()]
        lines.append(f"\n{name.replace('_', ' ')}: {100 * np.mean(values):.1f}")
    return "\n".join(lines) + "\n"


def _cell(value: Mapping[str, float | None], scale: float) -> str:
    if value["mean"] is None:
        return "–"
    digits = 1 if scale > 1 else 2
    spread = "" if value["sd"] is None else f" ± {scale * value['sd']:.{digits}f}"
    return f"{scale * value['mean']:.{digits}f}{spread}"


if __name__ == "__main__":
    main()

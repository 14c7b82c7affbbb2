"""What goes beyond the paper, on embedded Countdown: docs/beyond-the-paper.md says what each experiment asks.

    python benchmarks/beyond/run.py                    # all, about nine hours on two cores
    python benchmarks/beyond/run.py share seeds=1,2    # one of them
    python benchmarks/beyond/run.py early jobs=1       # one training at a time
    python benchmarks/beyond/run.py told forced-light  # single runs, by their names in results.md
    python benchmarks/beyond/run.py any keep=true      # only the runs that results.json does not hold yet

Experiments: share, early, forced, any, and ablations, the longest with three hours. Each run is one `selfroute train`
of recipes/countdown/gapg.yaml per seed, and all are judged on the same 1,000 held-out problems. Stopped and started
again, it goes on where it was. `results.json` and `results.md` beside this file are written anew whenever a run has
been judged; the runs lie under `out/beyond`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from selfroute.environment import provenance
from selfroute.evaluation.counting.summary import summarise
from selfroute.evaluation.records import Record, read_records
from selfroute.train.folder import TRAINER_STATE, goes_on
from selfroute.train.rl.checkpoint import STATE_FILE

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
OUT = Path("out/beyond")
CACHE = OUT / "answers.sqlite"
PROBLEMS, PROBLEM_SEED = 1000, 1000
TEMPERATURES = (0.0, 1.0)  # greedy, and as in training
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)
MORE_SHARES = (*SHARES, 0.6)
PRICES = (0.001, 0.002, 0.004)  # of a token before a hand-off
WARM_PRICES = (0.002, 0.004, 0.008)
REWARDS = (0.3, 0.4, 0.6, 0.7)  # α_c around the recipe's 0.5
ROLLOUTS = 128  # of a step of the ablations, however many of them are of one prompt
# GRPO, Dr. GRPO and the paper's estimator, each without and with the filter.
ALGORITHMS = {
    "grpo": ("algorithm=grpo",),
    "grpo_filter": ("algorithm=grpo", "prompt_filter=true"),
    "dr_grpo": ("algorithm=dr_grpo",),
    "dr_grpo_filter": ("algorithm=dr_grpo", "prompt_filter=true"),
    "gapg_no_filter": ("algorithm=gapg", "prompt_filter=false"),
    "gapg": ("algorithm=gapg",),
}
TRAINED, WARM = "embedded:device-gapg", "embedded:device"  # the shipped policy, and what it was trained from
READS_SHARES = OUT / "reads-shares"  # the latter, warmed up with shares in its prompts: before, it cannot read them


@dataclass(frozen=True)
class Run:
    """One training per seed, and the shares that it is judged at; of no steps, a model as it is."""

    name: str
    model: str
    steps: int
    options: tuple[str, ...] = ()
    shares: tuple[float, ...] = (0.3,)
    told: bool = False
    prompts: int = 32  # per step

    def folder(self, seed: int) -> Path:
        return OUT / f"{self.name}-{seed}"

    def seeds(self, seeds: Sequence[int]) -> Sequence[int]:
        return seeds if self.steps else seeds[:1]

    def policy(self, seed: int) -> str:
        return f"transformers:{self.folder(seed)}/checkpoint" if self.steps else self.model


def _meeting(share: float) -> Run:
    return Run(f"share-{share:g}", TRAINED, 80, ("handoff_reward=dual", f"share={share:g}"), (share,))


def _warm_early(price: float) -> Run:
    options = (f"reward.token_price={price:g}", "handoff_reward=dual", "share=0.3")
    return Run(f"early-warm-share-{price:g}", WARM, 80, options)


def _ablation(name: str, *options: str, group_size: int = 8) -> Run:
    return Run(name, WARM, 50, (f"group_size={group_size}", *options), prompts=ROLLOUTS // group_size)


# Plain GAPG, cut by its score at any share: the shipped policy, trained on as it was, and the device trained as long.
SHIPPED = Run("shipped", TRAINED, 0, (), MORE_SHARES)
ONWARD = Run("onward", TRAINED, 60, ("reward.token_price=0",), SHARES)
PLAIN = Run("plain", WARM, 80)
UNTRAINED = Run("untrained", WARM, 0)
TELL = ("handoff_reward=dual", f"told_shares={[*MORE_SHARES]}")
TOLD = Run("told", f"{READS_SHARES}/checkpoint", 200, TELL, MORE_SHARES, told=True)

EXPERIMENTS: dict[str, list[Run]] = {
    "share": [*map(_meeting, SHARES), ONWARD, SHIPPED],
    "early": [
        SHIPPED,
        ONWARD,
        *(Run(f"early-{price:g}", TRAINED, 60, (f"reward.token_price={price:g}",)) for price in PRICES),
        # The shipped policy has unlearnt to ask early; the device that it was trained from still does.
        PLAIN,
        *map(_warm_early, WARM_PRICES),
    ],
    "forced": [
        UNTRAINED,
        PLAIN,
        Run("forced-2", WARM, 80, ("forced_attempts=2",)),
        Run("task_tuning", WARM, 80, ("algorithm=task_tuning",)),
        # Two attempts tell little of a prompt; less weight on them is less noise.
        Run("forced-light", WARM, 80, ("forced_attempts=2", "forced_weight=0.33")),
        # Beside the eight of plain GAPG, not in place of some of them, and enough of them to tell more.
        Run("forced-beside", WARM, 80, ("group_size=12", "forced_attempts=4", "forced_weight=0.33")),
        Run("plain-12", WARM, 80, ("group_size=12",)),  # as many rollouts as that
        Run("task_tuning-12", WARM, 80, ("group_size=12", "algorithm=task_tuning")),
    ],
    "any": [TOLD, *map(_meeting, MORE_SHARES), SHIPPED],
    "ablations": [
        *(
            _ablation(f"{name}-{reward}", *options, f"handoff_reward={reward}")
            for name, options in ALGORITHMS.items()
            for reward in ("fixed", "dual")
        ),
        *(_ablation(f"group-{size}", group_size=size) for size in (2, 4, 16)),
        *(_ablation(f"reward-{reward:g}", f"reward.cloud={reward:g}") for reward in REWARDS),
    ],
}  # fmt: skip
# Columns of a table, and how much their figures are multiplied with.
COLUMNS = {
    "right at the share": ("overall", 100),
    "hand-off disabled": ("alone", 100),
    "asks": ("greedy_share", 100),
    "right as run": ("as_run", 100),
    "tokens before a hand-off": ("tokens_handed_off", 1),
    "right at the share, sampled": ("sampled_overall", 100),
    "asks, sampled": ("sampled_share", 100),
    "right as run, sampled": ("sampled_as_run", 100),
    "tokens before a hand-off, sampled": ("sampled_tokens_handed_off", 1),
}
COMPARED_AT = {"share": SHARES, "any": MORE_SHARES}  # the others at 30 %
RUNS = {run.name: run for group in EXPERIMENTS.values() for run in group}


# --- commands ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A command, the jobs that have to end before it, and what is written when it has."""

    name: str
    words: Callable[[], list[str]]
    made: Path
    needs: tuple[str, ...] = ()


def selfroute(*words: str) -> list[str]:
    return [sys.executable, "-m", "selfroute.commands.main", *words]


def resumed(out: Path, marker: str) -> list[str]:
    """The option that goes on with a run."""
    return ["--resume"] if goes_on(out, marker=marker) else []


def teaching_to_read_shares() -> Job:
    def words() -> list[str]:
        return selfroute(
            "train", "recipes/countdown/warmup.yaml", f"start={WARM}", "steps=1200", "learning_rate=2e-3",
            "traces={told_rate: 0.7, told: each}", "seed=1", f"out={READS_SHARES}",
            *resumed(READS_SHARES, TRAINER_STATE),
        )  # fmt: skip

    return Job(READS_SHARES.name, words, READS_SHARES / "run.json")


def training(run: Run, seed: int) -> Job:
    """Trains a run, or goes on with it."""
    out = run.folder(seed)

    def words() -> list[str]:
        return selfroute(
            "train", "recipes/countdown/gapg.yaml", f"model={run.model}", f"steps={run.steps}", f"seed={seed}",
            f"prompts_per_step={run.prompts}", f"task={{countdown: {{limit: {run.prompts * run.steps}}}}}", "bf16=true",
            "ask_ahead=true", f"cache={CACHE}", f"out={out}", *run.options, *resumed(out, STATE_FILE),
        )  # fmt: skip

    return Job(out.name, words, out / "run.json", (READS_SHARES.name,) if run.told else ())


def judged_in(run: Run, seeds: Sequence[int], temperature: float, share: float | None) -> Path:
    """Where these seeds of a run are judged; a share is named if the policy is told it."""
    names = "-".join([run.name, *map(str, run.seeds(seeds))])
    return OUT / f"judged-{names}-{temperature:g}{'' if share is None else f'-{share:g}'}"


def told_shares(run: Run) -> Sequence[float | None]:
    return run.shares if run.told else (None,)


def judgings(run: Run, seeds: Sequence[int]) -> list[Job]:
    """Judge all seeds of a run, once for every temperature and every share that it is told."""
    policies = ", ".join(f"{run.name}-{seed}: '{run.policy(seed)}'" for seed in run.seeds(seeds))
    needs = tuple(run.folder(seed).name for seed in seeds)
    jobs = []
    for temperature, share in product(TEMPERATURES, told_shares(run)):
        out = judged_in(run, seeds, temperature, share)
        words = selfroute(
            "evaluate", "recipes/countdown/evaluate.yaml", f"seed={PROBLEM_SEED}", f"limit={PROBLEMS}",
            f"share={share or run.shares[0]:g}", f"temperature={temperature:g}", f"policies={{{policies}}}",
            "strategies=[]", f"alone={str(temperature == 0).lower()}", f"tell_share={str(run.told).lower()}",
            f"cache={CACHE}", f"out={out}",
        )  # fmt: skip
        jobs.append(Job(out.name, words.copy, out / "summary.json", needs))
    return jobs


def in_parallel(jobs: Iterable[Job], at_once: int, logs: Path, *, on_done: Callable[[], object] = lambda: None) -> None:
    """Run jobs, so many at once, with one thread each and a log in `logs`; what is made already is left alone.

    The first that fails ends all.

    Args:
        on_done: called after each job.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    waiting = [job for job in jobs if not job.made.exists()]
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        while waiting or running:
            while len(running) < at_once and (job := _next(waiting, running)):
                waiting.remove(job)
                print(job.name, flush=True)
                log = (logs / f"{job.name}.log").open("ab")
                running[job.name] = subprocess.Popen(job.words(), env=environment, stdout=log, stderr=log, cwd=ROOT)
            for name, process in list(running.items()):
                try:
                    code = process.wait(timeout=1)
                except subprocess.TimeoutExpired:
                    continue
                del running[name]
                if code:
                    raise SystemExit(
                        f"{name} failed with exit code {code}; see {logs / name}.log; start again to go on"
                    )
                on_done()
    finally:
        for process in running.values():
            process.terminate()


def _next(waiting: Sequence[Job], running: Collection[str]) -> Job | None:
    """The first job all of whose needs are there."""
    unfinished = {job.name for job in waiting} | set(running)
    return next((job for job in waiting if unfinished.isdisjoint(job.needs)), None)


# --- figures -----------------------------------------------------------------------------------------------------


def figures(run: Run, seeds: Sequence[int]) -> dict[str, dict[str, list[float | None]]]:
    """Figures of a run that has been judged: one value per seed, by share."""
    found = {}
    for share in run.shares:
        greedy, sampled = (_judged(run, seeds, temperature, share) for temperature in TEMPERATURES)
        names = [f"{run.name}-{seed}" for seed in run.seeds(seeds)]
        found[f"{share:g}"] = {
            "sampled_share": [sampled[name]["raw_call_share"] for name in names],
            "greedy_share": [greedy[name]["raw_call_share"] for name in names],
            "overall": [greedy[name]["overall_accuracy"] for name in names],
            "as_run": [greedy[name]["raw_overall_accuracy"] for name in names],
            "alone": [greedy[f"{name}, alone"]["local_accuracy"] for name in names],
            "tokens_handed_off": [greedy[name]["tokens_handed_off"] for name in names],
            "sampled_overall": [sampled[name]["overall_accuracy"] for name in names],
            "sampled_as_run": [sampled[name]["raw_overall_accuracy"] for name in names],
            "sampled_tokens_handed_off": [sampled[name]["tokens_handed_off"] for name in names],
        }
    return found


def _judged(run: Run, seeds: Sequence[int], temperature: float, share: float) -> dict[str, dict[str, Any]]:
    """Figures of every policy of a run at a share, by name."""
    records = read_records(judged_in(run, seeds, temperature, share if run.told else None) / "records.jsonl")
    summary = summarise(records, share=share, seed=PROBLEM_SEED, resamples=1)
    return {
        entry["name"]: entry | {"tokens_handed_off": _tokens_handed_off(records, entry["name"])}
        for entry in summary["strategies"]
    }


def _tokens_handed_off(records: Iterable[Record], strategy: str) -> float | None:
    """Mean device tokens of the requests that a strategy wants to hand off."""
    tokens = [record.device_tokens for record in records if record.strategy == strategy and record.wants_cloud]
    return float(np.mean(tokens)) if tokens else None


def markdown(name: str, runs: Mapping[str, Any]) -> str:
    """The table of an experiment, of the runs that are there."""
    heads = ("run", "at", *COLUMNS)
    known = [run for run in EXPERIMENTS[name] if run.name in runs]
    commits = sorted({runs[run.name]["commit"] for run in known})
    seeds = sorted({seed for run in known for seed in runs[run.name]["seeds"]})
    lines = [
        f"## {name}",
        "",
        f"`python benchmarks/beyond/run.py {name}`, commit {', '.join(commits)}. n = {PROBLEMS} held-out problems, "
        f"training seeds {', '.join(map(str, seeds))}; mean ± standard deviation over seeds, in %; "
        "decoded greedily if not said otherwise.",
        "",
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
    ]
    for share in COMPARED_AT.get(name, (0.3,)):
        for run in known:
            if row := runs[run.name]["figures"].get(f"{share:g}"):
                cells = [
                    run.name,
                    f"{100 * share:.0f}",
                    *(_cell(row.get(key, []), scale) for key, scale in COLUMNS.values()),
                ]
                lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(values: Sequence[float | None], scale: float) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    spread = f" ± {scale * np.std(known, ddof=1):.1f}" if len(known) > 1 else ""
    return f"{scale * np.mean(known):.1f}{spread}"


def write(runs: Mapping[str, Any]) -> None:
    """`results.json`, a line per run, and `results.md`."""
    ordered = {name: runs[name] for name in RUNS if name in runs}
    lines = [f"{json.dumps(name)}: {json.dumps(found)}" for name, found in ordered.items()]
    (HERE / "results.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    tables = [markdown(name, ordered) for name, group in EXPERIMENTS.items() if any(run.name in runs for run in group)]
    (HERE / "results.md").write_text("\n".join(tables), encoding="utf-8")


def main() -> None:
    words = [word for word in sys.argv[1:] if "=" not in word] or list(EXPERIMENTS)
    options = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    seeds = [int(seed) for seed in options.pop("seeds", "1,2,3").split(",")]
    at_once, keep = int(options.pop("jobs", "2")), options.pop("keep", "false")
    if keep not in ("true", "false"):
        raise SystemExit(f"keep={keep}: true or false")
    known = {name: [run] for name, run in RUNS.items()} | EXPERIMENTS
    if unknown := [*options, *(word for word in words if word not in known)]:
        raise SystemExit(f"unknown: {unknown[0]}; known: {', '.join(known)}, seeds=1,2,3, jobs=2, keep=false")
    OUT.mkdir(parents=True, exist_ok=True)
    file = HERE / "results.json"
    runs = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    wanted = {run.name: run for name in words for run in known[name] if not (keep == "true" and run.name in runs)}
    judging = {name: judgings(run, seeds) for name, run in wanted.items()}

    def collect() -> None:
        """Write down every run that has been judged since."""
        done = [name for name, jobs in judging.items() if all(job.made.exists() for job in jobs)]
        for name in done:
            del judging[name]
            runs[name] = {"seeds": seeds, **provenance(), "figures": figures(wanted[name], seeds)}
        if done:
            write(runs)

    collect()
    jobs = [teaching_to_read_shares()] if any(run.told for run in wanted.values()) else []
    jobs += [
        job
        for name, run in wanted.items()
        # Trainings side by side are of different seeds, so that the cloud is not asked twice.
        for job in (*(training(run, seed) for seed in seeds if run.steps), *judgings(run, seeds))
    ]
    in_parallel(jobs, at_once, OUT, on_done=collect)
    print((HERE / "results.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()

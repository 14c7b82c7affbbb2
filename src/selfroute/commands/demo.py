"""The first ten minutes: watch a small model learn when to ask, then see it compared."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from rich.text import Text

from selfroute.assemble.evaluating import evaluate_recipe
from selfroute.assemble.training import train_recipe
from selfroute.commands.terminal import boxed, console, in_words, say, training_view
from selfroute.config import EvaluateRecipe, Spec, TrainRecipe
from selfroute.environment import has_fast_bf16, release_memory
from selfroute.errors import ConfigError
from selfroute.rewards.hierarchical import Hierarchical

__all__ = ["demo"]

Progress = Callable[[str], AbstractContextManager[Callable[..., None]]]

SHARE = 0.3
CLOUD_REWARD = 0.5
STEPS = 50
ROWS = 500
PROMPTS = 32  # per step
MINUTES = 3.7  # the steps end after this long, whatever the machine; the answers before them take about one more


def demo(*, out: Path, progress: Progress, seed: int = 1, steps: int = STEPS, rows: int = ROWS) -> dict[str, Any]:
    """Train the shipped device model live, then compare it with the baselines at the same call share.

    Writes `OUT/train` and `OUT/evaluation`; run again, it keeps what is finished.

    Args:
        out: folder of the run.
        progress: makes a progress bar from a title.
        seed: of the training and of the problems.
        steps: optimiser steps; they also end after four minutes.
        rows: held-out problems to compare on.

    Returns:
        The evaluation's summary.
    """
    boxed(
        console(),
        "selfroute demo",
        "A device model of 0.9 M parameters plays Countdown: reach a target with every given number once. "
        "It can ask a stronger model in the cloud, but has no idea when to. Now it learns that by reinforcement "
        f"learning (GAPG) under a budget: {SHARE:.0%} of the requests may go to the cloud.",
    )
    trained = out / "train"
    _train(trained, seed=seed, steps=steps)
    _heading("2. Comparison", f"on {rows} problems that no training has seen")
    summary = _evaluate(out / "evaluation", trained / "checkpoint", progress, seed=seed, rows=rows)
    _show(out / "evaluation", summary)
    return summary


def _heading(title: str, rest: str) -> None:
    say(Text.assemble("\n", (title, "bold"), f" {rest}"))


def _train(out: Path, *, seed: int, steps: int) -> None:
    if (out / "run.json").exists() and (out / "checkpoint" / "config.json").exists():
        _heading("1. Training", f"is finished in {out}; delete the folder to train again")
        return
    from selfroute.train.folder import can_resume
    from selfroute.train.rl.checkpoint import STATE_FILE

    _heading("1. Training", f"at most {steps} steps and {MINUTES:.1f} minutes, after the cloud has answered")
    recipe = TrainRecipe(
        task=Spec("countdown", options={"limit": steps * PROMPTS}),  # one epoch: every problem is seen once
        ask_ahead=True,
        share=SHARE,
        reward=Hierarchical(cloud=CLOUD_REWARD),
        steps=steps,
        prompts_per_step=PROMPTS,
        max_minutes=MINUTES,
        bf16=has_fast_bf16(),
        seed=seed,
        out=out,
        resume=can_resume(out, marker=STATE_FILE),
    )
    if not recipe.resume and (out / "metrics.jsonl").exists():
        raise ConfigError(f"'{out}' holds a run that was stopped before its first checkpoint; delete it, or use --out")
    with training_view() as on_training:
        train_recipe(recipe, on_progress=on_training)
    release_memory()  # or the comparison comes on top of it, and both take more than 2 GB
    _say_what_changed(out / "metrics.jsonl")


def _say_what_changed(metrics: Path) -> None:
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    width = max(1, len(lines) // 6)
    for title, part in (("first steps", lines[:width]), ("last steps", lines[-width:])):
        means = {key: sum(line.get(key, 0.0) for line in part) / len(part) for key in part[0] if "rollouts/" in key}
        say(f"   {title:<12} {in_words(means)}")


def _evaluate(out: Path, policy: Path, progress: Progress, *, seed: int, rows: int) -> dict[str, Any]:
    recipe = EvaluateRecipe(
        task=Spec("countdown"),
        limit=rows,
        seed=seed,
        share=SHARE,
        policies={
            "before GAPG": Spec("embedded", "device"),
            "after GAPG": Spec("transformers", str(policy)),
            "shipped GAPG": Spec("embedded", "device-gapg"),
        },
        router_rows=400,
        max_tokens=256,
        out=out,
    )
    command = shlex.join(["selfroute", "demo", "--out", str(out.parent)])
    with progress("preparing") as preparing, progress("evaluating") as show:
        return asyncio.run(evaluate_recipe(recipe, command=command, on_prepare=preparing, on_progress=show))


def _show(out: Path, summary: Mapping[str, Any]) -> None:
    from selfroute.evaluation.report.table import summary_table

    say(summary_table(summary))
    say(
        "before GAPG: the shipped warm-up device; after GAPG: your training of a few minutes; shipped GAPG: the same "
        "training, longer.\n"
    )
    for title, text in _transcripts(out):
        boxed(console(), title, text)
    say(
        f"Report      {out / 'report.html'}\n"
        'Next        selfroute ask "Using the numbers [3, 5, 7], create an equation that equals 26"\n'
        "            selfroute train recipes/countdown/gapg.yaml out=out/mine\n"
        "            selfroute evaluate recipes/countdown/evaluate.yaml seed=7 limit=400 out=out/compare"
    )


def _transcripts(out: Path) -> list[tuple[str, str]]:
    """One transcript each of the trained policy: solved on the device, handed off, wrongly kept."""
    from selfroute.evaluation.records import read_records, read_samples

    samples = {sample.key: sample for sample in read_samples(out / "samples.jsonl")}
    shown: dict[str, str] = {}
    for record in read_records(out / "records.jsonl"):
        sample = samples.get(record.key)
        if record.strategy != "after GAPG" or sample is None:
            continue
        if record.wants_cloud:
            title, text = "handed off", f"{sample.device_text}\n\ncloud: {sample.cloud_text}"
        else:
            title = "solved on the device" if record.correct else "wrongly kept"
            text = sample.device_text
        shown.setdefault(title, f"{sample.question}\n\ndevice: {text}")
    order = ("solved on the device", "handed off", "wrongly kept")
    return [(title, shown[title]) for title in order if title in shown]

"""The first ten minutes: watch a small model learn when to ask, then see it compared."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from selfroute.assemble.evaluating import evaluate_recipe
from selfroute.assemble.training import train_recipe
from selfroute.commands.terminal import WRITERS, boxed, console, in_words, listing, say, training_view, visible, written
from selfroute.config import EvaluateRecipe, Spec, TrainRecipe
from selfroute.environment import has_fast_bf16, release_memory
from selfroute.rewards.hierarchical import Hierarchical

if TYPE_CHECKING:
    from selfroute.evaluation.records import Sample

__all__ = ["demo"]

Progress = Callable[[str], AbstractContextManager[Callable[..., None]]]

SHARE = 0.3
BEFORE, AFTER = "before GAPG", "after GAPG"
SHIPPED = {BEFORE: Spec("embedded", "device"), AFTER: Spec("embedded", "device-gapg")}
CLOUD_REWARD = 0.5
STEPS = 50
ROWS = 500
GLANCE = 100  # problems of the first look
PROMPTS = 32  # per step
MINUTES = 3.4  # the steps end after this long, whatever the machine; the answers before them take about one more


def demo(
    *, out: Path, progress: Progress, seed: int = 1, steps: int = STEPS, rows: int = ROWS, glance: int = GLANCE
) -> dict[str, Any]:
    """Show what training made of the shipped device model, train it live, and compare it with the baselines.

    Writes `OUT/first-look`, `OUT/train` and `OUT/evaluation`; run again, it keeps what is finished.

    Args:
        out: folder of the run.
        progress: makes a progress bar from a title.
        seed: of the training and of the problems.
        steps: optimiser steps; they also end after four minutes.
        rows: held-out problems to compare on.
        glance: problems to see the shipped policies on, before anything is trained.

    Returns:
        The evaluation's summary.
    """
    boxed(
        console(),
        "selfroute demo",
        "A device model of 0.9 M parameters plays Countdown: reach a target with every given number once. "
        "It can ask a stronger model in the cloud, but has no idea when to. It learns that by reinforcement "
        f"learning (GAPG) under a budget: {SHARE:.0%} of the requests may go to the cloud.",
    )
    _heading("1. What training makes of it", f"the shipped model before and after, on {glance} problems")
    _first_look(out / "first-look", progress, seed=seed, rows=glance)
    trained = out / "train"
    _train(trained, seed=seed, steps=steps)
    _heading("3. Comparison", f"on {rows} problems that no training has seen")
    policies = {BEFORE: SHIPPED[BEFORE], AFTER: Spec("transformers", str(trained / "checkpoint"))}
    policies["shipped GAPG"] = SHIPPED[AFTER]
    summary = _evaluate(out / "evaluation", policies, progress, seed=seed, limit=rows, router_rows=400)
    _show(out / "evaluation", summary)
    return summary


def _heading(title: str, rest: str) -> None:
    say(Text.assemble("\n", (title, "bold"), f" {rest}"))


def _train(out: Path, *, seed: int, steps: int) -> None:
    if (out / "run.json").exists() and (out / "checkpoint" / "config.json").exists():
        _heading("2. Training", f"is finished in {out}; delete the folder to train again")
        return
    from selfroute.train.folder import goes_on
    from selfroute.train.rl.checkpoint import STATE_FILE

    _heading("2. Training", f"your own: at most {steps} steps and {MINUTES:.1f} minutes, after the cloud has answered")
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
        resume=goes_on(out, marker=STATE_FILE),
    )
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


def _evaluate(
    out: Path, policies: Mapping[str, Spec], progress: Progress, *, seed: int, **options: Any
) -> dict[str, Any]:
    task = Spec("countdown")
    recipe = EvaluateRecipe(
        task=task, seed=seed, share=SHARE, policies=policies, max_tokens=256, out=out, **options
    )  # fmt: skip
    command = shlex.join(["selfroute", "demo", "--out", str(out.parent)])
    say("loading the models", stderr=True)
    with progress("preparing") as preparing, progress("evaluating") as show:
        return asyncio.run(evaluate_recipe(recipe, command=command, on_prepare=preparing, on_progress=show))


def _first_look(out: Path, progress: Progress, *, seed: int, rows: int) -> None:
    """Both shipped policies in a few lines, and one answer that changes hands."""
    from selfroute.evaluation.report.words import percent

    summary = _evaluate(out, SHIPPED, progress, seed=seed, limit=rows, strategies=("always_device", "always_cloud"))
    entries = {entry["name"]: entry for entry in summary["strategies"]}
    lines = [
        (name, percent(one["raw_call_share"], digits=0), percent(one["conditional_local_accuracy"], digits=0),
         percent(one["overall_accuracy"], digits=0))
        for name, one in ((name, entries[name]) for name in SHIPPED)
    ]  # fmt: skip
    cloud = ("cloud alone", percent(1.0, digits=0), "–", percent(summary["cloud_accuracy"], digits=0))
    heads = ("", "asks the cloud", "right of what it keeps", f"right at {SHARE:.0%} calls")
    say(listing("", heads, [*lines, cloud]))
    transcripts = _transcripts(out)
    if "handed off" in transcripts:
        boxed(console(), f"{AFTER}: an answer changes hands", transcripts["handed off"])


def _show(out: Path, summary: Mapping[str, Any]) -> None:
    from selfroute.evaluation.report.table import summary_table

    say(summary_table(summary))
    say(
        "before GAPG: the shipped warm-up device; after GAPG: your training of a few minutes; shipped GAPG: the same "
        "training, longer.\n"
    )
    for title, text in _transcripts(out).items():
        boxed(console(), title, text)
    say(
        f"Report      {out / 'report.html'}\n"
        'Next        selfroute ask "Using the numbers [3, 5, 7], create an equation that equals 26"\n'
        "            selfroute train recipes/countdown/gapg.yaml out=out/mine\n"
        "            selfroute evaluate recipes/countdown/evaluate.yaml seed=7 limit=400 out=out/compare"
    )


# By whether it was handed off, and whether the answer is right.
_TITLES = {(False, True): "solved on the device", (True, True): "handed off", (False, False): "wrongly kept"}


def _transcripts(out: Path) -> dict[str, Text]:
    """One transcript each of the trained policy, as far as there are any: solved on the device, handed off to a cloud
    that solved it, and wrongly kept.
    """
    from selfroute.evaluation.records import read_records, read_samples

    samples = {sample.key: sample for sample in read_samples(out / "samples.jsonl")}
    shown: dict[str, Text] = {}
    for record in read_records(out / "records.jsonl"):
        sample = samples.get(record.key)
        if record.strategy != AFTER or sample is None:
            continue
        title = _TITLES.get((record.wants_cloud, bool(record.correct)))
        if title is not None:
            shown.setdefault(title, _dialogue(sample, handed_off=record.wants_cloud))
    return {title: shown[title] for title in _TITLES.values() if title in shown}


def _dialogue(sample: Sample, *, handed_off: bool) -> Text:
    """What both sides wrote, each in its colour."""
    turns = [("device", sample.device_text), *([("cloud", sample.cloud_text)] if handed_off else [])]
    parts = [Text(visible(sample.question))]
    for side, text in turns:
        parts += [Text(f"\n\n{side}: ", style=f"bold {WRITERS[side]}"), written(text.strip(), side)]
    return Text.assemble(*parts)

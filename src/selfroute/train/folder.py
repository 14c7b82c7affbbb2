"""What every training run keeps in its folder, and how it goes on after an interruption.

OUT/checkpoint/      the trained model with its tokenizer, and selfroute.json: how it is to be asked
OUT/checkpoints/     what a resumed run needs, newest last
OUT/metrics.jsonl    one line per logged step
OUT/rollouts.jsonl   a few rollouts of each step, to read
OUT/config.yaml      the resolved recipe
OUT/data.json        how many rows it trains on, and a hash of them
OUT/run.json         versions, seed, commit, hardware, wall time; written at the end
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import sqrt
from pathlib import Path
from statistics import fmean, variance
from typing import Any

import yaml
from transformers import PrinterCallback, Trainer, TrainerCallback
from transformers.integrations.integration_utils import get_available_reporting_integrations

from selfroute.environment import provenance
from selfroute.errors import ConfigError
from selfroute.prompts import TrainedPrompt, write_prompt
from selfroute.tasks.base import Row, digest_of

__all__ = [
    "CHECKPOINTS",
    "Progress",
    "PromptWriter",
    "TimeLimit",
    "UntilFlat",
    "Watcher",
    "add_line",
    "begin",
    "check_config",
    "check_data",
    "check_trackers",
    "finish",
    "goes_on",
    "is_flat",
    "start_from",
]

Progress = Callable[[int, int, Mapping[str, float]], None]
CHECKPOINTS = "checkpoints"
DATA = "data.json"
LINES = ("metrics.jsonl", "rollouts.jsonl")  # added to in every step
# transformers writes this file last but for ours; a checkpoint without its marker was being written when the run died.
TRAINER_STATE = "trainer_state.json"
# Keys of a recipe that a resumed run may have otherwise: they say how long, how fast and where, not what is trained.
FREE = frozenset(
    ("out", "resume", "steps", "max_minutes", "until_flat", "save_steps", "rows_per_pass", "workers", "cache",
     "ask_ahead", "concurrency", "report_to", "prices", "priced_as")
)  # fmt: skip


def start_from(out: Path, steps: int, *, resume: bool, marker: str = TRAINER_STATE) -> str | None:
    """Folder of the checkpoint to go on from, None for a fresh run.

    Args:
        marker: the file that a complete checkpoint holds.

    Raises:
        ConfigError: a fresh run in a folder that holds one, or a resumed run that has nothing to do.
    """
    folder = out / CHECKPOINTS
    last = last_checkpoint(folder, marker)
    if not resume:
        if (out / "metrics.jsonl").exists():
            raise ConfigError(f"'{out}' already holds a run; add --resume to go on with it, or choose another out=")
        return None
    if last is None:
        raise ConfigError(
            f"nothing to resume: '{folder}' holds no complete checkpoint; start without --resume, in an empty out="
        )
    if step_of_folder(last) >= steps:
        raise ConfigError(f"nothing to resume: '{last}' already has all {steps} steps; raise steps= to train longer")
    return str(last)


def check_config(out: Path, config: Mapping[str, Any]) -> None:
    """See that a run to go on with was trained as the recipe says.

    Raises:
        ConfigError: a key that changes what is trained has another value.
    """
    file = out / "config.yaml"
    if not file.is_file():
        return
    stored = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    for key, value in yaml.safe_load(yaml.safe_dump(dict(config))).items():
        if key in FREE or key not in stored or stored[key] == value:
            continue
        was, now = dict(_flat({key: stored[key]})), dict(_flat({key: value}))
        name = next(name for name in (*was, *now) if was.get(name) != now.get(name))
        raise ConfigError(
            f"'{out}' was trained with {name}: {was.get(name, 'not set')}, the recipe has {now.get(name, 'not set')}; "
            "set it as it was, or take another out="
        )


def check_data(out: Path, rows: Mapping[str, Sequence[Row]]) -> None:
    """See that a run to go on with was trained on these rows.

    Args:
        rows: by the use that is made of them.

    Raises:
        ConfigError: rows have come, gone, changed or moved; their order is that of the run.
    """
    file = out / DATA
    stored = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for use, now in _digests(rows).items():
        if use in stored and stored[use] != now:
            raise ConfigError(
                f"'{out}' was trained on {stored[use]['rows']} {use} rows, which are not the {now['rows']} of now; put "
                "the data back as they were, or take another out="
            )


def _digests(rows: Mapping[str, Sequence[Row]]) -> dict[str, dict[str, Any]]:
    return {
        use: {
            "rows": len(some),
            "sha256": hashlib.sha256("".join(f"{row.id} {digest_of(row)}\n" for row in some).encode()).hexdigest(),
        }
        for use, some in rows.items()
    }


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """`{reward: {cloud: 0.3}}` as `reward.cloud` and 0.3."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def goes_on(out: Path, *, marker: str = TRAINER_STATE) -> bool:
    """Whether a run that may have been stopped goes on from a checkpoint.

    Of one that was stopped before its first, the lines are removed, so that it can begin again in the same folder.

    Args:
        marker: the file that a complete checkpoint holds.
    """
    if last_checkpoint(out / CHECKPOINTS, marker) is not None:
        return True
    for name in LINES:
        (out / name).unlink(missing_ok=True)
    return False


def last_checkpoint(folder: Path, marker: str = TRAINER_STATE) -> Path | None:
    """The newest complete checkpoint."""
    found = [path.parent for path in folder.glob(f"checkpoint-*/{marker}")]
    return max(found, key=step_of_folder, default=None)


def step_of_folder(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def begin(
    out: Path, config: Mapping[str, Any], checkpoint: str | None, rows: Mapping[str, Sequence[Row]] | None = None
) -> dict[str, Any]:
    """Write the recipe, and which rows a run is of; when resuming, cut lines of steps after the checkpoint.

    These steps will be written again.

    Args:
        rows: by the use that is made of them, for `check_data`.

    Returns:
        Versions, commit and hardware as they are now, for `finish`: a checkout can move on while a run trains.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.yaml").write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")
    if rows is not None:
        (out / DATA).write_text(json.dumps(_digests(rows), indent=2) + "\n", encoding="utf-8")
    for file in (out / name for name in LINES):
        if checkpoint is not None and file.exists():
            step = step_of_folder(Path(checkpoint))
            kept = [line for line in file.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
            file.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    return provenance()


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return float("inf")  # a half-written line


def finish(out: Path, facts: Mapping[str, Any], origin: Mapping[str, Any]) -> dict[str, Any]:
    """Write `run.json`: the run's own facts, then the versions, commit and hardware that `begin` found."""
    summary = {**facts, **origin}
    (out / "run.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


class Watcher(TrainerCallback):
    """Writes one line of metrics per logged step and reports progress; the terminal is left to `on_progress`.

    Attributes:
        wall_s: seconds of training up to the last line, those of a resumed run's earlier parts included.
    """

    def __init__(self, file: Path, steps: int, on_progress: Progress | None) -> None:
        self.file = file
        self.steps = steps
        self.on_progress = on_progress
        self.wall_s = _seconds_before(file)
        self._clock = time.perf_counter()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._clock = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not logs or "train_runtime" in logs or not state.is_world_process_zero:
            return
        # A metric of a step without one graded rollout is None: written as null, not shown as progress.
        metrics = {name: float(value) for name, value in logs.items() if value is not None}
        now = time.perf_counter()
        self.wall_s, self._clock = self.wall_s + now - self._clock, now
        line = {
            "step": state.global_step,
            "wall_s": round(self.wall_s, 3),
            **{name: metrics.get(name) for name in logs},
        }
        add_line(self.file, line)
        if self.on_progress is not None:
            self.on_progress(state.global_step, self.steps, metrics)

    def attach(self, trainer: Trainer) -> None:
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(self)


def add_line(file: Path, line: Mapping[str, Any]) -> None:
    """Append one JSON line."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(line, ensure_ascii=False) + "\n")


def check_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker that cannot work here.

    Raises:
        ConfigError: a name that transformers does not know, or whose package is missing.
    """
    here: list[str] = get_available_reporting_integrations()  # type: ignore[no-untyped-call]
    for name in names:
        if name not in here:
            known = ", ".join(here) or "none"
            raise ConfigError(f"report_to: '{name}' cannot be used here; installed: {known}; try: pip install {name}")


def _seconds_before(metrics: Path) -> float:
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
    return float(json.loads(lines[-1]).get("wall_s", 0.0)) if lines else 0.0


class TimeLimit(TrainerCallback):
    """Ends training after the step in which the time is up."""

    def __init__(self, limit_s: float) -> None:
        self.end = time.monotonic() + limit_s

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop |= time.monotonic() >= self.end


class UntilFlat(TrainerCallback):
    """Ends training where the curve of its reward is flat.

    Args:
        span: steps; the curve is looked at after twice as many, and after as many more each time.
    """

    def __init__(self, span: int) -> None:
        self.span = span

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step = int(state.global_step)
        if step < 2 * self.span or step % self.span:
            return
        # The history is part of a checkpoint, so that a resumed run looks at the whole curve.
        rewards = {line["step"]: line["reward"] for line in state.log_history if line.get("reward") is not None}
        now = [value for at, value in rewards.items() if step - self.span < at <= step]
        before = [value for at, value in rewards.items() if step - 2 * self.span < at <= step - self.span]
        control.should_training_stop |= is_flat(before, now)


def is_flat(before: Sequence[float], now: Sequence[float]) -> bool:
    """Whether the mean of what came now is above that of before by no more than the standard error of the difference.

    False where either has fewer than two values.
    """
    if min(len(before), len(now)) < 2:
        return False
    error = sqrt(sum(variance(values) / len(values) for values in (before, now)))
    return fmean(now) - fmean(before) <= error


class PromptWriter(TrainerCallback):
    """Puts the prompt beside the weights of every checkpoint: each of them can be served or exported."""

    def __init__(self, prompt: TrainedPrompt) -> None:
        self.prompt = prompt

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            write_prompt(Path(args.output_dir) / f"checkpoint-{state.global_step}", self.prompt)

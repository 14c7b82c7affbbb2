"""One training run: task, model and cloud in; a folder with checkpoint, metrics and provenance out."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, TrainerCallback

from selfroute.backends.base import Backend
from selfroute.environment import provenance
from selfroute.errors import ConfigError
from selfroute.handoff import TEMPLATES
from selfroute.tasks.base import Row, Task
from selfroute.train.gapg import ALGORITHMS, STATE_FILE, GAPGConfig, GAPGTrainer
from selfroute.train.outcomes import CloudAnswers, OutcomeGrader

__all__ = ["Progress", "build_dataset", "train"]

Progress = Callable[[int, int, Mapping[str, float]], None]
CHECKPOINTS = "checkpoints"


def build_dataset(rows: Sequence[Row], task: Task, *, offer_handoff: bool) -> Dataset:
    """Columns `prompt` (the device's messages) and `row_id`."""
    template = TEMPLATES[task.template]
    return Dataset.from_list(
        [
            {
                "prompt": [
                    {"role": message.role, "content": message.content}
                    for message in template.device_messages(
                        template.conversation(row.question), offer_handoff=offer_handoff
                    )
                ],
                "row_id": row.id,
            }
            for row in rows
        ]
    )


def train(
    *,
    task: Task,
    model: str,
    tokenizer: str,
    cloud: Backend | None,
    algorithm: str,
    share: float,
    steps: int,
    prompts_per_step: int,
    group_size: int,
    learning_rate: float,
    temperature: float,
    reward: Mapping[str, float],
    max_new_tokens: int,
    seed: int,
    save_steps: int,
    out: Path,
    rows_per_pass: int | None = None,
    max_minutes: float | None = None,
    concurrency: int = 32,
    resume: bool = False,
    config: Mapping[str, Any] | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a device model and write `OUT/{checkpoint/, metrics.jsonl, config.yaml, run.json}`.

    Args:
        model, tokenizer: folders or hub names.
        cloud: answers hand-offs; None for an algorithm that offers none.
        algorithm: a key of `selfroute.train.gapg.ALGORITHMS`.
        share: wanted call share, in (0, 1).
        reward: weights `local`, `cloud` and `format`.
        rows_per_pass: rollouts in one forward and backward pass; must divide prompts_per_step * group_size.
        max_minutes: ends the run after the step in which this time is up.
        save_steps: steps between checkpoints, from which `resume` goes on.
        config: the resolved recipe, written beside the result.
        on_progress: called with step, steps and the step's metrics.

    Returns:
        What stands in `run.json`.

    Raises:
        ConfigError: before any work, for an option that cannot be; or if `resume` finds nothing to do.
    """
    if algorithm not in ALGORITHMS:
        raise ConfigError(f"no algorithm '{algorithm}'; known: {', '.join(ALGORITHMS)}")
    options = dict(ALGORITHMS[algorithm])
    offer_handoff = options.pop("offer_handoff")
    if offer_handoff and cloud is None:
        raise ConfigError(f"algorithm '{algorithm}' offers the hand-off and needs a cloud; name one with cloud=…")
    arguments = GAPGConfig(
        output_dir=str(out / CHECKPOINTS),
        max_steps=steps,
        **_batching(prompts_per_step, group_size, rows_per_pass),
        num_generations=group_size,
        learning_rate=learning_rate,
        lr_scheduler_type="constant",
        temperature=temperature,
        max_completion_length=max_new_tokens,
        cloud_share=share,
        local_reward=reward["local"],
        cloud_reward=reward["cloud"],
        format_reward=reward["format"],
        save_steps=save_steps,
        save_total_limit=2,
        logging_steps=1,
        activation_checkpointing=False,
        seed=seed,
        use_cpu=not (torch.cuda.is_available() or torch.backends.mps.is_available()),
        report_to=[],
        disable_tqdm=True,
        **options,
    )
    start_from = _start(out, steps, resume=resume)
    rows = list(task.rows("train"))
    if len(rows) < prompts_per_step:
        raise ConfigError(
            f"prompts_per_step={prompts_per_step} is more than the {len(rows)} training rows of '{task.name}'; lower it"
        )
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    words = _tokenizer(tokenizer)
    answers = (
        None
        if cloud is None
        else CloudAnswers(
            task, cloud, TEMPLATES[task.template], max_tokens=max(512, max_new_tokens), concurrency=concurrency
        )
    )
    grader = OutcomeGrader(task, {row.id: row for row in rows}, answers if offer_handoff else None)
    _write_start(out, config or {}, resume=start_from is not None)
    watcher = _Watcher(out / "metrics.jsonl", steps, on_progress)
    trainer = GAPGTrainer(
        network,
        grader,
        arguments,
        build_dataset(rows, task, offer_handoff=offer_handoff),
        words,
        callbacks=[watcher],
    )
    _quiet(trainer)
    if max_minutes is not None:
        trainer.add_callback(_TimeLimit(60.0 * max_minutes))
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=start_from)
    wall_s = time.perf_counter() - started
    trainer.save_model(str(out / "checkpoint"))
    words.save_pretrained(str(out / "checkpoint"))
    summary = {
        "algorithm": algorithm,
        "seed": seed,
        "steps": trainer.state.global_step,
        "share": share,
        "rho": trainer.filter.ratio,
        "rows": len(rows),
        "wall_s": round(wall_s, 1),
        "resumed_from": None if start_from is None else Path(start_from).name,
        "cloud_calls": 0 if answers is None else answers.calls,
        "cloud_failures": 0 if answers is None else answers.failures,
        "warnings": trainer.warnings,
        **provenance(),
    }
    (out / "run.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def _batching(prompts_per_step: int, group_size: int, rows_per_pass: int | None) -> dict[str, Any]:
    """Batch sizes in TRL's words: one optimiser step per generation of prompts_per_step groups, over all processes."""
    if group_size < 2:
        raise ConfigError(f"group_size must be at least 2, not {group_size}: a rollout is compared with its group")
    processes = int(os.environ.get("WORLD_SIZE", "1"))  # as set by accelerate and torchrun
    rollouts, rest = divmod(prompts_per_step * group_size, processes)
    if rollouts < 1 or rest:
        raise ConfigError(
            f"{processes} processes do not divide the {prompts_per_step * group_size} rollouts of a step "
            f"({prompts_per_step} prompts x {group_size}); choose a divisor"
        )
    size = rollouts if rows_per_pass is None else rows_per_pass
    if size < 1 or rollouts % size:
        raise ConfigError(
            f"rows_per_pass={size} does not divide the {rollouts} rollouts of a step and process "
            f"({prompts_per_step} prompts x {group_size} / {processes}); choose a divisor"
        )
    return {
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": rollouts // size,
        "steps_per_generation": rollouts // size,
    }


def _start(out: Path, steps: int, *, resume: bool) -> str | None:
    """Folder of the checkpoint to go on from, None for a fresh run."""
    folder = out / CHECKPOINTS
    last = _last_checkpoint(folder)
    if not resume:
        if (out / "metrics.jsonl").exists():
            raise ConfigError(f"'{out}' already holds a run; add --resume to go on with it, or choose another out=")
        return None
    if last is None:
        raise ConfigError(
            f"nothing to resume: '{folder}' holds no complete checkpoint; start without --resume, in an empty out="
        )
    if int(Path(last).name.rpartition("-")[2]) >= steps:
        raise ConfigError(f"nothing to resume: '{last}' already has all {steps} steps; raise steps= to train longer")
    return last


def _last_checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint; one that was being written when the run was stopped lacks the last file."""
    steps = [int(path.parent.name.rpartition("-")[2]) for path in folder.glob(f"checkpoint-*/{STATE_FILE}")]
    return str(folder / f"checkpoint-{max(steps)}") if steps else None


def _tokenizer(place: str) -> PreTrainedTokenizerBase:
    words: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(place)
    if words.chat_template is None:
        raise ConfigError(f"the tokenizer of '{place}' has no chat template; train an instruct model")
    if words.pad_token_id is None:
        words.pad_token = words.eos_token
    return words


def _write_start(out: Path, config: Mapping[str, Any], *, resume: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.yaml").write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")
    if resume:
        _drop_unfinished(out)


def _drop_unfinished(out: Path) -> None:
    """Cut metrics of steps after the last checkpoint: the resumed run writes them again."""
    last = _last_checkpoint(out / CHECKPOINTS)
    step = int(Path(last).name.rpartition("-")[2]) if last else 0
    file = out / "metrics.jsonl"
    if file.exists():
        kept = [line for line in file.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
        file.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return float("inf")  # a half-written line


class _Watcher(TrainerCallback):
    """Writes one line of metrics per step and reports progress."""

    def __init__(self, file: Path, steps: int, on_progress: Progress | None) -> None:
        self.file = file
        self.steps = steps
        self.on_progress = on_progress

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not logs or "train_runtime" in logs or not state.is_world_process_zero:
            return
        # A metric of a step without one graded rollout is None: written as null, not shown as progress.
        metrics = {name: float(value) for name, value in logs.items() if value is not None}
        line = {"step": state.global_step, **{name: metrics.get(name) for name in logs}}
        with self.file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")
        if self.on_progress is not None:
            self.on_progress(state.global_step, self.steps, metrics)


class _TimeLimit(TrainerCallback):
    """Ends training after the step in which the time is up."""

    def __init__(self, limit_s: float) -> None:
        self.end = time.monotonic() + limit_s

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop |= time.monotonic() >= self.end


def _quiet(trainer: GAPGTrainer) -> None:
    """Leave the terminal to `on_progress`; every number is in `metrics.jsonl`."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)

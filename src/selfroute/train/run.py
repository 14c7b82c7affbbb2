"""One training run: task, model and cloud in; a folder with checkpoint, metrics and provenance out."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from selfroute.backends.base import Backend
from selfroute.errors import ConfigError
from selfroute.handoff import TEMPLATES
from selfroute.tasks.base import Row, Task
from selfroute.train import folder
from selfroute.train.folder import CHECKPOINTS, Progress
from selfroute.train.gapg import STATE_FILE, GAPGTrainer, WritePrompt
from selfroute.train.gapg_config import ALGORITHMS, GAPGConfig
from selfroute.train.outcomes import CloudAnswers, OutcomeGrader
from selfroute.train.prompt_filter import ratio_from_share

__all__ = ["build_dataset", "train"]

WARMUP_STEPS = 10  # without them, Adam's first steps are as long as all others on one batch's noise
ROWS_PER_PASS = 32  # keeps the demo's memory under 2 GB


def prompt_writer(rows: Sequence[Row], task: Task) -> WritePrompt:
    """Writes the device's messages for a row, with or without the offer to hand off."""
    template = TEMPLATES[task.template]
    questions = {row.id: row.question for row in rows}

    def write(row_id: str, *, offer_handoff: bool, share: float | None = None) -> list[dict[str, str]]:
        conversation = template.conversation(questions[row_id])
        messages = template.device_messages(conversation, offer_handoff=offer_handoff, share=share)
        return [{"role": message.role, "content": message.content} for message in messages]

    return write


def build_dataset(rows: Sequence[Row], task: Task, *, offer_handoff: bool) -> Dataset:
    """Columns `prompt` (the device's messages) and `row_id`."""
    write = prompt_writer(rows, task)
    return Dataset.from_list(
        [{"prompt": write(row.id, offer_handoff=offer_handoff, share=None), "row_id": row.id} for row in rows]
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
    reward: Mapping[str, Any],
    max_new_tokens: int,
    seed: int,
    save_steps: int,
    out: Path,
    rows_per_pass: int | None = None,
    bf16: bool = False,
    max_minutes: float | None = None,
    handoff_reward: str = "fixed",
    multiplier_rate: float = 0.15,
    multiplier_damping: float = 0.4,
    forced_attempts: int = 0,
    forced_weight: float = 1.0,
    told_shares: Sequence[float] = (),
    report_to: Sequence[str] = (),
    concurrency: int = 32,
    resume: bool = False,
    config: Mapping[str, Any] | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a device model and write the folder that `selfroute.train.folder` describes.

    Args:
        model, tokenizer: folders or hub names.
        cloud: answers hand-offs; None for an algorithm that offers none.
        algorithm: a key of `selfroute.train.gapg.ALGORITHMS`.
        share: wanted call share, in (0, 1).
        reward: weights `local`, `cloud` and `format`, and `token_price`.
        rows_per_pass: rollouts in one forward and backward pass; must divide prompts_per_step * group_size; None
            takes the largest divisor that also divides 32.
        bf16: compute in bfloat16; weights and optimiser stay in float32.
        max_minutes: ends the run after the step in which this time is up.
        handoff_reward, multiplier_rate, multiplier_damping, forced_attempts, forced_weight, told_shares: as in
            `GAPGConfig`.
        report_to: trackers of transformers, such as tensorboard or wandb.
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
    folder.check_trackers(report_to)
    options = dict(ALGORITHMS[algorithm])
    offer_handoff = options.pop("offer_handoff")
    if offer_handoff and cloud is None:
        raise ConfigError(f"algorithm '{algorithm}' offers the hand-off and needs a cloud; name one with cloud=…")
    accelerated = torch.cuda.is_available() or torch.backends.mps.is_available()
    arguments = GAPGConfig(
        output_dir=str(out / CHECKPOINTS),
        max_steps=steps,
        **_batching(prompts_per_step, group_size, rows_per_pass),
        num_generations=group_size,
        learning_rate=learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=min(WARMUP_STEPS, steps // 4),
        temperature=temperature,
        max_completion_length=max_new_tokens,
        cloud_share=share,
        local_reward=reward["local"],
        cloud_reward=reward["cloud"],
        format_reward=reward["format"],
        handoff_reward=handoff_reward,
        multiplier_rate=multiplier_rate,
        multiplier_damping=multiplier_damping,
        token_price=reward.get("token_price", 0.0),
        forced_attempts=forced_attempts,
        forced_weight=forced_weight,
        told_shares=list(told_shares),
        save_steps=save_steps,
        save_total_limit=2,
        logging_steps=1,
        activation_checkpointing=False,
        seed=seed,
        use_cpu=not accelerated,
        bf16=bf16,
        report_to=list(report_to),
        disable_tqdm=True,
        **options,
    )
    checkpoint = folder.start_from(out, steps, resume=resume, marker=STATE_FILE)
    rows = list(task.rows("train"))
    if len(rows) < prompts_per_step:
        raise ConfigError(
            f"prompts_per_step={prompts_per_step} is more than the {len(rows)} training rows of '{task.name}'; lower it"
        )
    # In bfloat16 on a CPU the plain products take 0.6 of the fused kernel's time, most of it saved going backward.
    attention = "eager" if bf16 and not accelerated else None
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation=attention)
    words = _tokenizer(tokenizer)
    answers = _cloud_answers(task, cloud if offer_handoff else None, max_new_tokens, concurrency)
    known = {row.id: row for row in rows}
    origin = folder.begin(out, config or {}, checkpoint)
    trainer = GAPGTrainer(
        network,
        OutcomeGrader(task, known, answers),
        arguments,
        build_dataset(rows, task, offer_handoff=offer_handoff),
        words,
        write_prompt=prompt_writer(rows, task),
        local_grader=OutcomeGrader(task, known, None),
        on_sample=partial(folder.add_line, out / "rollouts.jsonl"),
    )
    watcher = folder.Watcher(out / "metrics.jsonl", steps, on_progress)
    watcher.attach(trainer)
    if max_minutes is not None:
        trainer.add_callback(folder.TimeLimit(60.0 * max_minutes))
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model(str(out / "checkpoint"))
    words.save_pretrained(str(out / "checkpoint"))
    return folder.finish(
        out,
        {
            "algorithm": algorithm,
            "seed": seed,
            "steps": trainer.state.global_step,
            "share": share,
            "rho": ratio_from_share(share),
            "targets": [target.state() for target in trainer.targets.values()],
            "rows": len(rows),
            "wall_s": round(watcher.wall_s, 1),
            "resumed_from": None if checkpoint is None else Path(checkpoint).name,
            "cloud_calls": 0 if answers is None else answers.calls,
            "cloud_failures": 0 if answers is None else answers.failures,
            "warnings": trainer.alarms.messages,
        },
        origin,
    )


def _cloud_answers(task: Task, cloud: Backend | None, max_new_tokens: int, concurrency: int) -> CloudAnswers | None:
    if cloud is None:
        return None
    template, most = TEMPLATES[task.template], max(512, max_new_tokens)
    return CloudAnswers(task, cloud, template, max_tokens=most, concurrency=concurrency)


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
    size = math.gcd(rollouts, ROWS_PER_PASS) if rows_per_pass is None else rows_per_pass
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


def _tokenizer(place: str) -> PreTrainedTokenizerBase:
    words: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(place)
    if words.chat_template is None:
        raise ConfigError(f"the tokenizer of '{place}' has no chat template; train an instruct model")
    if words.pad_token_id is None:
        words.pad_token = words.eos_token
    return words

"""One run of supervised training over ready batches, in a folder as `selfroute.train.folder` describes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import IterableDataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

from selfroute.environment import has_fast_bf16
from selfroute.prompts import TrainedPrompt, write_prompt
from selfroute.train import folder
from selfroute.train.imitation.batches import Batch
from selfroute.train.imitation.optimizer import MuonAdamW

__all__ = ["Optimizer", "tune"]

Optimizer = Literal["adamw", "muon"]


def tune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: IterableDataset[Batch],
    *,
    out: Path,
    steps: int,
    learning_rate: float,
    optimizer: Optimizer,
    seed: int,
    prompt: TrainedPrompt,
    workers: int = 0,
    checkpoint: str | None = None,
    on_progress: folder.Progress | None = None,
) -> float:
    """Train a model and write it to `out/checkpoint`.

    Args:
        data: endless batches, each ready made.
        learning_rate: peak of a cosine schedule with 2 % linear warm-up.
        optimizer: "muon" takes `MuonAdamW`.
        prompt: how the model is asked, kept with it.
        workers: processes that make batches.
        checkpoint: of this run, to go on from.
        on_progress: called with step, steps and the step's metrics.

    Returns:
        Seconds of training, those before the checkpoint included.
    """
    arguments = TrainingArguments(
        output_dir=str(out / folder.CHECKPOINTS),
        max_steps=steps,
        per_device_train_batch_size=1,  # a batch comes ready made
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, steps // 50),
        adam_beta2=0.98,
        weight_decay=0.01,
        max_grad_norm=1.0,
        bf16=has_fast_bf16(),
        use_cpu=not torch.cuda.is_available(),
        logging_steps=max(1, steps // 100),
        save_steps=max(1, steps // 10),
        save_total_limit=1,
        seed=seed,
        dataloader_num_workers=workers,
        dataloader_prefetch_factor=8 if workers else None,
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
    )
    own = MuonAdamW(model, lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.98)) if optimizer == "muon" else None
    trainer = Trainer(model=model, args=arguments, train_dataset=data, data_collator=_unwrap, optimizers=(own, None))
    watcher = folder.Watcher(out / "metrics.jsonl", steps, on_progress)
    watcher.attach(trainer)
    trainer.add_callback(folder.PromptWriter(prompt))
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model(str(out / "checkpoint"))
    tokenizer.save_pretrained(str(out / "checkpoint"))
    write_prompt(out / "checkpoint", prompt)
    return watcher.wall_s


def _unwrap(batches: list[Batch]) -> dict[str, Any]:
    return dict(batches[0])

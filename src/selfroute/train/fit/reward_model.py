"""Train a reward model on pairs, with TRL's `RewardTrainer`.

The loss is −log σ(r⁺ − r⁻) + c · mean((r⁺ + r⁻)²), Bradley–Terry with centring. Pairs go in as the token ids that
`RewardModel.encode` gives, so training and scoring read the same text through the same template, and nothing is cut: a
pair that is longer than the model reads is left out and counted.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from trl import RewardConfig, RewardTrainer

from selfroute.errors import ConfigError
from selfroute.scores.reward_model import RewardModel
from selfroute.tasks.base import Row
from selfroute.train import folder
from selfroute.train.fit.pairs import Pair, PairQuality, Pairs, quality_of
from selfroute.train.folder import Progress
from selfroute.train.pretrained import add_adapter, load_network, load_tokenizer, merged

__all__ = ["fit_reward_model", "judge_pairs", "reward_arguments", "with_score"]

_WARMUP_SHARE = 0.1


def with_score(model: str, *, seed: int = 0) -> PreTrainedModel:
    """A device model with one number in place of its vocabulary: the same backbone below a fresh linear head.

    Args:
        model: a folder, a hub repository or a GGUF file.
        seed: of the head's weights.

    Raises:
        ConfigError: the weights cannot be read, or transformers has no classifier of their kind.
    """
    network = load_network(model)
    config = copy.deepcopy(network.config)
    config.num_labels = 1
    torch.manual_seed(seed)
    try:
        scorer: PreTrainedModel = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    except ValueError as error:
        raise ConfigError(
            f"model: transformers has no sequence classifier for '{config.model_type}'; name another model"
        ) from error
    scorer.base_model.load_state_dict(network.base_model.state_dict())
    return scorer


def fit_reward_model(
    pairs: Pairs,
    arguments: RewardConfig,
    *,
    model: str,
    tokenizer: str,
    out: Path,
    lora: Mapping[str, Any] | None = None,
    resume: bool = False,
    facts: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a reward model and write the folder that `selfroute.train.folder` describes.

    Args:
        arguments: as `reward_arguments` makes them.
        model, tokenizer: folders, hub names or GGUF files.
        lora: `rank`, `alpha`, `dropout` and `targets` of an adapter; None trains all weights. The head is always
            trained, and OUT/checkpoint is the whole model with the adapter added.
        resume: go on from the newest checkpoint in the folder.
        facts: kept beside the weights, e.g. where the pairs came from.
        config: the resolved recipe, written beside the result.
        on_progress: called with step, steps and the step's metrics.

    Returns:
        What stands in `run.json`, `quality` on the held-out pairs among it.

    Raises:
        ConfigError: before any work, for an option that cannot be; or if `resume` finds nothing to do.
    """
    checkpoint = folder.start_from(out, arguments.max_steps, resume=resume)
    scorer = with_score(model, seed=arguments.seed)
    reward = RewardModel(scorer, load_tokenizer(tokenizer, scorer.config))
    learn, too_long = _encoded(reward, pairs.learn)
    rows = {"training": _rows(pairs.learn), "held-out": _rows(pairs.held_out)}
    if checkpoint is not None:
        folder.check_config(out, config or {})
        folder.check_data(out, rows)
    if lora is not None:
        torch.manual_seed(arguments.seed)
        scorer = add_adapter(scorer, lora, task="SEQ_CLS")
    origin = folder.begin(out, config or {}, checkpoint, rows)
    trainer = RewardTrainer(scorer, arguments, train_dataset=learn, processing_class=reward.tokenizer)
    watcher = folder.Watcher(out / "metrics.jsonl", arguments.max_steps, on_progress)
    watcher.attach(trainer)
    trainer.train(resume_from_checkpoint=checkpoint)
    learned: Any = merged(trainer.accelerator.unwrap_model(trainer.model))
    told = _save(replace(reward, model=learned), pairs, out / "checkpoint", facts or {})
    run = {
        "algorithm": "reward_model",
        "seed": arguments.seed,
        "steps": trainer.state.global_step,
        "pairs": len(learn),
        "too_long": too_long,
        "dropped": dict(pairs.dropped),
        "wall_s": round(watcher.wall_s, 1),
        "resumed_from": None if checkpoint is None else Path(checkpoint).name,
    }
    return folder.finish(out, {**run, **told}, origin)


def _save(reward: RewardModel, pairs: Pairs, place: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write the model with what is known of it, which is returned."""
    quality = judge_pairs(reward, pairs.held_out).facts()
    told = {**facts, "ordered_by_environment": pairs.ordered_by_environment, "quality": quality}
    replace(reward, facts=told).save(place)
    return told


def reward_arguments(
    out: Path,
    *,
    steps: int = 500,
    pairs_per_step: int = 32,
    pairs_per_pass: int | None = None,
    learning_rate: float = 1e-3,
    centring: float = 1e-3,
    bf16: bool = False,
    save_steps: int = 100,
    seed: int = 0,
) -> RewardConfig:
    """TRL's config for a run.

    Args:
        out: folder of the run.
        pairs_per_pass: in one forward and backward pass; None takes a whole step's.
        learning_rate: peak of the cosine schedule, after a tenth of the steps.
        centring: weight of the squared sum of a pair's scores.
        bf16: passes in bfloat16; weights are float32.

    Raises:
        ConfigError: sizes that do not divide.
    """
    per_pass = pairs_per_pass or pairs_per_step
    if pairs_per_step % per_pass:
        raise ConfigError(f"pairs_per_pass: {per_pass} does not divide pairs_per_step={pairs_per_step}; take a divisor")
    return RewardConfig(
        output_dir=str(out / folder.CHECKPOINTS),
        max_steps=steps,
        per_device_train_batch_size=per_pass,
        gradient_accumulation_steps=pairs_per_step // per_pass,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, round(_WARMUP_SHARE * steps)),
        center_rewards_coefficient=centring,
        max_length=None,  # pairs that are too long are left out and counted before
        activation_checkpointing=False,
        bf16=bf16,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=max(1, steps // 50),
        save_steps=save_steps,
        save_total_limit=1,
        seed=seed,
        report_to=[],
        disable_tqdm=True,
    )


def judge_pairs(reward: RewardModel, pairs: Sequence[Pair]) -> PairQuality:
    """How well a reward model orders pairs that it has not seen."""
    good = reward.scores([(pair.question, pair.good) for pair in pairs])
    bad = reward.scores([(pair.question, pair.bad) for pair in pairs])
    return quality_of(pairs, good, bad)


def _encoded(reward: RewardModel, pairs: Sequence[Pair]) -> tuple[Dataset, int]:
    """Token ids of the pairs that the model can read, and how many it cannot."""
    rows = [
        {"chosen_ids": reward.encode(pair.question, pair.good), "rejected_ids": reward.encode(pair.question, pair.bad)}
        for pair in pairs
    ]
    kept = [row for row in rows if max(map(len, row.values())) <= reward.max_tokens]
    if not kept:
        raise ConfigError(
            f"pairs: all {len(rows)} are longer than the {reward.max_tokens} tokens that the model reads; give shorter "
            "ones, or another model"
        )
    return Dataset.from_list(kept), len(rows) - len(kept)


def _rows(pairs: Sequence[Pair]) -> list[Row]:
    """Pairs as rows, whose hash tells a resumed run that they are the same."""
    return [Row(str(i), pair.question, pair.good, {"bad": pair.bad}) for i, pair in enumerate(pairs)]

"""A toy world for the trainer: a vocabulary of words, prompts of one word, answers of a few words."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from selfroute.grading import Outcome
from selfroute.rewards.hierarchical import hierarchical
from selfroute.train.rl.gapg import GAPGTrainer
from selfroute.train.rl.objectives.group import Group
from selfroute.train.rl.options import GAPGOptions
from selfroute.train.rl.policy_config import PolicyConfig
from selfroute.train.rl.policy_trainer import PolicyTrainer

ASK = "ask"
# The end of text is also what an answer stops with.
WORDS = ["<end>", "<pad>", "easy", "hard", ASK, *(f"w{i}" for i in range(8)), *(f"p{i}" for i in range(11))]


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token="<end>",
        pad_token="<pad>",
        chat_template="{% for message in messages %}{{ message['content'] }} {% endfor %}",
    )


def policy(*, seed: int = 0, hidden: int = 16, layers: int = 1, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
    )
    return LlamaForCausalLM(config).to(dtype)


def data(prompts: Sequence[str]) -> Dataset:
    """One row per prompt; its id is the number and the prompt."""
    rows = [
        {"prompt": [{"role": "user", "content": prompt}], "row_id": f"{i}:{prompt}"} for i, prompt in enumerate(prompts)
    ]
    return Dataset.from_list(rows)


def luck(row_id: str, text: str) -> random.Random:
    return random.Random(f"{row_id}/{text}")


def grade(row_ids: Sequence[str], texts: Sequence[str]) -> list[Outcome]:
    """Outcomes that depend on prompt and text alone, a third solved, a third asking, of which most are answered."""
    outcomes = []
    for row_id, text in zip(row_ids, texts, strict=True):
        kind = luck(row_id, text).randrange(6)
        # Every other prompt is out of reach for the device.
        reachable = int(row_id.partition(":")[0]) % 2 == 0
        outcomes.append(
            Outcome(
                wants_cloud=kind < 3,
                device_correct=kind >= 3 and kind != 5 and reachable,
                cloud_correct=kind < 2 if kind < 3 else None,
            )
        )
    return outcomes


PROMPTS = [" ".join([f"p{i}"] * (1 + i % 3)) for i in range(6)]


def arguments(
    folder: Path,
    kind: type[PolicyConfig],
    prompts: Sequence[str],
    group: int,
    rows_per_pass: int | None,
    **options: Any,
) -> Any:
    """Plain gradient steps: SGD, rate 1, no clipping."""
    rollouts = len(prompts) * group
    passes = rollouts // (rows_per_pass or rollouts)
    given: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": 1,
        "per_device_train_batch_size": rows_per_pass or rollouts,
        "gradient_accumulation_steps": passes,
        "steps_per_generation": passes,
        "num_generations": group,
        "max_completion_length": 5,
        "optim": "sgd",
        "learning_rate": 1.0,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "activation_checkpointing": False,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        **options,
    }
    return kind(**given)


def trainer(
    folder: Path,
    *,
    model: LlamaForCausalLM | None = None,
    grader: Any = grade,
    prompts: Sequence[str] = PROMPTS,
    group: int = 6,
    rows_per_pass: int | None = None,
    tokens: int = 5,
    callbacks: Any = None,
    write_prompt: Any = None,
    local_grader: Any = None,
    held_out: Any = None,
    **options: Any,
) -> GAPGTrainer:
    """A trainer of GAPG that makes plain gradient steps; options are those of the method and of TRL."""
    names = {field.name for field in dataclasses.fields(GAPGOptions)}
    method = GAPGOptions(**{name: options.pop(name) for name in names & set(options)})
    options = {**method.method.trl, **options}
    args = arguments(folder, PolicyConfig, prompts, group, rows_per_pass, max_completion_length=tokens, **options)
    return GAPGTrainer(
        model if model is not None else policy(),
        grader,
        args,
        data(prompts),
        tokenizer(),
        callbacks=callbacks,
        options=method,
        write_prompt=write_prompt,
        local_grader=local_grader,
        held_out=held_out,
    )


def policy_trainer(
    folder: Path,
    *,
    model: LlamaForCausalLM | None = None,
    grader: Any = grade,
    reward: Any = hierarchical,
    objective: Any = None,
    rollout: Any = None,
    constraints: Any = None,
    behaviour: Any = None,
    m_step: Any = None,
    worked: Any = None,
    callbacks: Any = None,
    rows_per_pass: int | None = None,
    **options: Any,
) -> PolicyTrainer:
    """A trainer without a method that makes plain gradient steps; groups of 6."""
    return PolicyTrainer(
        model if model is not None else policy(dtype=torch.float64),
        grader,
        arguments(folder, PolicyConfig, PROMPTS, 6, rows_per_pass, **options),
        data(PROMPTS),
        tokenizer(),
        reward=reward,
        objective=Group() if objective is None else objective,
        rollout=rollout,
        constraints=constraints,
        behaviour=behaviour,
        m_step=m_step,
        worked=worked,
        callbacks=callbacks,
    )

"""A run's options as TRL's config: batch sizes, defaults, and TRL's further options by name."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import math
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from selfroute.errors import ConfigError
from selfroute.train import folder
from selfroute.train.rl.options import ALGORITHMS, GAPGConfig

__all__ = [
    "OWN_KEYS",
    "Batching",
    "batching",
    "build_arguments",
    "check_distribution",
    "check_rows",
    "check_trl",
    "is_sharded",
    "missing_vllm",
    "processes_here",
    "prompts_of_a_step",
]

WARMUP_STEPS = 10  # without them, Adam's first steps are as long as all others on one batch's noise
DECAY = 0.3  # of the steps, at the end
ROWS_PER_PASS = 32  # keeps the demo's memory under 2 GB

# TRL's options that keys of the recipe set already, and those keys.
OWN_KEYS: dict[str, str] = {
    "output_dir": "out",
    "max_steps": "steps",
    "num_train_epochs": "steps",
    "per_device_train_batch_size": "rows_per_pass",
    "gradient_accumulation_steps": "prompts_per_step",
    "steps_per_generation": "prompts_per_step",
    "generation_batch_size": "prompts_per_step",
    "num_generations": "group_size",
    "max_completion_length": "max_new_tokens",
    "cloud_share": "share",
    "local_reward": "reward.local",
    "cloud_reward": "reward.cloud",
    "format_reward": "reward.format",
    "token_price": "reward.token_price",
    "resume_from_checkpoint": "resume",
    **dict.fromkeys(("estimator", "prompt_filter", "loss_type", "scale_rewards"), "algorithm"),
    **{
        name: name
        for name in (
            "learning_rate", "temperature", "handoff_reward", "multiplier_rate", "multiplier_damping",
            "share_prompts", "forced_attempts", "forced_weight", "told_shares", "save_steps", "seed", "bf16",
            "report_to",
        )
    },
}  # fmt: skip
# Old names, under which transformers still reads an option.
ALIASES = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Batching:
    """How the rollouts of a step are shared out.

    Attributes:
        rollouts: of one step and process.
        rows: in one forward and backward pass.
        passes: before the optimiser moves.
    """

    rollouts: int
    rows: int
    passes: int


def processes_here() -> int:
    """Processes of this run, as set by accelerate and torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def batching(prompts_per_step: int, group_size: int, rows_per_pass: int | None, processes: int = 1) -> Batching:
    """One optimiser step per generation of prompts_per_step groups, over all processes.

    Raises:
        ConfigError: a size that does not divide.
    """
    if group_size < 2:
        raise ConfigError(f"group_size must be at least 2, not {group_size}: a rollout is compared with its group")
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
    return Batching(rollouts, size, rollouts // size)


def build_arguments(
    *,
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
    handoff_reward: str = "fixed",
    multiplier_rate: float = 0.04,
    multiplier_damping: float = 0.6,
    share_prompts: int = 64,
    forced_attempts: int = 0,
    forced_weight: float = 1.0,
    told_shares: Sequence[float] = (),
    report_to: Sequence[str] = (),
    trl: Mapping[str, Any] | None = None,
) -> GAPGConfig:
    """TRL's config for a run.

    Args:
        algorithm: a key of `ALGORITHMS`.
        share: wanted call share, in (0, 1).
        reward: weights `local`, `cloud` and `format`, and `token_price`.
        save_steps: steps between checkpoints, from which a run can go on.
        out: folder of the run.
        rows_per_pass: rollouts in one forward and backward pass; must divide prompts_per_step * group_size; None
            takes the largest divisor that also divides 32.
        bf16: compute in bfloat16; weights and optimiser stay in float32.
        handoff_reward, multiplier_rate, multiplier_damping, share_prompts, forced_attempts, forced_weight, told_shares:
            as in `GAPGConfig`.
        report_to: trackers of transformers, such as tensorboard or wandb.
        trl: further options of TRL's config by name.

    Raises:
        ConfigError: an option that cannot be, alone or beside another.
    """
    if algorithm not in ALGORITHMS:
        raise ConfigError(f"no algorithm '{algorithm}'; known: {', '.join(ALGORITHMS)}")
    folder.check_trackers(report_to)
    further = check_trl(trl or {})
    sizes = batching(prompts_per_step, group_size, rows_per_pass, processes_here())
    method = dict(ALGORITHMS[algorithm])
    del method["offer_handoff"]  # the prompt's matter, not the trainer's
    token_price = reward.get("token_price", 0.0)
    _check_handoffs(algorithm, is_dual=handoff_reward == "dual", tells=bool(told_shares), token_price=token_price)
    accelerated = torch.cuda.is_available() or torch.backends.mps.is_available()
    values: dict[str, Any] = {
        **(_for_a_price(steps) if handoff_reward == "dual" else {"lr_scheduler_type": "constant_with_warmup"}),
        "warmup_steps": min(WARMUP_STEPS, steps // 4),
        "save_total_limit": 2,
        "logging_steps": 1,
        "activation_checkpointing": False,
        "use_cpu": not accelerated,
        "disable_tqdm": True,
        **further,
        "output_dir": str(out / folder.CHECKPOINTS),
        "max_steps": steps,
        "per_device_train_batch_size": sizes.rows,
        "gradient_accumulation_steps": sizes.passes,
        "steps_per_generation": sizes.passes,
        "num_generations": group_size,
        "learning_rate": learning_rate,
        "temperature": temperature,
        "max_completion_length": max_new_tokens,
        "cloud_share": share,
        "local_reward": reward["local"],
        "cloud_reward": reward["cloud"],
        "format_reward": reward["format"],
        "token_price": token_price,
        "handoff_reward": handoff_reward,
        "multiplier_rate": multiplier_rate,
        "multiplier_damping": multiplier_damping,
        "share_prompts": share_prompts,
        "forced_attempts": forced_attempts,
        "forced_weight": forced_weight,
        "told_shares": list(told_shares),
        "save_steps": save_steps,
        "seed": seed,
        "bf16": bf16,
        "report_to": list(report_to),
        **method,
    }
    try:
        return GAPGConfig(**values)
    except (ValueError, TypeError, ImportError, RuntimeError, OSError) as error:
        where = f"trl ({', '.join(further)})" if further else "the options of training"
        raise ConfigError(f"{where}: {' '.join(str(error).split())}") from error


def _check_handoffs(algorithm: str, *, is_dual: bool, tells: bool, token_price: float) -> None:
    """Refuse options about hand-offs that an algorithm would pass over in silence."""
    method = ALGORITHMS[algorithm]
    idle = {"handoff_reward=dual": is_dual, "told_shares": tells, "reward.token_price": token_price > 0}
    for option, is_set in idle.items():
        if is_set and not method["offer_handoff"]:
            raise ConfigError(
                f"{option}: algorithm '{algorithm}' never offers the hand-off; leave this out, or take algorithm=gapg"
            )
    if tells and not is_dual and not method["prompt_filter"]:
        raise ConfigError(
            f"told_shares: with algorithm '{algorithm}' and handoff_reward=fixed all shares are trained alike; "
            "set handoff_reward=dual, or take algorithm=gapg"
        )


def _for_a_price(steps: int) -> dict[str, Any]:
    """How to optimise where a moving price has to meet a share.

    Adam's usual mean over ten steps makes the policy follow the price that much later, and the two swing around the
    share (docs/lab-log.md). The rate falls at the end, or the share would be that of the last few batches' noise.
    """
    decay = {"num_decay_steps": max(1, round(DECAY * steps))}
    return {"adam_beta1": 0.5, "lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": decay}


def check_trl(options: Mapping[str, Any]) -> dict[str, Any]:
    """Further options of TRL's config by name, with numbers that YAML reads as text made numbers.

    Raises:
        ConfigError: an unknown name, or one that a key of the recipe sets.
    """
    fields = {field.name: field for field in dataclasses.fields(GAPGConfig) if field.init}
    checked = {}
    for name, value in options.items():
        if name in OWN_KEYS:
            own = OWN_KEYS[name]
            raise ConfigError(f"trl.{name}: contradicts the recipe's own key '{own}'; set {own}= and leave this out")
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else "TRL's GRPOConfig lists them"
            raise ConfigError(f"trl: unknown key '{name}'; {hint}")
        # A copy: transformers writes its defaults into fsdp_config.
        given = copy.deepcopy(value)
        checked[ALIASES.get(name, name)] = _number(given, str(fields[name].type), f"trl.{name}")
    if checked.get("fp16"):
        raise ConfigError("trl.fp16: weights are float32 and passes may be bfloat16; leave it out and set bf16=true")
    return checked


def _number(value: Any, kind: str, name: str) -> Any:
    """The value; 1e-3, which YAML reads as text, is a number where the option takes numbers only."""
    numeric = "float" in kind or "int" in kind
    if not isinstance(value, str) or not numeric or "str" in kind or "dict" in kind:
        return value
    try:
        return float(value)
    except ValueError:
        raise ConfigError(f"{name}: {value!r} is not a number") from None


def is_sharded(arguments: GAPGConfig) -> bool:
    """Whether FSDP is asked for, by the recipe or by accelerate."""
    return bool(arguments.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def check_distribution(arguments: GAPGConfig) -> None:
    """Refuse what would wait for ever once the first rollouts are written.

    Raises:
        ConfigError: weights are sharded, and rollouts are not left to vLLM.
    """
    if is_sharded(arguments) and not arguments.use_vllm:
        raise ConfigError("fsdp: rollouts of a sharded model need vLLM; add trl: {use_vllm: true}, or leave fsdp out")


def missing_vllm(arguments: GAPGConfig) -> str | None:
    """What to do where vLLM is asked for and not installed."""
    if not arguments.use_vllm or find_spec("vllm") is not None:
        return None
    return "trl.use_vllm: vLLM is not installed; run: pip install 'trl[vllm]', or leave it out"


def prompts_of_a_step(arguments: GAPGConfig) -> int:
    """Prompts whose groups make one step, over all processes."""
    rows = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * processes_here()
    return int(rows // (arguments.num_generations or 1))


def check_rows(rows: int, prompts_per_step: int, task: str) -> None:
    """See that a task has enough rows for one step.

    Raises:
        ConfigError: it has not.
    """
    if rows < prompts_per_step:
        raise ConfigError(
            f"prompts_per_step={prompts_per_step} is more than the {rows} training rows of '{task}'; lower it"
        )

"""A run's options as TRL's config: batch sizes, defaults, and TRL's further options by name."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import math
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import torch

from selfroute.errors import ConfigError
from selfroute.train import folder
from selfroute.train.rl.options import GAPGOptions, LoopOptions
from selfroute.train.rl.policy_config import PolicyConfig, check_sums

__all__ = [
    "Batching",
    "batching",
    "build_arguments",
    "check_distribution",
    "check_rows",
    "check_trainer",
    "check_trl",
    "is_sharded",
    "missing_vllm",
    "passed",
    "processes_here",
    "prompts_of_a_step",
]

WARMUP_STEPS = 10  # without them, Adam's first steps are as long as all others on one batch's noise
DECAY = 0.3  # of the steps, at the end
ROWS_PER_PASS = 32  # keeps the demo's memory under 2 GB

# Fields of `LoopOptions` that TRL has under another name; the rest of what both have is named alike.
RENAMED = {"steps": "max_steps", "group_size": "num_generations", "max_new_tokens": "max_completion_length"}
# Options of TRL that follow from keys of the recipe, and those keys.
DERIVED = {
    "output_dir": "out",
    "num_train_epochs": "steps",
    "per_device_train_batch_size": "rows_per_pass",
    "gradient_accumulation_steps": "prompts_per_step",
    "steps_per_generation": "prompts_per_step",
    "generation_batch_size": "prompts_per_step",
    "resume_from_checkpoint": "resume",
    "loss_type": "algorithm",
    "scale_rewards": "algorithm",
}
# Old names, under which transformers still reads an option.
ALIASES = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}
# What cannot be set, and why.
REFUSED = {
    "fp16": "weights are float32 and passes may be bfloat16; leave it out and set bf16=true",
    "push_to_hub": "a run is kept on this disk; leave it out and upload OUT/checkpoint at the end",
    "remove_unused_columns": "a rollout is graded by its row's id, which is such a column; leave it out",
}
# Beginnings of options that are read only where another one is set.
OWNERS = {"vllm_": "use_vllm", "eval_": "eval_strategy"}
# How attempts are sampled beside temperature and top_p, which is left to transformers' own `generate` or to vLLM.
SAMPLED_BY_OTHERS = ("top_k", "min_p", "repetition_penalty", "generation_kwargs", "cache_implementation")


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


def build_arguments(loop: LoopOptions, options: GAPGOptions) -> PolicyConfig:
    """TRL's config for a run.

    Raises:
        ConfigError: an option that cannot be, alone or beside another.
    """
    folder.check_trackers(loop.report_to)
    further = check_trl(loop.trl)
    sizes = batching(loop.prompts_per_step, loop.group_size, loop.rows_per_pass, processes_here())
    values = {
        **_defaults(loop, options),
        **further,
        **{name: getattr(loop, key) for name, key in passed().items()},
        "report_to": list(loop.report_to),
        "output_dir": str(loop.out / folder.CHECKPOINTS),
        "per_device_train_batch_size": sizes.rows,
        "gradient_accumulation_steps": sizes.passes,
        "steps_per_generation": sizes.passes,
        **options.method.trl,
    }
    try:
        arguments = PolicyConfig(**values)
    except (ValueError, TypeError, ImportError, RuntimeError, OSError) as error:
        where = f"trl ({', '.join(further)})" if further else "the options of training"
        raise ConfigError(f"{where}: {' '.join(str(error).split())}") from error
    _check_groups(options, arguments)
    _check_sampling(further, arguments)
    if options.objective_kind.sums:
        check_sums(arguments, options.method.objective)
    return arguments


def _check_sampling(further: Mapping[str, Any], arguments: PolicyConfig) -> None:
    """Refuse options of sampling that would be passed over in silence."""
    idle = next((name for name in SAMPLED_BY_OTHERS if name in further), None)
    if idle is not None and arguments.fast_sampler and not arguments.use_vllm:
        raise ConfigError(
            f"trl.{idle}: our sampler knows temperature and top_p alone; leave it out, or have attempts "
            "written by transformers with trl.fast_sampler=false"
        )


def _check_groups(options: GAPGOptions, arguments: PolicyConfig) -> None:
    """Refuse forced attempts where a group cannot hold them."""
    options.check_group(arguments.num_generations or 1)
    if options.forced_attempts and arguments.use_vllm and arguments.vllm_mode == "server":
        raise ConfigError(
            "forced_attempts: a server of vLLM reads one prompt per group, and these have one of their own; set "
            "trl.vllm_mode=colocate, or forced_attempts=0"
        )


def passed() -> dict[str, str]:
    """Options of TRL that are keys of the recipe, and those keys."""
    theirs = {field.name for field in dataclasses.fields(PolicyConfig)}
    ours = {RENAMED.get(field.name, field.name): field.name for field in dataclasses.fields(LoopOptions)}
    return {name: key for name, key in ours.items() if name in theirs}


def _defaults(loop: LoopOptions, options: GAPGOptions) -> dict[str, Any]:
    """What holds unless the recipe's `trl` says otherwise."""
    accelerated = torch.cuda.is_available() or torch.backends.mps.is_available()
    return {
        **(_for_a_price(loop.steps) if options.is_dual else {"lr_scheduler_type": "constant_with_warmup"}),
        "warmup_steps": min(WARMUP_STEPS, loop.steps // 4),
        "save_total_limit": 2,
        "logging_steps": 1,
        "activation_checkpointing": False,
        "use_cpu": not accelerated,
        "disable_tqdm": True,
        "per_device_eval_batch_size": loop.group_size * max(1, ROWS_PER_PASS // loop.group_size),
    }


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
    fields = {field.name: field for field in dataclasses.fields(PolicyConfig) if field.init}
    recipe = {field.name: field.name for kind in (LoopOptions, GAPGOptions) for field in dataclasses.fields(kind)}
    taken = {**recipe, **passed(), **DERIVED}
    checked = {}
    for name, value in options.items():
        if own := taken.get(name):
            raise ConfigError(f"trl.{name}: contradicts the recipe's own key '{own}'; set {own}= and leave this out")
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else "TRL's GRPOConfig lists them"
            raise ConfigError(f"trl: unknown key '{name}'; {hint}")
        # A copy: transformers writes its defaults into fsdp_config.
        given = copy.deepcopy(value)
        checked[ALIASES.get(name, name)] = _number(given, str(fields[name].type), f"trl.{name}")
    for name, reason in REFUSED.items():
        if checked.get(name):
            raise ConfigError(f"trl.{name}: {reason}")
    for beginning, owner in OWNERS.items():
        idle = next((name for name in checked if name.startswith(beginning) and name != owner), None)
        if idle is not None and checked.get(owner, "no") in ("no", False):
            raise ConfigError(f"trl.{idle}: does nothing without trl.{owner}; set that too, or leave this out")
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


def is_sharded(arguments: PolicyConfig) -> bool:
    """Whether FSDP is asked for, by the recipe or by accelerate."""
    return bool(arguments.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def check_distribution(arguments: PolicyConfig) -> None:
    """Refuse what would wait for ever once the first rollouts are written.

    Raises:
        ConfigError: weights are sharded, and rollouts are not left to vLLM.
    """
    if is_sharded(arguments) and not arguments.use_vllm:
        raise ConfigError("fsdp: rollouts of a sharded model need vLLM; add trl: {use_vllm: true}, or leave fsdp out")


def missing_vllm(arguments: PolicyConfig) -> str | None:
    """What to do where vLLM is asked for and not installed."""
    if not arguments.use_vllm or find_spec("vllm") is not None:
        return None
    return "trl.use_vllm: vLLM is not installed; run: pip install 'trl[vllm]', or leave it out"


def prompts_of_a_step(arguments: PolicyConfig) -> int:
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


def check_trainer(
    options: GAPGOptions, args: PolicyConfig, write_prompt: object, local_grader: object, rows: Sequence[str] | None
) -> None:
    """See that a trainer of GAPG is given what its options need.

    Args:
        write_prompt, local_grader, rows: None where there is none; rows are the held-out ones.

    Raises:
        ConfigError: something is missing, or TRL's config is that of another algorithm.
    """
    _check_groups(options, args)
    for name, value in options.method.trl.items():
        if getattr(args, name) != value:
            given = getattr(args, name)
            raise ConfigError(f"{name} must be {value!r} with algorithm '{options.algorithm}', not {given!r}")
    if (options.forced_attempts or options.told_shares or rows) and write_prompt is None:
        raise ConfigError("forced_attempts, told_shares and held_out need write_prompt")
    if (options.forced_attempts or rows) and local_grader is None:
        raise ConfigError("forced_attempts and held_out need local_grader")
    if rows and min(options.share_prompts, len(rows)) < args.world_size:
        raise ConfigError(
            f"share_prompts={options.share_prompts}, of {len(rows)} held-out prompts: each of the "
            f"{args.world_size} processes needs one"
        )

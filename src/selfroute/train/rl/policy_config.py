"""TRL's config for a policy: what makes it fast, and what an objective needs of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from trl import GRPOConfig

from selfroute.errors import ConfigError

__all__ = ["PolicyConfig", "check_sums"]

# Settings of TRL under which its loss is -Σ advantage · log π over rows, divided by a constant.
SUMS = {
    "loss_type": "dr_grpo",
    "scale_rewards": "none",
    "beta": 0.0,
    "num_iterations": 1,
    "top_entropy_quantile": 1.0,
    "mask_truncated_completions": False,
}


def check_sums(args: GRPOConfig, objective: str) -> None:
    """See that TRL's loss is the plain sum that an objective's weights are made for.

    Raises:
        ConfigError: a setting of TRL under which it is not.
    """
    for name, value in SUMS.items():
        if getattr(args, name) != value:
            raise ConfigError(f"{name} must be {value!r} with objective {objective}, not {getattr(args, name)!r}")
    if args.steps_per_generation != args.gradient_accumulation_steps:
        raise ConfigError(
            f"steps_per_generation ({args.steps_per_generation}) must equal gradient_accumulation_steps "
            f"({args.gradient_accumulation_steps}): objective {objective} makes one update per batch of rollouts"
        )


@dataclass
class PolicyConfig(GRPOConfig):
    """TRL's `GRPOConfig` with what makes it fast.

    The inherited defaults that differ from TRL's: `loss_type="dr_grpo"`, `scale_rewards="none"`, `beta=0`,
    `temperature=1`, `num_generations=8` and `learning_rate=5e-6` are the paper's; `bf16=False` keeps the gradient
    exact.

    Attributes:
        fast_sampler: use our sampler where TRL would call `generate`.
        drop_idle_rows: leave rows without gradient out of the forward pass.
        part_tokens: completion tokens of the parts, sorted by length, in which a micro-batch goes through the model and
            back; less padding and memory, same gradient. None takes what suits the device, see `rows.usual_part`.
        read_prompts_once: compute the prompt of a group once and not for each of its attempts; same gradient.
    """

    loss_type: str = field(default="dr_grpo", metadata={"help": "Loss of TRL; the group estimator needs dr_grpo."})
    scale_rewards: str = field(default="none", metadata={"help": "No division by the group's deviation."})
    beta: float = field(default=0.0, metadata={"help": "No KL term."})
    temperature: float = field(default=1.0, metadata={"help": "Sampling temperature of rollouts."})
    num_generations: int | None = field(default=8, metadata={"help": "Group size G."})
    learning_rate: float = field(default=5e-6, metadata={"help": "Initial learning rate."})
    bf16: bool = field(default=False, metadata={"help": "Train in bfloat16."})
    fast_sampler: bool = field(default=True, metadata={"help": "Use the sampler of selfroute for rollouts."})
    drop_idle_rows: bool = field(default=True, metadata={"help": "Leave rows without gradient out."})
    part_tokens: int | None = field(default=None, metadata={"help": "Tokens of a length-sorted part of a micro-batch."})
    read_prompts_once: bool = field(default=True, metadata={"help": "Read the prompt of a group once."})

    def __post_init__(self) -> None:
        if self.part_tokens is not None and self.part_tokens < 1:
            raise ValueError(f"part_tokens is {self.part_tokens}; give at least 1, or leave it out")
        super().__post_init__()

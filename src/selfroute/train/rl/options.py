"""The options of GAPG as a config of TRL, and the methods it is compared with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from trl import GRPOConfig

from selfroute.errors import ConfigError
from selfroute.rewards.hierarchical import check_weights
from selfroute.train.rl.prompt_filter import ratio_from_share

__all__ = ["ALGORITHMS", "GAPGConfig", "PolicyConfig", "check_sums"]

# The paper's method and its baselines as settings of one class. "trl" leaves TRL's advantages and loss alone.
ALGORITHMS: dict[str, dict[str, Any]] = {
    "gapg": {"estimator": "group", "prompt_filter": True, "offer_handoff": True},
    "gapg_no_filter": {"estimator": "group", "prompt_filter": False, "offer_handoff": True},
    "dr_grpo": {
        "estimator": "trl",
        "prompt_filter": False,
        "offer_handoff": True,
        "loss_type": "dr_grpo",
        "scale_rewards": "none",
    },
    "grpo": {
        "estimator": "trl",
        "prompt_filter": False,
        "offer_handoff": True,
        "loss_type": "grpo",
        "scale_rewards": "group",
    },
    "task_tuning": {
        "estimator": "trl",
        "prompt_filter": False,
        "offer_handoff": False,
        "loss_type": "grpo",
        "scale_rewards": "group",
    },
}
# For ablations: the paper's filter in front of the other estimators.
ALGORITHMS |= {f"{name}_filter": {**ALGORITHMS[name], "prompt_filter": True} for name in ("dr_grpo", "grpo")}


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
        length_chunks: parts, sorted by length, in which a micro-batch is computed; less padding, same gradient.
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
    length_chunks: int = field(default=4, metadata={"help": "Length-sorted parts of a micro-batch."})


@dataclass
class GAPGConfig(PolicyConfig):
    """`PolicyConfig` with the options of GAPG.

    Attributes:
        cloud_share: largest share of requests for the cloud, in (0, 1); ρ = share / (1 - share) is derived.
        estimator: "group" is the paper's; "trl" keeps TRL's advantages, for baselines.
        prompt_filter: whether prompts are filtered by the share.
        local_reward: α_a.
        cloud_reward: α_c; `cloud_reward / local_reward` is the confidence below which asking pays.
        format_reward: α_f of the paper's first form; 0 is its final form.
        handoff_reward: "fixed" is the paper's α_c; "dual" takes a price off it that is moved until the rollouts'
            call share is `cloud_share`.
        multiplier_rate: η_λ of that price, per step.
        multiplier_damping: its part in proportion to the last step's distance from the share, in log-odds.
        share_prompts: held-out prompts per step, one attempt each, by which that price is moved; 0 moves it by the
            rollouts. A trainer without held-out prompts does that too.
        token_price: taken off the reward of a hand-off for each token that the device wrote before.
        forced_attempts: rollouts of each group that are not offered the hand-off; 0 or at least 2.
        forced_weight: of their objective beside the paper's.
        told_shares: wanted shares of one policy for several budgets, each group's said in its prompt; none tells the
            policy nothing and trains for `cloud_share`.
    """

    cloud_share: float = field(default=0.3, metadata={"help": "Largest share of requests for the cloud."})
    estimator: str = field(default="group", metadata={"help": "group (the paper's) or trl (baselines)."})
    prompt_filter: bool = field(default=True, metadata={"help": "Filter prompts by the cloud-device ratio."})
    local_reward: float = field(default=1.0, metadata={"help": "Reward of a correct local answer (alpha_a)."})
    cloud_reward: float = field(default=0.3, metadata={"help": "Reward of a correct cloud answer (alpha_c)."})
    format_reward: float = field(default=0.0, metadata={"help": "Reward of a formatted wrong answer (alpha_f)."})
    handoff_reward: str = field(default="fixed", metadata={"help": "fixed (the paper's) or dual (meets the share)."})
    multiplier_rate: float = field(default=0.04, metadata={"help": "Step size of the price of a hand-off."})
    multiplier_damping: float = field(default=0.6, metadata={"help": "Proportional part of that price."})
    share_prompts: int = field(default=64, metadata={"help": "Held-out prompts per step that measure the share."})
    token_price: float = field(default=0.0, metadata={"help": "Price of a device token of a hand-off."})
    forced_attempts: int = field(default=0, metadata={"help": "Rollouts of a group without the offer to hand off."})
    forced_weight: float = field(default=1.0, metadata={"help": "Weight of their objective."})
    told_shares: list[float] = field(default_factory=list, metadata={"help": "Shares to train one policy for."})

    def __post_init__(self) -> None:
        super().__post_init__()
        for share in (self.cloud_share, *self.told_shares):
            ratio_from_share(share)
        check_weights(local=self.local_reward, cloud=self.cloud_reward, format=self.format_reward)
        if self.estimator not in ("group", "trl"):
            raise ConfigError(f"estimator must be 'group' or 'trl', not '{self.estimator}'")
        if self.estimator == "group":
            check_sums(self, "Group")
        self._check_extensions()

    def _check_extensions(self) -> None:
        if self.handoff_reward not in ("fixed", "dual"):
            raise ConfigError(f"handoff_reward must be 'fixed' or 'dual', not '{self.handoff_reward}'")
        for name in ("multiplier_rate", "multiplier_damping", "share_prompts", "token_price", "forced_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, not {getattr(self, name):g}")
        if len(set(self.told_shares)) < len(self.told_shares):
            raise ConfigError(f"told_shares names a share twice: {self.told_shares}")
        size, forced = cast(int, self.num_generations), self.forced_attempts
        if forced and (forced < 2 or size - forced < 2):
            raise ConfigError(
                f"forced_attempts must be 0, or leave at least 2 rollouts of a group of {size} on either side, "
                f"not {forced}: each is compared with its like"
            )
        if forced and self.estimator != "group":
            raise ConfigError("forced_attempts needs estimator 'group'")

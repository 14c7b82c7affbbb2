"""The options of reinforcement learning: sections of a recipe, which go whole to what reads them.

To add an option, add a field here, explain it in the docstring, and read it where it acts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from selfroute.bounds import Bounds, Choice, Count, NotNegative, Positive, Share, Whole, check_fields
from selfroute.errors import ConfigError
from selfroute.rewards.hierarchical import Hierarchical
from selfroute.train.rl.behaviour import Behaviour
from selfroute.train.rl.objectives.kinds import OBJECTIVES, ObjectiveKind
from selfroute.train.rl.rollouts.branching import TreeOptions
from selfroute.train.rl.rollouts.kinds import KINDS, Kind

__all__ = ["ALGORITHMS", "OLD_NAMES", "Algorithm", "GAPGOptions", "LoopOptions", "MStepOptions", "Method"]

Group = Annotated[int, Bounds(2, hint="; the estimator compares the rollouts of a group")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A row of seams.

    Attributes:
        summary: what it is, in a sentence.
        objective: how rewards become a gradient, a name of `selfroute.train.rl.objectives.kinds.OBJECTIVES`.
        prompt_filter: whether prompts are filtered by the share, unless the recipe says otherwise.
        offer_handoff: whether the prompt offers the device to ask.
        rollout: how attempts are made, a name of `selfroute.train.rl.rollouts.kinds.KINDS`.
        strategy: that serves its policies, if it is not that of whole answers.
        trl: settings of TRL's config that belong to it.
    """

    summary: str
    objective: str
    prompt_filter: bool = False
    offer_handoff: bool = True
    rollout: str = "single"
    strategy: str = ""
    trl: Mapping[str, str]


DR_GRPO = {"loss_type": "dr_grpo", "scale_rewards": "none"}
GRPO = {"loss_type": "grpo", "scale_rewards": "group"}
# The paper's method and its baselines.
ALGORITHMS: dict[str, Method] = {
    "gapg": Method(
        summary="GAPG: the group estimator, no division, prompts filtered by the share.",
        objective="group",
        prompt_filter=True,
        trl=DR_GRPO,
    ),
    "dr_grpo": Method(summary="Dr. GRPO: collaboration-aware tuning in V3 of the paper.", objective="trl", trl=DR_GRPO),
    "grpo": Method(
        summary="GRPO, which divides by the deviation: collaboration-aware tuning in V1 of the paper.",
        objective="trl",
        trl=GRPO,
    ),
    "task_tuning": Method(
        summary="GRPO on the device's own answers; it never asks the cloud.",
        objective="trl",
        offer_handoff=False,
        trl=GRPO,
    ),
    "relay": Method(
        summary="The device learns to ask for tokens inside its answer, at a price that meets a wanted share of them.",
        objective="group",
        prompt_filter=True,
        offer_handoff=False,
        rollout="relay",
        strategy="relay",
        trl=DR_GRPO,
    ),
    "tree": Method(
        summary="An agent learns to use tools along trees of attempts; see docs/tool-agents.md.",
        objective="tree",
        rollout="tree",
        trl=DR_GRPO,
    ),
    "balance": Method(
        summary="Trajectory balance: every good way to decide, in proportion to what it is worth.",
        objective="vargrad_tb",
        trl=DR_GRPO,
    ),
}
# Names of version 0.1 that said the filter too: algorithm and prompt_filter.
OLD_NAMES = {"gapg_no_filter": ("gapg", False), "dr_grpo_filter": ("dr_grpo", True), "grpo_filter": ("grpo", True)}
Algorithm = Annotated[str, Choice(lambda: (*ALGORITHMS, *OLD_NAMES))]


@dataclass(frozen=True, slots=True, kw_only=True)
class MStepOptions:
    """The M-step of variational EM (arXiv 2310.04363, section 3.3): the reference learns to write what the policy does.

    Attributes:
        every: steps of the policy to one of the reference.
        learning_rate: of AdamW.
    """

    every: Count = 1
    learning_rate: Positive = 1e-5

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """How much is trained, and what of TRL's config a recipe has under its own name.

    Attributes:
        steps: optimiser steps.
        prompts_per_step: prompts whose groups make one step.
        group_size: rollouts per prompt.
        max_new_tokens: most tokens of a rollout.
        save_steps: steps between checkpoints.
        rows_per_pass: rollouts in one forward and backward pass; None takes all of a step, less saves memory.
        bf16: compute in bfloat16, with weights and optimiser in float32; quicker where the processor has it.
        out: folder of the run.
        report_to: trackers beside metrics.jsonl, such as `[tensorboard]` or `[wandb]`.
        trl: further options of TRL's GRPOConfig by name, such as use_vllm, activation_checkpointing or fsdp.
    """

    steps: Count = 120
    prompts_per_step: Count = 32
    group_size: Group = 8
    learning_rate: Positive = 3e-4
    temperature: Positive = 1.0
    max_new_tokens: Count = 256
    seed: int = 0
    save_steps: Count = 20
    rows_per_pass: Count | None = None
    bf16: bool = False
    out: Path = Path("out/train")
    report_to: tuple[str, ...] = ()
    trl: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class GAPGOptions:
    """The options of GAPG and of the methods it is compared with.

    Attributes:
        algorithm: how to train, a name of `selfroute algorithms`; version 0.1's names that said the filter are read.
        prompt_filter: whether prompts are filtered by the share; None leaves it to the algorithm.
        context: what the cloud is shown of a hand-off: the prompt, or the message that the device wrote behind it.
        share: wanted call share; the method's cloud-device ratio is share / (1 - share). With `relay` it is the wanted
            part of all answers' tokens that the cloud writes, which always has a price that moves.
        reward: α_a, α_c and α_f, and the price of a hand-off's tokens.
        handoff_reward: `fixed` pays reward.cloud; `dual` takes a price off it that moves until the share is met.
        multiplier_rate: step size of that price.
        multiplier_damping: its part in proportion to the last step's distance from the share, in log-odds.
        share_prompts: validation prompts per step, one attempt each, by which that price is moved; 0 moves it by the
            rollouts, which are of problems that the policy was trained on.
        forced_attempts: rollouts of each group that are not offered the hand-off; 0, or at least 2.
        forced_weight: of their objective beside the paper's.
        cut_off: attempts that reach max_new_tokens without an end are `graded` as any other, or `left_out` of their
            group, like those that cannot be graded: the limit then punishes nobody, and shortens nothing.
        told_shares: train one policy for several shares, each said in the prompt; `share` is then that of evaluation.
        behaviour: where attempts come from beside the policy as it is; None from nowhere (docs/objectives.md).
        m_step: make the reference of an objective follow the policy; None leaves it as it is.
        tree: how trees of attempts grow, with `tree` (docs/tool-agents.md); None takes the defaults.

    Raises:
        ConfigError: an option that cannot be, alone or beside another.
    """

    algorithm: Algorithm = "gapg"
    prompt_filter: bool | None = None
    context: Literal["prompt", "message"] = "prompt"
    share: Share = 0.3
    reward: Hierarchical = field(default_factory=Hierarchical)
    handoff_reward: Literal["fixed", "dual"] = "fixed"
    multiplier_rate: NotNegative = 0.04
    multiplier_damping: NotNegative = 0.6
    share_prompts: Whole = 64
    forced_attempts: Whole = 0
    forced_weight: NotNegative = 1.0
    cut_off: Literal["graded", "left_out"] = "graded"
    told_shares: tuple[Share, ...] = ()
    behaviour: Behaviour | None = None
    m_step: MStepOptions | None = None
    tree: TreeOptions | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        name, filtered = OLD_NAMES.get(self.algorithm, (self.algorithm, self.prompt_filter))
        if self.prompt_filter not in (None, filtered):
            raise ConfigError(f"prompt_filter contradicts algorithm={self.algorithm}; write algorithm={name}")
        if len(set(self.told_shares)) < len(self.told_shares):
            raise ConfigError(f"told_shares names a share twice: {list(self.told_shares)}")
        if self.forced_attempts and "forced_attempts" not in self.objective_kind.given.values():
            raise ConfigError(f"forced_attempts needs the group estimator, not {self.algorithm}'s; take algorithm=gapg")
        if self.behaviour is not None and self.is_dual and not self.share_prompts:
            raise ConfigError(
                "behaviour: with share_prompts=0 the price would be moved by attempts that the policy did not write; "
                "set share_prompts=64, or leave behaviour out"
            )
        if self.tree is not None and not self.kind.interactive:
            raise ConfigError(f"tree: attempts of algorithm '{self.algorithm}' do not fork; take algorithm=tree")
        self._check_handoffs()

    def _check_handoffs(self) -> None:
        """Refuse options about hand-offs that an algorithm would pass over in silence."""
        idle = {
            "context=message": self.writes_question,
            "handoff_reward=dual": self.handoff_reward == "dual" and not self.kind.inside,
            "forced_attempts": self.forced_attempts > 0 and self.kind.inside,
            "told_shares": bool(self.told_shares),
            "reward.token_price": self.reward.token_price > 0,
        }
        for option, is_set in idle.items():
            if is_set and not self.method.offer_handoff:
                raise ConfigError(
                    f"{option}: algorithm '{self.algorithm}' never offers the hand-off; leave this out, or take "
                    "algorithm=gapg"
                )
        if self.told_shares and not self.is_dual and not self.method.prompt_filter:
            raise ConfigError(
                f"told_shares: with algorithm '{self.algorithm}', no filter and handoff_reward=fixed all shares are "
                "trained alike; set handoff_reward=dual, or prompt_filter=true"
            )

    def check_group(self, size: int) -> None:
        """See that forced attempts leave groups that can be compared.

        Args:
            size: rollouts of a group, G.

        Raises:
            ConfigError: a part of a group would have fewer than two rollouts, or more attempts would start than there
                are.
        """
        first = self.tree.first if self.tree is not None else None
        if first is not None and first > size:
            raise ConfigError(f"tree.first={first}: a group has {size} attempts in all; lower it, or raise group_size")
        forced = self.forced_attempts
        if forced and (forced < 2 or size - forced < 2):
            raise ConfigError(
                f"forced_attempts must be 0, or leave at least 2 rollouts of a group of {size} on either side, "
                f"not {forced}: each is compared with its like"
            )

    @property
    def method(self) -> Method:
        """The algorithm, with its filter as it is set."""
        name, filtered = OLD_NAMES.get(self.algorithm, (self.algorithm, self.prompt_filter))
        found = ALGORITHMS[name]
        return found if filtered is None else replace(found, prompt_filter=filtered)

    @property
    def objective_kind(self) -> ObjectiveKind:
        """How the algorithm makes a gradient of rewards."""
        return OBJECTIVES[self.method.objective]

    @property
    def kind(self) -> Kind:
        """How attempts are made and counted."""
        return KINDS[self.method.rollout]

    @property
    def asks(self) -> bool:
        """Whether the cloud has a part in training."""
        return self.method.offer_handoff or self.kind.inside

    @property
    def is_dual(self) -> bool:
        """Whether what the cloud gives has a price that moves."""
        return self.handoff_reward == "dual" or self.kind.inside

    @property
    def writes_question(self) -> bool:
        """Whether the device writes what the cloud sees."""
        return self.context == "message"

    @property
    def shares(self) -> tuple[float, ...]:
        """What is trained for."""
        return self.told_shares or (self.share,)

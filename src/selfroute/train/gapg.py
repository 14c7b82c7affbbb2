"""Group-adaptive policy gradient on TRL (arXiv 2509.24050): learn to solve or to hand off.

`GAPGTrainer` is TRL's `GRPOTrainer` with three things changed:

1. rewards are a function of an `Outcome`, so that the facts of every rollout are known to the filter;
2. the advantages of a batch are replaced by the group estimator's weights, zero for filtered prompts, scaled so
   that TRL's `dr_grpo` loss is exactly the paper's update;
3. rollouts come from our sampler, and rows without gradient leave the batch before the forward pass.

Generation through vLLM, LoRA, multi-process training, logging and checkpoints are TRL's own.
"""

from __future__ import annotations

import json
import os
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import GRPOConfig, GRPOTrainer
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import RepeatSampler

from selfroute.backends.sampler import sample
from selfroute.errors import ConfigError
from selfroute.grading import Outcome
from selfroute.rewards import check_weights, hierarchical
from selfroute.train.advantages import group_advantages
from selfroute.train.outcomes import CloudAnswers
from selfroute.train.prompt_filter import PromptFilter, ratio_from_share

__all__ = ["ALGORITHMS", "STATE_FILE", "CollapseWarning", "GAPGConfig", "GAPGTrainer"]

STATE_FILE = "gapg_state.json"  # written last and at once: a checkpoint that holds it is complete
EPOCH_STRIDE = 1_000_003  # keeps the orders of neighbouring seeds apart
EXTREME = 0.98  # share of rollouts from which a policy counts as one that no longer chooses
COLLAPSE_STEPS = 5  # such steps in a row before the alarm is raised
COLLAPSE_ADVICE = {
    "all": (
        "nearly every rollout asks for the cloud",
        "lower reward.cloud or use algorithm gapg, whose filter caps it",
    ),
    "never": ("hardly any rollout asks for the cloud", "raise reward.cloud, or warm up a model that asks sometimes"),
}

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


class CollapseWarning(UserWarning):
    """The policy asks always or never; the message says what to change."""


@dataclass
class GAPGConfig(GRPOConfig):
    """TRL's `GRPOConfig` with the options of GAPG.

    The inherited defaults that differ from TRL's: `loss_type="dr_grpo"`, `scale_rewards="none"`, `beta=0`,
    `temperature=1`, `num_generations=8` and `learning_rate=5e-6` are the paper's; `bf16=False` keeps the gradient
    exact.

    Attributes:
        cloud_share: largest share of requests for the cloud, in (0, 1); ρ = share / (1 - share) is derived.
        estimator: "group" is the paper's; "trl" keeps TRL's advantages, for baselines.
        prompt_filter: whether prompts are filtered by the share.
        local_reward: α_a.
        cloud_reward: α_c; `cloud_reward / local_reward` is the confidence below which asking pays.
        format_reward: α_f of the paper's first form; 0 is its final form.
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
    cloud_share: float = field(default=0.3, metadata={"help": "Largest share of requests for the cloud."})
    estimator: str = field(default="group", metadata={"help": "group (the paper's) or trl (baselines)."})
    prompt_filter: bool = field(default=True, metadata={"help": "Filter prompts by the cloud-device ratio."})
    local_reward: float = field(default=1.0, metadata={"help": "Reward of a correct local answer (alpha_a)."})
    cloud_reward: float = field(default=0.3, metadata={"help": "Reward of a correct cloud answer (alpha_c)."})
    format_reward: float = field(default=0.0, metadata={"help": "Reward of a formatted wrong answer (alpha_f)."})
    fast_sampler: bool = field(default=True, metadata={"help": "Use the sampler of selfroute for rollouts."})
    drop_idle_rows: bool = field(default=True, metadata={"help": "Leave rows without gradient out."})
    length_chunks: int = field(default=4, metadata={"help": "Length-sorted parts of a micro-batch."})

    def __post_init__(self) -> None:
        super().__post_init__()
        ratio_from_share(self.cloud_share)
        check_weights(local=self.local_reward, cloud=self.cloud_reward, format=self.format_reward)
        if self.estimator not in ("group", "trl"):
            raise ConfigError(f"estimator must be 'group' or 'trl', not '{self.estimator}'")
        if self.prompt_filter and self.estimator != "group":
            raise ConfigError("prompt_filter needs estimator 'group'; set prompt_filter to false for a TRL baseline")
        if self.estimator == "group":
            self._check_group_estimator()

    def _check_group_estimator(self) -> None:
        needed = {
            "loss_type": "dr_grpo",
            "scale_rewards": "none",
            "beta": 0.0,
            "num_iterations": 1,
            "top_entropy_quantile": 1.0,
            "mask_truncated_completions": False,
        }
        for name, value in needed.items():
            if getattr(self, name) != value:
                raise ConfigError(f"{name} must be {value!r} with estimator 'group', not {getattr(self, name)!r}")
        if self.steps_per_generation != self.gradient_accumulation_steps:
            raise ConfigError(
                f"steps_per_generation ({self.steps_per_generation}) must equal gradient_accumulation_steps "
                f"({self.gradient_accumulation_steps}): GAPG makes one update per batch of rollouts"
            )


Grader = Callable[[Sequence[str], Sequence[str]], list[Outcome]]


class GAPGTrainer(GRPOTrainer):
    """Trains a device model to solve what it can and to hand off the rest.

    Args:
        model: the device model, or its path.
        grader: turns row ids and completions into outcomes, e.g. `selfroute.train.outcomes.OutcomeGrader`.
        args: options.
        train_dataset: columns `prompt` (messages) and `row_id`.
        processing_class: tokenizer; taken from the model's folder if None.
        **kwargs: anything else `GRPOTrainer` takes.

    Raises:
        ConfigError: a data set without the columns.
    """

    args: GAPGConfig

    def __init__(
        self,
        model: str | PreTrainedModel,
        grader: Grader,
        args: GAPGConfig,
        train_dataset: Dataset,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        missing = {"prompt", "row_id"} - set(train_dataset.column_names)
        if missing:
            raise ConfigError(f"the training data lacks the column(s) {', '.join(sorted(missing))}")
        self.grader = grader
        self.filter = PromptFilter(ratio_from_share(args.cloud_share))
        self._outcomes: list[Outcome] = []
        self._may_ask = getattr(grader, "cloud", None) is not None
        self._extreme_kind: str | None = None
        self._extreme_steps = 0
        self.warnings: list[str] = []
        super().__init__(
            model,
            self.hierarchical_reward,
            args=args,
            train_dataset=train_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        self._tag_names = ["trl", "gapg"]

    # --- data ----------------------------------------------------------------------------------------------------

    def _get_train_sampler(self, dataset: Dataset | None = None) -> RepeatSampler:
        sampler = super()._get_train_sampler(dataset)
        return _EpochSampler(cast(RepeatSampler, sampler), lambda: int(self.state.epoch or 0))

    # --- rewards -------------------------------------------------------------------------------------------------

    def hierarchical_reward(self, completions: Sequence[Any], row_id: Sequence[str], **_: Any) -> list[float | None]:
        texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
        self._outcomes = self.grader(row_id, texts)
        return [
            hierarchical(
                outcome,
                local=self.args.local_reward,
                cloud=self.args.cloud_reward,
                format=self.args.format_reward,
            )
            for outcome in self._outcomes
        ]

    # --- advantages ----------------------------------------------------------------------------------------------

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        rewards: Tensor = super()._calculate_rewards(*args, **kwargs)
        self._rewards = rewards[:, 0]  # gathered over processes, in the same order as the outcomes
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        outcomes: list[Outcome] = gather_object(self._outcomes)
        size = cast(int, self.num_generations if self._training else self.num_generations_eval)
        groups = [outcomes[i : i + size] for i in range(0, len(outcomes), size)]
        self._log_outcomes(outcomes, groups)
        if self._training and self.args.estimator == "group":
            weights = self._update_weights(groups, self._rewards.view(-1, size))
            start = self.accelerator.process_index * len(inputs)
            batch["advantages"] = weights.view(-1)[start : start + len(inputs)].to(batch["advantages"])
        return batch

    def _update_weights(self, groups: Sequence[Sequence[Outcome]], rewards: Tensor) -> Tensor:
        """Weights (prompts, G) under which TRL's loss is -1/|D1 ∪ D2| · Σ ĝ(x) over the chosen prompts."""
        chosen = self._choose(groups)
        weights = torch.zeros_like(rewards)
        if chosen:
            weights[chosen] = group_advantages(rewards[chosen]) / len(chosen)
        # TRL's dr_grpo loss divides by rows x max_completion_length; undo it.
        return weights * rewards.numel() * cast(int, self.max_completion_length)

    def _choose(self, groups: Sequence[Sequence[Outcome]]) -> list[int]:
        if not self.args.prompt_filter:
            return list(range(len(groups)))
        # A generator made from seed and step is the same on every process and after a resume.
        selection = self.filter.select(groups, random.Random(f"filter/{self.args.seed}/{self.state.global_step}"))
        self._note("filter/device_prompts", len(selection.device))
        self._note("filter/cloud_prompts", len(selection.cloud))
        self._note("filter/cloud_prompts_seen", selection.cloud_seen)
        return selection.prompts

    # --- generation ----------------------------------------------------------------------------------------------

    def _generate_single_turn(
        self,
        prompt_ids: list[list[int]],
        images: Any,
        multimodal_fields: Any,
        num_generations: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[list[list[int]], Any]:
        if self.use_vllm or not self.args.fast_sampler or images is not None:
            result: tuple[list[list[int]], Any] = super()._generate_single_turn(
                prompt_ids, images, multimodal_fields, num_generations, *args, **kwargs
            )
            return result
        # Within the optimiser step: TRL's own count of passes starts anew after a resume.
        part = self._step % self.args.gradient_accumulation_steps
        seed = random.Random(
            f"rollouts/{self.args.seed}/{self.state.global_step}/{self.accelerator.process_index}/{part}"
        ).getrandbits(62)
        with unwrap_model_for_generation(self.model_wrapped, self.accelerator) as model, _quick_on_cpu(model):
            sampled = sample(
                model,
                prompt_ids,
                max_new_tokens=cast(int, self.max_completion_length),
                eos_token_ids=self.eos_token_ids,
                pad_token_id=self._tokenizer.pad_token_id,
                temperature=self.temperature,
                top_p=self.top_p,
                seed=seed,
            )
        return [row[0].token_ids for row in sampled], None

    # --- loss ----------------------------------------------------------------------------------------------------

    def _compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any]) -> Tensor:
        if not (self.args.drop_idle_rows and self._training and self._is_sum_over_rows):
            loss: Tensor = super()._compute_loss(model, inputs)
            return loss
        rows = inputs["advantages"].numel()
        active = self._active_rows(inputs["advantages"])
        order = active[inputs["completion_mask"][active].sum(1).argsort()]
        # Several forward passes before one backward pass are not allowed under DistributedDataParallel.
        chunks = self.args.length_chunks if self.accelerator.num_processes == 1 else 1
        total = torch.zeros((), device=order.device)
        for part in order.tensor_split(min(chunks, len(order))):
            chunk = _take_rows(inputs, part)
            chunk["advantages"] = chunk["advantages"] * (len(part) / rows)
            total = total + super()._compute_loss(model, chunk)
        return total

    @property
    def _is_sum_over_rows(self) -> bool:
        """Whether the loss is a mean of terms of one row each, linear in its advantage, so that rows can be split."""
        args = self.args
        plain = args.beta == 0.0 and args.top_entropy_quantile == 1.0 and not self._entropy_bonus_enabled
        return plain and not self.aux_loss_enabled and args.loss_type in ("grpo", "dr_grpo")

    def _active_rows(self, advantages: Tensor) -> Tensor:
        """Rows with a gradient, at least one, and as many on every process: TRL gathers metrics of every row."""
        count = torch.count_nonzero(advantages).clamp(min=1)
        most = int(self.accelerator.gather(count[None]).max())
        return (advantages != 0).int().argsort(descending=True, stable=True)[:most]

    # --- metrics, alarms, state ----------------------------------------------------------------------------------

    @property
    def _training(self) -> bool:
        return bool(self.model is not None and self.model.training)

    @property
    def _cloud(self) -> CloudAnswers | None:
        cloud = getattr(self.grader, "cloud", None)
        return cloud if isinstance(cloud, CloudAnswers) else None

    def _note(self, name: str, value: float) -> None:
        self._metrics["train" if self._training else "eval"][name].append(float(value))

    def _log_outcomes(self, outcomes: Sequence[Outcome], groups: Sequence[Sequence[Outcome]]) -> None:
        asked = sum(outcome.wants_cloud for outcome in outcomes) / len(outcomes)
        solved = sum(bool(outcome.device_correct) for outcome in outcomes) / len(outcomes)
        self._note("rollouts/call_share", asked)
        self._note("rollouts/device_correct", solved)
        self._note("rollouts/kept_and_wrong", 1.0 - asked - solved)
        self._note("rollouts/all_asked_groups", sum(all(o.wants_cloud for o in g) for g in groups) / len(groups))
        self._note("rollouts/ungraded", sum(_ungraded(outcome) for outcome in outcomes) / len(outcomes))
        if self._cloud is not None:
            self._note("cloud/calls", sum(gather_object([self._cloud.calls])))
            self._note("cloud/failures", sum(gather_object([self._cloud.failures])))
        if self._training:
            self._watch_for_collapse(asked)

    def _watch_for_collapse(self, asked: float) -> None:
        """Name a policy that no longer chooses, and what to change."""
        kind = "all" if asked >= EXTREME else "never" if asked <= 1.0 - EXTREME and self._may_ask else None
        self._extreme_steps = self._extreme_steps + 1 if kind and kind == self._extreme_kind else int(kind is not None)
        self._extreme_kind = kind
        if kind is None or self._extreme_steps != COLLAPSE_STEPS or not self.accelerator.is_main_process:
            return
        what, fix = COLLAPSE_ADVICE[kind]
        message = f"step {self.state.global_step}: {what} for {COLLAPSE_STEPS} steps; {fix}"
        self.warnings.append(message)
        warnings.warn(message, CollapseWarning, stacklevel=2)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        clouds = gather_object([None if self._cloud is None else self._cloud.state()])
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            state = {
                "filter_carry": self.filter.carry,
                "extreme": [self._extreme_kind, self._extreme_steps],
                "warnings": self.warnings,
                "clouds": clouds,
            }
            unfinished = folder / f"{STATE_FILE}.part"
            unfinished.write_text(json.dumps(state), encoding="utf-8")
            os.replace(unfinished, folder / STATE_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        file = Path(resume_from_checkpoint) / STATE_FILE
        if not file.exists():
            raise ConfigError(f"'{resume_from_checkpoint}' has no {STATE_FILE}: not a finished checkpoint of GAPG")
        state = json.loads(file.read_text(encoding="utf-8"))
        self.filter.carry = float(state["filter_carry"])
        self._extreme_kind, self._extreme_steps = state["extreme"]
        self.warnings = list(state["warnings"])
        if self._cloud is not None:
            # Every process learns all answers; what was counted is counted on, once.
            self._cloud.restore([s for s in state["clouds"] if s], count=self.accelerator.is_main_process)


@contextmanager
def _quick_on_cpu(model: PreTrainedModel) -> Iterator[None]:
    """Write rollouts in float32 with the fused attention kernel, on a CPU, whatever the loss is computed with.

    Going forward one token at a time, casting weights to bfloat16 costs more than it saves; and plain attention, which
    is quicker going backward, copies the cache of shared key-value heads.
    """
    if model.device.type != "cpu" or "forward" not in vars(model):  # accelerate's autocast stands in the instance
        yield
        return
    cast_forward, attention = vars(model).pop("forward"), model.config._attn_implementation
    model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(attention)
        model.forward = cast_forward


class _EpochSampler(RepeatSampler):
    """TRL's sampler with an order per epoch that does not depend on the epochs before: a resumed run draws none."""

    def __init__(self, sampler: RepeatSampler, epoch: Callable[[], int]) -> None:
        vars(self).update(vars(sampler))
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        if self.shuffle:
            self.generator.manual_seed((self.seed or 0) + EPOCH_STRIDE * self.epoch())
        yield from super().__iter__()


def _ungraded(outcome: Outcome) -> bool:
    return (outcome.cloud_correct if outcome.wants_cloud else outcome.device_correct) is None


def _take_rows(inputs: Mapping[str, Any], rows: Tensor) -> dict[str, Any]:
    """The chosen rows of a padded batch, without the columns that only the others needed."""
    count = inputs["advantages"].numel()
    chosen = {
        name: value[rows] if isinstance(value, Tensor) and value.dim() and len(value) == count else value
        for name, value in inputs.items()
    }
    start = int(chosen["prompt_mask"].any(0).int().argmax())
    width = max(1, int(chosen["completion_mask"].sum(1).max()))
    for name in ("prompt_ids", "prompt_mask"):
        chosen[name] = chosen[name][:, start:]
    columns = chosen["completion_ids"].shape[1]
    for name, value in chosen.items():
        # Masks and log-probabilities per completion token too, which TRL adds for vLLM.
        per_token = isinstance(value, Tensor) and value.dim() == 2 and value.shape[1] == columns
        if per_token and name not in ("prompt_ids", "prompt_mask"):
            chosen[name] = value[:, :width]
    return chosen

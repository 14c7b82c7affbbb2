"""Group-adaptive policy gradient on TRL (arXiv 2509.24050): learn to solve or to hand off.

`GAPGTrainer` is TRL's `GRPOTrainer` with three things changed:

1. rewards are a function of an `Outcome`, so that the facts of every rollout are known to the filter;
2. the advantages of a batch are replaced by the group estimator's weights, zero for filtered prompts, scaled so
   that TRL's `dr_grpo` loss is exactly the paper's update;
3. rollouts come from our sampler, and rows without gradient leave the batch before the forward pass.

Beyond the paper, each off by default (docs/beyond-the-paper.md): a call share that is met by a multiplier, attempts
without the offer in every group, a price on the tokens of a hand-off, and several shares in one policy.

Generation through vLLM, LoRA, multi-process training, logging and checkpoints are TRL's own.
"""

from __future__ import annotations

import json
import os
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import GRPOTrainer
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import RepeatSampler

from selfroute.backends.torch.sampler import sample
from selfroute.errors import ConfigError
from selfroute.grading import Outcome
from selfroute.rewards.hierarchical import hierarchical
from selfroute.train.rl.alarms import EXTREME, Alarms, CollapseWarning
from selfroute.train.rl.constraints.dual import Multiplier
from selfroute.train.rl.objectives.group import split_advantages
from selfroute.train.rl.options import GAPGConfig
from selfroute.train.rl.outcomes import CloudAnswers
from selfroute.train.rl.prompt_filter import Selection
from selfroute.train.rl.rollout_metrics import kind_of, rollout_metrics
from selfroute.train.rl.rows import active_rows, by_length, count_rows, take_rows, weighted
from selfroute.train.rl.shares import ShareTarget, ShareTargets

__all__ = ["STATE_FILE", "GAPGTrainer", "WritePrompt"]

STATE_FILE = "gapg_state.json"  # written last and at once: a checkpoint that holds it is complete
EPOCH_STRIDE = 1_000_003  # keeps the orders of neighbouring seeds apart

Grader = Callable[[Sequence[str], Sequence[str]], list[Outcome]]


class WritePrompt(Protocol):
    """The messages of a row's prompt, as TRL wants them."""

    def __call__(self, row_id: str, *, offer_handoff: bool, share: float | None) -> list[dict[str, str]]: ...


class GAPGTrainer(GRPOTrainer):
    """Trains a device model to solve what it can and to hand off the rest.

    Args:
        model: the device model, or its path.
        grader: turns row ids and completions into outcomes, e.g. `selfroute.train.rl.outcomes.OutcomeGrader`.
        args: options.
        train_dataset: columns `prompt` (messages) and `row_id`.
        processing_class: tokenizer; taken from the model's folder if None.
        write_prompt: writes a row's prompt anew, without the offer or with a share; needed for `forced_attempts` and
            `told_shares`.
        local_grader: grades attempts for which there is no cloud; needed for `forced_attempts` and `held_out`.
        held_out: ids of rows outside the training data, on which `handoff_reward="dual"` measures the call share;
            without them it does so on the rollouts.
        on_sample: given one rollout of each kind per step, to read: `step`, `row_id`, `kind`, `reward` and `text`.
        **kwargs: anything else `GRPOTrainer` takes.

    Raises:
        ConfigError: a data set without the columns, or an option without what it needs.
    """

    args: GAPGConfig

    def __init__(
        self,
        model: str | PreTrainedModel,
        grader: Grader,
        args: GAPGConfig,
        train_dataset: Dataset,
        processing_class: PreTrainedTokenizerBase | None = None,
        *,
        write_prompt: WritePrompt | None = None,
        local_grader: Grader | None = None,
        held_out: Sequence[str] | None = None,
        on_sample: Callable[[Mapping[str, Any]], None] | None = None,
        **kwargs: Any,
    ) -> None:
        missing = {"prompt", "row_id"} - set(train_dataset.column_names)
        if missing:
            raise ConfigError(f"the training data lacks the column(s) {', '.join(sorted(missing))}")
        if (args.forced_attempts or args.told_shares or held_out) and write_prompt is None:
            raise ConfigError("forced_attempts, told_shares and held_out need write_prompt")
        if (args.forced_attempts or held_out) and local_grader is None:
            raise ConfigError("forced_attempts and held_out need local_grader")
        if held_out and min(args.share_prompts, len(held_out)) < args.world_size:
            raise ConfigError(
                f"share_prompts={args.share_prompts}, of {len(held_out)} held-out prompts: each of the "
                f"{args.world_size} processes needs one"
            )
        self.grader = grader
        self.local_grader = local_grader
        self.write_prompt = write_prompt
        self.held_out = held_out if args.handoff_reward == "dual" else None
        self.on_sample = on_sample
        shares = args.told_shares or [args.cloud_share]
        self.targets = ShareTargets([_target(share, args) for share in shares], seed=args.seed)
        self.alarms = Alarms()
        self._outcomes: list[Outcome] = []
        self._may_ask = getattr(grader, "cloud", None) is not None
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

    def _written(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rollouts of this process with the share of their group, and with their prompts written for it."""
        size, forced = self._group_size, self._forced
        first = self.accelerator.process_index * len(inputs)
        shares = self._shares(len(inputs) * self.accelerator.num_processes // size)
        rows = []
        for place, row in enumerate(inputs, start=first):
            share, offered = shares[place // size], place % size < size - forced
            written = {**row, "share": share, "offered": offered}
            if self.write_prompt is not None and (self.args.told_shares or not offered):
                told = share if self.args.told_shares and offered else None
                written["prompt"] = self.write_prompt(row["row_id"], offer_handoff=offered, share=told)
            rows.append(written)
        return rows

    def _shares(self, groups: int) -> list[float]:
        """The wanted share of each group of a step; in an evaluation, one for all."""
        if self._training:
            return self.targets.deal(groups, self.state.global_step)
        shares = self.targets.shares
        return [self.args.cloud_share if self.args.cloud_share in shares else shares[0]] * groups

    @property
    def _group_size(self) -> int:
        return cast(int, self.num_generations if self._training else self.num_generations_eval)

    @property
    def _forced(self) -> int:
        return self.args.forced_attempts if self._training else 0

    # --- rewards -------------------------------------------------------------------------------------------------

    def hierarchical_reward(
        self,
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        row_id: Sequence[str],
        share: Sequence[float],
        offered: Sequence[bool],
        **_: Any,
    ) -> list[float | None]:
        texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
        self._outcomes = [
            replace(outcome, device_tokens=len(ids))
            for outcome, ids in zip(self._graded(row_id, texts, offered), completion_ids, strict=True)
        ]
        rewards = [
            hierarchical(
                outcome,
                local=self.args.local_reward,
                cloud=self.args.cloud_reward,
                format=self.args.format_reward,
                # An attempt without the offer that asks all the same is a wrong answer.
                price=self.targets.of[wanted].price if may_ask else 0.0,
                token_price=self.args.token_price if may_ask else 0.0,
            )
            for outcome, wanted, may_ask in zip(self._outcomes, share, offered, strict=True)
        ]
        self._show_samples(row_id, texts, rewards)
        return rewards

    def _show_samples(self, row_ids: Sequence[str], texts: Sequence[str], rewards: Sequence[float | None]) -> None:
        if self.on_sample is None or not self._training or not self.accelerator.is_main_process:
            return
        firsts = {kind_of(outcome): i for i, outcome in reversed(list(enumerate(self._outcomes)))}
        for kind, i in sorted(firsts.items()):
            sample = {"step": self.state.global_step + 1, "row_id": row_ids[i], "kind": kind}
            self.on_sample({**sample, "reward": rewards[i], "text": texts[i]})

    def _graded(self, row_id: Sequence[str], texts: Sequence[str], offered: Sequence[bool]) -> list[Outcome]:
        if all(offered) or self.local_grader is None:
            return self.grader(row_id, texts)
        free = [i for i, may_ask in enumerate(offered) if may_ask]
        forced = [i for i, may_ask in enumerate(offered) if not may_ask]
        graded: dict[int, Outcome] = {}
        for grader, places in ((self.grader, free), (self.local_grader, forced)):
            outcomes = grader([row_id[i] for i in places], [texts[i] for i in places])
            graded.update(zip(places, outcomes, strict=True))
        return [graded[i] for i in range(len(texts))]

    # --- advantages ----------------------------------------------------------------------------------------------

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        rewards: Tensor = super()._calculate_rewards(*args, **kwargs)
        self._rewards = rewards[:, 0]  # gathered over processes, in the same order as the outcomes
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super()._generate_and_score_completions(self._written(inputs))
        outcomes: list[Outcome] = gather_object(self._outcomes)
        size = self._group_size
        groups = [outcomes[i : i + size] for i in range(0, len(outcomes), size)]
        shares = self._shares(len(groups))
        rewards = self._rewards.view(-1, size)
        self._log_rollouts(groups, rewards)
        if self._training:
            start = self.accelerator.process_index * len(inputs)
            mine = slice(start, start + len(inputs))
            batch["advantages"] = self._advantages(groups, shares, rewards, batch["advantages"], mine)
            measured = self._attempts_held_out() if self.held_out else ([self._free(group) for group in groups], shares)
            for name, value in self.targets.update(*measured).items():
                self._note(name, value)
        return batch

    def _attempts_held_out(self) -> tuple[list[list[Outcome]], list[float]]:
        """One attempt at each of a step's held-out prompts, in groups of one, and the wanted share of each.

        The policy asks less often for problems that it was trained on than for others, so a price that is moved by the
        rollouts meets the share on these alone. No gradient comes from here, and the cloud is not asked.
        """
        assert self.held_out is not None and self.write_prompt is not None and self.local_grader is not None
        ids = self.targets.draw(self.held_out, self.args.share_prompts, self.state.global_step)
        shares = self.targets.deal(len(ids), self.state.global_step)
        place, processes = self.accelerator.process_index, self.accelerator.num_processes
        mine = slice(place * len(ids) // processes, (place + 1) * len(ids) // processes)
        told = shares[mine] if self.args.told_shares else [None] * len(shares[mine])
        prompts = [
            self.write_prompt(row_id, offer_handoff=True, share=share)
            for row_id, share in zip(ids[mine], told, strict=True)
        ]
        prompt_ids, *_ = self._tokenize_prompts(prompts)
        completions, _ = self._generate_single_turn(prompt_ids, None, {}, 1)
        texts = self._tokenizer.batch_decode(completions, skip_special_tokens=True)
        outcomes = self.local_grader(ids[mine], texts)
        found = gather_object(list(zip(outcomes, shares[mine], strict=True)))
        self._note("held_out/device_correct", sum(bool(outcome.device_correct) for outcome, _ in found) / len(found))
        return [[outcome] for outcome, _ in found], [share for _, share in found]

    def _advantages(
        self,
        groups: Sequence[Sequence[Outcome]],
        shares: Sequence[float],
        rewards: Tensor,
        trls: Tensor,
        mine: slice,
    ) -> Tensor:
        """Advantages of this process's rows, under which TRL's loss is the chosen estimator over the chosen prompts."""
        chosen = self._choose(groups, shares)
        if self.args.estimator == "group":
            return self._update_weights(chosen, rewards).view(-1)[mine].to(trls)
        kept = torch.zeros(len(groups), device=trls.device, dtype=trls.dtype)
        kept[chosen] = len(groups) / max(1, len(chosen))  # a mean over the prompts that are left
        return trls * kept.repeat_interleave(rewards.shape[1])[mine]

    def _update_weights(self, chosen: list[int], rewards: Tensor) -> Tensor:
        """Weights (prompts, G) under which TRL's loss is -1/|D1 ∪ D2| · Σ ĝ(x) over the chosen prompts."""
        weights = torch.zeros_like(rewards)
        if chosen:
            advantages = split_advantages(rewards[chosen], forced=self._forced, weight=self.args.forced_weight)
            weights[chosen] = advantages / len(chosen)
        # TRL's dr_grpo loss divides by rows x max_completion_length; undo it.
        return weights * rewards.numel() * cast(int, self.max_completion_length)

    def _choose(self, groups: Sequence[Sequence[Outcome]], shares: Sequence[float]) -> list[int]:
        if not self.args.prompt_filter:
            return list(range(len(groups)))
        chosen, selections = self.targets.select(groups, shares, self.state.global_step)
        self._log_filter(selections)
        return chosen

    def _free(self, group: Sequence[Outcome]) -> Sequence[Outcome]:
        """The rollouts of a group that could hand off."""
        return group[: len(group) - self._forced]

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
        what = "rollouts" if num_generations > 1 else "held_out"
        seed = random.Random(
            f"{what}/{self.args.seed}/{self.state.global_step}/{self.accelerator.process_index}/{part}"
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
        # Several forward passes before one backward pass are not allowed under DistributedDataParallel.
        chunks = self.args.length_chunks if self.accelerator.num_processes == 1 else 1
        active = active_rows(inputs, self.accelerator.gather)
        total = torch.zeros((), device=active.device)
        for part in by_length(inputs, active, chunks):
            chunk = weighted(take_rows(inputs, part), len(part) / count_rows(inputs))
            total = total + super()._compute_loss(model, chunk)
        return total

    @property
    def _is_sum_over_rows(self) -> bool:
        """Whether the loss is a mean of terms of one row each, linear in its advantage, so that rows can be split."""
        args = self.args
        plain = args.beta == 0.0 and args.top_entropy_quantile == 1.0 and not self._entropy_bonus_enabled
        return plain and not self.aux_loss_enabled and args.loss_type in ("grpo", "dr_grpo")

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

    def _log_rollouts(self, groups: Sequence[Sequence[Outcome]], rewards: Tensor) -> None:
        free = [self._free(group) for group in groups]
        paid = rewards[:, : len(free[0])].tolist()
        metrics = rollout_metrics(free, paid)
        if self._forced:
            forced = [outcome for group in groups for outcome in group[-self._forced :]]
            metrics["rollouts/forced_correct"] = sum(bool(o.device_correct) for o in forced) / len(forced)
        for name, value in metrics.items():
            self._note(name, value)
        asking = [o for group in free for o in group if o.wants_cloud]
        if self._cloud is not None:
            calls, failures = (sum(gather_object([n])) for n in (self._cloud.calls, self._cloud.failures))
            self._note("cloud/calls", calls)
            self._note("cloud/failures", failures)
            if self._cloud.price is not None:
                self._note("cloud/usd", sum(gather_object([self._cloud.usd])))
        if self._training:
            self._raise_alarms(
                asked=metrics["rollouts/call_share"],
                solved=any(o.device_correct for group in groups for o in group),
                answered=not asking or any(o.cloud_correct is not None for o in asking),
            )

    def _log_filter(self, selections: Sequence[Selection]) -> None:
        self._note("filter/device_prompts", sum(len(selection.device) for selection in selections))
        self._note("filter/cloud_prompts", sum(len(selection.cloud) for selection in selections))
        self._note("filter/cloud_prompts_seen", sum(selection.cloud_seen for selection in selections))

    def _raise_alarms(self, *, asked: float, solved: bool = True, answered: bool = True) -> None:
        """Name what lasts too long, and what to change."""
        found = {
            "always asks": asked >= EXTREME,
            "never asks": asked <= 1.0 - EXTREME and self._may_ask,
            "nothing solved": self.args.prompt_filter and not solved and asked < EXTREME,
            "cloud down": not answered,
        }
        for message in self.alarms.check(self.state.global_step, [kind for kind, is_so in found.items() if is_so]):
            if self.accelerator.is_main_process:
                warnings.warn(message, CollapseWarning, stacklevel=2)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        clouds = gather_object([None if self._cloud is None else self._cloud.state()])
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            state = {
                "targets": self.targets.state(),
                "alarms": self.alarms.state(),
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
        shares = [target["share"] for target in state["targets"]]
        if shares != self.targets.shares:
            raise ConfigError(f"'{resume_from_checkpoint}' was trained for shares {shares}, not {self.targets.shares}")
        self.targets.restore(state["targets"])
        self.alarms.restore(state["alarms"])
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


def _target(share: float, args: GAPGConfig) -> ShareTarget:
    if args.handoff_reward != "dual":
        return ShareTarget(share, None)
    # A hand-off is then worth between -α_a and 2·α_a. A share above what the device fails at takes more than α_a:
    # asking has to pay as much as an answer known to be right.
    lowest, highest = args.cloud_reward - 2 * args.local_reward, args.cloud_reward + args.local_reward
    multiplier = Multiplier(
        share, rate=args.multiplier_rate, damping=args.multiplier_damping, lowest=lowest, highest=highest
    )
    return ShareTarget(share, multiplier)

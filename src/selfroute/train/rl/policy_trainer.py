"""TRL's `GRPOTrainer` made fast, with four seams and no method of its own.

The only changes are:

1. rollouts come from our sampler, and through a `Rollout`;
2. a reward is a function of an `Outcome`, so that the facts of every rollout are known to what learns from them;
3. an `Objective` turns rewards into the advantages of a batch, and `Constraint`s add to its loss;
4. rows without a gradient leave a batch before the forward pass, the rest goes through the model and back in parts of
   like length, and the prompt of a group is read once;
5. an epoch's order does not depend on the epochs before, and a checkpoint holds the state of named parts, so that a
   stopped run goes on bit for bit.

With TRL's advantages and none of the rest an update is TRL's. Generation through vLLM, LoRA, several processes,
logging and checkpoints are TRL's own.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import GRPOTrainer
from trl.trainer.utils import RepeatSampler

from selfroute.errors import ConfigError
from selfroute.grading import Outcome
from selfroute.rewards.base import Moving, Reward
from selfroute.train.rl.behaviour import Behaviour
from selfroute.train.rl.checkpoint import Part, restore_parts, save_parts
from selfroute.train.rl.constraints.base import Constraint, Watching
from selfroute.train.rl.generation import EpochSampler
from selfroute.train.rl.objectives.base import BY_REFERENCE, ByPrefix, Learning, Objective, Scored
from selfroute.train.rl.options import MStepOptions
from selfroute.train.rl.outcomes import credited
from selfroute.train.rl.policy_config import PolicyConfig
from selfroute.train.rl.policy_sampler import PolicySampler
from selfroute.train.rl.prompt_pass import (
    Behind,
    ReadPrompts,
    backward_in_parts,
    distinct,
    keeps_all,
    read_prompts,
)
from selfroute.train.rl.reference import MStep, Reference, has_adapter, read_tokens, whole
from selfroute.train.rl.replay import Replaying, key_of
from selfroute.train.rl.rollout_metrics import kind_of
from selfroute.train.rl.rollouts.base import Attempts, Ids, Prompt, Rollout
from selfroute.train.rl.rollouts.single import Single
from selfroute.train.rl.rows import (
    Batch,
    active_rows,
    by_length,
    count_rows,
    every_row,
    own_tokens,
    take_rows,
    usual_part,
    weighted,
)
from selfroute.train.rl.seams import check_behaviour, check_facts, check_objective, check_seams
from selfroute.train.rl.view import Pass, TokenView, head_of, hidden_states, plain_pass, view_of

__all__ = ["Grader", "PolicyTrainer"]

Grader = Callable[[Sequence[str], Sequence[str]], list[Outcome]]
Row = Mapping[str, Any]
_PICTURES = {"pixel_values", "image_grid_thw"}  # they stand in prompts, and are read with them


class PolicyTrainer(GRPOTrainer):
    """Trains a policy by what is made of its rollouts.

    Args:
        model: the policy, or its path.
        grader: turns row ids and completions into outcomes, e.g. `selfroute.train.rl.outcomes.OutcomeGrader`.
        args: options.
        train_dataset: columns `prompt` (messages) and `row_id`.
        processing_class: tokenizer; taken from the model's folder if None.
        reward: what an outcome is worth; pure.
        objective: what rewards are worth to the gradient.
        rollout: how attempts are made; None writes each in one turn.
        constraints: terms beside the policy's loss, by the name in their metrics.
        behaviour: where attempts come from beside the policy as it is; None from nowhere.
        m_step: makes the reference of the objective follow the policy; None leaves it as it is.
        worked: by row id a right completion, with which `behaviour.worked` begins the replayed attempts.
        on_sample: given one rollout of each kind per step, to read: `step`, `row_id`, `kind`, `reward` and `text`.
        **kwargs: anything else `GRPOTrainer` takes.

    Attributes:
        parts: what a checkpoint keeps beside TRL's own, by name; a subclass adds its own.

    Raises:
        ConfigError: a data set without the columns, or options under which the objective would be another one.
    """

    args: PolicyConfig

    def __init__(
        self,
        model: str | PreTrainedModel,
        grader: Grader,
        args: PolicyConfig,
        train_dataset: Dataset,
        processing_class: PreTrainedTokenizerBase | None = None,
        *,
        reward: Reward,
        objective: Objective,
        rollout: Rollout | None = None,
        constraints: Mapping[str, Constraint] | None = None,
        behaviour: Behaviour | None = None,
        m_step: MStepOptions | None = None,
        worked: Mapping[str, str] | None = None,
        on_sample: Callable[[Mapping[str, Any]], None] | None = None,
        **kwargs: Any,
    ) -> None:
        missing = {"prompt", "row_id"} - set(train_dataset.column_names)
        if missing:
            raise ConfigError(f"the training data lacks the column(s) {', '.join(sorted(missing))}")
        self.grader = grader
        self.reward = reward
        self.policy_objective = objective
        self.rollout: Rollout = rollout or Single()
        self.constraints = dict(constraints or {})
        self.on_sample = on_sample
        check_seams(objective, self.constraints, args)
        check_facts(objective, self.rollout)
        adapter = has_adapter(model) or kwargs.get("peft_config") is not None
        check_objective(objective, args, m_step, adapter=adapter)
        check_behaviour(behaviour, objective, args, single=type(self.rollout) is Single)
        self.behaviour = behaviour
        self.replaying = Replaying(behaviour, seed=args.seed) if behaviour and behaviour.replayed else None
        # Before TRL changes anything about the model.
        self.reference = Reference(model, adapter=adapter) if objective.needs & BY_REFERENCE else None
        seams: dict[str, object] = {"objective": objective, "rollout": self.rollout, "reward": reward}
        seams |= {f"constraint.{name}": constraint for name, constraint in self.constraints.items()}
        seams |= {"replay": self.replaying} if self.replaying else {}
        self.parts: dict[str, Part] = {name: part for name, part in seams.items() if isinstance(part, Part)}
        self._own_loss: Callable[[TokenView, Batch], Tensor] | None = getattr(objective, "loss", None)
        self._rows: Sequence[Row] = []
        self._outcomes: list[Outcome] = []
        self._attempts: Attempts | None = None
        self._rewards = torch.empty(0)
        self._drawn: Counter[str] = Counter()
        self._purpose = "rollouts"
        self._pass: Pass | None = None
        self._watching = False
        self._behind: Behind | None = None  # what the rows of the next pass have read
        self._terms: dict[str, list[Tensor]] = {name: [] for name in self.constraints}
        super().__init__(
            model, self._pay, args=args, train_dataset=train_dataset, processing_class=processing_class, **kwargs
        )
        if self.aux_loss_enabled and self._reads_logits:
            raise ConfigError("router_aux_loss_coef: a pass with logits has no load-balancing loss; set it to 0")
        self.m_step: MStep | None = None
        if self.reference is not None:
            self.reference.to(self.accelerator.device)
            if m_step is not None and self.reference.copy is not None:
                self.m_step = MStep(self.reference.copy, m_step)
        if self.replaying is not None and self.replaying.options.worked:
            worth = self.reward(Outcome(wants_cloud=False, device_correct=True, formatted=True)) or 0.0
            self.replaying.begin_with(train_dataset, worked or {}, self._tokenizer, worth)
        self.reward_func_names = [f"{getattr(reward, '__name__', type(reward).__name__).lower()}_reward"]
        # TRL says of texts what are messages here.
        self.rollout_func = cast(Any, self._roll_out)

    # --- what a method may change --------------------------------------------------------------------------------

    def prepare(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows of this process's rollouts, a group's being neighbours, with what the method adds to them."""
        return rows

    def grade(self, rows: Sequence[Row], texts: Sequence[str]) -> list[Outcome]:
        """What happened in each rollout."""
        return self.grader([row["row_id"] for row in rows], texts)

    def pay(self, outcome: Outcome, row: Row) -> float | None:
        """What a rollout is worth; None if it could not be graded."""
        return self.reward(outcome)

    def choose(self, step: Scored) -> Sequence[int]:
        """Look at a step's rollouts, of all processes; the prompts that take part in its update."""
        return range(len(step.rewards))

    def attempt(self, prompts: Sequence[Prompt]) -> tuple[Sequence[str], Mapping[str, Sequence[float]]]:
        """Texts and facts of one attempt at each prompt of this process, apart from those that are learned from."""
        sampler = PolicySampler(self, group=1)
        self._purpose = "held_out"
        try:
            made = self.rollout.generate(prompts, sampler)
        finally:
            self._purpose = "rollouts"
        return sampler.decode(made.completions) if made.texts is None else made.texts, made.facts

    @property
    def group_size(self) -> int:
        return cast(int, self.num_generations if self.training else self.num_generations_eval)

    @property
    def training(self) -> bool:
        return bool(self.model is not None and self.model.training)

    def note(self, name: str, value: float) -> None:
        """A metric of this step."""
        self._metrics["train" if self.training else "eval"][name].append(float(value))

    # --- data ----------------------------------------------------------------------------------------------------

    def _get_train_sampler(self, dataset: Dataset | None = None) -> RepeatSampler:
        sampler = super()._get_train_sampler(dataset)
        return EpochSampler(cast(RepeatSampler, sampler), lambda: int(self.state.epoch or 0))

    # --- rollouts ------------------------------------------------------------------------------------------------

    def _roll_out(self, prompts: list[Prompt], _: GRPOTrainer) -> dict[str, Any]:
        rollout = self.replaying if self.replaying is not None and self.training else self.rollout
        self._attempts = made = rollout.generate(prompts, PolicySampler(self, group=self.group_size))
        found: dict[str, Any] = {"prompt_ids": made.prompts, "completion_ids": made.completions}
        own = {} if made.own is None else {"env_mask": made.own}
        return {**found, "logprobs": made.logprobs if self.use_vllm else None, **own}

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
        return PolicySampler(self, group=1).by_us(prompt_ids).ids, None

    def heat(self) -> float:
        """What the sampler's temperature is multiplied with, and the loss's is not."""
        if self.behaviour is None or not self.training or self._purpose != "rollouts":
            return 1.0
        return self.behaviour.heat(self.args.seed, self.state.global_step)

    def draw_seed(self) -> int:
        """Of the next completions, from the step and the process alone, so that a resumed run draws the same."""
        # Within the optimiser step: TRL's own count of passes starts anew after a resume.
        part = self._step % self.args.gradient_accumulation_steps
        place = f"{self.args.seed}/{self.state.global_step}/{self.accelerator.process_index}/{part}"
        again = self._drawn[self._purpose]
        self._drawn[self._purpose] += 1
        return random.Random(f"{self._purpose}/{place}{f'/{again}' if again else ''}").getrandbits(62)

    # --- rewards and advantages ----------------------------------------------------------------------------------

    def _pay(self, completions: Sequence[Any], completion_ids: Ids, **_: Any) -> list[float | None]:
        """The reward function that TRL calls."""
        made = self._attempts
        texts: Sequence[str] = [c if isinstance(c, str) else c[0]["content"] for c in completions]
        texts = texts if made is None or made.texts is None else made.texts
        own = None if made is None else made.own
        tokens = [len(ids) for ids in completion_ids] if own is None else [sum(mask) for mask in own]
        graded = credited(self.grade(self._rows, texts), {} if made is None else made.facts)
        self._outcomes = [
            replace(outcome, device_tokens=n, cut_off=self._is_cut_off(ids))
            for outcome, n, ids in zip(graded, tokens, completion_ids, strict=True)
        ]
        rewards = [self.pay(outcome, row) for outcome, row in zip(self._outcomes, self._rows, strict=True)]
        self._show_samples(texts, rewards)
        return rewards

    def _is_cut_off(self, ids: Sequence[int]) -> bool:
        return len(ids) >= cast(int, self.max_completion_length) and ids[-1] not in self.eos_token_ids

    def _show_samples(self, texts: Sequence[str], rewards: Sequence[float | None]) -> None:
        if self.on_sample is None or not self.training or not self.accelerator.is_main_process:
            return
        firsts = {kind_of(outcome): i for i, outcome in reversed(list(enumerate(self._outcomes)))}
        for kind, i in sorted(firsts.items()):
            shown = {"step": self.state.global_step + 1, "row_id": self._rows[i]["row_id"], "kind": kind}
            self.on_sample({**shown, "reward": rewards[i], "text": texts[i]})

    def _calculate_rewards(self, inputs: list[dict[str, Any]], *args: Any, **kwargs: Any) -> Tensor:
        self._rows = inputs
        with _about_none():
            rewards: Tensor = super()._calculate_rewards(inputs, *args, **kwargs)
        self._rewards = rewards[:, 0]  # gathered over processes, in the same order as the outcomes
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._drawn.clear()
        batch: dict[str, Any] = super()._generate_and_score_completions(self.prepare(inputs))
        for name, constraint in self.constraints.items():
            if isinstance(constraint, Watching):
                noted = constraint.watch(batch["completion_ids"], own_tokens(batch), self._outcomes)
                batch |= {f"{name}/{fact}": values for fact, values in noted.items()}
        read = self._by_reference(batch) if self.reference is not None and self.training else None
        if read is not None and isinstance(self.policy_objective, ByPrefix):
            own, before = own_tokens(batch), self.state.global_step
            batch["prefix_rewards"] = self.policy_objective.prefix_rewards(*read, own, step=before)
        step = self._scored(batch, None if read is None else read[0])
        if isinstance(self.reward, Moving) and self.training:
            for metric, value in self.reward.move(step.outcomes).items():
                self.note(metric, value)
        chosen = list(self.choose(step))
        if self.training:
            start = self.accelerator.process_index * len(inputs)
            mine = self._advantages(step, chosen).flatten(0, 1)[start : start + len(inputs)]
            # Per token, as wide as the longest completion of any process.
            mine = mine[:, : batch["completion_mask"].shape[1]] if mine.dim() == 2 else mine
            batch["advantages"] = mine.to(batch["advantages"])
            self._look_back(step.of(chosen), step, batch)
        return batch

    def _look_back(self, update: Scored, step: Scored, batch: Batch) -> None:
        """What is learned of a step beside its update: by the objective, the buffer and the reference."""
        if isinstance(self.policy_objective, Learning) and len(update.rewards):
            for metric, value in self.policy_objective.learn(update).items():
                self.note(metric, value)
        if self.replaying is not None and self._attempts is not None:
            keys = [key_of(ids) for ids in self._attempts.prompts]
            tried = gather_object(list(zip(keys, self._attempts.completions, strict=True)))
            rewards = step.rewards.flatten().tolist()
            self.replaying.remember((*one, reward) for one, reward in zip(tried, rewards, strict=True))
            self.note("replay/kept", len(self.replaying.buffer))
            self.note("replay/share", float(step.facts["replayed"].mean()))
        if self.behaviour is not None:
            self.note("behaviour/temperature", self.heat())
        if self.m_step is not None and self.m_step.is_due(self.state.global_step):
            self.note("m_step/loss", self.m_step.fit(batch, rows=self.args.per_device_train_batch_size))
            if self.replaying is not None:
                self.replaying.buffer.version += 1

    def _scored(self, batch: Batch, reference: Tensor | None) -> Scored:
        graded: list[tuple[str, Outcome]] = gather_object(
            [(str(row["row_id"]), outcome) for row, outcome in zip(self._rows, self._outcomes, strict=True)]
        )
        outcomes = [outcome for _, outcome in graded]
        size, needs = self.group_size, self.policy_objective.needs if self.training else frozenset[str]()
        facts = {} if self._attempts is None else self._attempts.facts
        device = self._rewards.device
        return Scored(
            rewards=self._rewards.view(-1, size),
            outcomes=[outcomes[i : i + size] for i in range(0, len(outcomes), size)],
            facts={name: self._groups(torch.tensor(list(values), device=device)) for name, values in facts.items()},
            advantages=self._groups(batch["advantages"]) if "advantages" in needs else None,
            own=self._groups(own_tokens(batch)) if "own" in needs else None,
            logq=self._groups(self._log_probabilities(batch)) if "logq" in needs else None,
            ref_logq=None if reference is None else self._groups(torch.where(own_tokens(batch), reference, 0.0).sum(1)),
            prompt=self._groups(self._prompt_states(batch))[:, 0] if "prompt" in needs else None,
            rows=[row for row, _ in graded[::size]],
            step=self.state.global_step,
        )

    def _groups(self, values: Tensor) -> Tensor:
        """What each process knows of its rollouts, (B,) or (B, T), of all of them as (P, G) or (P, G, T)."""
        if values.dim() == 2:
            values = self.accelerator.pad_across_processes(values, dim=1)
        groups: Tensor = self.accelerator.gather(values).unflatten(0, (-1, self.group_size))
        return groups

    @torch.no_grad()
    def _log_probabilities(self, batch: Batch) -> Tensor:
        """Log-probability of the own tokens of each row, shape (B,), under the policy that wrote them.

        Our sampler has told them; what it did not write, or at another temperature, is read once more. So is what the
        reference reads at half precision: the rounding of both passes cancels where policy and reference are near.
        """
        half = self.args.bf16 or self.args.fp16
        known = None if self._attempts is None or self.use_vllm or half else self._attempts.logprobs
        if known is not None:
            width = batch["completion_ids"].shape[1]
            told = torch.tensor([[*row, *[0.0] * (width - len(row))] for row in known], device=self._rewards.device)
            return torch.where(own_tokens(batch), told, 0.0).sum(1)

        def read(rows: Batch) -> tuple[Tensor]:
            ids, mask = whole(rows)
            said, *_ = self._get_per_token_logps_and_entropies(
                self.model, ids, mask, rows["completion_ids"].shape[1], batch_size=len(ids)
            )
            return (said,)

        (logps,) = self._in_parts(batch, read)
        own: Tensor = torch.where(own_tokens(batch), logps, 0.0).sum(1)
        return own

    @torch.no_grad()
    def _by_reference(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log-probability of each completion token, and of ending in its place, under the reference; (B, T) each."""
        assert self.reference is not None
        policy, ends = self.accelerator.unwrap_model(self.model), sorted(self.eos_token_ids)
        with self.reference.opened(policy) as model, self.accelerator.autocast():
            said, stops = self._in_parts(
                batch, lambda rows: read_tokens(model, *whole(rows), rows["completion_ids"].shape[1], ends)
            )
        return said, stops

    def _in_parts(self, batch: Batch, read: Callable[[Batch], Sequence[Tensor]]) -> list[Tensor]:
        """Numbers of each completion token, (B, T), read off parts of like length, as the loss is; 0 behind a row."""
        shape = batch["completion_mask"].shape
        tokens = min(self._part_tokens, self.args.per_device_train_batch_size * shape[1])  # no more than a micro-batch
        found: list[Tensor] = []
        for part in by_length(batch, every_row(batch), tokens):
            for place, values in enumerate(read(take_rows(batch, part))):
                if place == len(found):
                    found.append(values.new_zeros(shape))
                found[place][part, : values.shape[1]] = values
        return found

    @torch.no_grad()
    def _prompt_states(self, batch: Batch) -> Tensor:
        """Mean last hidden state of the policy over the tokens of each row's prompt, shape (B, H); each prompt once."""
        ids, mask, places = distinct(batch["prompt_ids"], batch["prompt_mask"])
        model = self.accelerator.unwrap_model(self.model)
        with self.accelerator.autocast():
            found = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
        states = found.hidden_states[-1].float() * mask[..., None]
        means: Tensor = states.sum(1) / mask.sum(1, keepdim=True)
        return means[places]

    def _advantages(self, step: Scored, chosen: list[int]) -> Tensor:
        """Advantages of all rollouts, under which TRL's loss is the mean of the objective over the chosen prompts."""
        if not chosen:
            return torch.zeros_like(step.rewards)
        found = self.policy_objective.weights(step.of(chosen))
        prompts = len(step.rewards)
        weights = found.new_zeros((prompts, *found.shape[1:]))
        if not self.policy_objective.sums:
            weights[chosen] = found * (prompts / len(chosen))
            return weights
        weights[chosen] = found / len(chosen)
        # A loss is a mean over rows, and TRL's dr_grpo divides by max_completion_length too; undo it.
        weights = weights * step.rewards.numel()
        return weights if self._own_loss else weights * cast(int, self.max_completion_length)

    # --- loss ----------------------------------------------------------------------------------------------------

    def _compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any]) -> Tensor:
        if not (self.args.drop_idle_rows and self.training and self._is_sum_over_rows):
            return self._loss_of_rows(model, inputs, 1.0)
        # Constraints and losses of an objective have a gradient in every row.
        active = every_row(inputs) if self._watches else active_rows(inputs, self.accelerator.gather)
        parts = by_length(inputs, active, self._part_tokens) if self._goes_back_itself else (active,)
        read = self._read_prompts(model, inputs, active)
        if len(parts) == 1:
            return self._loss_of_part(model, inputs, active, read)
        return backward_in_parts(
            parts, read, lambda part, behind: self._loss_of_part(model, inputs, part, behind), self.accelerator.backward
        )

    @property
    def _part_tokens(self) -> int:
        config = self.accelerator.unwrap_model(self.model).config.get_text_config()
        return self.args.part_tokens or usual_part(self.accelerator.device, config.hidden_size)

    @property
    def _goes_back_itself(self) -> bool:
        """Whether each part may have its backward pass: several processes wait in one, some optimisers step in it."""
        shared = self.accelerator.num_processes > 1 or self.is_deepspeed_enabled
        return not shared and not self.accelerator.has_lomo_optimizer

    def _loss_of_part(
        self, model: torch.nn.Module, batch: dict[str, Any], part: Tensor, read: ReadPrompts | None
    ) -> Tensor:
        """What some rows of a micro-batch add to its loss, behind their prompts if those were read."""
        self._behind = None if read is None else read.of(part)
        try:
            return self._loss_of_rows(model, take_rows(batch, part), len(part) / count_rows(batch))
        finally:
            self._behind = None

    def _read_prompts(self, model: torch.nn.Module, batch: Batch, rows: Tensor) -> ReadPrompts | None:
        """What some rows of a batch have read before their own pass; None where each is to read all by itself."""
        if not self._reads_once or not _PICTURES.isdisjoint(batch):
            return None
        with self.accelerator.autocast():
            return read_prompts(model, batch["prompt_ids"], batch["prompt_mask"], rows)

    @property
    def _reads_once(self) -> bool:
        """Whether the prompt of a group may have a pass of its own, as DistributedDataParallel would not let it."""
        policy = self.accelerator.unwrap_model(self.model)
        alone = self.args.read_prompts_once and self.accelerator.num_processes == 1
        return alone and not policy.is_gradient_checkpointing and keeps_all(policy.config)

    def _loss_of_rows(self, model: torch.nn.Module, rows: dict[str, Any], share: float) -> Tensor:
        """What rows that are a share of a micro-batch add to its loss: TRL's or the objective's, and constraints."""
        if not self._watches:
            loss: Tensor = super()._compute_loss(model, weighted(rows, share))
            return loss
        with self._watch():
            loss = super()._compute_loss(model, weighted(rows, share))
        assert self._pass is not None
        view, self._pass = view_of(rows, self._pass), None
        passes = self.current_gradient_accumulation_steps if self.training else 1
        if self._own_loss is not None:
            loss = self._own_loss(view, rows).mean() * (share / passes)
        for name, constraint in self.constraints.items():
            terms = constraint.loss(view.of(name, rows))
            if self.training:
                self._terms[name].append(terms.detach())
            loss = loss + constraint.multiplier * terms.mean() * (share / passes)
        return loss

    @property
    def _watches(self) -> bool:
        """Whether a seam reads the forward pass."""
        return bool(self.constraints) or self._own_loss is not None

    @property
    def _reads_logits(self) -> bool:
        """Whether one of them reads logits of every token, which the fused head of TRL does not give."""
        return self._needed("logits") or self._own_loss is not None

    def _needed(self, name: str) -> bool:
        return any(name in constraint.needs for constraint in self.constraints.values())

    @contextmanager
    def _watch(self) -> Iterator[None]:
        self._watching = True
        try:
            yield
        finally:
            self._watching = False

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if self._behind is not None:
            model, input_ids, attention_mask = self._behind(model, input_ids, attention_mask, logits_to_keep)
        policy = self.accelerator.unwrap_model(self.model)
        if self._watching and self._reads_logits:
            with self.accelerator.autocast():
                self._pass = plain_pass(
                    model,
                    input_ids,
                    attention_mask,
                    logits_to_keep,
                    temperature=self.temperature,
                    ends=sorted(self.eos_token_ids) if self._own_loss else (),
                )
            self._pass = replace(self._pass, head=head_of(policy, self.temperature))
            return self._pass.logps, self._pass.entropy, None
        with hidden_states(policy, wanted=self._watching and self._needed("hidden")) as seen:
            logps, entropy, aux_loss = super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )
        if self._watching:
            hidden = torch.cat(seen)[:, -logits_to_keep - 1 : -1] if seen else None
            self._pass = Pass(logps, entropy, hidden=hidden, head=head_of(policy, self.temperature))
        return logps, entropy, aux_loss

    @property
    def _is_sum_over_rows(self) -> bool:
        """Whether the loss is a mean of terms of one row each, linear in its advantage, so that rows can be split."""
        args = self.args
        plain = args.beta == 0.0 and args.top_entropy_quantile == 1.0 and not self._entropy_bonus_enabled
        return plain and not self.aux_loss_enabled and args.loss_type in ("grpo", "dr_grpo")

    # --- constraints and state -----------------------------------------------------------------------------------

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss: Tensor = super().training_step(*args, **kwargs)
        if self.constraints and self._step % self.args.gradient_accumulation_steps == 0:
            self._move_multipliers()
        return loss

    def _move_multipliers(self) -> None:
        for name, constraint in self.constraints.items():
            measured = float(self.accelerator.gather(torch.cat(self._terms[name])).mean())
            self._terms[name] = []
            self.note(f"constraint/{name}", measured)
            self.note(f"constraint/{name}/multiplier", constraint.multiplier)
            constraint.update(measured)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        states = {name: part.state() for name, part in self.parts.items()}
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            if self.m_step is not None:
                self.m_step.save(folder)
            save_parts(folder, states)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        restore_parts(Path(resume_from_checkpoint), self.parts)
        if self.m_step is not None:
            self.m_step.load(Path(resume_from_checkpoint))


@contextmanager
def _about_none() -> Iterator[None]:
    """Without TRL's warning that the reward function is wrong: None is how a rollout is left out, and is counted."""
    log, heard = logging.getLogger(GRPOTrainer.__module__), "All reward functions returned None"

    def others(record: logging.LogRecord) -> bool:
        return heard not in str(record.msg)

    log.addFilter(others)
    try:
        yield
    finally:
        log.removeFilter(others)

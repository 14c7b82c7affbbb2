"""Group-adaptive policy gradient (arXiv 2509.24050): learn to solve or to hand off.

The only changes with respect to `PolicyTrainer`, which is TRL's `GRPOTrainer` made fast:

1. an update is made of the prompts that the device solved, and of as many that only the cloud solved as the wanted
   call share allows (`choose`);
2. beyond the paper, each off by default (docs/beyond-the-paper.md): a hand-off has a price that meets the share
   (`pay`), attempts without the offer stand in every group, and prompts say one of several shares (`prepare`).

The objective is the group estimator, the reward hierarchical; both can be handed in.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from accelerate.utils import gather_object
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfroute.grading import Outcome
from selfroute.rewards.base import Reward
from selfroute.train.rl.alarms import Alarms, CollapseWarning, symptoms
from selfroute.train.rl.arguments import check_trainer
from selfroute.train.rl.held_out import WritePrompt, held_out_of
from selfroute.train.rl.objectives.base import Objective, Scored
from selfroute.train.rl.options import GAPGOptions
from selfroute.train.rl.outcomes import AnswersOfAll, Counted
from selfroute.train.rl.policy_config import PolicyConfig
from selfroute.train.rl.policy_trainer import Grader, PolicyTrainer, Row
from selfroute.train.rl.rollout_metrics import step_metrics
from selfroute.train.rl.shares import targets_of
from selfroute.verify.base import is_solved

__all__ = ["GAPGTrainer"]

DEFAULT = GAPGOptions()


class GAPGTrainer(PolicyTrainer):
    """Trains a device model to solve what it can and to hand off the rest.

    Args:
        write_prompt: writes a row's prompt anew, without the offer or with a share; needed for `forced_attempts` and
            `told_shares`.
        local_grader: grades attempts for which there is no cloud; needed for `forced_attempts` and `held_out`.
        held_out: ids of rows outside the training data, on which `handoff_reward="dual"` measures the call share;
            without them it does so on the rollouts.
        options: the method's.
        reward: what an outcome is worth before the price of a hand-off; None takes that of the options.
        objective: None takes that of the algorithm.
        The others are those of `PolicyTrainer`.

    Raises:
        ConfigError: a data set without the columns, or an option without what it needs.
    """

    def __init__(
        self,
        model: str | PreTrainedModel,
        grader: Grader,
        args: PolicyConfig,
        train_dataset: Dataset,
        processing_class: PreTrainedTokenizerBase | None = None,
        *,
        options: GAPGOptions = DEFAULT,
        write_prompt: WritePrompt | None = None,
        local_grader: Grader | None = None,
        held_out: Sequence[str] | None = None,
        reward: Reward | None = None,
        objective: Objective | None = None,
        **kwargs: Any,
    ) -> None:
        self.write_prompt = write_prompt
        self.local_grader = local_grader
        self.options = options
        check_trainer(options, args, write_prompt, local_grader, held_out)
        self.held_out = held_out_of(options, held_out, write_prompt, local_grader)
        self.targets = targets_of(options, seed=args.seed)
        self.alarms = Alarms(priced=options.is_dual)
        super().__init__(
            model,
            grader,
            args,
            train_dataset,
            processing_class,
            reward=reward or options.reward,
            objective=objective or options.objective_kind.make(options),
            behaviour=options.behaviour,
            m_step=options.m_step,
            **kwargs,
        )
        self._tag_names = ["trl", "gapg"]
        cloud = getattr(grader, "cloud", None)
        self._may_ask, self._clouds = cloud is not None, None
        self.parts |= {"targets": self.targets, "alarms": self.alarms}
        counted = next((c for c in (cloud, getattr(self.rollout, "cloud", None)) if isinstance(c, Counted)), None)
        if counted is not None:
            self._clouds = AnswersOfAll(counted, gather_object, counts=self.accelerator.is_main_process)
            self.parts["clouds"] = self._clouds

    # --- the rollouts of a step ----------------------------------------------------------------------------------

    def prepare(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Each with the share of its group, and whether it may hand off; its prompt is written for both."""
        first = self.accelerator.process_index * len(rows)
        shares = self._shares(len(rows) * self.accelerator.num_processes // self.group_size)
        return [self._prepared(row, shares, place) for place, row in enumerate(rows, start=first)]

    def _prepared(self, row: dict[str, Any], shares: Sequence[float], place: int) -> dict[str, Any]:
        size = self.group_size
        share, offered = shares[place // size], place % size < size - self._forced
        prompt = row["prompt"]
        if self.write_prompt is not None and (self.options.told_shares or not offered):
            told = share if self.options.told_shares and offered else None
            prompt = self.write_prompt(row["row_id"], offer_handoff=offered, share=told)
        return {**row, "prompt": prompt, "share": share, "offered": offered}

    def _shares(self, groups: int) -> list[float]:
        """The wanted share of each group of a step; in an evaluation, one for all."""
        if self.training:
            return self.targets.deal(groups, self.state.global_step)
        shares = self.targets.shares
        return [self.options.share if self.options.share in shares else shares[0]] * groups

    @property
    def _forced(self) -> int:
        return self.options.forced_attempts if self.training else 0

    def grade(self, rows: Sequence[Row], texts: Sequence[str]) -> list[Outcome]:
        if all(row["offered"] for row in rows) or self.local_grader is None:
            return super().grade(rows, texts)
        graded: dict[int, Outcome] = {}
        for grader, offered in ((self.grader, True), (self.local_grader, False)):
            places = [i for i, row in enumerate(rows) if row["offered"] is offered]
            outcomes = grader([rows[i]["row_id"] for i in places], [texts[i] for i in places])
            graded.update(zip(places, outcomes, strict=True))
        return [graded[i] for i in range(len(texts))]

    def pay(self, outcome: Outcome, row: Row) -> float | None:
        """The reward, less the price of what it took of the cloud under the share that is wanted of the row."""
        if outcome.cut_off and self.options.cut_off == "left_out":
            return None
        kind, share = self.options.kind, row["share"]
        if outcome.wants_cloud and not row["offered"]:  # one that asks all the same is a wrong answer
            return self.reward(replace(outcome, wants_cloud=False, device_correct=False))
        paid = kind.paid(self.reward, outcome)
        taken = kind.takes(outcome)
        return paid if paid is None or not taken else paid - self.targets.of[share].cost(taken)

    # --- the update ----------------------------------------------------------------------------------------------

    def choose(self, step: Scored) -> Sequence[int]:
        """D1 ∪ D2 of section 3.3.2; and what moves from step to step, moved by this one."""
        groups, shares = step.outcomes, self._shares(len(step.outcomes))
        self._log(step)
        if not self.training:
            return super().choose(step)
        chosen = self._filtered(groups, shares) if self.options.method.prompt_filter else super().choose(step)
        free = [group[: len(group) - self._forced] for group in groups]  # could hand off
        measured = self._attempts_held_out() if self.held_out else (free, shares)
        for name, value in self.targets.update(*measured).items():
            self.note(name, value)
        return chosen

    def _filtered(self, groups: Sequence[Sequence[Outcome]], shares: Sequence[float]) -> list[int]:
        chosen, selections = self.targets.select(groups, shares, self.state.global_step)
        self.note("filter/device_prompts", sum(len(selection.device) for selection in selections))
        self.note("filter/cloud_prompts", sum(len(selection.cloud) for selection in selections))
        self.note("filter/cloud_prompts_seen", sum(selection.cloud_seen for selection in selections))
        return chosen

    def _attempts_held_out(self) -> tuple[list[list[Outcome]], list[float]]:
        """One attempt at each of a step's held-out prompts, in groups of one, and the wanted share of each."""
        assert self.held_out is not None
        drawn = self.held_out.draw(self.targets, self.state.global_step)
        place, processes = self.accelerator.process_index, self.accelerator.num_processes
        mine = drawn[place * len(drawn) // processes : (place + 1) * len(drawn) // processes]
        found = gather_object(self.held_out.measure(mine, self.attempt))
        right = [is_solved(outcome.device_correct) for outcome, _ in found]
        self.note("held_out/device_correct", sum(right) / len(right))
        return [[outcome] for outcome, _ in found], [share for _, share in found]

    def _log(self, step: Scored) -> None:
        metrics = step_metrics(step.outcomes, step.rewards.tolist(), forced=self._forced)
        for name, value in {**metrics, **(self._clouds.metrics() if self._clouds else {})}.items():
            self.note(name, value)
        if self.training:
            filtered = self.options.method.prompt_filter
            seen = symptoms(step.outcomes, forced=self._forced, may_ask=self._may_ask, filtered=filtered)
            for message in self.alarms.check(self.state.global_step, seen):
                if self.accelerator.is_main_process:
                    warnings.warn(message, CollapseWarning, stacklevel=2)

"""The policy of a trainer as rollouts see it: prompts to token ids, token ids to more of them.

Attempts are written by our sampler, or by TRL where the trainer's options say so (vLLM, `generate`, pictures).
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from trl.models import unwrap_model_for_generation

from selfroute.backends.torch.sampler import sample
from selfroute.backends.torch.tokens import RowText
from selfroute.train.rl.generation import Until, cut, half_copy
from selfroute.train.rl.rollouts.base import Ids, Prompt, Turns

if TYPE_CHECKING:
    from selfroute.train.rl.policy_trainer import PolicyTrainer

__all__ = ["PolicySampler"]


class PolicySampler:
    """See `selfroute.train.rl.rollouts.base.Sampler`.

    Args:
        trainer: whose policy, options and randomness these are.
        group: how many neighbours in the prompts ask for attempts at the same problem.
    """

    def __init__(self, trainer: PolicyTrainer, *, group: int) -> None:
        self.group = group
        self.limit = cast(int, trainer.max_completion_length)
        self.ends = frozenset(trainer.eos_token_ids)
        self._trainer = trainer
        self._tokenizer = cast(Any, trainer._tokenizer)
        self._images: tuple[Any, Any] = (None, {})

    def encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        ids, *self._images = self._trainer._tokenize_prompts(list(prompts))
        return cast(list[list[int]], ids)

    def decode(self, ids: Ids) -> list[str]:
        return cast(list[str], self._tokenizer.batch_decode(ids, skip_special_tokens=True))

    def read(self, text: str) -> list[int]:
        return cast(list[int], self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def luck(self) -> random.Random:
        return random.Random(self._trainer.draw_seed())

    def speller(self) -> RowText:
        return RowText(self._tokenizer)

    def write(
        self,
        prompts: Ids,
        *,
        group: int = 1,
        until: Sequence[str] = (),
        limits: Sequence[int] | None = None,
        entropies: int = 0,
    ) -> Turns:
        args, ids = self._trainer.args, [list(row) for row in prompts]
        if args.fast_sampler and not args.use_vllm and self._images[0] is None:
            return self.by_us(ids, until=until, limits=limits, entropies=entropies)
        written, logprobs = self._trainer._generate_single_turn(ids, *self._images, group)
        most = limits or [self.limit] * len(ids)
        # What was written beyond is thrown away: what stands is drawn as though nothing had come behind it.
        ends = [cut(self._tokenizer, row[:n], until) for row, n in zip(written, most, strict=True)]
        kept = None if logprobs is None else [row[:n] for row, n in zip(logprobs, ends, strict=True)]
        turns = [row[:n] for row, n in zip(written, ends, strict=True)]
        found: Sequence[float] = ()
        if entropies:
            seen = [row[:entropies] for row in turns]
            found = self.entropies([a + b for a, b in zip(ids, seen, strict=True)], [len(row) for row in seen])
        return Turns(ids=turns, logprobs=kept, entropies=found)

    def by_us(
        self, prompts: Ids, *, until: Sequence[str] = (), limits: Sequence[int] | None = None, entropies: int = 0
    ) -> Turns:
        """What our sampler writes; see `write`."""
        trainer, heat = self._trainer, self._trainer.heat()
        with unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator) as model:
            sampled = sample(
                half_copy(model) if trainer.args.bf16 and model.device.type == "cpu" else model,
                prompts,
                max_new_tokens=self.limit if limits is None else limits,
                eos_token_ids=trainer.eos_token_ids,
                pad_token_id=self._tokenizer.pad_token_id,
                temperature=trainer.temperature * heat,
                top_p=trainer.top_p,
                seed=trainer.draw_seed(),
                on_step=Until(self._tokenizer, until) if until else None,
                entropies=entropies,
            )
        rows = [row for (row,) in sampled]
        found = [statistics.fmean(row.entropies) / self._most_entropy for row in rows] if entropies else []
        # At another temperature they are not the policy's own.
        logprobs = [row.logprobs for row in rows] if heat == 1.0 else None
        return Turns(ids=[row.token_ids for row in rows], logprobs=logprobs, entropies=found)

    @torch.no_grad()
    def entropies(self, rows: Ids, counts: Sequence[int]) -> list[float]:
        """Those of each row's last tokens, by a pass of their own; see `Turns`.

        Args:
            counts: how many last tokens of each row, at least one.
        """
        trainer, pad, width = self._trainer, self._tokenizer.pad_token_id, max(map(len, rows))
        device = trainer.accelerator.device
        ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], device=device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
        _, found, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model,
            ids,
            mask,
            max(counts),
            batch_size=trainer.args.per_device_train_batch_size,
            compute_entropy=True,
        )
        assert found is not None
        return [float(row[-n:].mean()) / self._most_entropy for row, n in zip(found, counts, strict=True)]

    @property
    def _most_entropy(self) -> float:
        """Of a distribution over the vocabulary, in nats."""
        model: Any = self._trainer.accelerator.unwrap_model(self._trainer.model)
        return math.log(model.config.get_text_config().vocab_size)

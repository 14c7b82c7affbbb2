"""Rollouts with our sampler, and an order of the data that a resumed run finds again."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl.trainer.utils import RepeatSampler

from selfroute.backends.torch.sampler import Step
from selfroute.backends.torch.tokens import TokenTexts, decode

__all__ = ["EpochSampler", "Until", "cut", "half_copy"]

EPOCH_STRIDE = 1_000_003  # keeps the orders of neighbouring seeds apart
_MARK_TOKENS = 32  # most of a mark


class Until:
    """Ends a row of `sample` with the token that completes a mark in its text.

    Args:
        marks: not empty.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, marks: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._marks = tuple(marks)
        self._texts = TokenTexts(tokenizer)
        self._lasts = {mark[-1] for mark in marks}
        self._rows: dict[int, list[int]] = defaultdict(list)

    def __call__(self, step: Step) -> list[int]:
        """The rows that end with this step."""
        for row, token_id in zip(step.rows, step.token_ids, strict=True):
            self._rows[row].append(token_id)
        return [row for row in step.rows if self.ends(self._rows[row])]

    def ends(self, token_ids: Sequence[int]) -> bool:
        """Whether the last token completes a mark; only the last tokens are looked at."""
        last = self._texts[token_ids[-1]]
        if self._lasts.isdisjoint(last):
            return False
        text = decode(self._tokenizer, token_ids[-_MARK_TOKENS:])
        return any(mark in text[-len(mark) - len(last) + 1 :] for mark in self._marks)


def cut(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int], marks: Sequence[str]) -> int:
    """How many tokens there are up to the first that completes a mark."""
    until = Until(tokenizer, marks)
    return next((n for n in range(1, len(token_ids)) if until.ends(token_ids[:n])), len(token_ids))


@torch.no_grad()
def half_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A policy whose loss is read under autocast, with weights of bfloat16, to write rollouts with on a CPU.

    Going forward one token at a time under autocast, weights would be cast for every token. The copy has adapters
    merged, and the fused attention kernel: plain attention, which is quicker going backward, copies the cache of shared
    key-value heads. Buffers, as those of rotary positions, stay as they are.
    """
    twin: Any = copy.deepcopy(model)
    for module in twin.modules():
        vars(module).pop("forward", None)  # accelerate's and TRL's, which would call the model that was copied
    if hasattr(twin, "merge_and_unload"):
        twin = twin.merge_and_unload()
    for parameter in twin.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    twin.set_attn_implementation("sdpa")
    return cast(PreTrainedModel, twin)


class EpochSampler(RepeatSampler):
    """TRL's sampler with an order per epoch that does not depend on the epochs before: a resumed run draws none."""

    def __init__(self, sampler: RepeatSampler, epoch: Callable[[], int]) -> None:
        vars(self).update(vars(sampler))
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        if self.shuffle:
            self.generator.manual_seed((self.seed or 0) + EPOCH_STRIDE * self.epoch())
        yield from super().__iter__()

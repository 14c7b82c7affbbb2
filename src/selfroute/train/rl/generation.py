"""Rollouts with our sampler, and an order of the data that a resumed run finds again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel
from trl.trainer.utils import RepeatSampler

__all__ = ["EpochSampler", "quick_on_cpu"]

EPOCH_STRIDE = 1_000_003  # keeps the orders of neighbouring seeds apart


@contextmanager
def quick_on_cpu(model: PreTrainedModel) -> Iterator[None]:
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


class EpochSampler(RepeatSampler):
    """TRL's sampler with an order per epoch that does not depend on the epochs before: a resumed run draws none."""

    def __init__(self, sampler: RepeatSampler, epoch: Callable[[], int]) -> None:
        vars(self).update(vars(sampler))
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        if self.shuffle:
            self.generator.manual_seed((self.seed or 0) + EPOCH_STRIDE * self.epoch())
        yield from super().__iter__()

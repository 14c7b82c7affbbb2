"""Prompts of a batch read once each, and completions behind them: the same gradient from fewer tokens.

The rows of a group have one prompt. Its keys and values are computed once, with their gradient, and every row's forward
pass begins with the prompt's last token, whose state the first completion token is drawn from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.cache_utils import DynamicCache, DynamicLayer

__all__ = ["Behind", "ReadPrompts", "backward_in_parts", "distinct", "keeps_all", "read_prompts"]


def distinct(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each prompt once.

    Args:
        ids, mask: prompts, shape (B, P), padded on the left.

    Returns:
        Ids and mask, shape (N, P), and the place in them of every row, shape (B,).
    """
    both: Tensor
    both, places = torch.unique(torch.stack([ids, mask], dim=1), dim=0, return_inverse=True)
    return both[:, 0], both[:, 1], places


def keeps_all(config: PretrainedConfig) -> bool:
    """Whether every layer of a model keeps keys and values of everything before, and nothing else."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)


@dataclass(frozen=True, slots=True)
class Behind:
    """What some rows of a batch have read when their own pass begins.

    Attributes:
        layers: keys and values of each layer, shape (R, heads, P - 1, size).
        mask: which of them are real, shape (R, P - 1).
    """

    layers: Sequence[tuple[Tensor, Tensor]]
    mask: Tensor

    def __call__(self, model: Any, ids: Tensor, mask: Tensor, tokens: int) -> tuple[Any, Tensor, Tensor]:
        """A pass over prompts and completions, shape (R, P + T), as one over their last T + 1 tokens.

        Args:
            tokens: T.

        Returns:
            A model that goes on behind what was read, and what it is to be told: ids and mask, shape (R, T + 1).
        """
        whole = torch.cat([self.mask, mask[:, -tokens - 1 :]], dim=1)

        def go_on(*, attention_mask: Tensor, **inputs: Any) -> Any:
            del attention_mask  # of the last tokens alone, which is what the caller knows
            return model(attention_mask=whole, past_key_values=DynamicCache(self.layers), **inputs)

        return go_on, ids[:, -tokens - 1 :], mask[:, -tokens - 1 :]


@dataclass(frozen=True, slots=True)
class ReadPrompts:
    """The prompts of a batch, each read once up to its last token.

    Attributes:
        layers: keys and values of each layer, shape (N, heads, P - 1, size).
        mask: shape (N, P - 1).
        places: the prompt of each row of the batch that was read, shape (B,).
    """

    layers: Sequence[tuple[Tensor, Tensor]]
    mask: Tensor
    places: Tensor

    def of(self, rows: Tensor) -> Behind:
        """Of some rows of the batch."""
        places = self.places[rows]
        return Behind([(keys[places], values[places]) for keys, values in self.layers], self.mask[places])

    def cut(self) -> ReadPrompts:
        """The same without the pass behind it: gradients stay with it, until `backward` is told of them."""
        return replace(
            self, layers=[(k.detach().requires_grad_(), v.detach().requires_grad_()) for k, v in self.layers]
        )

    def backward(self, cut: ReadPrompts) -> None:
        """Pass on the gradients that have come together in what was cut off."""
        told = [
            (mine, its.grad)
            for layer, other in zip(self.layers, cut.layers, strict=True)
            for mine, its in zip(layer, other, strict=True)
            if mine.requires_grad and its.grad is not None
        ]
        torch.autograd.backward([mine for mine, _ in told], [grad for _, grad in told])


def read_prompts(model: Any, ids: Tensor, mask: Tensor, rows: Tensor) -> ReadPrompts | None:
    """Read the prompts of some rows of a batch.

    Args:
        ids, mask: of all rows, shape (B, P), padded on the left.
        rows: their numbers.

    Returns:
        None where nothing is won: no two of the rows have a prompt in common, or prompts are of one token.
    """
    start = int(mask[rows].any(0).int().argmax())
    once, real, places = distinct(ids[rows, start:], mask[rows, start:])
    if len(once) == len(rows) or once.shape[1] < 2:
        return None
    found = model(input_ids=once[:, :-1], attention_mask=real[:, :-1], use_cache=True, logits_to_keep=1)
    layers = [(layer.keys, layer.values) for layer in found.past_key_values.layers]
    return ReadPrompts(layers, real[:, :-1], torch.zeros_like(mask[:, 0]).index_copy(0, rows, places))


def backward_in_parts(
    parts: Iterable[Tensor],
    read: ReadPrompts | None,
    loss_of: Callable[[Tensor, ReadPrompts | None], Tensor],
    backward: Callable[[Tensor], None],
) -> Tensor:
    """Forward and backward of one part of a batch after the other, so that one part's states are held at a time.

    Args:
        parts: rows of each.
        read: prompts that they have in common, whose own pass goes back last.
        loss_of: what a part adds to the loss.

    Returns:
        The whole loss, from which nothing is left to go back.
    """
    cut = None if read is None else read.cut()
    losses = []
    for part in parts:
        loss = loss_of(part, cut)
        backward(loss)
        losses.append(loss.detach())
    if read is not None and cut is not None:
        read.backward(cut)
    return torch.stack(losses).sum().requires_grad_()

"""Prompts of a batch read once each, and completions behind them: the same gradient from fewer tokens.

The rows of a group have one prompt. Its keys and values are computed once, with their gradient, and every row's forward
pass begins with the prompt's last token, whose state the first completion token is drawn from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.cache_utils import DynamicCache, DynamicLayer

__all__ = ["Behind", "ReadPrompts", "distinct", "keeps_all", "read_prompts"]


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

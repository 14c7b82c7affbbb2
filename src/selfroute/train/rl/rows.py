"""Rows of a padded batch: which have a gradient, in which order, and cut to what they need.

A batch is what TRL's trainer makes of rollouts: `prompt_ids` and `prompt_mask` (B, P), padded on the left,
`completion_ids` and `completion_mask` (B, T), padded on the right, `advantages` (B,) or per token (B, T), and with
tools `tool_mask` (B, T), 0 for tokens that the policy did not write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "Batch",
    "active_rows",
    "by_length",
    "count_rows",
    "every_row",
    "own_tokens",
    "take_rows",
    "usual_part",
    "weighted",
]

CACHED = 2**18  # numbers of one hidden state of a part
AT_ONCE = 8192  # tokens, elsewhere

Batch = Mapping[str, Any]


def count_rows(batch: Batch) -> int:
    """Rows of a batch. Its mask tells: advantages may be one per row or one per token."""
    return len(batch["completion_mask"])


def every_row(batch: Batch) -> Tensor:
    """The numbers of all rows, shape (B,)."""
    return torch.arange(count_rows(batch), device=batch["completion_mask"].device)


def own_tokens(batch: Batch) -> Tensor:
    """Whether each completion token is one that the policy wrote, shape (B, T)."""
    mask: Tensor = batch["completion_mask"].bool()
    return mask & batch["tool_mask"].bool() if batch.get("tool_mask") is not None else mask


def active_rows(batch: Batch, gather: Callable[[Tensor], Tensor]) -> Tensor:
    """Rows with a gradient, at least one, and as many on every process: TRL gathers metrics of every row.

    Args:
        gather: joins a tensor of every process, as accelerate does.

    Returns:
        Indexes, those without a gradient last.
    """
    advantages: Tensor = batch["advantages"]
    per_token = advantages if advantages.dim() == 2 else advantages[:, None]
    active = ((per_token != 0) & own_tokens(batch)).any(1)
    count = torch.count_nonzero(active).clamp(min=1)
    most = int(gather(count[None]).max())
    return active.int().argsort(descending=True, stable=True)[:most]


def by_length(batch: Batch, rows: Tensor, tokens: int) -> tuple[Tensor, ...]:
    """The rows in parts, sorted by the length of their completions.

    Args:
        tokens: of completions, padding among them, in a part; a row that is longer is one by itself.
    """
    lengths = batch["completion_mask"][rows].sum(1)
    order = lengths.argsort()
    cuts, start = [], 0
    for place, length in enumerate(lengths[order].tolist()):
        if place > start and (place + 1 - start) * length > tokens:
            cuts.append(start := place)
    return rows[order].tensor_split(cuts)


def usual_part(device: torch.device, width: int) -> int:
    """Tokens of a part that suit a device: on a CPU those whose states are a megabyte, about what its caches hold.

    Args:
        width: of a token's hidden state.
    """
    return max(1, CACHED // width) if device.type == "cpu" else AT_ONCE


def take_rows(batch: Batch, rows: Tensor) -> dict[str, Any]:
    """The chosen rows of a batch, without the columns that only the others needed."""
    count = count_rows(batch)
    chosen = {
        name: value[rows] if isinstance(value, Tensor) and value.dim() and len(value) == count else value
        for name, value in batch.items()
    }
    start = int(chosen["prompt_mask"].any(0).int().argmax())
    width = max(1, int(chosen["completion_mask"].sum(1).max()))
    for name in ("prompt_ids", "prompt_mask"):
        chosen[name] = chosen[name][:, start:]
    columns = chosen["completion_ids"].shape[1]
    for name, value in chosen.items():
        # Masks, advantages and log-probabilities per completion token too, which TRL adds for tools and vLLM.
        per_token = isinstance(value, Tensor) and value.dim() == 2 and value.shape[1] == columns
        if per_token and name not in ("prompt_ids", "prompt_mask"):
            chosen[name] = value[:, :width]
    return chosen


def weighted(batch: dict[str, Any], weight: float) -> dict[str, Any]:
    """The batch with its advantages times a weight, by which a loss that is a mean over rows becomes a part of one."""
    return {**batch, "advantages": batch["advantages"] * weight}

"""Batches for imitation: rows of token ids with labels, each batch as wide as its longest row."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import torch

__all__ = ["IGNORED", "Batch", "Row", "cut"]

Batch = dict[str, torch.Tensor]
Row = tuple[list[int], list[int]]  # ids, and labels of the same length
IGNORED = -100  # label that the cross-entropy leaves out


def cut(rows: Iterable[Row], *, batch_tokens: int, pad_id: int, rng: random.Random) -> list[Batch]:
    """Batches of about `batch_tokens` padded tokens, in random order; rows of similar length come together."""
    left = sorted(rows, key=lambda row: len(row[0]))
    batches: list[Batch] = []
    while left:
        # The longest row sets the width; take from the long end so that every batch is full.
        count = max(1, batch_tokens // len(left[-1][0]))
        batches.append(_padded(left[-count:], pad_id))
        del left[-count:]
    rng.shuffle(batches)
    return batches


def _padded(rows: Sequence[Row], pad_id: int) -> Batch:
    width = -(-max(len(ids) for ids, _ in rows) // 8) * 8
    ids = torch.full((len(rows), width), pad_id)
    labels = torch.full((len(rows), width), IGNORED)
    for index, (row, learnt) in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        labels[index, : len(row)] = torch.tensor(learnt)
    # Padding stands on the right of a causal model and carries no label: no attention mask is needed.
    return {"input_ids": ids, "labels": labels}

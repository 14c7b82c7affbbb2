"""Rows of a batch: counted by their mask, cut with everything that belongs to them, and the gradient they leave."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.train.tiny import policy, trainer
from torch import Tensor

from selfroute.train.rl.rows import active_rows, by_length, count_rows, own_tokens, take_rows

LENGTHS = [1, 2, 4, 3, 4, 2]
TOKENS = 5  # the longest completion allowed


def alone(tensor: Tensor) -> Tensor:
    return tensor


def batch(*, per_token: bool, tools: bool, seed: int = 0) -> dict[str, Any]:
    """Six rows, of which the second and the last have no advantage."""
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.arange(max(LENGTHS))[None] < torch.tensor(LENGTHS)[:, None]).long()
    shape = mask.shape if per_token else mask.shape[:1]
    advantages = torch.randn(shape, dtype=torch.float64, generator=generator)
    advantages[[1, 5]] = 0.0
    made = {
        "prompt_ids": torch.randint(5, 20, (6, 3), generator=generator),
        "prompt_mask": torch.tensor([[0, 1, 1], [1, 1, 1], [0, 0, 1], [0, 1, 1], [1, 1, 1], [0, 0, 1]]),
        "completion_ids": torch.randint(5, 20, mask.shape, generator=generator),
        "completion_mask": mask,
        "advantages": advantages,
        "num_items_in_batch": mask.sum(),
    }
    if tools:
        read = torch.rand(mask.shape, generator=generator) < 0.4
        read[:, 0] = False  # the first token is the policy's own
        made["tool_mask"] = (~read).long()
    return made


def by_hand(inputs: dict[str, Any], tokens: int) -> Tensor:
    """-Σ over own tokens of advantage · ∇ log π, through TRL's divisor, one unpadded row at a time."""
    model, own = policy(dtype=torch.float64), own_tokens(inputs)
    total = torch.zeros((), dtype=torch.float64)
    for i in range(count_rows(inputs)):
        prompt = inputs["prompt_ids"][i][inputs["prompt_mask"][i].bool()]
        completion = inputs["completion_ids"][i][inputs["completion_mask"][i].bool()]
        logits = model(input_ids=torch.cat([prompt, completion])[None]).logits[0, len(prompt) - 1 : -1]
        log_p = logits.log_softmax(-1).gather(1, completion[:, None])[:, 0]
        advantages = inputs["advantages"][i]
        weights = advantages[: len(completion)] if advantages.dim() else advantages.expand(len(completion))
        total = total - (weights * own[i][: len(completion)] * log_p).sum()
    (total / (count_rows(inputs) * tokens)).backward()
    return flat(model)


def flat(model: Any) -> Tensor:
    return torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in model.parameters()]
    )


@pytest.mark.parametrize("tools", [False, True])
@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("ways", [{"drop_idle_rows": False}, {"part_tokens": 1000}, {"part_tokens": 7}])
def test_the_gradient_is_the_one_written_by_hand(
    tmp_path: Path, per_token: bool, tools: bool, ways: dict[str, Any]
) -> None:
    made = trainer(tmp_path, model=policy(dtype=torch.float64), tokens=TOKENS, **ways)
    made.current_gradient_accumulation_steps = 1
    made.model.train()
    inputs = batch(per_token=per_token, tools=tools)
    made._compute_loss(made.model, inputs).backward()
    ours, hand = flat(made.model), by_hand(inputs, TOKENS)
    assert float((ours - hand).norm() / hand.norm()) < 1e-6


def test_a_part_has_gone_back_when_the_next_is_read(tmp_path: Path) -> None:
    """So that no more than one part's states are held."""
    made = trainer(tmp_path, model=policy(dtype=torch.float64), tokens=TOKENS, part_tokens=7)
    made.current_gradient_accumulation_steps = 1
    made.model.train()
    last, seen = made.model.model.norm.weight, []
    made.model.model.norm.register_forward_pre_hook(lambda *_: seen.append(last.grad is not None))
    made._compute_loss(made.model, batch(per_token=False, tools=False))
    assert seen == [False, *[True] * (len(seen) - 1)] and len(seen) > 2


@pytest.mark.parametrize("tools", [False, True])
@pytest.mark.parametrize("per_token", [False, True])
def test_rows_without_an_advantage_are_idle(per_token: bool, tools: bool) -> None:
    assert sorted(active_rows(batch(per_token=per_token, tools=tools), alone).tolist()) == [0, 2, 3, 4]


def test_an_advantage_on_padding_or_on_a_tools_token_is_no_gradient() -> None:
    inputs = batch(per_token=True, tools=True)
    inputs["advantages"] = (~own_tokens(inputs)).double()
    assert len(active_rows(inputs, alone)) == 1  # at least one, whatever it has


def test_every_process_takes_as_many_rows_as_the_one_with_the_most() -> None:
    rows = active_rows(batch(per_token=False, tools=False), lambda count: torch.cat([count, torch.tensor([5])]))
    assert rows.tolist() == [0, 2, 3, 4, 1]


@given(st.integers(1, 40), st.sets(st.integers(0, 5), min_size=1))
def test_parts_hold_every_row_once_sorted_by_length(tokens: int, rows: set[int]) -> None:
    inputs = batch(per_token=False, tools=False)
    found = by_length(inputs, torch.tensor(sorted(rows)), tokens)
    padded = [len(part) * max(LENGTHS[i] for i in part.tolist()) for part in found]
    assert all(size <= tokens or len(part) == 1 for size, part in zip(padded, found, strict=True))
    for one, other in pairwise(found):  # and no more parts than that needs
        assert (len(one) + 1) * LENGTHS[int(other[0])] > tokens
    assert sorted(torch.cat(found).tolist()) == sorted(rows)
    lengths = [LENGTHS[i] for i in torch.cat(found).tolist()]
    assert lengths == sorted(lengths)


def test_trimming_takes_every_tensor_along() -> None:
    rows, prompt, completion = 4, 3, 3  # equal widths: only the names tell prompt from completion
    completion_mask = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 0, 0]])
    inputs: dict[str, Any] = {
        "prompt_ids": torch.arange(rows * prompt).view(rows, prompt),
        "prompt_mask": torch.tensor([[0, 1, 1], [0, 0, 1], [1, 1, 1], [0, 0, 1]]),
        "completion_ids": torch.arange(rows * completion).view(rows, completion),
        "completion_mask": completion_mask,
        "old_per_token_logps": torch.rand(rows, completion),
        "importance_sampling_ratio": torch.rand(rows, 1),
        "advantages": torch.rand(rows, completion),
        "tool_mask": torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 1], [1, 1, 1]]),
        "num_items_in_batch": torch.tensor(7),
    }
    taken = take_rows(inputs, torch.tensor([3, 1]))
    assert taken["prompt_ids"].tolist() == [[11], [5]]
    assert taken["completion_ids"].tolist() == [[9, 10], [3, 4]]
    assert taken["completion_mask"].tolist() == [[1, 0], [1, 1]]
    assert torch.equal(taken["old_per_token_logps"], inputs["old_per_token_logps"][[3, 1], :2])
    assert torch.equal(taken["importance_sampling_ratio"], inputs["importance_sampling_ratio"][[3, 1]])
    assert torch.equal(taken["advantages"], inputs["advantages"][[3, 1], :2])
    assert taken["tool_mask"].tolist() == [[1, 1], [1, 0]]
    assert taken["num_items_in_batch"] == 7

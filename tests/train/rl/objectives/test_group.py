"""The group estimator's weights: the paper's examples, their properties, and what they estimate."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from selfroute.train.rl.objectives.group import group_advantages, split_advantages

finite = st.floats(-10, 10, width=32)
groups = st.integers(2, 9).flatmap(
    lambda size: st.lists(st.lists(finite, min_size=size, max_size=size), min_size=1, max_size=5)
)
gradable = st.lists(st.none() | finite, min_size=2, max_size=9)


def as_tensor(rows: list[list[float | None]]) -> Tensor:
    values = [[float("nan") if value is None else value for value in row] for row in rows]
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("top", "first", "others"),
    [(1.0, 0.125, -0.017857), (0.25, 0.03125, -0.004464), (2.2, 0.275, -0.0392857), (0.5, 0.0625, -0.0089286)],
)
def test_the_papers_example_groups(top: float, first: float, others: float) -> None:
    weights = group_advantages(torch.tensor([[top] + [0.0] * 7]))
    assert weights[0, 0].item() == pytest.approx(first, abs=5e-7)
    assert weights[0, 1:].tolist() == pytest.approx([others] * 7, abs=5e-7)


def test_a_local_success_weighs_four_times_a_call_that_division_by_the_deviation_would_equal() -> None:
    rewards = torch.tensor([[1.0] + [0.0] * 7, [0.25] + [0.0] * 7])
    ours = group_advantages(rewards)
    grpo = (rewards - rewards.mean(1, keepdim=True)) / rewards.std(1, correction=0, keepdim=True)
    assert ours[0, 0] == 4 * ours[1, 0]
    assert torch.allclose(grpo[0], grpo[1])
    assert grpo[0, 0].item() == pytest.approx(2.6458, abs=1e-4)


@given(groups)
def test_rows_sum_to_zero_and_equal_the_reward_minus_the_mean_of_the_others(rows: list[list[float | None]]) -> None:
    rewards = as_tensor(rows)
    size = rewards.shape[1]
    others = (rewards.sum(1, keepdim=True) - rewards) / (size - 1)
    weights = group_advantages(rewards)
    assert torch.allclose(weights.sum(1), torch.zeros(len(rows), dtype=torch.float64), atol=1e-12)
    assert torch.allclose(weights, (rewards - others) / size, atol=1e-12)


@given(gradable)
def test_an_ungraded_rollout_leaves_its_group(values: list[float | None]) -> None:
    weights = group_advantages(as_tensor([values]))[0]
    left = [i for i, value in enumerate(values) if value is not None]
    assert not weights.isnan().any()
    assert all(weights[i] == 0 for i in range(len(values)) if i not in left)
    if len(left) < 2:
        assert not weights.any()
    else:
        alone = group_advantages(as_tensor([[values[i] for i in left]]))[0]
        assert torch.allclose(weights[left], alone, atol=1e-12)


@given(gradable, finite, st.randoms(use_true_random=False))
def test_moving_and_reordering_a_group(values: list[float | None], shift: float, rng: object) -> None:
    weights = group_advantages(as_tensor([values]))[0]
    moved = group_advantages(as_tensor([[None if value is None else value + shift for value in values]]))[0]
    assert torch.allclose(weights, moved, atol=1e-9)
    order = list(range(len(values)))
    rng.shuffle(order)  # type: ignore[attr-defined]
    assert torch.allclose(group_advantages(as_tensor([[values[i] for i in order]]))[0], weights[order], atol=1e-12)


@given(groups, finite)
def test_scaling_the_rewards_scales_the_weights(rows: list[list[float | None]], factor: float) -> None:
    rewards = as_tensor(rows)
    assert torch.allclose(group_advantages(rewards * factor), group_advantages(rewards) * factor, atol=1e-9)


# --- what the weights estimate: a softmax policy over three actions, every group of G actions enumerated

LOGITS = torch.tensor([0.3, -0.7, 0.4], dtype=torch.float64)
PAY = torch.tensor([1.0, 0.0, 0.25], dtype=torch.float64)


def scores() -> Tensor:
    """∇ log π(a) for every action; shape (actions, parameters)."""
    return torch.eye(3, dtype=torch.float64) - LOGITS.softmax(0)


def every_group(size: int) -> tuple[Tensor, Tensor]:
    """Probability and estimate ĝ of every group; shapes (groups,) and (groups, parameters)."""
    actions = torch.tensor(list(itertools.product(range(3), repeat=size)))
    probability = LOGITS.softmax(0)[actions].prod(1)
    estimates = (group_advantages(PAY[actions])[:, :, None] * scores()[actions]).sum(1)
    return probability, estimates


def true_gradient() -> Tensor:
    logits = LOGITS.clone().requires_grad_()
    (logits.softmax(0) * PAY).sum().backward()
    assert logits.grad is not None
    return logits.grad


@pytest.mark.parametrize("size", [2, 3, 5, 8])
def test_the_estimator_is_unbiased(size: int) -> None:
    probability, estimates = every_group(size)
    assert torch.allclose((probability[:, None] * estimates).sum(0), true_gradient(), atol=1e-14)


@pytest.mark.parametrize("size", [2, 3, 5, 8])
def test_the_covariance_is_that_of_the_papers_lemma(size: int) -> None:
    probability, estimates = every_group(size)
    centred = estimates - true_gradient()
    covariance = torch.einsum("n,ni,nj->ij", probability, centred, centred)

    policy, score = LOGITS.softmax(0), scores()
    mean = (policy * PAY).sum()
    second = torch.einsum("a,ai,aj->ij", policy * (PAY - mean) ** 2, score, score)  # A
    fisher = torch.einsum("a,ai,aj->ij", policy, score, score)  # S
    variance = (policy * (PAY - mean) ** 2).sum()
    gradient = true_gradient()
    expected = (
        second / size
        + variance * fisher / (size * (size - 1))
        - (size - 2) / (size * (size - 1)) * torch.outer(gradient, gradient)
    )
    assert torch.allclose(covariance, expected, atol=1e-14)


def test_the_variance_falls_as_one_over_the_group_size() -> None:
    traces = []
    for size in (2, 4, 8):
        probability, estimates = every_group(size)
        traces.append(float((probability[:, None] * (estimates - true_gradient()) ** 2).sum()))
    assert traces[0] > 1.9 * traces[1] > 1.9 * 1.9 * traces[2]


# --- forced attempts: the same parameters make a second policy, that of the prompt without the offer

MIX = torch.tensor([[0.5, 0.2, -0.3], [0.1, -0.6, 0.4], [0.0, 0.3, 0.2]], dtype=torch.float64)
SOLVED = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)  # asking without the offer is a wrong answer


def both_objectives(theta: Tensor, weight: float) -> Tensor:
    return (theta.softmax(0) * PAY).sum() + weight * ((MIX @ theta).softmax(0) * SOLVED).sum()


@pytest.mark.parametrize(("free", "forced", "weight"), [(3, 2, 1.0), (2, 3, 0.5), (4, 2, 2.0)])
def test_forced_attempts_estimate_the_sum_of_both_objectives(free: int, forced: int, weight: float) -> None:
    theta = LOGITS.clone().requires_grad_()
    both_objectives(theta, weight).backward()
    plain = (MIX @ LOGITS).softmax(0)
    forced_scores = (torch.eye(3, dtype=torch.float64) - plain) @ MIX
    actions = torch.tensor(list(itertools.product(range(3), repeat=free + forced)))
    first, last = actions[:, :free], actions[:, free:]
    probability = LOGITS.softmax(0)[first].prod(1) * plain[last].prod(1)
    weights = split_advantages(torch.cat([PAY[first], SOLVED[last]], dim=1), forced=forced, weight=weight)
    gradients = torch.cat([scores()[first], forced_scores[last]], dim=1)
    estimates = (weights[:, :, None] * gradients).sum(1)
    assert theta.grad is not None
    assert torch.allclose((probability[:, None] * estimates).sum(0), theta.grad, atol=1e-14)
    solved = SOLVED[last].mean(1)
    assert (probability * solved).sum().item() == pytest.approx(plain[0].item())  # q(x) itself


def test_a_group_in_which_all_who_may_ask_do_still_teaches() -> None:
    rewards = torch.tensor([[0.3] * 6 + [1.0, 0.0]])
    assert not group_advantages(rewards[:, :6]).any()
    assert split_advantages(rewards, forced=2, weight=1.0)[0].tolist() == [0.0] * 6 + [0.5, -0.5]

"""Group advantages as pure functions of rewards."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["group_advantages"]


def group_advantages(rewards: Tensor) -> Tensor:
    """The weight of each rollout's score function in the group estimator (arXiv 2509.24050, Prop. 3.1).

    ĝ(x) = 1/(G-1) · Σ_i ∇ log π(y_i | x) · (r_i - r̄), so the weight of rollout i is (r_i - r̄)/(G-1). It equals
    1/G of the reward minus the mean of the other rewards (leave one out), which is why ĝ is unbiased.

    Args:
        rewards: shape (prompts, G); NaN marks a rollout that could not be graded.

    Returns:
        Shape (prompts, G). NaN rewards get weight 0 and the rest of their group is treated as a smaller group;
        a group with fewer than two graded rollouts gets 0 throughout. Every row sums to 0.
    """
    graded = ~torch.isnan(rewards)
    count = graded.sum(dim=1, keepdim=True)
    mean = torch.nan_to_num(rewards).sum(dim=1, keepdim=True) / count.clamp(min=1)
    weights = (rewards - mean) / (count - 1).clamp(min=1)
    return torch.where(graded & (count > 1), weights, torch.zeros_like(weights))

"""The paper's estimator: group advantages as pure functions of rewards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from selfroute.train.rl.objectives.base import Scored

__all__ = ["Group", "group_advantages", "split_advantages"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A reward minus the mean of the others of its group (arXiv 2509.24050, Prop. 3.1).

    Attributes:
        forced: the last rollouts of each group, which had no offer to hand off; see `split_advantages`.
        weight: of their objective.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    sums: ClassVar[bool] = True

    forced: int = 0
    weight: float = 1.0

    def weights(self, batch: Scored) -> Tensor:
        return split_advantages(batch.rewards, forced=self.forced, weight=self.weight)


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
    # Weights do not change with a shift. From the lowest reward on, a group of equal rewards is exactly 0 throughout,
    # where the mean of eight times 0.3 is not 0.3 and its rows would take part in the backward pass for nothing.
    rewards = rewards - torch.nan_to_num(rewards, nan=torch.inf).amin(dim=1, keepdim=True)
    count = graded.sum(dim=1, keepdim=True)
    mean = torch.nan_to_num(rewards).sum(dim=1, keepdim=True) / count.clamp(min=1)
    weights = (rewards - mean) / (count - 1).clamp(min=1)
    return torch.where(graded & (count > 1), weights, torch.zeros_like(weights))


def split_advantages(rewards: Tensor, *, forced: int, weight: float) -> Tensor:
    """Weights for groups whose last `forced` rollouts had no offer to hand off.

    Two objectives share the weights of one network: J(θ), the expected reward with the offer, and q(θ), the expected
    reward of an attempt without it. Each part of a group is a group estimator of its own, so that the sum is an
    unbiased gradient of J + weight·q; see docs/beyond-the-paper.md for the proof.

    Args:
        rewards: shape (prompts, G), the forced rollouts last; NaN as in `group_advantages`.
        forced: how many; 0, or at least 2, since a rollout is compared with its like.
        weight: of the attempts without the offer.

    Returns:
        Shape (prompts, G).
    """
    if not forced:
        return group_advantages(rewards)
    free, kept = rewards[:, :-forced], rewards[:, -forced:]
    return torch.cat([group_advantages(free), weight * group_advantages(kept)], dim=1)

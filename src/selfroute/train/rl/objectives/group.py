"""The paper's estimator: group advantages as pure functions of rewards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from selfroute.rewards.group import group_weights
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
    """The weight of each rollout's score function; see `selfroute.rewards.group.group_weights`.

    Args:
        rewards: shape (prompts, G); NaN marks a rollout that could not be graded.

    Returns:
        Shape (prompts, G).
    """
    weights: Tensor = group_weights(rewards, torch)
    return weights


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

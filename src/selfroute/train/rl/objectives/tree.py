"""Credit along trees of attempts: which part of a leaf's reward each token gets (arXiv 2507.19849, 2509.21240).

Tokens that several leaves share stand in each of their rows, so that weights per row or per token say all there is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, cast

import torch
from torch import Tensor

from selfroute.bounds import Choice, check_fields
from selfroute.train.rl.objectives.base import Scored

__all__ = ["CREDITS", "TreeCredit", "hard", "shared_tokens", "standardised", "weighted", "within_trees"]

# The credits, each with the facts of `selfroute.train.rl.rollouts.tree` that it reads.
CREDITS: Mapping[str, tuple[str, ...]] = {
    "soft": (),
    "hard": ("parent", "fork"),
    "weighted": ("tree", "weight", "fresh"),
    "inter_intra": ("tree", "fresh"),
    "intra": ("tree", "fresh"),
}
Credit = Annotated[str, Choice(lambda: tuple(CREDITS))]
_TINY = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeCredit:
    """Advantages of a tree's leaves, and how tokens that leaves share have part in them.

    Attributes:
        credit: `soft`: each row has its leaf's advantage, (r - mean) / deviation over the group. `hard`: a token has
            the mean advantage of the leaves that share it. `weighted`: an unbiased estimate of the gradient, of leaves
            by Π 1/Z and trees against each other, without a division. `inter_intra`: the advantage in the group plus
            that in the tree, as Tree-GRPO's paper has it; `intra`: that in the tree alone, which is what its released
            code computes.
    """

    sums: ClassVar[bool] = True

    credit: Credit = "soft"

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def reads(self) -> frozenset[str]:
        """The facts of attempts without which it is not defined."""
        return frozenset(CREDITS[self.credit])

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"own"}) if self.credit == "hard" else frozenset()

    def weights(self, batch: Scored) -> Tensor:
        """See `Objective`."""
        rewards, facts = batch.rewards, batch.facts
        size = rewards.shape[1]
        if self.credit == "weighted":
            return weighted(rewards, facts["tree"], facts["weight"], facts["fresh"])
        if self.credit == "intra":
            return within_trees(rewards, facts["tree"], facts["fresh"]) / size
        advantages = standardised(rewards)
        if self.credit == "inter_intra":
            return (advantages + within_trees(rewards, facts["tree"], facts["fresh"])) / size
        if self.credit == "hard":
            shared = shared_tokens(facts["parent"], facts["fork"])
            return hard(advantages, shared, rewards.isfinite(), cast(Tensor, batch.own).shape[-1]) / size
        return advantages / size


def shared_tokens(parent: Tensor, fork: Tensor) -> Tensor:
    """How many first tokens every two attempts of a group share.

    Args:
        parent: which attempt each forked from, one that stands before it, or -1; shape (P, G).
        fork: how many of its first tokens are that one's, shape (P, G).

    Returns:
        Shape (P, G, G), infinite on the diagonal.
    """
    prompts, size = parent.shape
    shared = torch.diag(torch.full((size,), torch.inf, dtype=fork.dtype)).repeat(prompts, 1, 1).to(fork.device)
    every = torch.arange(prompts, device=parent.device)
    for leaf in range(1, size):
        origin = parent[:, leaf].long()
        upto = torch.minimum(shared[every, origin.clamp(min=0), :leaf], fork[:, leaf, None])
        upto = torch.where(origin[:, None] < 0, 0, upto)
        shared[:, leaf, :leaf] = shared[:, :leaf, leaf] = upto
    return shared


def standardised(rewards: Tensor) -> Tensor:
    """(r - mean) / deviation over the graded attempts of each group, 0 for the others; shape (P, G)."""
    return _standardised(rewards, rewards.isfinite()[:, None, :])[:, 0]


def within_trees(rewards: Tensor, tree: Tensor, fresh: Tensor) -> Tensor:
    """The same over the graded leaves of each attempt's tree, shape (P, G); 0 for a tree of one leaf."""
    alike = (tree[:, :, None] == tree[:, None, :]) & ~(fresh.bool()[:, :, None] | fresh.bool()[:, None, :])
    every = _standardised(rewards, alike & rewards.isfinite()[:, None, :])
    return every.diagonal(dim1=1, dim2=2)


def _standardised(rewards: Tensor, members: Tensor) -> Tensor:
    """Advantages of every attempt by the members of each set; members (P, S, G) to shape (P, S, G)."""
    known = rewards.nan_to_num(0.0)[:, None, :]
    count = members.sum(-1, keepdim=True)
    mean = (known * members).sum(-1, keepdim=True) / count.clamp(min=1)
    spread = (((known - mean) * members) ** 2).sum(-1, keepdim=True) / (count - 1).clamp(min=1)
    return torch.where(members, (known - mean) / (spread.sqrt() + _TINY), 0.0)


def hard(advantages: Tensor, shared: Tensor, graded: Tensor, tokens: int) -> Tensor:
    """The mean advantage of the graded leaves that share each token, for each graded leaf's row.

    Args:
        advantages: shape (P, G).
        shared: as `shared_tokens` gives it.
        graded: which leaves were, shape (P, G).
        tokens: T.

    Returns:
        Shape (P, G, T).
    """
    places = torch.arange(tokens, device=advantages.device)
    members = (shared[..., None] > places) & graded[:, None, :, None]
    total = (members * advantages[:, None, :, None]).sum(2)
    return torch.where(graded[..., None], total / members.sum(2).clamp(min=1), 0.0)


def weighted(rewards: Tensor, tree: Tensor, weight: Tensor, fresh: Tensor) -> Tensor:
    """Weights of leaves under which the estimate of the gradient is unbiased, whatever made attempts fork.

    A tree's value is the mean of its leaves by their `weight`. Its baseline is the mean value of the other trees, which
    do not depend on it. Fresh attempts have the mean of all trees for a baseline, and together the part that trees
    leave them; a tree's own part falls with how many the *other* trees lack, so that it does not depend on the tree
    either.

    Args:
        rewards: shape (P, G); NaN for a leaf that was not graded, which its tree's other leaves stand in for.
        tree, weight, fresh: as in `selfroute.train.rl.rollouts.tree.FACTS`, shape (P, G).

    Returns:
        Shape (P, G).
    """
    old, graded = fresh == 0, rewards.isfinite()
    trees = int(tree.max()) + 1
    member = (tree[..., None] == torch.arange(trees, device=tree.device)) & old[..., None]
    mass = member * (weight * graded)[..., None]
    total = mass.sum(1, keepdim=True)
    mass = mass / torch.where(total > 0, total, 1.0)
    alive = (total[:, 0] > 0).to(rewards.dtype)
    values = (mass * rewards.nan_to_num(0.0)[..., None]).sum(1)
    baseline, part = _others(values, alive), _parts(tree, fresh, alive)
    leaves = (mass * (part * alive)[:, None] * (rewards.nan_to_num(0.0)[..., None] - baseline[:, None])).sum(-1)
    return leaves + _filled(rewards, fresh, values, alive, 1 - (part * alive).sum(1))


def _others(values: Tensor, alive: Tensor) -> Tensor:
    """The mean value of the other trees, 0 without any; shape (P, N)."""
    count = alive.sum(1, keepdim=True) - alive
    return ((values * alive).sum(1, keepdim=True) - values * alive) / count.clamp(min=1)


def _parts(tree: Tensor, fresh: Tensor, alive: Tensor) -> Tensor:
    """The part of the estimate that each tree has, from what the others lack of leaves; shape (P, N)."""
    count = alive.sum(1, keepdim=True)
    places = torch.arange(alive.shape[1], device=tree.device)
    lacking = ((tree[..., None] == places) & (fresh[..., None] > 0)).to(alive.dtype).sum(1)
    others = lacking.sum(1, keepdim=True) - lacking
    return 1 / (count + others * count / (count - 1).clamp(min=1)).clamp(min=1)


def _filled(rewards: Tensor, fresh: Tensor, values: Tensor, alive: Tensor, part: Tensor) -> Tensor:
    """Weights of the fresh attempts, which share `part` of the estimate."""
    graded = (fresh > 0) & rewards.isfinite()
    mean = (values * alive).sum(1) / alive.sum(1).clamp(min=1)
    each = part / graded.sum(1).clamp(min=1)
    return torch.where(graded, each[:, None] * (rewards.nan_to_num(0.0) - mean[:, None]), 0.0)

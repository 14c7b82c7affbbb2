"""Modified subtrajectory balance (arXiv 2310.04363, equation 3): every beginning of an attempt could have been its end.

Text from left to right is a tree, and each prefix z_1:n may end, so the flow through it is R(z_1:n ⊤) / q(⊤ | z_1:n).
Of each pair of prefixes i < j of one attempt,

    [log R(z_1:i ⊤) + Σ_k log q(z_k | z_<k) + log q(⊤ | z_1:j) - log R(z_1:j ⊤) - log q(⊤ | z_1:i)]²

goes down. That needs the probability of ending at every place, which no sampled token holds: a loss, not a weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from selfroute.bounds import Bounds, Positive, check_fields
from selfroute.errors import ConfigError
from selfroute.train.rl.objectives.balance import Target
from selfroute.train.rl.objectives.base import Scored
from selfroute.train.rl.view import TokenView

__all__ = ["SubTB", "balances", "pair_loss", "reference_rewards"]

Decay = Annotated[float, Bounds(0.0, 1.0)]


def balances(logps: Tensor, stops: Tensor, log_rewards: Tensor, own: Tensor) -> Tensor:
    """a_n = log R(z_1:n ⊤) - log q(⊤ | z_1:n) - Σ_{k≤n} log q(z_k); the residual of a pair is a_i - a_j. Shape (B, T).

    Args:
        logps, stops: log-probability of each token, and of ending in its place, shape (B, T).
        log_rewards: of ending there, shape (B, T).
        own: the tokens that the policy wrote; the others have no part in the sum.
    """
    return log_rewards - stops - before(logps, own)


def before(logps: Tensor, own: Tensor) -> Tensor:
    """Sum over the own tokens in front of each, shape (B, T)."""
    counted = torch.where(own, logps, 0.0)
    return counted.cumsum(1) - counted


def pair_loss(values: Tensor, valid: Tensor, *, decay: float = 1.0) -> Tensor:
    """Mean of (a_i - a_j)² over the pairs i < j of valid places of each row, weighted by decay^(j-i); shape (B,).

    A row with fewer than two valid places has no pair and is 0. Without decay it takes no matrix of pairs: the sum over
    all of n values is n times the sum of their squared distances from their mean.
    """
    count = valid.sum(1)
    if decay == 1.0:
        mean = torch.where(valid, values, 0.0).sum(1, keepdim=True) / count.clamp(min=1)[:, None]
        around = torch.where(valid, values - mean, 0.0).square().sum(1)
        return 2.0 * around / (count - 1).clamp(min=1)
    places = torch.arange(values.shape[1], device=values.device)
    apart = (places[None, :] - places[:, None]).clamp(min=0)
    pairs = valid[:, :, None] & valid[:, None, :] & (apart > 0)
    shares = torch.where(pairs, torch.as_tensor(decay, dtype=values.dtype) ** apart, 0.0)
    squares = torch.where(pairs, values[:, :, None] - values[:, None, :], 0.0).square()
    total = shares.sum((1, 2))
    return (shares * squares).sum((1, 2)) / torch.where(total > 0, total, 1.0)


def reference_rewards(logps: Tensor, stops: Tensor, own: Tensor, *, temperature: float) -> Tensor:
    """log R(z_1:n ⊤) = log p_ref(z_1:n ⊤) / τ at every place, by one pass of a frozen language model. Shape (B, T)."""
    return (before(logps, own) + stops) / temperature


@dataclass(frozen=True, kw_only=True)
class SubTB(Target):
    """Modified subtrajectory balance, for rewards that are known of every prefix.

    Attributes:
        temperature: τ of the reference: the policy learns to draw whole texts from p_ref^(1/τ), which a temperature
            per token does not give.
        prefix_reward: `reference` takes the log-probability of ending under the frozen model.
        decay: λ, by which a pair counts less for each token between its prefixes.

    Raises:
        ConfigError: there is no reward of prefixes, or an option that cannot be.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"ref_prefixes"})
    sums: ClassVar[bool] = True
    off_policy: ClassVar[bool] = True

    temperature: Positive = 0.8
    prefix_reward: Literal["none", "reference"] = "none"
    decay: Decay = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.prefix_reward == "none":
            raise ConfigError(
                "prefix_reward: subtb needs the reward of every beginning of an attempt, and a verifier judges whole "
                "answers alone; set prefix_reward=reference, or take objective vargrad_tb"
            )
        if self.length != "sum":
            raise ConfigError(f"length={self.length}: subtb is a sum over tokens; leave length out")

    def prefix_rewards(self, logps: Tensor, stops: Tensor, own: Tensor, *, step: int) -> Tensor:
        """See `ByPrefix`."""
        return reference_rewards(logps, stops, own, temperature=self.heat(step))

    def weights(self, batch: Scored) -> Tensor:
        """Each attempt's part in the mean over its group: they count alike, graded or not."""
        return torch.full_like(batch.rewards, 1.0 / batch.rewards.shape[1])

    def loss(self, view: TokenView, rows: Mapping[str, Any]) -> Tensor:
        """See `Objective`."""
        assert view.stop is not None
        found = balances(view.logps, view.stop, rows["prefix_rewards"], view.own)
        terms: Tensor = rows["advantages"] * pair_loss(found, view.own, decay=self.decay)
        return terms

    def learn(self, batch: Scored) -> Mapping[str, float]:
        """Metrics of the step."""
        return {"objective/temperature": self.heat(batch.step)}

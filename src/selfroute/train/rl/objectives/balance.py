"""Trajectory balance: attempts in proportion to what they are worth, where a maximum would keep the best one alone.

The target of a prompt x is R(y) = p_ref(y | x) · exp(u(y) / τ), with the reward u as utility and the temperature τ. An
attempt has the gap d_i = log q(y_i) - log R(y_i), and (log Z + d_i)² has the gradient of log q(y_i) weighted by
2 (log Z + d_i), a constant: these losses are advantages (arXiv 2310.04363, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from selfroute.bounds import Count, Positive, Rate, check_fields
from selfroute.train.rl.objectives.base import Scored

__all__ = ["TB", "Target", "VarGradTB", "mean_gap", "residuals_to_weights"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """What attempts are to be in proportion to.

    Attributes:
        temperature: τ, by which a reward is divided; the lower, the nearer to the best attempt alone.
        final_temperature: to which it moves in a straight line; None leaves it.
        temperature_steps: in which it does.
        length: log-probabilities of policy and reference are a `sum` over tokens, or their `mean`: that is another
            target, under which a long attempt is as likely as a short one.

    Raises:
        ConfigError: an option that cannot be.
    """

    temperature: Positive = 0.25
    final_temperature: Positive | None = None
    temperature_steps: Count = 100
    length: Literal["sum", "mean"] = "sum"

    def __post_init__(self) -> None:
        check_fields(self)

    def heat(self, step: int) -> float:
        """τ after so many steps."""
        if self.final_temperature is None:
            return self.temperature
        done = min(1.0, step / self.temperature_steps)
        return self.temperature + done * (self.final_temperature - self.temperature)

    def gaps(self, batch: Scored) -> Tensor:
        """d = log q - log R of each attempt, shape (P, G); NaN where there is no reward."""
        assert batch.logq is not None and batch.ref_logq is not None
        return (batch.logq - batch.ref_logq) / self.spans(batch) - batch.rewards / self.heat(batch.step)

    def spans(self, batch: Scored) -> Tensor:
        """What each attempt's log-probability is divided by, shape (P, G)."""
        if self.length == "sum":
            return torch.ones_like(batch.rewards)
        assert batch.own is not None
        return batch.own.sum(2).clamp(min=1).to(batch.rewards)


def mean_gap(gaps: Tensor) -> Tensor:
    """Mean over the graded attempts of each group, shape (P, 1); 0 for a group without any."""
    return gaps.nanmean(1, keepdim=True).nan_to_num()


def residuals_to_weights(residuals: Tensor, spans: Tensor) -> Tensor:
    """Weights whose policy gradient is that of the mean of the squared residuals over each group, going down.

    Args:
        residuals: log Z + d, shape (P, G); NaN where an attempt was not graded.
        spans: what log q is divided by in d, shape (P, G).
    """
    graded = (~residuals.isnan()).sum(1, keepdim=True).clamp(min=1)
    return (-2.0 * residuals / (graded * spans)).nan_to_num()


@dataclass(frozen=True, kw_only=True)
class VarGradTB(Target):
    """Trajectory balance with each group's own mean for log Z: the variance of d within a group goes down.

    The twin of the group estimator: nothing is learned beside the policy (arXiv 2310.04363; VarGrad, 2010.10436).
    """

    sums: ClassVar[bool] = True
    off_policy: ClassVar[bool] = True

    @property
    def needs(self) -> frozenset[str]:
        return balance_needs(self)

    def residuals(self, batch: Scored) -> Tensor:
        gaps = self.gaps(batch)
        return gaps - mean_gap(gaps)

    def weights(self, batch: Scored) -> Tensor:
        return residuals_to_weights(self.residuals(batch), self.spans(batch))

    def learn(self, batch: Scored) -> Mapping[str, float]:
        """Metrics of the step."""
        return balance_metrics(self, batch, self.residuals(batch), -mean_gap(self.gaps(batch)))


@dataclass(frozen=True, kw_only=True)
class TB(Target):
    """Trajectory balance with a log Z of each row that is learned.

    A row's log Z begins as its first group's own, and goes along its gradient of the same loss from then on, so that
    a row that comes up again is compared with more than one group.

    Attributes:
        z_rate: step size of log Z; 0.5 takes the last group's own.
    """

    sums: ClassVar[bool] = True
    off_policy: ClassVar[bool] = True

    z_rate: Rate = 0.1
    log_z: dict[str, float] = field(default_factory=dict, init=False, repr=False)

    @property
    def needs(self) -> frozenset[str]:
        return balance_needs(self)

    def known(self, batch: Scored) -> Tensor:
        """log Z of each prompt, shape (P, 1)."""
        own = -mean_gap(self.gaps(batch))
        found = [self.log_z.get(row, float(first)) for row, first in zip(batch.rows, own[:, 0], strict=True)]
        return own.new_tensor(found)[:, None]

    def residuals(self, batch: Scored) -> Tensor:
        return self.gaps(batch) + self.known(batch)

    def weights(self, batch: Scored) -> Tensor:
        return residuals_to_weights(self.residuals(batch), self.spans(batch))

    def learn(self, batch: Scored) -> Mapping[str, float]:
        """One step of log Z; metrics."""
        before, residuals = self.known(batch), self.residuals(batch)
        after = before - 2.0 * self.z_rate * mean_gap(residuals)
        self.log_z.update(zip(batch.rows, after[:, 0].tolist(), strict=True))
        return balance_metrics(self, batch, residuals, before)

    def state(self) -> dict[str, float]:
        """As in `selfroute.train.rl.checkpoint.Part`."""
        return dict(self.log_z)

    def restore(self, state: Any) -> None:
        """As in `selfroute.train.rl.checkpoint.Part`."""
        self.log_z.clear()
        self.log_z.update(state)


def balance_needs(target: Target) -> frozenset[str]:
    """What the gaps of a target are made of."""
    return frozenset({"logq", "ref_logq"} | ({"own"} if target.length == "mean" else set()))


def balance_metrics(target: Target, batch: Scored, residuals: Tensor, log_z: Tensor) -> dict[str, float]:
    """What a step says of a balance; docs/objectives.md explains each."""
    assert batch.logq is not None and batch.ref_logq is not None
    return {
        "objective/loss": float(residuals.square().nanmean().nan_to_num()),
        "objective/log_z": float(log_z.mean()),
        "objective/temperature": target.heat(batch.step),
        "objective/from_reference": float((batch.logq - batch.ref_logq).mean()),
    }

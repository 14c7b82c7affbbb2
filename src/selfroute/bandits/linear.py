"""Ridge regression per arm, with forgetting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from selfroute.errors import ConfigError

__all__ = ["Ridges"]

Floats = npt.NDArray[np.float64]


class Ridges:
    """One disjoint linear model per arm: A = ridge·I + Σ w γ^age x xᵀ, b = Σ w γ^age q x, θ = A⁻¹ b.

    With a discount, what an arm was told fades with every outcome of any arm, and the ridge does not: the variance of
    an arm that is not asked grows by 1/γ an outcome, up to that of one about which nothing is known (after Russac,
    Vernade and Cappé, arXiv 1909.09146).

    Args:
        features: d, numbers in a context, 1 at least; a constant one among them is the caller's to add.
        ridge: λ of the regression, above 0.
        discount: γ in (0, 1]; 1 forgets nothing.

    Raises:
        ConfigError: a value out of range.
    """

    def __init__(self, arms: Sequence[str], features: int, *, ridge: float = 1.0, discount: float = 1.0) -> None:
        if features < 1:
            raise ConfigError(f"features: {features} is below 1; a linear policy needs numbers that describe a request")
        if not ridge > 0.0:
            raise ConfigError(f"ridge: {ridge} is not above 0; write e.g. 1.0")
        if not 0.0 < discount <= 1.0:
            raise ConfigError(f"discount: {discount} is outside (0, 1]; 0.997 halves a weight in 231 outcomes")
        self.features = features
        self._ridge = ridge
        self._unknown = ridge * np.eye(features)
        self._discount = discount
        self._row = {arm: number for number, arm in enumerate(arms)}
        self._told = np.zeros((len(arms), features, features))  # Σ w γ^age x xᵀ at the arm's last outcome
        self._pull = np.zeros((len(arms), features))  # b at the arm's last outcome
        self._at = np.zeros(len(arms), dtype=np.int64)  # when that was
        self._now = 0
        self._solve_all()

    def add(self, arm: str, features: Sequence[float], quality: float, weight: float = 1.0) -> None:
        """Take in one observation.

        Raises:
            ConfigError: the features are not `self.features` numbers.
        """
        x = self.vector(features)
        row = self._row[arm]
        self._now += 1
        kept = self._discount ** (self._now - self._at[row])
        self._told[row] = kept * self._told[row] + weight * (x[:, None] * x)
        self._pull[row] = kept * self._pull[row] + weight * quality * x
        self._at[row] = self._now
        self._solve(row)

    def predict(self, arms: Sequence[str], features: Sequence[float]) -> tuple[Floats, Floats]:
        """Expected quality θᵀx and variance xᵀA⁻¹x of each arm, shape (K,) each.

        Raises:
            ConfigError: the features are not `self.features` numbers.
        """
        x = self.vector(features)
        rows = [self._row[arm] for arm in arms]
        means = self._theta[rows] @ x
        variances = (self._inverse[rows] @ x) @ x
        if self._discount < 1.0:
            age = self._now - self._at[rows]
            # An arm known from long ago is at most as unknown as a new one.
            variances = np.minimum(variances * self._discount ** -age.astype(np.float64), x @ x / self._ridge)
        return means, variances

    def vector(self, features: Sequence[float]) -> Floats:
        """The features as an array.

        Raises:
            ConfigError: they are not `self.features` numbers.
        """
        if len(features) != self.features:
            raise ConfigError(f"features: {len(features)} numbers, and the policy was made for {self.features}")
        return np.asarray(features, dtype=np.float64)

    def _solve(self, row: int) -> None:
        inverse = np.linalg.inv(self._told[row] + self._unknown)
        self._inverse[row] = inverse
        self._theta[row] = inverse @ self._pull[row]

    def _solve_all(self) -> None:
        self._inverse = np.zeros_like(self._told)
        self._theta = np.zeros_like(self._pull)
        for row in range(len(self._row)):
            self._solve(row)

    def state(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "arms": list(self._row),
            "told": self._told.tolist(),
            "pull": self._pull.tolist(),
            "at": self._at.tolist(),
            "now": self._now,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken, of as many features; arms that are no more are forgotten, new ones unknown.

        Raises:
            ConfigError: the state has another number of features.
        """
        pull = np.asarray(state["pull"], dtype=np.float64)
        if pull.shape[-1] != self.features:
            raise ConfigError(f"state: it has {pull.shape[-1]} features, and the policy {self.features}; start anew")
        known = [(row, state["arms"].index(arm)) for arm, row in self._row.items() if arm in state["arms"]]
        rows, theirs = [row for row, _ in known], [their for _, their in known]
        for mine, told in ((self._told, state["told"]), (self._pull, pull), (self._at, state["at"])):
            mine[:] = 0
            mine[rows] = np.asarray(told)[theirs]
        self._now = state["now"]
        self._solve_all()

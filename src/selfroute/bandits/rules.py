"""What each arm seems to be worth: one row of numbers, or one per draw of the posterior."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from selfroute.bandits.base import Outcome
from selfroute.bandits.linear import Ridges
from selfroute.bandits.tallies import Tallies
from selfroute.errors import ConfigError

__all__ = ["UCB", "BernoulliThompson", "Fixed", "GaussianThompson", "Greedy", "LinUCB", "Rule"]

Rows = Sequence[Sequence[float]] | npt.NDArray[np.float64]


class Rule(Protocol):
    """How quality is learnt and judged. What an arm is worth at the quote of the moment is not its matter.

    Attributes:
        draws: rows that `rows` gives, None if it is always the same one.
    """

    draws: int | None

    def rows(self, arms: Sequence[str], features: Sequence[float], rng: np.random.Generator) -> Rows:
        """A number per arm, of quality, higher is better; shape (draws or 1, K)."""
        ...

    def means(self, arms: Sequence[str], features: Sequence[float]) -> list[float | None]:
        """The quality that is expected of each arm, nothing added to it; None where nothing is known."""
        ...

    def learn(self, arm: str, quality: float, outcome: Outcome) -> None:
        """Take in the quality of one answer."""
        ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


class Fixed:
    """One arm as long as it is a candidate, else the cheapest."""

    draws: int | None = None

    def __init__(self, arm: str) -> None:
        self.arm = arm

    def rows(self, arms: Sequence[str], features: Sequence[float], rng: np.random.Generator) -> Rows:
        return [[math.inf if arm == self.arm else 0.0 for arm in arms]]

    def means(self, arms: Sequence[str], features: Sequence[float]) -> list[float | None]:
        return [None] * len(arms)

    def learn(self, arm: str, quality: float, outcome: Outcome) -> None:
        """There is nothing to learn."""

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """There is nothing to restore."""


class _Tallied:
    """What rules over counts and means share."""

    draws: int | None = None

    def __init__(self, tallies: Tallies) -> None:
        self.tallies = tallies

    def means(self, arms: Sequence[str], features: Sequence[float]) -> list[float | None]:
        return [self.tallies.mean(arm) for arm in arms]

    def learn(self, arm: str, quality: float, outcome: Outcome) -> None:
        self.tallies.add(arm, quality, outcome.weight)

    def state(self) -> dict[str, Any]:
        return self.tallies.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self.tallies.restore(state)


class Greedy(_Tallied):
    """The mean, and nothing added to it; an arm of which nothing is known comes first."""

    def rows(self, arms: Sequence[str], features: Sequence[float], rng: np.random.Generator) -> Rows:
        return [[math.inf if mean is None else mean for mean in self.means(arms, features)]]


class UCB(_Tallied):
    """Mean + scale · sqrt(α log n / n_a): UCB1 of Auer et al. (2002) for α = 2, the paper's for α = 0.5.

    With a discount or a window n and n_a are of what still counts (Garivier and Moulines, arXiv 0805.3415).

    Args:
        scale: unit of the bonus: the standard deviation of a reward. The bonus itself has none.

    Raises:
        ConfigError: a value out of range.
    """

    def __init__(self, tallies: Tallies, *, alpha: float = 0.5, scale: float = 1.0) -> None:
        super().__init__(tallies)
        _not_negative(alpha=alpha, scale=scale)
        self._spread = scale * math.sqrt(alpha)

    def rows(self, arms: Sequence[str], features: Sequence[float], rng: np.random.Generator) -> Rows:
        return [[mean + bonus for mean, bonus in map(self.parts, arms)]]

    def parts(self, arm: str) -> tuple[float, float]:
        """Exploitation value and exploration bonus of one arm, as algorithm-guided prompts show them."""
        count = self.tallies.count(arm)
        if not count:
            return 0.0, math.inf
        log = math.log(max(1.0, self.tallies.total()))
        return self.tallies.sum(arm) / count, self._spread * math.sqrt(log / count)


class BernoulliThompson(_Tallied):
    """Draws of Beta(1 + Σq, 1 + Σ(1 - q)) (Thompson 1933); a quality between 0 and 1 is a success in part.

    Args:
        draws: rows drawn per decision, see `selfroute.bandits.policy.Policy`.

    Raises:
        ConfigError: fewer than one draw.
    """

    def __init__(self, tallies: Tallies, *, draws: int = 32) -> None:
        super().__init__(tallies)
        self.draws = self._draws = _draws(draws)

    def rows(self, arms: Sequence[str], features: Sequence[float], rng: np.random.Generator) -> Rows:
        sums = [max(0.0, self.tallies.sum(arm)) for arm in arms]
        rest = [max(0.0, self.tallies.count(arm) - own) for arm, own in zip(arms, sums, strict=True)]
        return rng.beta([1.0 + one for one in sums], [1.0 + one for one in rest], (self._draws, len(arms)))

    def learn(self, arm: str, quality: float, outcome: Outcome) -> None:
        if not 0.0 <= quality <= 1.0:
            raise ConfigError(f"quality: {quality} is outside [0, 1]; take gaussian_thompson for other rewards")
        super().learn(arm, quality, outcome)


class GaussianThompson(_Tallied):
    """Draws of the posterior of a normal mean with known noise, prior N(0, prior²).

    Args:
        noise: standard deviation of one quality, above 0.
        prior: standard deviation of an arm's mean, above 0.
        draws: rows drawn per decision.

    Raises:
        ConfigError: a value out of range.
    """

    def __init__(self, tallies: Tallies, *, noise: float = 1.0, prior: float = 1.0, draws: int = 32) -> None:
        super().__init__(tallies)
        if not (noise > 0.0 and prior > 0.0):
            raise ConfigError(f"noise, prior: {noise}, {prior} must be above 0; write e.g. 0.3 and 1.0")
        self.draws = self._draws = _draws(draws)
        self._per_value = noise**-2
        self._prior = prior**-2

    def rows(self, arms: Sequence[str], features: Sequence[float], rng: np.random.Generator) -> Rows:
        precision = [self._prior + self._per_value * self.tallies.count(arm) for arm in arms]
        means = [self._per_value * self.tallies.sum(arm) / own for arm, own in zip(arms, precision, strict=True)]
        deviations = [own**-0.5 for own in precision]
        return rng.normal(means, deviations, (self._draws, len(arms)))


class LinUCB:
    """θᵀx + α sqrt(xᵀA⁻¹x), one model per arm (Li et al., arXiv 1003.0146).

    Raises:
        ConfigError: a value out of range.
    """

    draws: int | None = None

    def __init__(self, ridges: Ridges, *, alpha: float = 0.5) -> None:
        _not_negative(alpha=alpha)
        self.ridges = ridges
        self._alpha = alpha

    def rows(self, arms: Sequence[str], features: Sequence[float], rng: np.random.Generator) -> Rows:
        means, bonuses = self.parts(arms, features)
        row: list[float] = (means + bonuses).tolist()
        return [row]

    def parts(self, arms: Sequence[str], features: Sequence[float]) -> tuple[Any, Any]:
        """Exploitation values and exploration bonuses, shape (K,) each."""
        means, variances = self.ridges.predict(arms, features)
        return means, self._alpha * np.sqrt(variances)

    def means(self, arms: Sequence[str], features: Sequence[float]) -> list[float | None]:
        return list(map(float, self.ridges.predict(arms, features)[0]))

    def learn(self, arm: str, quality: float, outcome: Outcome) -> None:
        self.ridges.add(arm, outcome.features, quality, outcome.weight)

    def state(self) -> dict[str, Any]:
        return self.ridges.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self.ridges.restore(state)


def _draws(draws: int) -> int:
    if draws < 1:
        raise ConfigError(f"draws: {draws} is below 1; 32 is a fair number")
    return draws


def _not_negative(**options: float) -> None:
    for name, value in options.items():
        if not (math.isfinite(value) and value >= 0.0):
            raise ConfigError(f"{name}: {value} is not a number of 0 or more")

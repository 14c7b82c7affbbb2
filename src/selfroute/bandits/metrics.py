"""How well a run explored: the metrics of EVOLvE (arXiv 2410.06238, sections 3 and 6). Needs scipy for two of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations

import numpy as np
import numpy.typing as npt

from selfroute.bandits.play import Played
from selfroute.errors import ConfigError

__all__ = ["Growth", "bayes_optimal", "best_share", "fit_growth", "greedy_frequency", "suffix_fails", "win_rates"]

Floats = npt.NDArray[np.float64]


def best_share(run: Played) -> float:
    """Share of the steps in which the best arm was chosen."""
    return float(run.best.mean())


def suffix_fails(run: Played) -> bool:
    """SuffixFail: the best arm was never chosen after T/2 (Krishnamurthy et al., arXiv 2403.15371)."""
    return not run.best[len(run.best) // 2 :].any()


def greedy_frequency(run: Played, arms: int) -> float:
    """Share of the steps in which the arm with the highest mean reward so far was chosen; untried arms have none."""
    counts, sums = np.zeros(arms), np.zeros(arms)
    greedy = 0
    for step, (arm, reward) in enumerate(zip(run.chosen.tolist(), run.rewards.tolist(), strict=True)):
        if step and counts[arm]:
            tried = counts > 0
            greedy += bool(sums[arm] / counts[arm] >= (sums[tried] / counts[tried]).max())
        counts[arm] += 1
        sums[arm] += reward
    return greedy / max(1, len(run.chosen) - 1)


@dataclass(frozen=True, slots=True)
class Growth:
    """f(T) = λ₁ (log T)^α / Δ + β T + λ₂, fitted to the mean regret of T steps.

    Attributes:
        beta: share of the growth that never stops; 0 of an algorithm that learns. Read this one first.
        alpha: power of the logarithm; many values fit about as well.
        log_part: λ₁.
        offset: λ₂.
        error: root mean square of what is left.
    """

    beta: float
    alpha: float
    log_part: float
    offset: float
    error: float


def fit_growth(regret: Floats, gap: float = 1.0) -> Growth:
    """Fit the growth of cumulative regret, by least squares with λ₁, β ≥ 0 for each α of a grid.

    Args:
        regret: cumulative, of steps 1 to T, the mean over runs; shape (T,).
        gap: Δ.
    """
    from scipy.optimize import lsq_linear

    steps = np.arange(1.0, len(regret) + 1.0)
    fits = []
    for alpha in np.arange(0.25, 4.01, 0.25):
        columns = np.stack([np.log(steps) ** alpha / gap, steps, np.ones_like(steps)], axis=1)
        found = lsq_linear(columns, regret, bounds=([0.0, 0.0, -np.inf], np.inf))
        log_part, beta, offset = map(float, found.x)
        error = float(np.sqrt(2.0 * found.cost / len(steps)))
        fits.append(Growth(beta, float(alpha), log_part, offset, error))
    return min(fits, key=lambda fit: fit.error)


def win_rates(regrets: Mapping[str, Sequence[Floats]], level: float = 0.05) -> dict[str, float]:
    """Share of comparisons with another policy in a setting that a policy wins: lower regret, p < 0.05 by Welch's test.

    Args:
        regrets: by policy, the final regrets of each setting; shape (runs,) each, settings in the same order.

    Raises:
        ConfigError: there is nothing to compare with, or a setting has one run only.
    """
    from scipy.stats import ttest_ind

    if len(regrets) < 2 or any(len(runs) < 2 for own in regrets.values() for runs in own):
        raise ConfigError("regrets: a win rate needs two policies and two runs of each setting at least")
    wins: dict[str, list[bool]] = {name: [] for name in regrets}
    for name, other in permutations(regrets, 2):
        for own, theirs in zip(regrets[name], regrets[other], strict=True):
            same = np.ptp(own) == 0.0 and np.ptp(theirs) == 0.0  # the test has no answer then
            sure = own[0] != theirs[0] if same else ttest_ind(own, theirs, equal_var=False).pvalue < level
            wins[name].append(bool(sure and own.mean() < theirs.mean()))
    return {name: float(np.mean(own)) for name, own in wins.items()}


def bayes_optimal(horizon: int) -> float:
    """The highest expected reward of two Bernoulli arms with means from U(0, 1), by dynamic programming.

    Nothing that sees rewards alone can do better in the mean over arms drawn so. Work grows with T⁴: T up to some 40.
    """

    @cache
    def value(left: int, right_a: int, wrong_a: int, right_b: int, wrong_b: int) -> float:
        if not left:
            return 0.0
        mean_a, mean_b = (1 + right_a) / (2 + right_a + wrong_a), (1 + right_b) / (2 + right_b + wrong_b)
        after_a = mean_a * (1.0 + value(left - 1, right_a + 1, wrong_a, right_b, wrong_b))
        after_a += (1.0 - mean_a) * value(left - 1, right_a, wrong_a + 1, right_b, wrong_b)
        after_b = mean_b * (1.0 + value(left - 1, right_a, wrong_a, right_b + 1, wrong_b))
        after_b += (1.0 - mean_b) * value(left - 1, right_a, wrong_a, right_b, wrong_b + 1)
        return max(after_a, after_b)

    return value(horizon, 0, 0, 0, 0)

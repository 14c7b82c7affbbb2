"""Independent categoricals, one per slot: drawing from them, the score function's gradient, the exact projection."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from selfroute.errors import ConfigError
from selfroute.rewards.group import group_weights
from selfroute.tuning.base import Choices, Distributions, Floats, as_rewards

__all__ = ["check_floor", "draw", "likeliest", "project", "project_all", "score_gradient", "uniform"]


def uniform(sizes: Sequence[int]) -> Distributions:
    """The same probability for each choice of each slot."""
    return tuple(np.full(size, 1.0 / size) for size in sizes)


def check_floor(floor: float, sizes: Sequence[int]) -> None:
    """See that every choice can have at least `floor`.

    Raises:
        ConfigError: a slot has too many choices for it.
    """
    most = max(sizes, default=1)
    if not 0.0 <= floor < 1.0 / most:
        raise ConfigError(f"floor: {floor:g} does not leave room for {most} choices; take one below {1 / most:g}")


def project(values: Floats, floor: float = 0.0) -> Floats:
    """The nearest distribution, in Euclidean distance, whose probabilities are all at least `floor`.

    Exact, by sorting (Held, Wolfe and Crowder 1974). What exceeds the floors is a point of a smaller simplex.

    Args:
        values: shape (N,), finite.
        floor: below 1 / N.
    """
    room = 1.0 - len(values) * floor
    ordered = np.sort(values)[::-1]
    excess = (np.cumsum(ordered - floor) - room) / np.arange(1, len(values) + 1)
    kept = int(np.count_nonzero(ordered - floor > excess))
    above: Floats = np.maximum(values - floor - excess[kept - 1], 0.0)
    return floor + above


def project_all(values: Sequence[Floats], floor: float) -> Distributions:
    """`project` for each slot."""
    return tuple(project(one, floor) for one in values)


def draw(distributions: Distributions, rng: np.random.Generator, count: int) -> list[Choices]:
    """Choices for all slots, `count` times."""
    columns = [rng.choice(len(p), size=count, p=p / p.sum()) for p in distributions]
    return [tuple(int(column[i]) for column in columns) for i in range(count)]


def likeliest(distributions: Distributions) -> Choices:
    """The choice with the highest probability of each slot; of equal ones the first."""
    return tuple(int(np.argmax(p)) for p in distributions)


def score_gradient(
    distributions: Distributions, choices: Sequence[Choices], rewards: Sequence[float | None]
) -> Distributions:
    """The gradient of the expected reward by each probability, from drawn choices (arXiv 2201.08531, eq. 5).

    1/(I-1) · Σ_s (r_s - r̄) · ∂ log P(j^s) / ∂p, with ∂ log P / ∂p_k = 1/p_k for the drawn choice and 0 for the others:
    the weights are GAPG's. BDPL's own code has -1/p_k for the others, which in expectation is twice this.

    Args:
        choices: drawn from `distributions`.
        rewards: one for each of them, None for those that could not be graded.
    """
    weights: Floats = group_weights(as_rewards(rewards), np)[0]
    found = tuple(np.zeros_like(p) for p in distributions)
    for chosen, weight in zip(choices, weights, strict=True):
        for gradient, p, k in zip(found, distributions, chosen, strict=True):
            gradient[k] += weight / p[k]
    return found

"""A reward against its group's mean: one function for tensors and arrays, as weights are trained and prompts tuned."""

from __future__ import annotations

from typing import Any

__all__ = ["group_weights"]


def group_weights(rewards: Any, library: Any) -> Any:
    """The weight of each draw's score function in the group estimator (arXiv 2509.24050, Prop. 3.1).

    ĝ = 1/(G-1) · Σ_i ∇ log π(y_i) · (r_i - r̄), so the weight of draw i is (r_i - r̄)/(G-1). It equals 1/G of the reward
    minus the mean of the other rewards (leave one out), which is why ĝ is unbiased. BDPL's estimator (arXiv 2201.08531)
    has the same weights.

    Args:
        rewards: shape (groups, G), of floats; NaN marks a draw that could not be graded.
        library: the module of the rewards' kind, torch or numpy.

    Returns:
        Shape (groups, G). NaN rewards get weight 0 and the rest of their group is treated as a smaller group; a group
        with fewer than two graded draws gets 0 throughout. Every row sums to 0.
    """
    graded = ~library.isnan(rewards)
    # Weights do not change with a shift. From the lowest reward on, a group of equal rewards is exactly 0 throughout,
    # where the mean of eight times 0.3 is not 0.3 and its rows would take part in the backward pass for nothing.
    lowest = library.amin(library.where(graded, rewards, float("inf")), 1)[..., None]
    raised = library.where(graded, rewards - lowest, 0.0)
    count = graded.sum(1)[..., None]
    weights = (raised - raised.sum(1)[..., None] / count.clip(1)) / (count - 1).clip(1)
    return library.where(graded & (count > 1), weights, library.zeros_like(weights))

"""The free baseline: arms mixed by a coin, at the same cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["static_mix"]


def static_mix(costs: Sequence[float], qualities: Sequence[float], cost: float) -> float | None:
    """The highest mean quality of a coin that mixes fixed arms and costs at most `cost` in the mean.

    It needs no context, no feedback and no learning once the arms' means are known, and is a corner of a linear
    programme: one arm, or two of which the mix costs exactly that.

    Returns:
        None if even the cheapest arm costs more.
    """
    order = np.argsort(costs, kind="stable")
    cost_of, quality_of = np.asarray(costs, dtype=float)[order], np.asarray(qualities, dtype=float)[order]
    within = cost_of <= cost
    if not within.any():
        return None
    best = float(quality_of[within].max())
    for low in np.flatnonzero(within):
        for high in np.flatnonzero(~within):
            share = (cost - cost_of[low]) / (cost_of[high] - cost_of[low])
            best = max(best, float(quality_of[low] + share * (quality_of[high] - quality_of[low])))
    return best

"""Accuracy against what is spent, along any resource: pure functions over arrays.

A *path* is what a strategy can be set to: its corners in the order in which they are gone through, from the device
alone to the cloud alone, each with the resource per request that it takes and the accuracy that it reaches. Between two
corners lies the straight line, which answering each request by a draw between both attains. No upper hull is taken:
a setting that is worse than its neighbours is shown as it is.

Conventions. Corners are arrays of shape (…, p), the leading shape that of bootstrap samples; a resource is a mean over
requests, an accuracy a fraction.
"""

from __future__ import annotations

import numpy as np

from selfroute.evaluation.counting.metrics import Floats, Ints, Quality

__all__ = ["FRACTIONS", "Path", "at_budget", "oracle_path", "path_of_points", "path_of_shares"]

FRACTIONS = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Of what asking the cloud alone spends: where strategies are compared."""

# Spent and accuracy, shape (…, p) each.
Path = tuple[Floats, Floats]

_EPSILON = 1e-12


def at_budget(path: Path, budget: Floats) -> Floats:
    """Accuracy at the farthest place of a path that keeps to a budget, shape (…); NaN where no place does.

    Where spending grows along the path that is the place which spends the budget exactly. Where it falls and grows
    again, it is the last crossing.

    Args:
        budget: resource per request, shape (…).
    """
    budget = np.asarray(budget, dtype=np.float64)
    spent, accuracy = np.broadcast_arrays(*path)
    kept = spent <= (budget * (1 + _EPSILON) + _EPSILON)[..., None]
    last = spent.shape[-1] - 1 - kept[..., ::-1].argmax(-1)  # the farthest corner that keeps to it
    after = np.minimum(last + 1, spent.shape[-1] - 1)
    (x0, y0), (x1, y1) = (_corner(spent, accuracy, place) for place in (last, after))
    part = np.divide(budget - x0, x1 - x0, out=np.zeros_like(x0), where=x1 > x0)
    return np.where(kept.any(-1), y0 + np.clip(part, 0, 1) * (y1 - y0), np.nan)


def _corner(spent: Floats, accuracy: Floats, place: Ints) -> tuple[Floats, Floats]:
    x, y = (np.take_along_axis(values, place[..., None], -1)[..., 0] for values in (spent, accuracy))
    return x.astype(np.float64), y.astype(np.float64)


def path_of_shares(kept: Floats, sent: Floats, device: Quality, cloud: Quality, order: Ints) -> Path:
    """Every share of a strategy that keeps or sends whole requests, in closed form; p = n + 1.

    Args:
        kept, sent: the resource that each request takes if kept and if sent, shape (n,).
        device, cloud: quality of each side's answers.
        order: prompt numbers, the one that is sent first first.
    """
    n = len(order)
    better = cloud.astype(np.float64) - device
    steps = ((sent - kept)[order], better[order])
    starts = (kept.sum(), device.sum())
    spent, accuracy = (np.r_[start, start + step.cumsum()] / n for start, step in zip(starts, steps, strict=True))
    return spent, accuracy


def path_of_points(spent: Floats, accuracy: Floats, device: Path, cloud: Path) -> Path:
    """A strategy that was run at some points: joined in the order of what they spend, and with both ends.

    Args:
        spent, accuracy: of its points, shape (…, k).
        device, cloud: the device alone and the cloud alone, shape (…, 1) each.
    """
    order = np.argsort(spent, axis=-1, kind="stable")
    x, y = (np.take_along_axis(values, order, -1) for values in (spent, accuracy))
    return np.concatenate([device[0], x, cloud[0]], -1), np.concatenate([device[1], y, cloud[1]], -1)


def oracle_path(kept: Floats, sent: Floats, device: Quality, cloud: Quality) -> Path:
    """The best accuracy at no more than each spending, for who knows what each side would make of each request.

    Every request starts at its cheaper side. Those whose dearer side is better are moved to it, first those that gain
    most for what they add: the fractional knapsack. Corners of shape (1 + moves,).
    """
    n, gain = len(kept), cloud.astype(np.float64) - device
    more = sent - kept
    cheap = (more < 0) | ((more == 0) & (gain > 0))  # at the cloud from the start
    start = np.where(cheap, sent, kept).sum(), np.where(cheap, cloud, device).sum()
    gained, added = np.where(cheap, -gain, gain), np.abs(more)
    moved = np.flatnonzero((gained > 0) & (added > 0))
    order = moved[np.argsort(-(gained[moved] / added[moved]), kind="stable")]
    return (
        np.r_[start[0], start[0] + added[order].cumsum()] / n,
        np.r_[start[1], start[1] + gained[order].cumsum()] / n,
    )

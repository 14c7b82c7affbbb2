"""Bootstrap over prompts for all strategies at once, fast enough for 100,000 prompts and 20 strategies.

The prompts of a strategy, in the order in which it sends them, are cut into at most `_PIECES` pieces. Of each piece a
sample needs eight numbers only: how many prompts it holds with the device right or wrong, the cloud right or wrong,
asked or not. They are one product of a sparse matrix with the weights of the sample. Where a judge gives qualities
between right and wrong, what each side makes of a piece is a product of its own. Up to `_PIECES` prompts every
prompt is a piece of its own and the intervals are those of the exact curve; beyond, the curve of a sample runs
straight through a piece (n / 1,000 prompts). The numbers themselves are always of the exact curve.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from selfroute.evaluation.counting import metrics
from selfroute.evaluation.counting.metrics import Floats, Ints
from selfroute.evaluation.counting.split import Split

__all__ = ["Band", "Counts", "Resampled", "Spending", "exact_counts", "percentiles", "resample"]

_PIECES = 1000
_CELLS = 8_000_000  # of weights in memory at once

# From the eight kinds, 4 · asked + 2 · cloud right + device right, to the four sums of `Counts`.
_SUMS = np.array(
    [[1, 1, 1, 1, 1, 1, 1, 1], [0, 1, 0, 1, 0, 1, 0, 1], [0, 0, 1, 1, 0, 0, 1, 1], [0, 1, 0, 1, 0, 0, 0, 0]],
    dtype=np.float32,
)

Band = tuple[float, float]
OnSamples = Callable[[int, int], object]


# A resource in each request: if kept, if sent, and if the cloud alone is asked; shape (n,) each.
Spending = tuple[Floats, Floats, Floats]


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """Samples of one strategy's prompts.

    Attributes:
        prompts: how many fall into each piece, in the order in which they are sent; shape (b, pieces).
        device, cloud: what this side gets right of them.
        kept_right: the device's, of those that were kept.
        solved: those that the device gets right, where right or wrong is asked.
        asked, asked_right: over all pieces, prompts that were to be sent, and what the cloud gets right of them; (b,).
        gains: what the cloud is better by, greatest first, shape (levels,).
        by_gain: prompts of each level, shape (b, levels).
        groups: first piece of each group of equal scores.
        spent: by name of a resource, its mean over the prompts when the first 0, 1, … pieces are sent, shape
            (b, pieces + 1), and when the cloud alone is asked, (b,).
    """

    prompts: Floats
    device: Floats
    cloud: Floats
    kept_right: Floats
    solved: Floats
    asked: Floats
    asked_right: Floats
    gains: Floats
    by_gain: Floats
    groups: Ints
    spent: Mapping[str, tuple[Floats, Floats]] = field(default_factory=dict)

    @property
    def n(self) -> Floats:
        """Prompts of each sample, shape (b,)."""
        return np.asarray(self.by_gain.sum(-1))


@dataclass(frozen=True, slots=True, eq=False)
class Resampled:
    """Statistics of every sample, by strategy number and name: shape (resamples,), or (resamples, …)."""

    values: Mapping[tuple[int, str], Floats]

    def band(self, strategy: int, name: str, *, level: float = 0.95) -> Band:
        """The middle of a statistic's samples; NaN if it is undefined in all of them."""
        return percentiles(self.values[strategy, name], level=level)


def percentiles(values: Floats, *, level: float = 0.95) -> Band:
    """The middle `level` of samples; those in which the statistic is undefined are left out, NaN if all are."""
    known = values[np.isfinite(values)]
    if not len(known):
        return np.nan, np.nan
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def exact_counts(split: Split, spending: Mapping[str, Spending] | None = None) -> Counts:
    """The prompts themselves, once each, every prompt a piece."""
    return _pieces(split, spending or {}, limit=len(split))(np.ones((len(split), 1), dtype=np.float32))


def resample(
    splits: Sequence[Split],
    statistics: Callable[[int, Counts], Mapping[str, Floats]],
    means: Sequence[Mapping[str, Floats]],
    *,
    spending: Sequence[Mapping[str, Spending]] = (),
    resamples: int,
    seed: int,
    on_progress: OnSamples | None = None,
) -> Resampled:
    """Draw prompts with replacement and compute every statistic on each sample, of all strategies on the same draws.

    Args:
        statistics: from a strategy's number and its samples to named arrays with one entry per sample.
        means: per strategy, values per prompt whose mean is wanted as well, shape (n,).
        spending: per strategy, resources by name, for `Counts.spent`.
        on_progress: called with samples done and in all.
    """
    n = len(splits[0])
    wanted = spending or [{}] * len(splits)
    pieces = [_pieces(split, spent, limit=_PIECES) for split, spent in zip(splits, wanted, strict=True)]
    keys = [(number, name) for number, named in enumerate(means) for name in named]
    # Far from 0 a mean of float32 loses digits: take the deviation from the first value.
    rows = np.array([means[number][name] - means[number][name][0] for number, name in keys], dtype=np.float32)
    drawn: dict[tuple[int, str], list[Floats]] = {}
    done = 0
    for block in metrics.bootstrap_weights(n, resamples=resamples, seed=seed, cells=_CELLS):
        weights = np.ascontiguousarray(block.T, dtype=np.float32)
        for number, counts in enumerate(pieces):
            for name, values in statistics(number, counts(weights)).items():
                drawn.setdefault((number, name), []).append(values)
        if keys:
            for key, values in zip(keys, (rows @ weights) / n, strict=True):
                drawn.setdefault(key, []).append(values.astype(np.float64) + means[key[0]][key[1]][0])
        done += len(block)
        if on_progress is not None:
            on_progress(done, resamples)
    return Resampled({key: np.concatenate(parts) for key, parts in drawn.items()})


# --- pieces ----------------------------------------------------------------------------------------------------

Weights = npt.NDArray[np.float32]
# From weights of shape (n, b) to the samples that they stand for.
_Counting = Callable[[Weights], Counts]


@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    """Which piece each prompt belongs to, shape (n,), how many there are, and where groups of equal scores start."""

    piece: Ints
    count: int
    groups: Ints

    def sums(self, values: Floats) -> Any:
        """The sparse matrix that sums values up by piece, shape (pieces, n)."""
        from scipy.sparse import csr_array

        return csr_array((values, (self.piece, np.arange(len(values)))), shape=(self.count, len(values)))


def _pieces(split: Split, spending: Mapping[str, Spending], *, limit: int) -> _Counting:
    cut = _cut(split, limit)
    right = np.concatenate([split.device, split.cloud])
    counting = _of_bits(split, cut) if np.isin(right, (0, 1)).all() else _of_qualities(split, cut, limit)
    if not spending:
        return counting
    spent = {name: _spent(cut, *values) for name, values in spending.items()}
    return lambda weights: replace(counting(weights), spent={name: found(weights) for name, found in spent.items()})


def _cut(split: Split, limit: int) -> _Cut:
    n = len(split)
    score = split.filled[split.order]
    ends = np.flatnonzero(np.r_[score[1:] != score[:-1], True]) + 1  # of groups of equal scores
    starts = np.r_[0, ends[:-1]]
    big = (ends - starts) * limit >= n
    edges = np.unique(np.r_[np.linspace(0, n, min(n, limit) + 1).astype(np.int64), starts[big], ends[big]])
    piece = np.empty(n, dtype=np.int64)
    piece[split.order] = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
    return _Cut(piece, len(edges) - 1, _groups(edges, starts[big], ends[big]))


def _of_bits(split: Split, cut: _Cut) -> _Counting:
    """Where every answer is right or wrong: eight kinds of prompts, counted in one product."""
    from scipy.sparse import csr_array

    n = len(split)
    kind = 4 * split.wants + 2 * split.cloud.astype(np.int64) + split.device.astype(np.int64)
    cells = kind * cut.count + cut.piece
    members = csr_array((np.ones(n, dtype=np.float32), (cells, np.arange(n))), shape=(8 * cut.count, n))

    def counts(weights: Weights) -> Counts:
        kinds = (members @ weights).reshape(8, -1)
        pieces = (_SUMS @ kinds).reshape(len(_SUMS), -1, weights.shape[1])
        prompts, device, cloud, kept_right = np.ascontiguousarray(pieces.transpose(0, 2, 1), dtype=np.float64)
        total = kinds.reshape(8, -1, weights.shape[1]).sum(1, dtype=np.float64).reshape(2, 2, 2, -1)
        wins, losses = total[:, 1, 0].sum(0), total[:, 0, 1].sum(0)
        return Counts(
            prompts,
            device,
            cloud,
            kept_right,
            solved=device,
            asked=total[1].sum((0, 1)),
            asked_right=total[1, 1].sum(0),
            gains=np.array([1.0, 0.0, -1.0]),
            by_gain=np.stack([wins, total.sum((0, 1, 2)) - wins - losses, losses], -1),
            groups=cut.groups,
        )

    return counts


def _of_qualities(split: Split, cut: _Cut, limit: int) -> _Counting:
    """Where a judge gives what lies between right and wrong."""
    kept = np.where(split.wants, 0.0, split.device)
    solved = split.device_solved.astype(np.float64)
    values = (np.ones(len(split)), split.device, split.cloud, kept, solved)
    sums = [cut.sums(column) for column in values]
    levels, gains = _levels(split.cloud - split.device, limit)
    asked = np.stack([split.wants, split.wants * split.cloud])

    def counts(weights: Weights) -> Counts:
        prompts, device, cloud, kept_right, right = (np.ascontiguousarray((part @ weights).T) for part in sums)
        total, total_right = asked @ weights
        return Counts(
            prompts, device, cloud, kept_right, right, total, total_right, gains, (levels @ weights).T, cut.groups
        )

    return counts


def _levels(gain: Floats, limit: int) -> tuple[Any, Floats]:
    """Prompts by what the cloud is better by, greatest first; at most so many levels, each at its mean."""
    values, place = np.unique(-gain, return_inverse=True)
    place = place.reshape(-1) * min(limit, len(values)) // len(values)
    count = np.bincount(place)
    cut = _Cut(place, len(count), np.arange(len(count)))
    return cut.sums(np.ones(len(gain))), np.bincount(place, weights=gain) / count


def _spent(cut: _Cut, kept: Floats, sent: Floats, whole: Floats) -> Callable[[Weights], tuple[Floats, Floats]]:
    more, totals, n = cut.sums(sent - kept), np.stack([kept, whole]), len(kept)

    def found(weights: Weights) -> tuple[Floats, Floats]:
        start, alone = totals @ weights / n
        steps = (more @ weights).T.cumsum(-1)
        return np.concatenate([start[:, None], start[:, None] + steps / n], -1), alone

    return found


def _groups(edges: Ints, starts: Ints, ends: Ints) -> Ints:
    """First piece of each group: the pieces inside a large group of equal scores are one, others one each."""
    before = np.searchsorted(starts, edges[:-1], side="left") - 1  # the last group that starts before this piece
    inside = (before >= 0) & (edges[:-1] < np.r_[ends, 0][before])
    return np.flatnonzero(~inside)

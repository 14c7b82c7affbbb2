"""Bootstrap over prompts for all strategies at once, fast enough for 100,000 prompts and 20 strategies.

The prompts of a strategy, in the order in which it sends them, are cut into at most `_PIECES` pieces. Of each piece a
sample needs eight numbers only: how many prompts it holds with the device right or wrong, the cloud right or wrong,
asked or not. They are one product of a sparse matrix with the weights of the sample. Up to `_PIECES` prompts every
prompt is a piece of its own and the intervals are those of the exact curve; beyond, the curve of a sample runs
straight through a piece (n / 1,000 prompts). The numbers themselves are always of the exact curve.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from selfroute.evaluation.counting import metrics
from selfroute.evaluation.counting.metrics import Floats, Ints
from selfroute.evaluation.counting.split import Split

__all__ = ["Band", "Counts", "Resampled", "exact_counts", "percentiles", "resample"]

_PIECES = 1000
_CELLS = 8_000_000  # of weights in memory at once

# From the eight kinds, 4 · asked + 2 · cloud right + device right, to the four sums of `Counts`.
_SUMS = np.array(
    [[1, 1, 1, 1, 1, 1, 1, 1], [0, 1, 0, 1, 0, 1, 0, 1], [0, 0, 1, 1, 0, 0, 1, 1], [0, 1, 0, 1, 0, 0, 0, 0]],
    dtype=np.float32,
)

Band = tuple[float, float]
OnSamples = Callable[[int, int], object]


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """Samples of one strategy's prompts.

    Attributes:
        prompts: how many fall into each piece, in the order in which they are sent; shape (b, pieces).
        device, cloud: those among them that this side gets right.
        kept_right: those that were kept and that the device gets right.
        kinds: over all pieces, by asked, cloud right, device right; shape (2, 2, 2, b).
        groups: first piece of each group of equal scores.
    """

    prompts: Floats
    device: Floats
    cloud: Floats
    kept_right: Floats
    kinds: Floats
    groups: Ints

    @property
    def n(self) -> Floats:
        """Prompts of each sample, shape (b,)."""
        return np.asarray(self.kinds.sum((0, 1, 2)))


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


def exact_counts(split: Split) -> Counts:
    """The prompts themselves, once each, every prompt a piece."""
    pieces = _Pieces.of(split, limit=len(split))
    return pieces.counts(np.ones((len(split), 1), dtype=np.float32))


def resample(
    splits: Sequence[Split],
    statistics: Callable[[int, Counts], Mapping[str, Floats]],
    means: Sequence[Mapping[str, Floats]],
    *,
    resamples: int,
    seed: int,
    on_progress: OnSamples | None = None,
) -> Resampled:
    """Draw prompts with replacement and compute every statistic on each sample, of all strategies on the same draws.

    Args:
        statistics: from a strategy's number and its samples to named arrays with one entry per sample.
        means: per strategy, values per prompt whose mean is wanted as well, shape (n,).
        on_progress: called with samples done and in all.
    """
    n = len(splits[0])
    pieces = [_Pieces.of(split, limit=_PIECES) for split in splits]
    keys = [(number, name) for number, named in enumerate(means) for name in named]
    # Far from 0 a mean of float32 loses digits: take the deviation from the first value.
    rows = np.array([means[number][name] - means[number][name][0] for number, name in keys], dtype=np.float32)
    drawn: dict[tuple[int, str], list[Floats]] = {}
    done = 0
    for block in metrics.bootstrap_weights(n, resamples=resamples, seed=seed, cells=_CELLS):
        weights = np.ascontiguousarray(block.T, dtype=np.float32)
        for number, cut in enumerate(pieces):
            for name, values in statistics(number, cut.counts(weights)).items():
                drawn.setdefault((number, name), []).append(values)
        if keys:
            for key, values in zip(keys, (rows @ weights) / n, strict=True):
                drawn.setdefault(key, []).append(values.astype(np.float64) + means[key[0]][key[1]][0])
        done += len(block)
        if on_progress is not None:
            on_progress(done, resamples)
    return Resampled({key: np.concatenate(parts) for key, parts in drawn.items()})


@dataclass(frozen=True, slots=True, eq=False)
class _Pieces:
    """How the prompts of one strategy fall into pieces and their eight kinds."""

    members: Any  # scipy sparse, shape (pieces · 8, n)
    groups: Ints

    @classmethod
    def of(cls, split: Split, *, limit: int) -> _Pieces:
        from scipy.sparse import csr_array

        n = len(split)
        score = split.filled[split.order]
        ends = np.flatnonzero(np.r_[score[1:] != score[:-1], True]) + 1  # of groups of equal scores
        starts = np.r_[0, ends[:-1]]
        big = (ends - starts) * limit >= n
        edges = np.unique(np.r_[np.linspace(0, n, min(n, limit) + 1).astype(np.int64), starts[big], ends[big]])
        piece = np.empty(n, dtype=np.int64)
        piece[split.order] = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
        kind = 4 * split.wants + 2 * split.cloud + split.device
        cells = kind * (len(edges) - 1) + piece
        members = csr_array((np.ones(n, dtype=np.float32), (cells, np.arange(n))), shape=(8 * (len(edges) - 1), n))
        return cls(members, _groups(edges, starts[big], ends[big]))

    def counts(self, weights: npt.NDArray[np.float32]) -> Counts:
        """Weights of shape (n, b) summed up."""
        kinds = (self.members @ weights).reshape(8, -1)
        pieces = (_SUMS @ kinds).reshape(len(_SUMS), -1, weights.shape[1])
        prompts, device, cloud, kept_right = np.ascontiguousarray(pieces.transpose(0, 2, 1), dtype=np.float64)
        total = kinds.reshape(8, -1, weights.shape[1]).sum(1, dtype=np.float64)
        return Counts(prompts, device, cloud, kept_right, total.reshape(2, 2, 2, -1), self.groups)


def _groups(edges: Ints, starts: Ints, ends: Ints) -> Ints:
    """First piece of each group: the pieces inside a large group of equal scores are one, others one each."""
    before = np.searchsorted(starts, edges[:-1], side="left") - 1  # the last group that starts before this piece
    inside = (before >= 0) & (edges[:-1] < np.r_[ends, 0][before])
    return np.flatnonzero(~inside)

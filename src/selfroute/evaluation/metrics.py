"""How well a strategy splits work: pure functions over arrays, one entry per prompt.

Conventions. `device` and `cloud` are boolean arrays of shape (n,): is the answer right that this side gives, or
would give. A share is cloud calls / requests, in [0, 1]. `weights` counts how often each prompt occurs, shape (n,)
or (B, n) for B bootstrap samples, and defaults to once each; results have its leading shape. Accuracies are
fractions, not per cent.

APGR and CPT are those of RouteLLM (arXiv 2406.18665, section 2), on the exact curve with one point per prompt in
place of its ten bins; `apgr_routellm` is its own binned variant, for comparison with published figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from selfroute.errors import ConfigError

__all__ = [
    "MIN_LEAD",
    "Matched",
    "accuracy_at",
    "apgr",
    "apgr_refusal",
    "apgr_routellm",
    "auroc",
    "bootstrap_weights",
    "call_curve",
    "calls_at",
    "cpt",
    "filled_score",
    "intervals",
    "match_share",
    "matched_accuracy",
    "oracle_accuracy",
    "oracle_gain",
    "random_accuracy",
    "send_order",
    "weighted_mean",
]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MIN_LEAD = 0.02
"""The cloud must lead the device by at least this accuracy for APGR and CPT, which divide by the lead."""

# A share is a ratio of whole calls; this absorbs the rounding of 0.3 * 1000 = 299.99….
_EPSILON = 1e-9


# --- who is sent -----------------------------------------------------------------------------------------------


def calls_at(share: float, n: int) -> int:
    """The most calls that keep to a share: ⌊share · n⌋.

    Raises:
        ConfigError: the share is outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"share={share:g} is not in [0, 1]; give cloud calls / requests, e.g. share=0.3 for 30 %")
    return int(share * n + _EPSILON)


def filled_score(wants: Bools, score: Floats) -> Floats:
    """A score for every prompt, shape (n,): NaN becomes +∞ where the strategy asked and −∞ where it did not.

    A strategy without any score is thereby ordered by its decisions alone, so that the seed fills up or cuts down
    its calls at random.
    """
    return np.where(np.isnan(score), np.where(wants, np.inf, -np.inf), score)


def send_order(score: Floats, *, seed: int) -> Ints:
    """Prompt numbers, the one that wants the cloud most first; ties in an order drawn from the seed."""
    ties = np.random.default_rng(seed).permutation(len(score))
    return np.lexsort((ties, -score))


@dataclass(frozen=True, slots=True, eq=False)
class Matched:
    """Who goes to the cloud at a share; boolean arrays of shape (n,).

    Attributes:
        sent: answered by the cloud.
        refused: asked for the cloud and did not get it: the excess.
        added: did not ask and was sent, to use the share up.
    """

    sent: Bools
    refused: Bools
    added: Bools


def match_share(wants: Bools, score: Floats, *, share: float, seed: int) -> Matched:
    """Send exactly ⌊share · n⌋ prompts: those of highest score; without a score, top up or cut at random.

    Args:
        wants: the strategy's own decisions.
        score: NaN where the strategy has none.
    """
    order = send_order(filled_score(wants, score), seed=seed)
    sent = np.zeros(len(wants), dtype=bool)
    sent[order[: calls_at(share, len(wants))]] = True
    return Matched(sent, wants & ~sent, sent & ~wants)


def matched_accuracy(matched: Matched, device: Bools, cloud: Bools, *, excess_wrong: bool = False) -> float:
    """Accuracy over all prompts at the matched share.

    Args:
        device: what the device delivers locally; for a prompt that asked, its forced local attempt.
        excess_wrong: count a refused request as wrong, as arXiv 2509.24050 appears to, in place of the forced attempt.
    """
    kept = device & ~matched.refused if excess_wrong else device
    return float(np.where(matched.sent, cloud, kept).mean())


# --- curves ----------------------------------------------------------------------------------------------------


def weighted_mean(values: npt.NDArray[Any], weights: npt.NDArray[Any], *, among: Bools | None = None) -> Floats:
    """Mean over prompts, shape of `weights` without its last axis; NaN if nothing counts.

    Args:
        among: count only these prompts.
    """
    counted = weights if among is None else weights * among
    return _ratio((counted * values).sum(-1), counted.sum(-1))


def call_curve(
    device: Bools, cloud: Bools, order: Ints, weights: npt.NDArray[Any] | None = None
) -> tuple[Floats, Floats]:
    """Shares and accuracies when prompts go to the cloud one after the other in `order`.

    Returns:
        Two arrays of shape (…, n + 1): from nobody sent to everybody sent.
    """
    counts = (np.ones(len(order)) if weights is None else weights)[..., order].astype(np.float64)
    gain = cloud[order].astype(np.float64) - device[order]
    total = counts.sum(-1, keepdims=True)
    start = (counts * device[order]).sum(-1, keepdims=True)
    nothing = np.zeros_like(start)
    shares = np.concatenate([nothing, counts.cumsum(-1)], -1) / total
    accuracies = (start + np.concatenate([nothing, (counts * gain).cumsum(-1)], -1)) / total
    return shares, accuracies


def accuracy_at(shares: Floats, accuracies: Floats, share: float) -> Floats:
    """Accuracy of a curve at a share, on the line between its two nearest points; shape (…)."""
    after = np.clip((shares < share - _EPSILON).sum(-1), 1, shares.shape[-1] - 1)[..., None]
    (x0, x1), (y0, y1) = (
        [np.take_along_axis(values, at, -1)[..., 0] for at in (after - 1, after)] for values in (shares, accuracies)
    )
    width = x1 - x0
    part = np.divide(share - x0, width, out=np.zeros_like(width), where=width > 0)
    return np.asarray(y0 + np.clip(part, 0, 1) * (y1 - y0), dtype=np.float64)


def random_accuracy(device: float | Floats, cloud: float | Floats, share: float | Floats) -> Floats:
    """Expected accuracy when the prompts to send are drawn at random: the straight line from device to cloud."""
    return np.asarray(device + np.asarray(share) * (np.asarray(cloud) - device), dtype=np.float64)


def oracle_accuracy(device: Bools, cloud: Bools, share: float, weights: npt.NDArray[Any] | None = None) -> Floats:
    """The best accuracy at exactly this share, in closed form.

    An oracle sends first what only the cloud solves, last what only the device solves; shape (…).
    """
    counts = np.ones(len(device)) if weights is None else weights
    wins = weighted_mean(cloud & ~device, counts)
    losses = weighted_mean(device & ~cloud, counts)
    return np.asarray(
        weighted_mean(device, counts) + np.minimum(share, wins) - np.maximum(0, share - (1 - losses)), dtype=np.float64
    )


def oracle_gain(accuracy: Floats, random: Floats, oracle: Floats) -> Floats:
    """(accuracy − random) / (oracle − random) at one share: 0 is chance, 1 is perfect; NaN where they coincide."""
    return _ratio(accuracy - random, oracle - random)


# --- summaries of a curve --------------------------------------------------------------------------------------


def apgr(shares: Floats, accuracies: Floats) -> Floats:
    """Average performance gap recovered: the area between curve and device, over the lead of the cloud; shape (…).

    Trapezoid over every point of the curve. Random is 0.5 by formula; NaN where the cloud does not lead.
    """
    area = _trapezoid(shares, accuracies)
    device, lead = accuracies[..., 0], accuracies[..., -1] - accuracies[..., 0]
    return _ratio(area - device, lead)


def cpt(shares: Floats, accuracies: Floats, fraction: float) -> Floats:
    """Call-performance threshold: the smallest share that closes `fraction` of the gap from device to cloud.

    Returns:
        A share of whole calls, shape (…); NaN where the cloud does not lead.
    """
    device, lead = accuracies[..., 0], accuracies[..., -1] - accuracies[..., 0]
    reached = accuracies >= (device + fraction * lead)[..., None] - _EPSILON
    first = np.take_along_axis(shares, reached.argmax(-1)[..., None], -1)[..., 0]
    return np.where(lead > _EPSILON, first, np.nan)


def apgr_routellm(score: Floats, device: Bools, cloud: Bools, *, bins: int = 10) -> float:
    """APGR as RouteLLM's evaluation script computes it: thresholds at the score's quantiles, `bins` + 1 points.

    Prompts at a threshold are sent, except at the last, so ties move the points off round shares.
    """
    thresholds = np.quantile(score, np.linspace(0, 1, bins + 1))
    sent = [score >= threshold for threshold in thresholds[:-1]] + [score > thresholds[-1]]
    points = sorted((float(s.mean()), float(np.where(s, cloud, device).mean())) for s in sent)
    shares, accuracies = np.array(points).T
    span = shares[-1] - shares[0]
    lead = float(cloud.mean() - device.mean())
    return float((_trapezoid(shares, accuracies) - span * device.mean()) / (span * lead))


def auroc(score: Floats, positive: Bools, weights: npt.NDArray[Any] | None = None) -> Floats:
    """Chance that a positive prompt scores above a negative one, ties counting half (Mann–Whitney); shape (…).

    NaN where one of the two kinds is missing. For a strategy without score, pass its decisions as 0 and 1.
    """
    order = np.argsort(score, kind="stable")
    ranked = score[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    counts = (np.ones(len(score)) if weights is None else weights)[..., order].astype(np.float64)
    hits = np.add.reduceat(counts * positive[order], starts, -1)
    misses = np.add.reduceat(counts * ~positive[order], starts, -1)
    below = misses.cumsum(-1) - misses / 2
    pairs = hits.sum(-1) * misses.sum(-1)
    return _ratio((hits * below).sum(-1), pairs)


def _ratio(part: npt.ArrayLike, whole: npt.ArrayLike) -> Floats:
    """part / whole, NaN unless the whole is positive."""
    below = np.asarray(whole, dtype=np.float64)
    out = np.full_like(below, np.nan)
    return np.asarray(np.divide(part, below, out=out, where=below > _EPSILON), dtype=np.float64)


def _trapezoid(x: Floats, y: Floats) -> Floats:
    return np.asarray((np.diff(x, axis=-1) * (y[..., 1:] + y[..., :-1]) / 2).sum(-1), dtype=np.float64)


# --- uncertainty -----------------------------------------------------------------------------------------------


def bootstrap_weights(n: int, *, resamples: int, seed: int, cells: int = 1_000_000) -> Iterator[Ints]:
    """Counts of each prompt in samples drawn with replacement, in blocks of shape (b, n) of about `cells` cells.

    The same n, resamples and seed give the same samples: statistics of two strategies on them are paired.
    """
    rng = np.random.default_rng(seed)
    block = max(1, cells // max(1, n))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)


def intervals(
    statistics: Callable[[npt.NDArray[Any]], Mapping[str, Floats]],
    n: int,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap intervals over prompts.

    Args:
        statistics: maps weights of shape (b, n) to named arrays of shape (b,).

    Returns:
        Low and high end by name; NaN if the statistic is undefined in every sample. A difference of two
        strategies computed inside `statistics` is a paired one.
    """
    drawn: dict[str, list[Floats]] = {}
    for weights in bootstrap_weights(n, resamples=resamples, seed=seed):
        for name, values in statistics(weights).items():
            drawn.setdefault(name, []).append(values)
    return {name: _percentiles(np.concatenate(values), level) for name, values in drawn.items()}


def _percentiles(values: Floats, level: float) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    if not len(known):
        return np.nan, np.nan
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def apgr_refusal(device: Bools, cloud: Bools, *, resamples: int = 1000, seed: int = 0) -> str | None:
    """Why APGR and CPT would mean nothing here, or None if they may be given.

    Both divide by the cloud's lead over the device. They are refused when the lead is below `MIN_LEAD`, or when its
    95 % bootstrap interval reaches 0.
    """
    lead = float(cloud.mean() - device.mean())
    if lead < MIN_LEAD - _EPSILON:
        return f"the cloud leads the device by {100 * lead:.1f} points, less than {100 * MIN_LEAD:g}"
    low, high = intervals(
        lambda weights: {"lead": weighted_mean(cloud.astype(np.float64) - device, weights)},
        len(device),
        resamples=resamples,
        seed=seed,
    )["lead"]
    if low <= 0:
        return f"the cloud's lead over the device has a 95 % interval of {100 * low:.1f} to {100 * high:.1f} points"
    return None

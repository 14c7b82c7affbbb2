"""How well a strategy splits work: pure functions over arrays, one entry per prompt.

Conventions. `device` and `cloud` are arrays of shape (n,): how good the answer is that this side gives, or would give,
in [0, 1]; right or wrong is 1 or 0, and an accuracy is a mean. Where yes or no is needed, an answer is right from
`SOLVED` on, as everywhere. A share is cloud calls / requests, in [0, 1]. `weights` counts how often each prompt occurs,
shape (n,) or (B, n) for B bootstrap samples, and defaults to once each; results have its leading shape. Accuracies are
fractions, not per cent.

APGR and CPT are those of RouteLLM (arXiv 2406.18665, section 2), on the exact curve with one point per prompt in
place of its ten bins; `apgr_routellm` is its own binned variant, for comparison with published figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from selfroute.errors import ConfigError
from selfroute.verify.base import SOLVED

__all__ = [
    "MIN_LEAD",
    "SOLVED",
    "Bin",
    "Matched",
    "Quality",
    "ThresholdRule",
    "accuracy_at",
    "aiq",
    "apgr",
    "apgr_refusal",
    "apgr_routellm",
    "auroc",
    "auroc_of_groups",
    "auroc_of_rates",
    "bootstrap_weights",
    "calibration_error",
    "call_curve",
    "calls_at",
    "clopper_pearson",
    "cpt",
    "curve_of_counts",
    "excess_risk",
    "filled_score",
    "holm",
    "match_share",
    "matched_accuracy",
    "mcnemar",
    "oracle_accuracy",
    "oracle_gain",
    "oracle_of_gains",
    "random_accuracy",
    "reliability",
    "risk_coverage",
    "routellm_points",
    "send_order",
    "threshold_rule",
    "weighted_mean",
]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Quality = Bools | Floats

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


def matched_accuracy(matched: Matched, device: Quality, cloud: Quality, *, excess_wrong: bool = False) -> float:
    """Accuracy over all prompts at the matched share.

    Args:
        device: what the device delivers locally; for a prompt that asked, its forced local attempt.
        excess_wrong: count a refused request as wrong, as arXiv 2509.24050 appears to, in place of the forced attempt.
    """
    kept = np.where(matched.refused, 0, device) if excess_wrong else device
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
    device: Quality, cloud: Quality, order: Ints, weights: npt.NDArray[Any] | None = None
) -> tuple[Floats, Floats]:
    """Shares and accuracies when prompts go to the cloud one after the other in `order`.

    Returns:
        Two arrays of shape (…, n + 1): from nobody sent to everybody sent.
    """
    counts = (np.ones(len(order)) if weights is None else weights)[..., order].astype(np.float64)
    return curve_of_counts(counts, counts * device[order], counts * cloud[order])


def curve_of_counts(prompts: Floats, device: Floats, cloud: Floats) -> tuple[Floats, Floats]:
    """As `call_curve`, for prompts that are counted in pieces which are sent one after the other.

    Args:
        prompts, device, cloud: prompts of a piece, and what this side gets right of them; shape (…, pieces).

    Returns:
        Two arrays of shape (…, pieces + 1).
    """
    total = prompts.sum(-1, keepdims=True)
    start = device.sum(-1, keepdims=True)
    nothing = np.zeros_like(start)
    shares = np.concatenate([nothing, prompts.cumsum(-1)], -1) / total
    accuracies = (start + np.concatenate([nothing, (cloud - device).cumsum(-1)], -1)) / total
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


def oracle_accuracy(device: Quality, cloud: Quality, share: float, weights: npt.NDArray[Any] | None = None) -> Floats:
    """The best accuracy at exactly this share; shape (…)."""
    counts = (np.ones(len(device)) if weights is None else weights).astype(np.float64)
    gain = cloud.astype(np.float64) - device
    order = np.argsort(-gain, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(gain[order]) < 0])
    parts = np.add.reduceat(counts[..., order], starts, -1) / counts.sum(-1, keepdims=True)
    return oracle_of_gains(weighted_mean(device, counts), gain[order][starts], parts, share)


def oracle_of_gains(device: Floats, gains: Floats, parts: Floats, share: float) -> Floats:
    """As `oracle_accuracy`: an oracle sends first where the cloud gains most, last where it loses most; shape (…).

    Args:
        device: accuracy of the device alone, shape (…).
        gains: what the cloud is better by, greatest first, shape (levels,).
        parts: share of the prompts at each level, shape (…, levels).
    """
    wins, losses = gains > 0, gains < 0
    won, lost = parts[..., wins], parts[..., losses][..., ::-1]
    before, behind = won.cumsum(-1) - won, lost.cumsum(-1)
    gained = (gains[wins] * np.clip(share - before, 0, won)).sum(-1)
    given = (gains[losses][::-1] * np.clip(share - (1 - behind), 0, lost)).sum(-1)
    return np.asarray(device + gained + given, dtype=np.float64)


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


def apgr_routellm(score: Floats, device: Quality, cloud: Quality, *, bins: int = 10) -> float:
    """APGR as RouteLLM's evaluation script computes it: the trapezoid over `routellm_points`."""
    shares, accuracies = routellm_points(score, device, cloud, bins=bins)
    span = shares[-1] - shares[0]
    lead = float(cloud.mean() - device.mean())
    return float((_trapezoid(shares, accuracies) - span * device.mean()) / (span * lead))


def routellm_points(score: Floats, device: Quality, cloud: Quality, *, bins: int = 10) -> tuple[Floats, Floats]:
    """The `bins` + 1 points of RouteLLM's curve: thresholds at the score's quantiles, shares ascending.

    Prompts at a threshold are sent, except at the last, so ties move the points off round shares.
    """
    thresholds = np.quantile(score, np.linspace(0, 1, bins + 1))
    sent = [score >= threshold for threshold in thresholds[:-1]] + [score > thresholds[-1]]
    points = sorted((float(s.mean()), float(np.where(s, cloud, device).mean())) for s in sent)
    shares, accuracies = np.array(points).T
    return shares, accuracies


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
    return auroc_of_groups(hits[..., ::-1], misses[..., ::-1])


def auroc_of_groups(hits: Floats, misses: Floats) -> Floats:
    """As `auroc`, from positive and negative prompts by group of equal scores, highest first; shape (…, groups)."""
    below = misses[..., ::-1].cumsum(-1)[..., ::-1] - misses / 2
    return _ratio((hits * below).sum(-1), hits.sum(-1) * misses.sum(-1))


def auroc_of_rates(score: Floats, rate: Floats) -> Floats:
    """As `auroc`, where each prompt is positive with a chance of its own: a positive part and a negative one."""
    both = np.r_[score, score]
    positive = np.arange(len(both)) < len(score)
    return auroc(both, positive, np.r_[rate, 1 - rate])


def risk_coverage(prompts: Floats, wrong: Floats) -> Floats:
    """AURC: the mean risk of the device over all coverages, when the prompts it wants to keep most are kept first.

    Coverage is the share kept, risk the share of wrong answers among them (Geifman et al., arXiv 1805.08206). A
    perfect order and a random one lie between `risk − excess_risk` and the error rate.

    Args:
        prompts, wrong: prompts of a piece, and those among them that the device gets wrong, in the order in which
            they are sent (`send_order`); shape (…, pieces).

    Returns:
        Shape (…); a piece counts with the risk at its end.
    """
    kept, errors = (values[..., ::-1].cumsum(-1) for values in (prompts, wrong))
    risk = np.divide(errors, kept, out=np.zeros_like(errors), where=kept > 0)
    return _ratio((risk * prompts[..., ::-1]).sum(-1), kept[..., -1])


def excess_risk(aurc: Floats, error_rate: Floats, n: int) -> Floats:
    """E-AURC: AURC above that of a perfect order of n prompts, whose wrong ones are kept last (Geifman et al.)."""
    wrong = np.rint(np.asarray(error_rate) * n).astype(np.int64)
    # Perfect: no risk until only wrong ones are left, then (k − right) / k at k kept.
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, n + 1))])
    right = n - wrong
    perfect = (wrong - right * (harmonic[n] - harmonic[right])) / n
    return np.asarray(aurc - perfect, dtype=np.float64)


def aiq(cost: Floats, accuracy: Floats, *, low: float, high: float, start: float) -> float:
    """Average improvement in quality (RouterBench, arXiv 2403.12031, section 3.3): mean height of the upper hull.

    The hull is the least non-decreasing concave line over the strategy's points: mixing two settings at random gives
    what lies between them, and spending less than one may is allowed.

    Args:
        cost, accuracy: the points, shape (p,).
        low, high: costs between which the mean is taken, the same for all strategies.
        start: accuracy to be had at `low`, for strategies whose own cheapest point is dearer.

    Returns:
        An accuracy; NaN if `high` is not above `low`.
    """
    if not high > low:
        return np.nan
    x, y = np.r_[low, cost], np.r_[start, accuracy]
    inside = x <= high + _EPSILON * abs(high)
    hull = _upper_hull(x[inside], y[inside])
    top = max(hull, key=lambda point: point[1])
    rising = [point for point in hull if point[0] <= top[0]] + [(max(high, top[0]), top[1])]
    xs, ys = np.array(rising).T
    grid = np.unique(np.r_[xs[(xs > low) & (xs < high)], low, high])
    return float(_trapezoid(grid, np.interp(grid, xs, ys)) / (high - low))


def _upper_hull(x: Floats, y: Floats) -> list[tuple[float, float]]:
    """Corners of the upper convex hull, left to right (Andrew's monotone chain)."""
    hull: list[tuple[float, float]] = []
    for point in sorted(zip(x.tolist(), y.tolist(), strict=True)):
        while hull and hull[-1][0] == point[0]:
            hull.pop()  # the same cost, and sorted: the later one is higher
        while len(hull) > 1 and _turns_left(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _turns_left(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    return (b[0] - a[0]) * (c[1] - a[1]) >= (b[1] - a[1]) * (c[0] - a[0])


# --- reliability -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ThresholdRule:
    """Decisions beside the rule that is best under a reward: ask where the device's solve rate is below α_c/α_a.

    Attributes:
        threshold: α_c/α_a.
        agreement: share of prompts on which both decide alike.
        regret: how much less the decisions are worth than the rule's, per prompt, in units of α_a. The rule sees the
            very samples that it is judged by, so this is an upper bound.
    """

    threshold: float
    agreement: float
    regret: float


def threshold_rule(rate: Floats, wants: Bools, cloud: Quality, threshold: float) -> ThresholdRule:
    """Compare decisions with the threshold rule of arXiv 2509.24050 (section 2.3).

    A kept prompt is worth its solve rate, one that is handed off `threshold` if the cloud solves it.

    Args:
        rate: q(x), shape (n,).
        wants: which prompts are handed off.
        cloud: what the cloud makes of them.
    """
    rule = rate < threshold
    worth = threshold * cloud - rate  # of asking, above keeping
    regret = np.where(rule, worth, 0.0) - np.where(wants, worth, 0.0)
    return ThresholdRule(threshold, float((rule == wants).mean()), float(regret.mean()))


@dataclass(frozen=True, slots=True)
class Bin:
    """Prompts of neighbouring scores (or solve rates): how many, their mean, and how often something holds."""

    low: float
    high: float
    n: int
    mean: float
    rate: float
    rate_low: float
    rate_high: float


def reliability(value: Floats, outcome: Floats, *, bins: int = 10) -> list[Bin]:
    """Bins of equal counts by `value`, and the mean of `outcome` in each, with an exact 95 % interval.

    Equal values stay together, so there may be fewer bins; few different values are a bin each.

    Args:
        value: e.g. the score, shape (n,), no NaN.
        outcome: in [0, 1], e.g. whether the device is wrong; the interval takes it as n independent yes or no.
    """
    edges = np.unique(np.quantile(value, np.linspace(0, 1, bins + 1)))
    different = edges[:-1]
    if len(edges) <= bins and len(values := np.unique(value)) <= bins:
        different = values
    place = np.searchsorted(different, value, side="right") - 1
    made = []
    for number in range(len(different)):
        inside = place == number
        if not inside.any():
            continue
        count, hits = int(inside.sum()), float(outcome[inside].sum())
        low, high = clopper_pearson(hits, count)
        made.append(
            Bin(float(value[inside].min()), float(value[inside].max()), count, float(value[inside].mean()),
                hits / count, low, high)
        )  # fmt: skip
    return made


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: mean distance of score and rate over bins, weighted by their prompts.

    It means something for a score that claims to be the chance that the device fails.
    """
    total = sum(found.n for found in bins)
    return sum(found.n * abs(found.mean - found.rate) for found in bins) / total


def clopper_pearson(hits: float, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a rate of which `hits` of `n` were seen (Clopper and Pearson, 1934)."""
    from scipy.stats import beta

    tail = (1 - level) / 2
    low = 0.0 if hits <= 0 else float(beta.ppf(tail, hits, n - hits + 1))
    high = 1.0 if hits >= n else float(beta.ppf(1 - tail, hits + 1, n - hits))
    return low, high


# --- tests -----------------------------------------------------------------------------------------------------


def mcnemar(a: Quality, b: Quality) -> float:
    """Two-sided p of the exact McNemar test: is each of a and b as often the better one on the same prompts?

    Under equality the prompts on which they differ fall to either side like coins. Of qualities between right and
    wrong this is the sign test.
    """
    from scipy.stats import binomtest

    only_a, only_b = int((a > b).sum()), int((b > a).sum())
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction (1979): below 0.05, a difference stands although so many were looked at."""
    order = np.argsort(p_values, kind="stable")
    worst, corrected = 0.0, [0.0] * len(order)
    for rank, place in enumerate(order):
        worst = max(worst, min(1.0, (len(order) - rank) * p_values[place]))
        corrected[place] = worst
    return corrected


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


def apgr_refusal(device: float, cloud: float, band: tuple[float, float]) -> str | None:
    """Why APGR and CPT would mean nothing here, or None if they may be given.

    Both divide by the cloud's lead over the device. They are refused when the cloud gives fewer right answers, when
    its lead is below `MIN_LEAD`, or when the lead's 95 % interval reaches 0.

    Args:
        device, cloud: accuracies.
        band: interval of their difference, e.g. from a bootstrap.
    """
    lead, (low, high) = cloud - device, band
    if lead < -_EPSILON:
        return f"the cloud hurts: it gets {100 * cloud:.1f} % right, the device {100 * device:.1f} %"
    if lead < MIN_LEAD - _EPSILON:
        return f"the cloud leads the device by {100 * lead:.1f} points, less than {100 * MIN_LEAD:g}"
    if low <= 0:
        return f"the cloud's lead over the device has a 95 % interval of {100 * low:.1f} to {100 * high:.1f} points"
    return None

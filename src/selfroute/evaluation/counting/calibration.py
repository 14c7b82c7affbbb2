"""From scores to a threshold that gives a wanted call share or cost, and how far to trust it.

The rule that is calibrated is the one that strategies apply: send a request whose score is at or above the threshold.
With scores X of n past requests, and the k-th highest of them as threshold, the long-run share of new requests that
are sent has a Beta(k, n + 1 − k) distribution, whatever the scores are distributed like, as long as ties have no part
in it (David and Nagaraja, *Order Statistics*, section 7.1); how many of m new requests are sent is then beta-binomial.
Both are exact. Ties at the threshold widen the band; see `calibrate_share`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from selfroute.errors import ConfigError
from selfroute.evaluation.counting.metrics import Floats

__all__ = ["Calibration", "Drift", "calibrate_cost", "calibrate_share", "drift", "halfway"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A threshold and what to expect of it.

    Attributes:
        threshold: send a request whose score is at or above it; `inf` sends none, `-inf` all.
        n: requests behind it.
        calls: how many of them it sends.
        share: calls / n.
        share_low, share_high: where the share of new requests will lie, at this `level`.
        level: coverage of the band.
        next_requests: the band is for the share among so many new requests; None: in the long run.
        tied: past requests whose score equals the threshold; they are sent.
        wanted_calls: how many were wanted; more than `calls` where a group of equal scores stood at the limit.
        next_share: share if the threshold were one score lower, where ties kept the share below what was wanted; None
            if the wanted share was met.
        usd_per_1000: cost of 1,000 requests; None where costs are not known.
        usd_low, usd_high: where it will lie for new requests.
    """

    threshold: float
    n: int
    calls: int
    share: float
    share_low: float
    share_high: float
    level: float
    next_requests: int | None
    tied: int
    wanted_calls: int
    next_share: float | None = None
    usd_per_1000: float | None = None
    usd_low: float | None = None
    usd_high: float | None = None


def calibrate_share(
    score: Floats, share: float, *, level: float = 0.95, next_requests: int | None = None
) -> Calibration:
    """The threshold that sends at most `share` of past requests, and the band for new ones.

    All requests of one score are treated alike, so where ties stand at the wanted share, the whole group is kept and
    the share stays below it; `next_share` says what sending the group would give. With ties the band is wider than
    exact: its upper end is that of one call more than wanted, its lower end that of the calls made, at half the tail.

    Args:
        score: of past requests, higher = send, shape (n,).
        share: wanted cloud calls / requests, in [0, 1].
        level: coverage of the band, in (0, 1).
        next_requests: how many new requests the band is for; None: the long run.

    Raises:
        ConfigError: no score, a score that is NaN, or an argument outside its range.
    """
    _check(score, level, next_requests)
    if not 0 <= share <= 1:
        raise ConfigError(f"share={share:g} is not in [0, 1]; give cloud calls / requests, e.g. 0.3 for 30 %")
    return _at(np.sort(score)[::-1], int(share * len(score) + 1e-9), level=level, next_requests=next_requests)


def calibrate_cost(
    score: Floats,
    kept_usd: Floats,
    sent_usd: Floats,
    usd_per_1000: float,
    *,
    level: float = 0.95,
    next_requests: int | None = None,
    resamples: int | None = None,
    seed: int = 0,
) -> Calibration:
    """The threshold that spends at most `usd_per_1000` on 1,000 past requests, and bands for new ones.

    The band of the cost is a bootstrap: past requests are drawn again, the threshold is chosen anew, and new requests
    (`next_requests`, or as many as there are past ones) are drawn and paid under it.

    Args:
        kept_usd, sent_usd: what each past request costs if it is kept and if it is sent, shape (n,).
        usd_per_1000: what may be spent.
        score, level, next_requests: as in `calibrate_share`.
        resamples, seed: of the bootstrap; 2,000 samples without, fewer for more than 10,000 requests, at least 200.

    Raises:
        ConfigError: as `calibrate_share`; or keeping every request already costs more.
    """
    _check(score, level, next_requests)
    order = np.argsort(-score, kind="stable")
    totals = _totals(kept_usd[order], sent_usd[order])
    allowed = usd_per_1000 * len(score) / 1000
    if not math.isfinite(usd_per_1000) or totals[0] > allowed * (1 + 1e-9) + 1e-12:
        raise ConfigError(
            f"${usd_per_1000:g} per 1,000 requests is less than the ${1000 * totals[0] / len(score):.4g} that the "
            f"device alone costs; allow more"
        )
    ranked = score[order]
    calls = _affordable(ranked, totals, allowed)
    found = _at(ranked, calls, level=level, next_requests=next_requests)
    resamples = resamples or min(2000, max(200, 20_000_000 // len(score)))
    realised = _realised(ranked, kept_usd[order], sent_usd[order], usd_per_1000, next_requests, resamples, seed)
    low, high = np.quantile(realised, [(1 - level) / 2, (1 + level) / 2])
    values = {name: getattr(found, name) for name in found.__slots__}
    cost = 1000 * float(totals[found.calls]) / len(score)
    return Calibration(**values | {"usd_per_1000": cost, "usd_low": float(low), "usd_high": float(high)})


def halfway(score: Floats, threshold: float) -> float:
    """The threshold between the least score that is sent and the largest that is kept: the same for past requests.

    To serve with: computed one by one, by another engine or by a fit of all rows, a score differs in its last digits,
    and at the threshold itself that decides.
    """
    kept = score[score < threshold]
    return threshold if not len(kept) or math.isinf(threshold) else (threshold + float(kept.max())) / 2


def _check(score: Floats, level: float, next_requests: int | None) -> None:
    if not len(score):
        raise ConfigError("no score to calibrate on; give a file with at least one request")
    if np.isnan(score).any():
        raise ConfigError(f"score number {int(np.isnan(score).argmax()) + 1} is NaN; leave that request out")
    if not 0 < level < 1:
        raise ConfigError(f"level={level:g} is not between 0 and 1; 0.95 covers 95 of 100 samples")
    if next_requests is not None and next_requests < 1:
        raise ConfigError(f"next={next_requests} is not at least 1; leave it out for the long run")


def _at(ranked: Floats, wanted: int, *, level: float, next_requests: int | None) -> Calibration:
    """The rule that sends at most `wanted` of the scores, highest first, and splits no tie."""
    n = len(ranked)
    calls = _whole_groups(ranked, wanted)
    threshold = math.inf if calls == 0 else -math.inf if calls == n else float(ranked[calls - 1])
    low, high = _band(
        calls, wanted, n, ties=bool((np.diff(ranked) == 0).any()), level=level, next_requests=next_requests
    )
    return Calibration(
        threshold=threshold,
        n=n,
        calls=calls,
        share=calls / n,
        share_low=low,
        share_high=high,
        level=level,
        next_requests=next_requests,
        tied=int((ranked == threshold).sum()),
        wanted_calls=wanted,
        next_share=None if calls == wanted else int((ranked >= ranked[calls]).sum()) / n,
    )


def _whole_groups(ranked: Floats, calls: int) -> int:
    """The most calls, at most `calls`, that do not part equal scores."""
    if calls in (0, len(ranked)) or ranked[calls - 1] != ranked[calls]:
        return calls
    return int(np.searchsorted(-ranked, -ranked[calls], side="left"))


def _band(
    calls: int, wanted: int, n: int, *, ties: bool, level: float, next_requests: int | None
) -> tuple[float, float]:
    """Where the share of new requests lies, for `calls` of n sent where `wanted` were allowed."""
    if calls in (0, n):
        return calls / n, calls / n  # the threshold is infinite: it sends none, or all, for certain
    tail = (1 - level) / 2
    # With ties, what is sent lies above the score of the first call too many, and the data chose the group.
    low = _share_quantile(tail if calls == wanted else tail / 2, calls, n, next_requests)
    high = _share_quantile(1 - tail, wanted + 1 if ties else wanted, n, next_requests)
    return low, high


def _share_quantile(q: float, calls: int, n: int, next_requests: int | None) -> float:
    """Quantile of the share of new requests that score at or above the `calls`-th highest of n."""
    from scipy.stats import beta, betabinom

    if next_requests is None:
        return float(beta.ppf(q, calls, n + 1 - calls))
    return float(betabinom.ppf(q, next_requests, calls, n + 1 - calls)) / next_requests


# --- money -----------------------------------------------------------------------------------------------------


def _totals(kept_usd: Floats, sent_usd: Floats) -> Floats:
    """Cost of all when the first 0, 1, … n of them are sent; shape (n + 1,)."""
    return np.asarray(kept_usd.sum() + np.r_[0.0, (sent_usd - kept_usd).cumsum()])


def _affordable(ranked: Floats, totals: Floats, allowed: float) -> int:
    """The most calls before the cost first goes above what is allowed, in whole groups of equal scores."""
    over = np.flatnonzero(totals > allowed * (1 + 1e-9) + 1e-12)
    return _whole_groups(ranked, int(over[0]) - 1 if len(over) else len(ranked))


def _realised(
    ranked: Floats, kept_usd: Floats, sent_usd: Floats, usd_per_1000: float, m: int | None, resamples: int, seed: int
) -> Floats:
    """Cost of 1,000 new requests under a threshold chosen on other past requests, once per sample."""
    rng = np.random.default_rng(seed)
    n = len(ranked)
    costs = np.empty(resamples)
    for number in range(resamples):
        past = np.sort(rng.integers(n, size=n))  # sorted places keep the scores in order
        calls = _affordable(ranked[past], _totals(kept_usd[past], sent_usd[past]), usd_per_1000 * n / 1000)
        threshold = ranked[past[calls - 1]] if calls else np.inf
        new = rng.integers(n, size=m or n)
        costs[number] = 1000 * np.where(ranked[new] >= threshold, sent_usd[new], kept_usd[new]).mean()
    return costs


# --- drift -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Whether new requests still look like those of the calibration.

    Attributes:
        n: new requests.
        share: of them that score at or above the threshold.
        expected_low, expected_high: where that share should lie, at the calibration's level.
        share_p: two-sided p of Fisher's exact test that both sets are sent equally often.
        ks: largest distance between the two distributions of scores (Kolmogorov and Smirnov), in [0, 1].
        ks_p: p of that distance if nothing changed.
        verdict: a plain sentence.
    """

    n: int
    share: float
    expected_low: float
    expected_high: float
    share_p: float
    ks: float
    ks_p: float
    verdict: str

    @property
    def is_drifting(self) -> bool:
        return not self.expected_low <= self.share <= self.expected_high or self.ks_p < _SIGNIFICANT


_SIGNIFICANT = 0.01


def drift(score: Floats, new: Floats, calibration: Calibration) -> Drift:
    """Compare new requests with those behind a calibration.

    Args:
        score: those behind it.
        new: of requests since, shape (m,).

    Raises:
        ConfigError: no new score, or a NaN.
    """
    from scipy.stats import fisher_exact, ks_2samp

    _check(new, calibration.level, None)
    sent = int((new >= calibration.threshold).sum())
    now = _band(
        calibration.calls,
        calibration.wanted_calls,
        calibration.n,
        ties=len(np.unique(score)) < len(score),
        level=calibration.level,
        next_requests=len(new),
    )
    table = [[calibration.calls, calibration.n - calibration.calls], [sent, len(new) - sent]]
    distance = ks_2samp(score, new)
    share, share_p = sent / len(new), float(fisher_exact(table).pvalue)
    ks, ks_p = float(distance.statistic), float(distance.pvalue)
    return Drift(
        n=len(new),
        share=share,
        expected_low=now[0],
        expected_high=now[1],
        share_p=share_p,
        ks=ks,
        ks_p=ks_p,
        verdict=_verdict(share, len(new), now, ks_p=ks_p, outside=not now[0] <= share <= now[1]),
    )


def _verdict(share: float, n: int, band: tuple[float, float], *, ks_p: float, outside: bool) -> str:
    told = (
        f"{100 * share:.1f} % of {n} new requests reach the threshold; {100 * band[0]:.1f} to {100 * band[1]:.1f} % "
        f"were expected"
    )
    scores = "the scores are distributed differently" if ks_p < _SIGNIFICANT else "the scores look the same"
    if outside:
        return f"The share has drifted: {told}, and {scores}. Calibrate again on recent requests."
    if ks_p < _SIGNIFICANT:
        return f"The share holds: {told}. But {scores}, so look at what changed and calibrate again soon."
    return f"No drift: {told}, and {scores}."

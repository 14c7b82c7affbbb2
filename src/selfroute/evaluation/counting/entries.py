"""One setting of a strategy in the summary: its curve, its costs, its numbers with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from selfroute.evaluation.counting import costs, metrics, work
from selfroute.evaluation.counting.costs import PriceTable
from selfroute.evaluation.counting.metrics import Bools, Floats
from selfroute.evaluation.counting.resampling import Counts, Resampled, exact_counts
from selfroute.evaluation.counting.split import Split
from selfroute.network.link import Network

__all__ = ["GRID", "View", "cost_bounds", "entry_of", "on_grid", "statistics_of"]

GRID = np.linspace(0, 1, 101)
"""Call shares at which curves are drawn."""


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A strategy with its curve and costs, and the values per prompt whose mean is wanted.

    Attributes:
        exact: its prompts, once each.
        curve: accuracy at the shares of `GRID`.
        sent: who goes to the cloud at the share.
    """

    split: Split
    exact: Counts
    curve: Floats
    sent: Bools
    kept_usd: Floats | None
    sent_usd: Floats | None
    latency_s: Floats | None
    means: Mapping[str, Floats]

    @classmethod
    def of(cls, split: Split, prices: PriceTable | None, network: Network, calls: int) -> View:
        sent = split.sent(calls)
        known = work.is_known(split)
        kept, away = work.kept(split), work.sent(split, network)
        ran, kept_usd, sent_usd, latency = split.numbers["usd"], None, None, None
        at_share: dict[str, Floats] = {}
        if prices and known:
            kept_usd, sent_usd = costs.usd(kept, prices.prices), costs.usd(away, prices.prices)
            ran = np.where(split.wants, sent_usd, kept_usd)
            at_share["usd_per_1000_at_share"] = 1000 * np.where(sent, sent_usd, kept_usd)
        elif prices and split.joint:
            ran = costs.usd(work.as_run(split, network), prices.prices)
        means = {"usd_per_1000": 1000 * ran} | at_share
        if known:
            latency = np.where(sent, costs.latency_s(away, network), costs.latency_s(kept, network))
            means["device_tokens_handed_off_at_share"] = np.where(sent, split.numbers["attempt_tokens"], 0.0)
            means["latency_mean_s"] = latency
        if split.joint:
            means["raw_overall_accuracy"] = split.served
        exact = exact_counts(split)
        return cls(split, exact, on_grid(exact)[0], sent, kept_usd, sent_usd, latency, means)

    def usd_at(self, shares: Floats) -> Floats | None:
        """Cost of 1,000 requests at each share."""
        if self.kept_usd is None or self.sent_usd is None:
            return None
        more = (self.sent_usd - self.kept_usd)[self.split.order]
        total = self.kept_usd.sum() + np.r_[0.0, more.cumsum()]
        return np.asarray(1000 * np.interp(shares, np.linspace(0, 1, len(total)), total / len(self.split)))


def statistics_of(counts: Counts, share: float) -> dict[str, Floats]:
    """Every statistic that follows from who is right and who was asked; arrays of shape (b,)."""
    prompts, device, cloud, solved, n = counts.prompts, counts.device, counts.cloud, counts.solved, counts.n
    kept, kept_right = n - counts.asked, counts.kept_right.sum(-1)
    curve = metrics.curve_of_counts(prompts, device, cloud)
    refusing = metrics.curve_of_counts(prompts, counts.kept_right, cloud)
    overall, alone = metrics.accuracy_at(*curve, share), device.sum(-1) / n
    chance = metrics.random_accuracy(alone, cloud.sum(-1) / n, share)
    best = metrics.oracle_of_gains(alone, counts.gains, counts.by_gain / n[:, None], share)
    aurc = metrics.risk_coverage(prompts, prompts - solved)
    return {
        "raw_call_share": counts.asked / n,
        "raw_overall_accuracy": (kept_right + counts.asked_right) / n,
        "overall_accuracy": overall,
        "overall_accuracy_excess_wrong": metrics.accuracy_at(*refusing, share),
        "local_accuracy": kept_right / n,
        "conditional_local_accuracy": np.divide(kept_right, kept, out=np.full_like(kept, np.nan), where=kept > 0),
        "forced_local_accuracy": alone,
        "cloud_lead": cloud.sum(-1) / n - alone,
        "apgr": metrics.apgr(*curve),
        "cpt50": metrics.cpt(*curve, 0.5),
        "cpt80": metrics.cpt(*curve, 0.8),
        "oracle_gain": metrics.oracle_gain(overall, chance, best),
        "auroc": metrics.auroc_of_groups(
            *(np.add.reduceat(values, counts.groups, -1) for values in (prompts - solved, solved))
        ),
        "aurc": aurc,
        "aurc_excess": metrics.excess_risk(aurc, 1 - solved.sum(-1) / n, round(float(n[0]))),
    }


def on_grid(counts: Counts) -> Floats:
    """Accuracy at the shares of `GRID`, shape (b, shares)."""
    shares, accuracies = metrics.curve_of_counts(counts.prompts, counts.device, counts.cloud)
    return np.array([np.interp(GRID, x, y) for x, y in zip(shares, accuracies, strict=True)])


_NEED_LEAD = ("apgr", "cpt50", "cpt80")
_NEED_SHARE = (
    *_NEED_LEAD,
    *("overall_accuracy", "overall_accuracy_excess_wrong", "oracle_gain"),
    *("usd_per_1000_at_share", "device_tokens_handed_off_at_share", "latency_mean_s"),
)
_NEED_DECISION = ("local_accuracy", "conditional_local_accuracy", "auroc", "aurc", "aurc_excess")
_OTHERWISE = "it is compared along the axes, not at a call share"


def entry_of(
    number: int,
    view: View,
    calls: int,
    drawn: Resampled,
    bounds: tuple[float, float, float] | None,
    *,
    routellm_bins: int | None,
) -> dict[str, Any]:
    split, n = view.split, len(view.split)
    point = {name: float(value[0]) for name, value in statistics_of(view.exact, calls / n).items()}
    point |= {name: float(values.mean()) for name, values in view.means.items()}
    bands = {name: drawn.band(number, name) for name in point}
    refusal = _refusal(split, bands["cloud_lead"])
    absent = _absent(split, refusal)
    known = {name: None if name in absent else _number(value) for name, value in point.items()}
    numbers, is_shared = split.numbers, split.fixed or split.matched
    return {
        "name": split.name,
        "point": split.point,
        "joint": split.joint,
        "oracle": split.oracle,
        "fixed": split.fixed,
        "matched_by": ("random" if np.isnan(split.score).all() else "score") if is_shared else None,
        "call_share": calls / n if is_shared else None,
        "threshold": _threshold(split, calls) if is_shared else None,
        **dict.fromkeys(("usd_per_1000_at_share", "device_tokens_handed_off_at_share", "latency_mean_s")),
        **known,
        "apgr_refused": refusal,
        "apgr_routellm": _apgr_routellm(split, routellm_bins, refusal),
        "aiq": _aiq(view, bounds) if is_shared else None,
        **_latencies(view),
        "usd": float(numbers["usd"].sum()),
        "seconds": float(numbers["seconds"].sum()),
        "device_tokens": int(numbers["device_tokens"].sum()),
        "cloud_tokens": int(numbers["cloud_tokens"].sum()),
        "device_tokens_handed_off": 0 if split.joint else int(numbers["device_tokens"][split.wants].sum()),
        **_told(split),
        **_reliability(view),
        "errors": split.errors,
        "ci95": {
            name: None if known.get(name) is None else [_number(end) for end in band] for name, band in bands.items()
        },
    }


def _refusal(split: Split, lead: tuple[float, float]) -> str | None:
    """Why APGR and CPT are not given."""
    if not (split.fixed or split.matched):
        return _OTHERWISE
    return metrics.apgr_refusal(float(split.device.mean()), float(split.cloud.mean()), lead)


def _absent(split: Split, refusal: str | None) -> tuple[str, ...]:
    """Numbers that mean nothing for a strategy."""
    if split.fixed or split.matched:
        return _NEED_LEAD if refusal is not None else ()
    return (*_NEED_SHARE, *_NEED_DECISION) if split.joint else _NEED_SHARE


def _threshold(split: Split, calls: int) -> float | None:
    """The lowest score that is sent at the share; None if nobody is, or the last one sent has no score."""
    last = float(split.score[split.order[calls - 1]]) if calls else np.nan
    return _number(last)


def _apgr_routellm(split: Split, bins: int | None, refusal: str | None) -> float | None:
    if bins is None or refusal is not None or np.isnan(split.score).any():
        return None
    place = np.empty(len(split))
    place[split.order] = -np.arange(float(len(split)))  # the score, with its ties broken as everywhere here
    return _number(metrics.apgr_routellm(place, split.device, split.cloud, bins=bins))


def cost_bounds(views: Sequence[View]) -> tuple[float, float, float] | None:
    """Least and greatest cost of 1,000 requests on any curve, and the accuracy to be had at the least."""
    ends = [(view, view.usd_at(np.array([0.0, 1.0]))) for view in views]
    known = [(float(usd[0]), float(view.split.device.mean()), float(usd[1])) for view, usd in ends if usd is not None]
    if not known:
        return None
    low = min(start for start, _, _ in known)
    return low, max(end for _, _, end in known), max(accuracy for start, accuracy, _ in known if start == low)


def _aiq(view: View, bounds: tuple[float, float, float] | None) -> float | None:
    usd = view.usd_at(GRID)
    if usd is None or bounds is None:
        return None
    low, high, start = bounds
    return _number(metrics.aiq(usd, view.curve, low=low, high=high, start=start))


def _latencies(view: View) -> dict[str, float | None]:
    """Median and 95th percentile at the share."""
    if view.latency_s is None or not (view.split.fixed or view.split.matched):
        return {"latency_p50_s": None, "latency_p95_s": None}
    p50, p95 = np.quantile(view.latency_s, [0.5, 0.95])
    return {"latency_p50_s": float(p50), "latency_p95_s": float(p95)}


def _told(split: Split) -> dict[str, Any]:
    """Private values that the cloud was told or not told, as run; None where no row names any."""
    if "values_leaked" not in split.numbers:
        return dict.fromkeys(("values_leaked", "values_lost", "leaking_share"))
    leaked, lost = split.numbers["values_leaked"], split.numbers["values_lost"]
    return {
        "values_leaked": int(np.nansum(leaked)),
        "values_lost": int(np.nansum(lost)),
        "leaking_share": float((leaked > 0).mean()),
    }


def _reliability(view: View) -> dict[str, Any]:
    """How well score and decision agree with what the device can do."""
    split = view.split
    rate = split.numbers["solve_rate"]
    sampled = ~np.isnan(rate)
    scored = ~np.isnan(split.score) & (not split.joint)
    wrong = (~split.device_solved[scored]).astype(np.float64)
    bins = metrics.reliability(split.score[scored], wrong) if scored.any() else []
    is_chance = bool(scored.any()) and bool(((split.score[scored] >= 0) & (split.score[scored] <= 1)).all())
    return {
        "reliability": [asdict(found) for found in bins],
        "calibration_error": metrics.calibration_error(bins) if is_chance else None,
        "solve_rate": _by_solve_rate(split, rate, sampled) if sampled.any() else None,
    }


_THRESHOLDS = tuple(round(0.1 * step, 1) for step in range(1, 10))


def _by_solve_rate(split: Split, rate: Floats, sampled: Bools) -> dict[str, Any]:
    """The decision against the sampled solve rates q(x) of its device."""
    q, wants = rate[sampled], split.wants[sampled]
    score = split.filled[sampled]
    chance = split.score[sampled]
    is_chance = bool(((chance >= 0) & (chance <= 1)).all())  # False where one is NaN
    return {
        "n": int(sampled.sum()),
        "samples": int(split.numbers["solve_samples"][sampled].min()),
        "mean": float(q.mean()),
        "auroc": _number(float(metrics.auroc_of_rates(score, 1 - q))),
        "brier": float(((chance - (1 - q)) ** 2).mean()) if is_chance else None,
        "levels": [asdict(found) for found in metrics.reliability(q, wants.astype(np.float64))],
        "threshold_rule": [
            asdict(metrics.threshold_rule(q, wants, split.cloud[sampled], threshold)) for threshold in _THRESHOLDS
        ],
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None

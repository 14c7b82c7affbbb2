"""From records to numbers: the summary, and the curves that the figures show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from selfroute.evaluation.counting import costs, metrics
from selfroute.evaluation.counting.columns import columns_of
from selfroute.evaluation.counting.costs import PriceTable
from selfroute.evaluation.counting.metrics import Bools, Floats
from selfroute.evaluation.counting.resampling import Counts, Resampled, exact_counts, percentiles, resample
from selfroute.evaluation.counting.split import Shared, Split, reference_of, splits_of
from selfroute.evaluation.records import Record
from selfroute.network.link import Network

__all__ = ["Curves", "Line", "analyse", "curves", "summarise"]

_GRID = np.linspace(0, 1, 101)
_BAND_RESAMPLES = 200


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """Accuracy against call share for one strategy; arrays over `Curves.shares`, with a 95 % band.

    Attributes:
        usd_per_1000: cost of 1,000 requests at each share; None if the records or the prices do not tell.
    """

    name: str
    fixed: bool
    accuracy: Floats
    low: Floats
    high: Floats
    raw_share: float
    raw_accuracy: float
    usd_per_1000: Floats | None = None
    raw_usd_per_1000: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """What the figures show; the lines of chance and of the oracle belong to the reference device.

    Attributes:
        tied: at each share, the strategies that a paired 95 % interval does not tell apart from the best one.
    """

    shares: Floats
    lines: list[Line]
    random: Floats
    oracle: Floats
    device: float
    cloud: float
    tied: list[tuple[str, ...]]


def summarise(records: Iterable[Record] | Shared, **options: Any) -> dict[str, Any]:
    """Every number of an evaluation, from its records alone; options and errors as in `analyse`."""
    return analyse(records, **options)[0]


def curves(records: Iterable[Record] | Shared, *, seed: int) -> Curves:
    """The curve of every strategy, with a pointwise 95 % band.

    Raises:
        ConfigError: no prompt could be graded for every strategy.
    """
    return analyse(records, share=0.0, seed=seed, resamples=_BAND_RESAMPLES)[1]


def analyse(
    records: Iterable[Record] | Shared,
    *,
    share: float,
    seed: int,
    task: str = "",
    resamples: int = 1000,
    prices: PriceTable | None = None,
    network: Network | None = None,
    routellm_bins: int | None = None,
    on_progress: Callable[[int, int], object] | None = None,
) -> tuple[dict[str, Any], Curves]:
    """Every number of an evaluation, and its curves, from its records alone.

    All strategies are compared on the same prompts: those that each of them answered and that could be graded on
    both sides. `n_excluded` counts the others. Token counts and costs are totals over these prompts, as run, before
    shares are matched, unless a name says otherwise. The device of `device_accuracy` and the oracle line is that of
    the first strategy that never asks the cloud, else of the first one; APGR and `oracle_gain` of a strategy refer to
    its own device.

    Args:
        share: the call share at which strategies are compared.
        seed: breaks ties of scores (the same as that of `splits_of`) and draws the bootstrap samples.
        resamples: bootstrap samples over prompts.
        prices: for the costs; without, only `usd` of the records is summed up.
        network: for the latencies; the default model without.
        routellm_bins: give APGR in RouteLLM's own way as well, from so many bins.
        on_progress: called with samples done and in all.

    Raises:
        ConfigError: a share outside [0, 1], strategies run on different rows, or no prompt that could be graded for
            every strategy.
    """
    shared = records if isinstance(records, Shared) else splits_of(columns_of(records), seed=seed)
    splits = shared.splits
    calls = metrics.calls_at(share, len(splits[0]))
    views = [_View.of(split, prices, network or Network(), calls) for split in splits]
    at = calls / len(splits[0])

    def statistics(number: int, counts: Counts) -> dict[str, Floats]:
        return _statistics(counts, at) | {"curve": _on_grid(counts)}

    drawn = resample(
        splits, statistics, [view.means for view in views], resamples=resamples, seed=seed, on_progress=on_progress
    )
    bounds = _cost_bounds(views)
    entries = [
        _entry(number, view, calls, drawn, bounds, routellm_bins=routellm_bins) for number, view in enumerate(views)
    ]
    reference = reference_of(splits)
    summary = {
        "task": task,
        "n": len(reference),
        "n_excluded": shared.excluded,
        "call_share_target": share,
        "seed": seed,
        "resamples": resamples,
        "reference": reference.name,
        "device_accuracy": float(reference.device.mean()),
        "cloud_accuracy": float(reference.cloud.mean()),
        "either_accuracy": float((reference.device | reference.cloud).mean()),
        "random_accuracy": float(metrics.random_accuracy(reference.device.mean(), reference.cloud.mean(), at)),
        "oracle_accuracy": float(metrics.oracle_accuracy(reference.device, reference.cloud, at)),
        "prices": None if prices is None else asdict(prices),
        "network": asdict(network or Network()),
        "strategies": entries,
        "comparisons": _comparisons(splits, entries, calls, drawn),
    }
    return summary, _curves(views, drawn, reference)


# --- one strategy ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """A strategy with its curve and costs, and the values per prompt whose mean is wanted.

    Attributes:
        exact: its prompts, once each.
        curve: accuracy at the shares of `_GRID`.
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
    def of(cls, split: Split, prices: PriceTable | None, network: Network, calls: int) -> _View:
        sent = split.sent(calls)
        numbers = split.numbers
        known = costs.kept_and_sent(split)
        usd = costs.usd(split, prices.prices) if known and prices else None
        latency = np.where(sent, *costs.latency_s(split, network)[::-1]) if known else None
        means = {"usd_per_1000": 1000 * (numbers["usd"] if usd is None else np.where(split.wants, usd[1], usd[0]))}
        if usd is not None:
            means["usd_per_1000_at_share"] = 1000 * np.where(sent, usd[1], usd[0])
        if known:
            means["device_tokens_handed_off_at_share"] = np.where(sent, numbers["attempt_tokens"], 0.0)
        if latency is not None:
            means["latency_mean_s"] = latency
        kept_usd, sent_usd = usd or (None, None)
        exact = exact_counts(split)
        return cls(split, exact, _on_grid(exact)[0], sent, kept_usd, sent_usd, latency, means)

    def usd_at(self, shares: Floats) -> Floats | None:
        """Cost of 1,000 requests at each share."""
        if self.kept_usd is None or self.sent_usd is None:
            return None
        more = (self.sent_usd - self.kept_usd)[self.split.order]
        total = self.kept_usd.sum() + np.r_[0.0, more.cumsum()]
        return np.asarray(1000 * np.interp(shares, np.linspace(0, 1, len(total)), total / len(self.split)))


def _statistics(counts: Counts, share: float) -> dict[str, Floats]:
    """Every statistic that follows from who is right and who was asked; arrays of shape (b,)."""
    prompts, device, cloud, kinds, n = counts.prompts, counts.device, counts.cloud, counts.kinds, counts.n
    kept, kept_right = kinds[0].sum((0, 1)), counts.kept_right.sum(-1)
    curve = metrics.curve_of_counts(prompts, device, cloud)
    refusing = metrics.curve_of_counts(prompts, counts.kept_right, cloud)
    overall, alone = metrics.accuracy_at(*curve, share), device.sum(-1) / n
    chance = metrics.random_accuracy(alone, cloud.sum(-1) / n, share)
    wins, losses = kinds[:, 1, 0].sum(0) / n, kinds[:, 0, 1].sum(0) / n
    best = alone + np.minimum(share, wins) - np.maximum(0, share - (1 - losses))
    aurc = metrics.risk_coverage(prompts, prompts - device)
    return {
        "raw_call_share": kinds[1].sum((0, 1)) / n,
        "raw_overall_accuracy": (kept_right + kinds[1, 1].sum(0)) / n,
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
            *(np.add.reduceat(values, counts.groups, -1) for values in (prompts - device, device))
        ),
        "aurc": aurc,
        "aurc_excess": metrics.excess_risk(aurc, 1 - alone, round(float(n[0]))),
    }


def _on_grid(counts: Counts) -> Floats:
    """Accuracy at the shares of `_GRID`, shape (b, shares)."""
    shares, accuracies = metrics.curve_of_counts(counts.prompts, counts.device, counts.cloud)
    return np.array([np.interp(_GRID, x, y) for x, y in zip(shares, accuracies, strict=True)])


_NEED_LEAD = ("apgr", "cpt50", "cpt80")


def _entry(
    number: int,
    view: _View,
    calls: int,
    drawn: Resampled,
    bounds: tuple[float, float, float] | None,
    *,
    routellm_bins: int | None,
) -> dict[str, Any]:
    split, n = view.split, len(view.split)
    point = {name: float(value[0]) for name, value in _statistics(view.exact, calls / n).items()}
    point |= {name: float(values.mean()) for name, values in view.means.items()}
    bands = {name: drawn.band(number, name) for name in point}
    refusal = metrics.apgr_refusal(float(split.device.mean()), float(split.cloud.mean()), bands["cloud_lead"])
    absent = _NEED_LEAD if refusal is not None else ()
    known = {name: None if name in absent else _number(value) for name, value in point.items()}
    optional = ("usd_per_1000_at_share", "device_tokens_handed_off_at_share", "latency_mean_s")
    numbers = split.numbers
    return {
        "name": split.name,
        "fixed": split.fixed,
        "matched_by": "random" if np.isnan(split.score).all() else "score",
        "call_share": calls / n,
        "threshold": _threshold(split, calls),
        **dict.fromkeys(optional),
        **known,
        "apgr_refused": refusal,
        "apgr_routellm": _apgr_routellm(split, routellm_bins, refusal),
        "aiq": _aiq(view, bounds),
        **_latencies(view),
        "usd": float(numbers["usd"].sum()),
        "seconds": float(numbers["seconds"].sum()),
        "device_tokens": int(numbers["device_tokens"].sum()),
        "cloud_tokens": int(numbers["cloud_tokens"].sum()),
        "device_tokens_handed_off": int(numbers["device_tokens"][split.wants].sum()),
        **_reliability(view),
        "errors": split.errors,
        "ci95": {
            name: None if known.get(name) is None else [_number(end) for end in band] for name, band in bands.items()
        },
    }


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


def _cost_bounds(views: Sequence[_View]) -> tuple[float, float, float] | None:
    """Least and greatest cost of 1,000 requests on any curve, and the accuracy to be had at the least."""
    ends = [(view, view.usd_at(np.array([0.0, 1.0]))) for view in views]
    known = [(float(usd[0]), float(view.split.device.mean()), float(usd[1])) for view, usd in ends if usd is not None]
    if not known:
        return None
    low = min(start for start, _, _ in known)
    return low, max(end for _, _, end in known), max(accuracy for start, accuracy, _ in known if start == low)


def _aiq(view: _View, bounds: tuple[float, float, float] | None) -> float | None:
    usd = view.usd_at(_GRID)
    if usd is None or bounds is None:
        return None
    low, high, start = bounds
    return _number(metrics.aiq(usd, view.curve, low=low, high=high, start=start))


def _latencies(view: _View) -> dict[str, float | None]:
    """Median and 95th percentile at the share."""
    if view.latency_s is None:
        return {"latency_p50_s": None, "latency_p95_s": None}
    p50, p95 = np.quantile(view.latency_s, [0.5, 0.95])
    return {"latency_p50_s": float(p50), "latency_p95_s": float(p95)}


def _reliability(view: _View) -> dict[str, Any]:
    """How well score and decision agree with what the device can do."""
    split = view.split
    rate = split.numbers["solve_rate"]
    sampled = ~np.isnan(rate)
    scored = ~np.isnan(split.score)
    bins = metrics.reliability(split.score[scored], (~split.device[scored]).astype(np.float64)) if scored.any() else []
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


# --- strategies against each other -----------------------------------------------------------------------------


def _comparisons(
    splits: Sequence[Split], entries: Sequence[Mapping[str, Any]], calls: int, drawn: Resampled
) -> list[dict[str, Any]]:
    """Every pair at the share, paired by prompt: the better one first, best pairs first; fixed strategies stay out."""
    ranked = sorted(
        (i for i, e in enumerate(entries) if not e["fixed"]), key=lambda i: entries[i]["overall_accuracy"], reverse=True
    )
    pairs = list(combinations(ranked, 2))
    right = {i: np.where(splits[i].sent(calls), splits[i].cloud, splits[i].device) for i in ranked}
    p_values = [metrics.mcnemar(right[a], right[b]) for a, b in pairs]
    return [
        {
            "a": splits[a].name,
            "b": splits[b].name,
            "difference": entries[a]["overall_accuracy"] - entries[b]["overall_accuracy"],
            "ci95": [*percentiles(drawn.values[a, "overall_accuracy"] - drawn.values[b, "overall_accuracy"])],
            "p": p,
            "p_holm": corrected,
        }
        for (a, b), p, corrected in zip(pairs, p_values, metrics.holm(p_values), strict=True)
    ]


def _curves(views: Sequence[_View], drawn: Resampled, reference: Split) -> Curves:
    device, cloud = float(reference.device.mean()), float(reference.cloud.mean())
    oracle = [float(metrics.oracle_accuracy(reference.device, reference.cloud, share)) for share in _GRID]
    lines = [_line(number, view, drawn) for number, view in enumerate(views)]
    chance = metrics.random_accuracy(device, cloud, _GRID)
    return Curves(_GRID, lines, chance, np.array(oracle), device, cloud, _tied(lines, drawn))


def _tied(lines: Sequence[Line], drawn: Resampled) -> list[tuple[str, ...]]:
    moving = [number for number, line in enumerate(lines) if not line.fixed]
    if not moving:
        return [()] * len(_GRID)
    best = [max(moving, key=lambda number: lines[number].accuracy[at]) for at in range(len(_GRID))]
    samples = {number: drawn.values[number, "curve"] for number in moving}
    top = np.stack([samples[number][:, at] for at, number in enumerate(best)], -1)
    near = {number: np.quantile(top - samples[number], 0.025, axis=0) <= 0 for number in moving}
    return [
        tuple(lines[number].name for number in moving if number != best[at] and near[number][at])
        for at in range(len(_GRID))
    ]


def _line(number: int, view: _View, drawn: Resampled) -> Line:
    split = view.split
    low, high = np.quantile(drawn.values[number, "curve"], [0.025, 0.975], axis=0)
    usd = view.usd_at(_GRID)
    return Line(
        split.name,
        split.fixed,
        view.curve,
        low,
        high,
        raw_share=float(split.wants.mean()),
        raw_accuracy=float(np.where(split.wants, split.cloud, split.device).mean()),
        usd_per_1000=usd,
        raw_usd_per_1000=None if usd is None else float(view.means["usd_per_1000"].mean()),
    )

"""From records to numbers: the summary, and the curves that the figures show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np

from selfroute.evaluation.counting import metrics
from selfroute.evaluation.counting.axes import Along, check_axes
from selfroute.evaluation.counting.columns import columns_of
from selfroute.evaluation.counting.costs import PriceTable
from selfroute.evaluation.counting.curves import Curves, curves_of
from selfroute.evaluation.counting.entries import GRID, View, cost_bounds, entry_of, on_grid, statistics_of
from selfroute.evaluation.counting.frontier import FRACTIONS
from selfroute.evaluation.counting.metrics import Floats
from selfroute.evaluation.counting.resampling import Counts, Resampled, percentiles, resample
from selfroute.evaluation.counting.split import Shared, Split, reference_of, splits_of
from selfroute.evaluation.records import Record
from selfroute.network.link import Network
from selfroute.prices import Prices

__all__ = ["analyse", "curves", "summarise"]

_BAND_RESAMPLES = 200


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
    axes: Sequence[str] = ("calls",),
    fractions: Sequence[float] = FRACTIONS,
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
        axes: resources along which strategies are compared as well, keys of `AXES`.
        fractions: of what the cloud alone spends of each: where they are compared.
        on_progress: called with samples done and in all.

    Raises:
        ConfigError: an unknown axis, or `usd` without prices; a share outside [0, 1], strategies run on different rows,
            or no prompt that could be graded for every strategy.
    """
    check_axes(axes, priced=prices is not None)
    shared = records if isinstance(records, Shared) else splits_of(columns_of(records), seed=seed)
    splits, network = shared.splits, network or Network()
    calls = metrics.calls_at(share, len(splits[0]))
    views = [View.of(split, prices, network, calls) for split in splits]
    paid = Prices() if prices is None else prices.prices
    along = [Along(axis, splits, network, paid, fractions) for axis in axes]
    at = calls / len(splits[0])

    def statistics(number: int, counts: Counts) -> dict[str, Floats]:
        own = _merged(statistics_of(counts, at), {"curve": on_grid(counts)}, *(axis.held(counts) for axis in along))
        return {name: values for name, values in own.items() if name not in views[number].means}

    drawn = resample(
        splits,
        statistics,
        [_merged(view.means, *wanted) for view, *wanted in zip(views, *(axis.means for axis in along), strict=True)],
        spending=[_merged(*wanted) for _, *wanted in zip(views, *(axis.spending for axis in along), strict=True)],
        resamples=resamples,
        seed=seed,
        on_progress=on_progress,
    )
    sections = [axis.section(drawn, GRID) for axis in along]
    charts = [axis.chart(section) for axis, section in zip(along, sections, strict=True)]
    bounds = cost_bounds([view for view in views if view.split.point is None and not view.split.joint])
    entries = [
        entry_of(number, view, calls, drawn, bounds, routellm_bins=routellm_bins) for number, view in enumerate(views)
    ]
    reference = reference_of(splits)
    summary = {
        "task": task,
        "n": len(reference),
        "n_excluded": shared.excluded,
        "call_share_target": share,
        "seed": seed,
        "resamples": resamples,
        **_bounds(reference, at),
        "prices": None if prices is None else asdict(prices),
        "network": asdict(network),
        "strategies": entries,
        "comparisons": _comparisons(splits, entries, calls, drawn),
        "axes": sections,
    }
    return summary, curves_of(views, drawn, reference, charts)


def _bounds(reference: Split, share: float) -> dict[str, Any]:
    """Each side alone, chance and the oracle, for the reference device."""
    device, cloud = reference.device, reference.cloud
    return {
        "reference": reference.name,
        "device_accuracy": float(device.mean()),
        "cloud_accuracy": float(cloud.mean()),
        "either_accuracy": float(np.maximum(device, cloud).mean()),
        "random_accuracy": float(metrics.random_accuracy(device.mean(), cloud.mean(), share)),
        "oracle_accuracy": float(metrics.oracle_accuracy(device, cloud, share)),
    }


def _merged(*parts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for part in parts for name, value in part.items()}


def _comparisons(
    splits: Sequence[Split], entries: Sequence[Mapping[str, Any]], calls: int, drawn: Resampled
) -> list[dict[str, Any]]:
    """Every pair at the share, paired by prompt: the better one first, best pairs first; fixed strategies stay out."""
    ranked = sorted(
        (i for i, split in enumerate(splits) if split.matched),
        key=lambda i: entries[i]["overall_accuracy"],
        reverse=True,
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

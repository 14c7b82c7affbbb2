"""Evaluations of several seeds as one table: means, spreads and intervals along each resource."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

__all__ = ["Listed", "Spread", "compared", "spread"]

Summary = Mapping[str, Any]
Spread = dict[str, float | None]
_EPSILON = 1e-12


@dataclass(frozen=True, slots=True)
class Listed:
    """What is known of a strategy beside its records.

    Attributes:
        entry: of the comparison that it belongs to.
        free: whether it is a baseline that nobody has to work for.
    """

    entry: str
    level: str
    free: bool


def compared(summaries: Sequence[Summary], listed: Mapping[str, Listed]) -> dict[str, Any]:
    """The table, as plain data. Accuracies are fractions; what is spent is per request.

    Args:
        summaries: of `selfroute.evaluation.counting.summary.analyse`, one for each seed, of the same strategies, axes
            and fractions.
        listed: by the strategy's name.
    """
    first = summaries[0]
    return {
        "task": first["task"],
        "n": [summary["n"] for summary in summaries],
        "seeds": [summary["seed"] for summary in summaries],
        "shares": first["axes"][0]["fractions"],
        "network": first["network"],
        "prices": first["prices"],
        **{f"{end}_accuracy": spread([s[f"{end}_accuracy"] for s in summaries]) for end in ("device", "cloud")},
        "axes": [_axis([summary["axes"][at] for summary in summaries], summaries, listed) for at in _numbers(first)],
        "runs": _runs(summaries),
    }


def spread(values: Sequence[float | None]) -> Spread:
    """Mean and standard deviation over seeds; no mean if a seed has no value, no deviation of one seed."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return {"mean": None, "sd": None}
    return {"mean": float(np.mean(known)), "sd": float(np.std(known, ddof=1)) if len(known) > 1 else None}


def _numbers(summary: Summary) -> range:
    return range(len(summary["axes"]))


def _axis(found: Sequence[Summary], summaries: Sequence[Summary], listed: Mapping[str, Listed]) -> dict[str, Any]:
    """All strategies along one resource."""
    shares = found[0]["fractions"]
    names = [line["name"] for line in found[0]["lines"]]
    return {
        "axis": found[0]["axis"],
        **{f"{end}_spent": spread([part[f"{end}_spent"] for part in found]) for end in ("device", "cloud")},
        **{
            bound: [spread([part[f"{bound}_accuracy"][at] for part in found]) for at in range(len(shares))]
            for bound in ("random", "oracle")
        },
        "lines": [
            {"strategy": name, **asdict(listed[name]), **_line(name, found, summaries, shares)} for name in names
        ],
    }


def _line(name: str, found: Sequence[Summary], summaries: Sequence[Summary], shares: Sequence[float]) -> dict[str, Any]:
    lines = [_held(_named(part["lines"], name), part, summary) for part, summary in zip(found, summaries, strict=True)]
    return {
        "oracle": lines[0]["oracle"],
        "at": [
            {
                "share": share,
                **spread([line["accuracy"][at] for line in lines]),
                "ci95": _interval([line["ci95"][at] for line in lines]),
                "near_best": all(line["near_best"][at] for line in lines),
            }
            for at, share in enumerate(shares)
        ],
    }


def _held(line: Summary, part: Summary, summary: Summary) -> Summary:
    """A line of a seed; of a strategy that treats every prompt alike, what it reaches where the budget allows it."""
    setting = _named(summary["strategies"], line["name"])
    if not setting["fixed"]:
        return line
    (point,) = line["points"]
    fits = [_fits(point["spent"], share, part["cloud_spent"]) for share in part["fractions"]]
    band = setting["ci95"]["raw_overall_accuracy"]
    return {
        **line,
        "accuracy": [point["accuracy"] if fit else None for fit in fits],
        "ci95": [band if fit else None for fit in fits],
    }


def _fits(spent: float | None, share: float, whole: float | None) -> bool:
    return spent is not None and whole is not None and spent <= share * whole * (1 + _EPSILON)


def _interval(bands: Sequence[Sequence[float] | None]) -> list[float] | None:
    """The interval over prompts of one seed, its ends averaged over seeds."""
    known = [band for band in bands if band is not None]
    return [float(end) for end in np.mean(known, axis=0)] if known and len(known) == len(bands) else None


def _runs(summaries: Sequence[Summary]) -> list[dict[str, Any]]:
    """Every setting as run: what it gets right, and what it takes of each resource, also as a part of the cloud's."""
    settings = [(line["name"], at) for line in summaries[0]["axes"][0]["lines"] for at in range(len(line["points"]))]
    return [_run(name, at, summaries) for name, at in settings]


def _run(name: str, at: int, summaries: Sequence[Summary]) -> dict[str, Any]:
    spent, of_cloud = {}, {}
    for number in _numbers(summaries[0]):
        parts = [summary["axes"][number] for summary in summaries]
        points = [_named(part["lines"], name)["points"][at] for part in parts]
        spent[parts[0]["axis"]] = spread([point["spent"] for point in points])
        of_cloud[parts[0]["axis"]] = spread(
            [_ratio(point["spent"], part["cloud_spent"]) for point, part in zip(points, parts, strict=True)]
        )
    right = spread([point["accuracy"] for point in points])
    return {"strategy": name, "point": points[0]["point"], "right": right, "spent": spent, "of_cloud": of_cloud}


def _ratio(spent: float | None, whole: float | None) -> float | None:
    return None if spent is None or not whole else spent / whole


def _named(found: Sequence[Summary], name: str) -> Summary:
    return next(each for each in found if each["name"] == name)

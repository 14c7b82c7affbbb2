"""Numbers as a person reads them, the same in the terminal and in the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from selfroute.evaluation.counting.curves import Curves, Line
from selfroute.evaluation.counting.metrics import Floats

__all__ = [
    "Deployment",
    "best",
    "deployments",
    "fixed_point",
    "headline",
    "interval",
    "is_matched",
    "label",
    "money",
    "percent",
    "price",
    "share_of",
    "versus",
]

Entry = Mapping[str, Any]


def percent(value: float | None, *, digits: int = 1) -> str:
    """0.3 → "30.0 %"; a dash for None."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def fixed_point(value: float | None, *, digits: int = 3) -> str:
    """0.6123 → "0.612", and no minus before a zero; a dash for None."""
    return "–" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"


def interval(band: Sequence[float] | None, *, scale: float = 1, digits: int = 3) -> str:
    """A 95 % interval as "0.58 to 0.64"; empty for None."""
    return "" if band is None else f"{scale * band[0]:.{digits}f} to {scale * band[1]:.{digits}f}"


def price(usd: float | None) -> str:
    """A sum of money; a dash for None."""
    return "–" if usd is None else f"${usd:.2f}" if usd >= 0.1 or not usd else f"${usd:.2g}"


def money(usd: float | None) -> str:
    """The same; a dash if nothing was charged as well."""
    return price(usd or None)


def share_of(summary: Mapping[str, Any]) -> str:
    return f"{100 * summary['call_share_target']:g} %"


def is_matched(entry: Entry) -> bool:
    """Whether a strategy is compared at a call share: it chooses between prompts, and is no point of a knob."""
    return not entry["fixed"] and entry["matched_by"] is not None


def label(entry: Entry) -> str:
    """A strategy's name, with the point where there is one; as `Split.label`."""
    return str(entry["name"]) if entry["point"] is None else f"{entry['name']} @ {entry['point']:g}"


def best(summary: Mapping[str, Any]) -> Entry:
    """The strategy of highest accuracy at the share, oracles left aside.

    Where none is compared there, it is the best one as run that chooses.
    """
    entries: list[Entry] = [entry for entry in summary["strategies"] if not entry["oracle"]] or summary["strategies"]
    if matched := [entry for entry in entries if is_matched(entry)]:
        return max(matched, key=lambda entry: entry["overall_accuracy"])
    return max((e for e in entries if not e["fixed"]), key=lambda e: e["raw_overall_accuracy"], default=entries[0])


def headline(summary: Mapping[str, Any]) -> list[str]:
    """What to take away, in plain words: what was compared, who won and by how much, whether that may be chance, and
    what it costs; a warning before it where the cloud hurts.
    """
    top = best(summary)
    n, task = summary["n"], f" {summary['task']}" if summary["task"] else ""
    levels = (
        f"The device alone ({summary['reference']}) solves {percent(summary['device_accuracy'])}, the cloud alone "
        f"{percent(summary['cloud_accuracy'])}."
    )
    if top["fixed"]:
        return [f"No strategy here chooses between device and cloud (n = {n}{task} prompts).", levels]
    if not is_matched(top):
        band = interval(top["ci95"]["raw_overall_accuracy"], scale=100, digits=1)
        right = percent(top["raw_overall_accuracy"])
        return [f"{label(top)} answers {right} of {n}{task} prompts right (95 % interval {band}).", levels]
    hurt = (
        ["Calling the cloud hurts here: it gets fewer prompts right than the device. Keep requests on the device."]
        if summary["cloud_accuracy"] < summary["device_accuracy"]
        else []
    )
    split = (
        f"With that device, the same share sent at random gives {percent(summary['random_accuracy'])}, and a perfect "
        f"choice {percent(summary['oracle_accuracy'])}."
    )
    told = [*hurt, _won(summary, top), _ahead(summary), _costs(summary, top), f"{levels} {split}", _compared(summary)]
    return [text for text in told if text]


def _won(summary: Mapping[str, Any], top: Entry) -> str:
    ways = sum(is_matched(entry) for entry in summary["strategies"])
    task = f" {summary['task']}" if summary["task"] else ""
    right = percent(top["overall_accuracy"])
    band = f"95 % interval {interval(top['ci95']['overall_accuracy'], scale=100, digits=1)}"
    if ways == 1:
        return (
            f"At a call share of {share_of(summary)}, {top['name']} answers {right} of {summary['n']}{task} prompts "
            f"right ({band})."
        )
    return (
        f"Of {ways} ways to choose the {share_of(summary)} of {summary['n']}{task} prompts that the cloud answers, "
        f"{top['name']} gets the most right: {right} ({band})."
    )


def _ahead(summary: Mapping[str, Any]) -> str:
    """How far the best is ahead of the next, and whether that may be chance; empty where there is no other."""
    if not summary["comparisons"]:
        return ""
    nearest = summary["comparisons"][0]
    low, high = nearest["ci95"]
    band = f"the 95 % interval of the difference, {interval(nearest['ci95'], scale=100, digits=1)} points"
    if low <= 0 <= high:
        verdict = f"{band}, does not exclude zero: the two are not told apart on so few prompts"
    elif nearest["p_holm"] >= 0.05:
        verdict = f"{band}, excludes zero, but among so many pairs it may be chance ({_chance(nearest)})"
    else:
        verdict = f"{band}, excludes zero ({_chance(nearest)})"
    return f"That is {100 * nearest['difference']:.1f} points more than {nearest['b']}, the next best; {verdict}."


def _costs(summary: Mapping[str, Any], top: Entry) -> str:
    """What the best costs beside the next best and the cloud alone; in tokens where there are no prices."""
    usd = top["usd_per_1000_at_share"]
    if not usd:
        device, cloud = (top[f"{side}_tokens"] / summary["n"] for side in ("device", "cloud"))
        return (
            f"No prices were given, so nothing is told of money; as run, {top['name']} has the device write "
            f"{device:.0f} tokens per request and the cloud {cloud:.0f}."
        )
    others = [f"with {e['name']} {price(e['usd_per_1000_at_share'])}" for e in _runners_up(summary)[:1]]
    alone = [e["usd_per_1000"] for e in summary["strategies"] if e["fixed"] and e["raw_call_share"] == 1]
    others += [f"with the cloud alone {price(alone[0])}"] if alone and alone[0] else []
    rest = f"; {', '.join(others)}" if others else ""
    return f"1,000 requests at that share cost {price(usd)} with {top['name']}{rest}."


def _runners_up(summary: Mapping[str, Any]) -> list[Entry]:
    matched = [entry for entry in summary["strategies"] if is_matched(entry)]
    return sorted(matched, key=lambda entry: -float(entry["overall_accuracy"]))[1:]


def _compared(summary: Mapping[str, Any]) -> str:
    names = [label(entry) for entry in summary["strategies"]]
    between = "; " if any("," in name for name in names) else ", "  # "gapg, alone" is one name
    return f"Compared were {between.join(names)}, on the same prompts." if len(names) > 1 else ""


def versus(comparison: Mapping[str, Any]) -> str:
    """One paired difference as a sentence; says so when it may be chance."""
    points = f"{100 * comparison['difference']:+.1f} points"
    band = interval(comparison["ci95"], scale=100, digits=1)
    low, high = comparison["ci95"]
    corrected = comparison["p_holm"]
    if low <= 0 <= high:
        verdict = ": not told apart at this n"
    else:
        verdict = "" if corrected < 0.05 else ": may be chance among so many pairs"
    return f"{comparison['a']} against {comparison['b']}: {points} ({band}, {_chance(comparison)}){verdict}."


def _chance(comparison: Mapping[str, Any]) -> str:
    corrected = _p_value(comparison["p_holm"]).removeprefix("p ").removeprefix("= ")
    return f"{_p_value(comparison['p'])}, corrected {corrected}"


def _p_value(p: float) -> str:
    return f"p = {p:.2g}" if p >= 0.001 else "p < 0.001"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """The best strategy at a call share, and what to expect of it.

    Attributes:
        band: 95 % interval of the accuracy.
        random: accuracy of the same share sent at random.
        also: strategies that a paired interval does not tell apart from it.
        usd_per_1000: None where costs are not known.
    """

    share: float
    name: str
    accuracy: float
    band: tuple[float, float]
    random: float
    also: tuple[str, ...]
    usd_per_1000: float | None


def deployments(
    drawn: Curves, summary: Entry, *, shares: Sequence[float] = (0.05, 0.1, 0.2, 0.3, 0.5)
) -> list[Deployment]:
    """What to deploy at round call shares and at the one that was asked for; empty if nothing chooses."""
    moving = [line for line in drawn.lines if not line.fixed]
    wanted = sorted({*shares, summary["call_share_target"]})
    return [_deployment(drawn, moving, share) for share in wanted] if moving else []


def _deployment(drawn: Curves, moving: Sequence[Line], share: float) -> Deployment:
    def at(values: Floats) -> float:
        return float(np.interp(share, drawn.shares, values))

    top = max(moving, key=lambda line: at(line.accuracy))
    accuracy = at(top.accuracy)
    return Deployment(
        share=share,
        name=top.name,
        accuracy=accuracy,
        band=(at(top.low), at(top.high)),
        random=at(drawn.random),
        also=drawn.tied[int(np.argmin(np.abs(drawn.shares - share)))],
        usd_per_1000=None if top.usd_per_1000 is None else at(top.usd_per_1000),
    )

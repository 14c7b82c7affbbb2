"""Numbers as a person reads them, the same in the terminal and in the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["best", "fixed_point", "headline", "interval", "money", "percent", "share_of", "versus"]

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


def money(usd: float, requests: int) -> str:
    """Cost per 1,000 requests; a dash if nothing was charged."""
    return f"${1000 * usd / requests:.2f}" if usd else "–"


def share_of(summary: Mapping[str, Any]) -> str:
    return f"{100 * summary['call_share_target']:g} %"


def best(summary: Mapping[str, Any]) -> Entry:
    """The strategy of highest accuracy at the share, of those that choose between prompts."""
    entries: list[Entry] = summary["strategies"]
    return max((e for e in entries if not e["fixed"]), key=lambda e: e["overall_accuracy"], default=entries[0])


def headline(summary: Mapping[str, Any]) -> list[str]:
    """What to take away, in three sentences at most."""
    top = best(summary)
    n, task = summary["n"], f" {summary['task']}" if summary["task"] else ""
    levels = (
        f"The device alone ({summary['reference']}) solves {percent(summary['device_accuracy'])}, the cloud alone "
        f"{percent(summary['cloud_accuracy'])}."
    )
    if top["fixed"]:
        return [f"No strategy here chooses between device and cloud (n = {n}{task} prompts).", levels]
    first = (
        f"At a call share of {share_of(summary)}, {top['name']} answers {percent(top['overall_accuracy'])} of "
        f"{n}{task} prompts right (95 % interval {interval(top['ci95']['overall_accuracy'], scale=100, digits=1)})."
    )
    split = (
        f"With that device, the same share sent at random gives {percent(summary['random_accuracy'])}, and a perfect "
        f"choice {percent(summary['oracle_accuracy'])}."
    )
    second = versus(summary["comparisons"][0]) if summary["comparisons"] else ""
    return [sentence for sentence in (first, second, f"{levels} {split}") if sentence]


def versus(comparison: Mapping[str, Any]) -> str:
    """One paired difference as a sentence; says so when it may be chance."""
    points = f"{100 * comparison['difference']:+.1f} points"
    band = interval(comparison["ci95"], scale=100, digits=1)
    low, high = comparison["ci95"]
    verdict = "" if low > 0 or high < 0 else ": not told apart at this n"
    return f"{comparison['a']} against {comparison['b']}: {points} ({band}){verdict}."

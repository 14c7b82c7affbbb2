"""The results in a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from selfroute.evaluation.report.words import best, fixed_point, interval, is_matched, label, share_of

__all__ = ["summary_table"]


def summary_table(summary: Mapping[str, Any]) -> Table:
    """One line per strategy, best first, between the bounds: random and oracle at the same share. Shares in percent.

    It fits 80 columns: where costs are known, dollars take the place of APGR. They are at the share, or as run where
    there is no such figure: strategies that never or always send have none, nor have those that are compared along
    other resources. "as run" is before shares are matched.
    """
    share = share_of(summary)
    table = Table(
        title=Text(f"{summary['task']}  n = {summary['n']}  seed {summary['seed']}; in %"),
        title_justify="left",
        pad_edge=False,
        collapse_padding=True,  # the longest of our names fits on one line
        box=SIMPLE,
    )
    table.add_column("strategy", overflow="fold")
    names = ("calls\nas run", "right\nas run", f"right\nat {share}", "95 %\ninterval", "kept,\nright", "oracle\ngain")
    priced = any(entry.get("usd_per_1000") for entry in summary["strategies"])
    for name in (*names, "USD /\n1,000" if priced else "APGR"):
        table.add_column(name, justify="right", no_wrap=True)
    at, oracle, random = (_share(summary[name]) for name in ("call_share_target", "oracle_accuracy", "random_accuracy"))
    none = "" if priced else "0.500"
    table.add_row(Text("oracle", style="dim"), at, "", oracle, "", "", "1.00", "", style="dim", end_section=True)
    top = best(summary)
    for entry in sorted(summary["strategies"], key=_rank):
        table.add_row(*_cells(entry, priced=priced), style="bold" if entry is top and not entry["fixed"] else None)
    table.add_section()
    table.add_row(Text("random", style="dim"), at, "", random, "", "", "0.00", none, style="dim")
    return table


def _share(value: float | None) -> str:
    """0.303 → "30.3"; a dash for None."""
    return fixed_point(None if value is None else 100 * value, digits=1)


def _rank(entry: Mapping[str, Any]) -> tuple[bool, float]:
    matched = is_matched(entry)
    return not matched, -entry["overall_accuracy" if matched else "raw_overall_accuracy"]


def _dollars(entry: Mapping[str, Any]) -> str:
    """Per 1,000 requests, in five characters."""
    at_share = entry.get("usd_per_1000_at_share") if is_matched(entry) else None
    value = entry.get("usd_per_1000") if at_share is None else at_share
    return fixed_point(value, digits=3 if value is None or value < 1 else 2 if value < 100 else 0)


def _cells(entry: Mapping[str, Any], *, priced: bool) -> list[str | Text]:
    # Names come from outside and may hold brackets, which a console would read as its markup.
    raw: list[str | Text] = [Text(label(entry)), _share(entry["raw_call_share"]), _share(entry["raw_overall_accuracy"])]
    kept = _share(entry["conditional_local_accuracy"])
    last = _dollars(entry) if priced else fixed_point(entry["apgr"]) if is_matched(entry) else "–"
    if not is_matched(entry):
        return [*raw, "–", "", kept, "–", last]
    return [
        *raw,
        _share(entry["overall_accuracy"]),
        interval(entry["ci95"]["overall_accuracy"], scale=100, digits=0),
        kept,
        fixed_point(entry["oracle_gain"], digits=2),
        last,
    ]

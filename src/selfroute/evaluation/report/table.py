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

    It fits 80 columns. "as run" is before shares are matched; strategies that never or always send have no figure at
    the share, nor have those that are compared along other resources.
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
    for name in (*names, "APGR"):
        table.add_column(name, justify="right", no_wrap=True)
    at, oracle, random = (_share(summary[name]) for name in ("call_share_target", "oracle_accuracy", "random_accuracy"))
    table.add_row(Text("oracle", style="dim"), at, "", oracle, "", "", "1.00", "", style="dim", end_section=True)
    top = best(summary)
    for entry in sorted(summary["strategies"], key=_rank):
        table.add_row(*_cells(entry), style="bold" if entry is top and not entry["fixed"] else None)
    table.add_section()
    table.add_row(Text("random", style="dim"), at, "", random, "", "", "0.00", "0.500", style="dim")
    return table


def _share(value: float | None) -> str:
    """0.303 → "30.3"; a dash for None."""
    return fixed_point(None if value is None else 100 * value, digits=1)


def _rank(entry: Mapping[str, Any]) -> tuple[bool, float]:
    matched = is_matched(entry)
    return not matched, -entry["overall_accuracy" if matched else "raw_overall_accuracy"]


def _cells(entry: Mapping[str, Any]) -> list[str | Text]:
    # Names come from outside and may hold brackets, which a console would read as its markup.
    raw: list[str | Text] = [Text(label(entry)), _share(entry["raw_call_share"]), _share(entry["raw_overall_accuracy"])]
    kept = _share(entry["conditional_local_accuracy"])
    if not is_matched(entry):
        return [*raw, "–", "", kept, "–", "–"]
    return [
        *raw,
        _share(entry["overall_accuracy"]),
        interval(entry["ci95"]["overall_accuracy"], scale=100, digits=0),
        kept,
        fixed_point(entry["oracle_gain"], digits=2),
        fixed_point(entry["apgr"]),
    ]

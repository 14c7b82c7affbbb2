"""The comparison in a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from selfroute.planning.report.words import amount, ratio, seconds, share

__all__ = ["plan_table"]


def plan_table(summary: Mapping[str, Any]) -> Table:
    """One line per method, the plan first. It fits 80 columns."""
    model, ranks = summary["model"], summary["ranks"]
    table = Table(
        title=Text(f"{summary['problem']}: {model['layers']} layers × {model['experts']} experts on {ranks} ranks"),
        title_justify="left",
        pad_edge=False,
        collapse_padding=True,
        box=SIMPLE,
    )
    table.add_column("method", overflow="fold")
    heads = ["hops", "time", "saved", "above\nbound", "busiest\nof layer", "busiest\nof all", "moved", "CPU s"]
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for number, entry in enumerate(summary["methods"]):
        table.add_row(*_cells(entry), style="bold" if number == 0 else None)
    return table


def _cells(entry: Mapping[str, Any]) -> list[str]:
    gap = entry["gap"]
    return [
        entry["method"],
        amount(entry["hops"]),
        seconds(entry["seconds"]),
        share(entry["saved"]),
        "" if gap is None else share(gap, digits=2),
        ratio(entry, "busiest"),
        ratio(entry, "busiest_total"),
        "–" if entry["moved"] is None else f"{entry['moved']:,}",
        f"{entry['cpu_s']:.2f}",
    ]

"""The table of a comparison as Markdown, in columns that line up in a terminal too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selfroute.evaluation.counting.axes import AXES

__all__ = ["comparison_page"]

Plain = Mapping[str, Any]
_READ = """Right, in %, mean ± standard deviation over seeds, at parts of what the cloud alone spends. A star: on every
seed, a paired 95 % interval does not tell it apart from the best that is no oracle. (free): a baseline that nobody has
to work for; (oracle): it decides by what nobody can know in time. A dash: its cheapest setting spends more."""
_RUN = """As run, before shares are matched: right, in %, and what was spent, in % of what the cloud alone spends."""


def comparison_page(table: Plain) -> str:
    """The page.

    Args:
        table: what `selfroute compare` writes to `table.json`.
    """
    parts = [
        f"# Ways to share the work of {table['task']}",
        _origin(table),
        _READ,
        *(_section(part) for part in table["axes"]),
        _as_run(table),
        *([_left_out(table["left_out"])] if table["left_out"] else []),
    ]
    return "\n\n".join(parts) + "\n"


def _origin(table: Plain) -> str:
    ends = ", ".join(f"{end} alone {_percent(table[f'{end}_accuracy'])}" for end in ("device", "cloud"))
    n = ", ".join(str(count) for count in sorted(set(table["n"])))
    seeds = ", ".join(map(str, table["seeds"]))
    return (
        f"`{table['command']}`, commit {table['commit']}: n = {n} for each of the seeds {seeds}. Right, in %: {ends}."
    )


def _section(part: Plain) -> str:
    axis, shares = AXES[part["axis"]], [cell["share"] for cell in part["lines"][0]["at"]]
    title = f"## {axis.label[0].upper()}{axis.label[1:]}"
    if part["cloud_spent"]["mean"] is None:
        return f"{title}\n\nThe records do not tell."
    device, cloud = (_number(part[f"{end}_spent"], axis.scale) for end in ("device", "cloud"))
    spent = f"The device alone {device}; the cloud alone {cloud}"
    lines = [line for line in part["lines"] if any(cell["mean"] is not None for cell in line["at"])]
    if not lines:
        return f"{title}\n\n{spent}: nobody keeps to {100 * max(shares):g} % of the cloud's."
    rows = [["strategy", "level", *(f"{100 * share:g} %" for share in shares)]]
    rows += [[_name(line), line["level"], *map(_cell, line["at"])] for line in sorted(lines, key=_rank)]
    rows += [[f"*{bound} between both ends*", "", *map(_percent, part[bound])] for bound in ("random", "oracle")]
    return f"{title}\n\n{spent}.\n\n{_aligned(rows)}"


def _rank(line: Plain) -> float:
    return -sum(-1.0 if cell["mean"] is None else cell["mean"] for cell in line["at"])


def _name(line: Plain) -> str:
    marks = [mark for mark in ("free", "oracle") if line[mark]]
    return f"{line['strategy']} ({', '.join(marks)})" if marks else str(line["strategy"])


def _as_run(table: Plain) -> str:
    rows = [["strategy", "point", "right", *(name.replace("_", " ") for name in table["runs"][0]["of_cloud"])]]
    for run in table["runs"]:
        point = "" if run["point"] is None else f"{run['point']:g}"
        rows.append([run["strategy"], point, _percent(run["right"]), *map(_percent, run["of_cloud"].values())])
    return f"## As run\n\n{_RUN}\n\n{_aligned(rows)}"


def _left_out(left_out: Sequence[Plain]) -> str:
    lines = [f"- **{each['name']}**: {each['why']}: `{each['command']}`" for each in left_out]
    return "## Left out\n\n" + "\n".join(lines)


def _cell(cell: Plain) -> str:
    return f"{_percent(cell)}{'*' if cell['near_best'] else ''}"


def _percent(value: Plain) -> str:
    return _number(value, 100, form=".1f")


def _number(value: Plain, scale: float, *, form: str = ".3g") -> str:
    if value["mean"] is None:
        return "–"
    mean = format(scale * value["mean"], form)
    return mean if value["sd"] is None else f"{mean} ± {format(scale * value['sd'], form)}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)

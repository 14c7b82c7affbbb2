"""The page of the common table, from joined evaluations of several seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selfroute.tasks.chain import KINDS, Chain

__all__ = ["AXES", "page"]

AXES = ("cloud_tokens", "bytes", "round_trips", "seconds")
TITLES = {
    "cloud_tokens": "Tokens that the cloud writes",
    "bytes": "Bytes to and from the cloud",
    "round_trips": "Round trips",
    "seconds": "Seconds, by the default network of `selfroute.network.link.Network`",
}
MEASURES = ("auroc", "auroc_bad", "calibration_error")
WORDS, BARS = (Path(__file__).with_name(name) for name in ("words.md", "bars.md"))
CUTS = (0.05, 0.1)  # of the cloud's tokens, for the parts of the problems
Summary = Mapping[str, Any]


def page(folders: Sequence[Path], own_device: Sequence[str]) -> str:
    """The results as Markdown.

    Args:
        folders: one for each seed, beside what was trained for it.
        own_device: strategies whose device was trained for them.
    """
    summaries = [read(folder, "summary") for folder in folders]
    seeds = ", ".join(str(summary["seed"]) for summary in summaries)
    ends = {side: spread([s[f"{side}_accuracy"] for s in summaries], 100) for side in ("device", "cloud")}
    parts = [
        HEAD,
        f"n = {summaries[0]['n']} for each of the seeds {seeds}. Right, in %: device alone {ends['device']}, cloud "
        f"alone {ends['cloud']}.",
        *said(WORDS),
        *(section(axis, summaries) for axis in AXES),
        gap_section(summaries),
        own_section(folders, summaries, own_device),
        parts_section(folders, summaries),
        heads_section(folders),
        steps_section(folders),
        *said(BARS),
        commands(folders),
    ]
    return "\n\n".join(parts) + "\n"


def said(file: Path) -> list[str]:
    """What is written by hand."""
    return [file.read_text(encoding="utf-8").strip()] if file.is_file() else []


def read(folder: Path, name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return values


def section(axis: str, summaries: Sequence[Summary]) -> str:
    """Accuracy of every strategy at fractions of what the cloud alone spends of one resource."""
    found = [part_of(summary, axis) for summary in summaries]
    whole = spread([part["cloud_spent"] for part in found], 1, places=2)
    fractions = found[0]["fractions"]
    names = [line["name"] for line in found[0]["lines"] if any(value is not None for value in line["accuracy"])]
    rows = {name: [line_of(part, name) for part in found] for name in names}
    lines = [
        f"## {TITLES[axis]}",
        f"The cloud alone spends {whole} per request. Right, in %, at a fraction of that; a star where, on every seed, "
        "a paired interval does not tell it apart from the best that is no oracle.",
        table_head("strategy", *(f"{100 * fraction:g} %" for fraction in fractions)),
    ]
    if not names:
        return "\n\n".join([*lines[:1], f"The device alone takes more than the cloud ({whole}): nobody keeps to it."])
    ranked = sorted(names, key=lambda name: -float(np.mean([known(line["accuracy"][1]) for line in rows[name]])))
    table = [row(name, rows[name], len(fractions)) for name in ranked]
    table.append("| *random between both ends* | " + " | ".join(random_cells(found)) + " |")
    return "\n\n".join(lines) + "\n" + "\n".join(table)


def row(name: str, lines: Sequence[Mapping[str, Any]], count: int) -> str:
    mark = " (oracle)" if lines[0]["oracle"] else ""
    stars = ["*" if all(line["near_best"][at] for line in lines) else "" for at in range(count)]
    cells = [spread([line["accuracy"][at] for line in lines], 100) + stars[at] for at in range(count)]
    return f"| {name}{mark} | {' | '.join(cells)} |"


def random_cells(found: Sequence[Mapping[str, Any]]) -> list[str]:
    return [spread([part["random_accuracy"][at] for part in found], 100) for at in range(len(found[0]["fractions"]))]


# --- points as run -----------------------------------------------------------------------------------------------


def gap_section(summaries: Sequence[Summary]) -> str:
    """What closes nine tenths of the gap between device and cloud, with how many of the cloud's tokens."""
    lines = [
        "## Closing the gap",
        "Each point as run: tokens that the cloud wrote, in % of what it writes alone, and the part of the gap between "
        "device and cloud that is closed, in %; the cheapest point that closes 90 %, else the one that closes most.",
        table_head("strategy", "threshold", "cloud tokens", "gap closed", "round trips", "bytes"),
    ]
    return "\n\n".join(lines) + "\n" + "\n".join(gap_row(name, summaries) for name in knobbed(summaries[0]))


def knobbed(summary: Summary) -> list[str]:
    listed = part_of(summary, "cloud_tokens")["lines"]
    return [line["name"] for line in listed if line["points"][0]["point"] is not None]


def gap_row(name: str, summaries: Sequence[Summary]) -> str:
    points = [gaps(name, summary) for summary in summaries]
    mean = {point: np.mean([found[point] for found in points], axis=0) for point in points[0]}
    closing = [point for point, found in mean.items() if found[1] >= 0.9]
    best = min(closing, key=lambda point: mean[point][0]) if closing else max(mean, key=lambda point: mean[point][1])
    cells = zip(zip(*(found[best] for found in points), strict=True), (100, 100, 1, 1), strict=True)
    return f"| {name} | {best:g} | {' | '.join(spread(values, scale) for values, scale in cells)} |"


def gaps(name: str, summary: Summary) -> dict[float, tuple[float, ...]]:
    """Of each point: share of the cloud's tokens, part of the gap, round trips, bytes."""
    tokens = part_of(summary, "cloud_tokens")
    gap = tokens["cloud_accuracy"] - tokens["device_accuracy"]
    spent = [line_of(part_of(summary, axis), name)["points"] for axis in ("cloud_tokens", "round_trips", "bytes")]
    return {
        point["point"]: (
            point["spent"] / tokens["cloud_spent"],
            (point["accuracy"] - tokens["device_accuracy"]) / gap,
            trips["spent"],
            sent["spent"],
        )
        for point, trips, sent in zip(*spent, strict=True)
    }


# --- devices of their own ----------------------------------------------------------------------------------------


def own_section(folders: Sequence[Path], summaries: Sequence[Summary], own_device: Sequence[str]) -> str:
    """What was trained on the device's side, point by point, and what it is worth without a cloud."""
    lines = [
        "## With a device of its own",
        "Rows whose device was trained for them, each point as run: tokens that the cloud wrote, in % of what it "
        "writes alone and of all that stand in the answers or were written for them; answers that are right, in %, and "
        "those of the device where there is no cloud.",
        table_head(
            "strategy",
            "threshold",
            "cloud tokens",
            "of all tokens",
            "right",
            "right without a cloud",
            "round trips",
            "bytes",
        ),
    ]
    names = [line["name"] for line in part_of(summaries[0], "cloud_tokens")["lines"] if line["name"] in own_device]
    found = [own_of(folder, names, summary) for folder, summary in zip(folders, summaries, strict=True)]
    scales = (100, 100, 100, 100, 1, 1)
    rows = []
    for name, point in found[0]:
        columns = zip(*(each[name, point] for each in found), strict=True)
        cells = [spread(values, scale) for values, scale in zip(columns, scales, strict=True)]
        rows.append(f"| {name} | {'–' if point is None else f'{point:g}'} | {' | '.join(cells)} |")
    return "\n\n".join(lines) + "\n" + "\n".join(rows)


def own_of(folder: Path, names: Sequence[str], summary: Summary) -> dict[tuple[str, float | None], list[float]]:
    """By strategy and threshold: cloud tokens over the cloud's own and over all, right, right alone, trips, bytes."""
    records: dict[tuple[str, float | None], list[dict[str, Any]]] = {}
    for line in (folder / "records.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if record["strategy"] in names:
            records.setdefault((record["strategy"], record.get("point")), []).append(record)
    whole = part_of(summary, "cloud_tokens")["cloud_spent"]
    return {place: own_line(own, whole) for place, own in records.items()}


def own_line(records: Sequence[Mapping[str, Any]], whole: float) -> list[float]:
    def mean(*names: str) -> float:
        return float(np.mean([sum(record.get(name) or 0 for name in names) for record in records]))

    alone = [r["device_correct"] if r.get("local_correct") is None else r["local_correct"] for r in records]
    cloud, everything = mean("cloud_tokens"), mean("cloud_tokens", "device_tokens")
    shares = cloud / whole, cloud / everything
    return [*shares, mean("correct"), float(np.mean(alone)), mean("cloud_calls"), mean("up_bytes", "down_bytes")]


# --- parts of the problems ---------------------------------------------------------------------------------------


def parts_section(folders: Sequence[Path], summaries: Sequence[Summary]) -> str:
    """Where the device knows all, is unsure, or is sure and wrong."""
    heads = [f"{kind}, {100 * cut:g} %" for cut in CUTS for kind in KINDS]
    lines = [
        "## By what the device lacks",
        "Right, in %, on the problems that the device knows, on those with the multiplier that it never saw, and on "
        "those with the one that it learned wrongly (there it is sure and wrong), where the cloud writes 5 and 10 % of "
        "its tokens over all problems; on the straight line between two thresholds.",
        table_head("strategy", *heads),
    ]
    found = [parts_of(folder, summary) for folder, summary in zip(folders, summaries, strict=True)]
    names = ["always_device", *knobbed(summaries[0])]
    rows = [[spread([part[name][at] for part in found], 100) for at in range(len(heads))] for name in names]
    table = [f"| {name} | {' | '.join(cells)} |" for name, cells in zip(names, rows, strict=True)]
    return "\n\n".join(lines) + "\n" + "\n".join(table)


def parts_of(folder: Path, summary: Summary) -> dict[str, list[float | None]]:
    """By strategy, the accuracy on each part at each of `CUTS`."""
    lines = (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
    sums: dict[tuple[str, float | None, str], list[float]] = {}
    for line in lines:
        record = json.loads(line)
        if record.get("correct") is not None:
            sums.setdefault((record["strategy"], record.get("point"), kind_of(record["id"])), []).append(
                float(record["correct"])
            )
    found: dict[str, list[float | None]] = {}
    for name in ["always_device", *knobbed(summary)]:
        points = line_of(part_of(summary, "cloud_tokens"), name)["points"]
        whole = part_of(summary, "cloud_tokens")["cloud_spent"]
        spent = [0.0, *(point["spent"] / whole for point in points)]
        values = {
            kind: [
                float(np.mean(sums[place]))
                for place in [("always_device", None, kind), *((name, point["point"], kind) for point in points)]
            ]
            for kind in KINDS
        }
        found[name] = [at_cut(cut, spent, values[kind]) for cut in CUTS for kind in KINDS]
    return found


def at_cut(cut: float, spent: Sequence[float], values: Sequence[float]) -> float | None:
    """On the line through points, ordered by what they spend; the last one's value beyond it."""
    order = np.argsort(spent, kind="stable")
    return float(np.interp(cut, np.asarray(spent)[order], np.asarray(values)[order]))


def kind_of(problem: str) -> str:
    """What a device lacks for a problem of `selfroute.tasks.chain.Chain`, from its id."""
    task = Chain()
    multipliers = {int(term.partition("*")[2]) for term in problem.split("+")}
    return "unseen" if task.unseen in multipliers else "wrong" if task.wrong in multipliers else "known"


# --- heads and commands ------------------------------------------------------------------------------------------


def heads_section(folders: Sequence[Path]) -> str:
    """How the heads do on held-out places."""
    lines = [
        "## The heads",
        "On places of validation answers that no head has seen, half of the answers mixed: AUROC for a token that is "
        "not the cloud's, and for one with p_c(y) / max p_c below a half; distance of score and target (ten bins).",
        table_head("head", "places", "AUROC, not the cloud's", "AUROC, below a half", "calibration error"),
    ]
    trained = [{path.parent.name: read(path.parent, "run") for path in heads_of(folder)} for folder in folders]
    rows = []
    for name in sorted(set.intersection(*(set(each) for each in trained))):
        runs = [each[name] for each in trained]
        cells = [
            spread([run["places"] for run in runs], 1, places=0),
            *(spread([run[key] for run in runs], 1, places=3) for key in MEASURES),
        ]
        rows.append(f"| {name.removeprefix('head-')} | {' | '.join(cells)} |")
    return "\n\n".join(lines) + "\n" + "\n".join(rows)


def steps_section(folders: Sequence[Path]) -> str:
    """How the tags do on validation problems."""
    places = [folder.parent / "trained" / "adaswitch" for folder in folders]
    found = [read(place, "run") for place in places if (place / "run.json").is_file()]
    lines = [
        "## The tags",
        "AdaSwitch after its training, on the steps that it writes to 200 validation problems: wrong ones, in %, and "
        "AUROC of two doubts for them. Of its steps in the exam before, "
        f"{spread([run['exam_wrong'] for run in found], 100)} % were wrong.",
        table_head("steps", "wrong", "AUROC of the tag", "AUROC of min probability"),
    ]
    cells = [
        spread([run["judged"] for run in found], 1, places=0),
        spread([run["wrong"] for run in found], 100),
        *(spread([run[key] for run in found], 1, places=3) for key in ("auroc_tag", "auroc_min_probability")),
    ]
    return "\n\n".join(lines) + f"\n| {' | '.join(cells)} |"


def heads_of(folder: Path) -> list[Path]:
    return sorted(folder.parent.glob("trained/head-*/run.json"))


def commands(folders: Sequence[Path]) -> str:
    """What was run, of the last seed; the others differ in their seed alone."""
    ran, out = read(folders[-1], "run")["commands"], f"{folders[-1].parents[1]}/"
    lines = [
        f"{command.replace(out, 'out/atlas/chain/')}  # commit {str(commit)[:16]}" for command, commit in ran.values()
    ]
    return (
        "## Commands\n\n`python benchmarks/inside/run.py` runs, for each seed and row, what stands here of the last "
        "seed.\n\n```sh\n" + "\n".join(lines) + "\n```"
    )


# --- small parts -------------------------------------------------------------------------------------------------


def part_of(summary: Summary, axis: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(part for part in summary["axes"] if part["axis"] == axis)
    return found


def line_of(part: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(line for line in part["lines"] if line["name"] == name)
    return found


def table_head(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |\n|" + "---|" * len(cells)


def known(value: float | None) -> float:
    return -1.0 if value is None else value


def spread(values: Sequence[float | None], scale: float, *, places: int = 1) -> str:
    """Mean ± standard deviation over seeds; the mean alone of one, a dash if a seed has none."""
    there = [value for value in values if value is not None]
    if len(there) < len(values) or not there:
        return "–"
    mean = f"{scale * np.mean(there):.{places}f}"
    return mean if len(there) == 1 else f"{mean} ± {scale * float(np.std(there, ddof=1)):.{places}f}"


HEAD = """# Inside the answer, on chain

Written by `python benchmarks/inside/run.py`: the shipped chain pair, greedy decoding, strategies inside the answer at
several thresholds beside query-level strategies, on the same problems. Mean ± standard deviation over seeds, each of
which draws other problems and trains anew; the pair is the same throughout. Between two thresholds lies the straight
line, which a draw between both attains. Bytes are those of encoded messages, as of a cloud behind
`selfroute.backends.linked.Linked`."""

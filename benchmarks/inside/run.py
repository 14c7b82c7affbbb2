"""Working together inside the answer, beside query-level strategies: the common table, on the embedded chain pair.

    python benchmarks/inside/run.py                                # three seeds, 800 problems each
    python benchmarks/inside/run.py seeds=[1] limit=60 rows=200 out=out/look page=out/look/inside.md
    python benchmarks/inside/run.py --write                        # the page alone, from what lies in out/inside

For each seed: fits the heads of tokens on train problems (`selfroute train recipes/chain/head.yaml`), then runs every
strategy at several thresholds on test problems of the seed (`selfroute evaluate`). Writes `docs/results/inside.md`:
mean and standard deviation over seeds, which draw other problems and train other heads; the pair stays the same.
Stopped and started again it goes on where it was.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from selfroute.config import parse_overrides

ROOT = Path(__file__).resolve().parents[2]
HEAD_RECIPE = "recipes/chain/head.yaml"
# Heads by the name in the table: the scorer that uses them, and what they learn.
HEADS = {
    "reward head, rel": ("reward_head", "rel"),
    "reward head, prob": ("reward_head", "prob"),
    "reward head, accept": ("reward_head", "accept"),
    "reward head, pair": ("reward_head", "pair"),
    "Co-LLM": ("co_llm", "co_llm"),
    "CITER": ("citer", "citer"),
}
POINTS = (0.05, 0.2, 0.5, 0.8, 0.95)
PLAIN: dict[str, dict[str, Any]] = {
    "max probability": {"scorer": "max_probability", "points": [0.3, 0.5, 0.7, 0.9, 0.99]},
    "entropy": {"scorer": "entropy", "points": [0.3, 0.5, 0.7, 0.9, 0.99]},
    "random tokens": {"scorer": "random", "points": [0.05, 0.1, 0.2, 0.4, 0.6]},
    "oracle tokens": {"scorer": "oracle", "points": [0.1, 0.5]},
}
QUERY = ("always_device", "always_cloud", "random_offload", "prompt_router", "min_logprob")
AXES = ("cloud_tokens", "bytes", "round_trips", "seconds")
TITLES = {
    "cloud_tokens": "Tokens that the cloud writes",
    "bytes": "Bytes to and from the cloud",
    "round_trips": "Round trips",
    "seconds": "Seconds, by the default network of `selfroute.network.link.Network`",
}
OWN = ("seeds", "rows", "out", "page", "heads")
MEASURES = ("auroc", "auroc_bad", "calibration_error")
Summary = Mapping[str, Any]


def main() -> None:
    """Run what is missing and write the page."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--write"]
    own = parse_overrides([a for a in arguments if a.partition("=")[0] in OWN])
    others = [a for a in arguments if a.partition("=")[0] not in OWN]
    out, seeds = Path(str(own.get("out", "out/inside"))), own.get("seeds", [1, 2, 3])
    heads = {name: HEADS[name] for name in own.get("heads", list(HEADS))}
    for seed in [] if "--write" in sys.argv else seeds:
        for _, kind in heads.values():
            fit(out, kind, seed, own.get("rows"))
        evaluate(out, seed, heads, others)
    found = [folder for folder in sorted(out.glob("seed-*")) if (folder / "summary.json").is_file()]
    target = ROOT / str(own.get("page", "docs/results/inside.md"))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page(found, out), encoding="utf-8")
    print(f"written: {target}")


def fit(out: Path, kind: str, seed: int, rows: int | None) -> None:
    """Train one head, unless it is there."""
    folder = head_of(out, kind, seed)
    if not (folder / "run.json").is_file():
        more = [f"rows={rows}"] if rows else []
        call(["train", HEAD_RECIPE, f"kind={kind}", f"seed={seed}", "share=null", *more, f"out={folder}"])


def evaluate(out: Path, seed: int, heads: Mapping[str, tuple[str, str]], others: Sequence[str]) -> None:
    """Run every strategy on one seed, unless it has finished."""
    folder = out / f"seed-{seed}"
    if (folder / "summary.json").is_file():
        return
    trained = {
        name: {"scorer": scorer, "head": str(head_of(out, kind, seed) / "checkpoint"), "points": list(POINTS)}
        for name, (scorer, kind) in heads.items()
    }
    # The threshold is that of serving; an evaluation runs the points.
    entrants = {n: {"token_level": {"threshold": 0.5, **options}} for n, options in {**trained, **PLAIN}.items()}
    recipe = {
        "task": "chain",
        "device": "embedded:chain-device",
        "cloud": "embedded:chain-cloud",
        "strategies": list(QUERY),
        "entrants": {**entrants, "speculative": {"speculative": {"block": 4}}},
        "limit": 800,
        "router_rows": 400,
        "max_tokens": 100,
        "axes": list(AXES),
        "cache": str(out / "answers.sqlite"),
    }
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"seed-{seed}.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    call(["evaluate", str(file), f"seed={seed}", *others, f"out={folder}"])


def head_of(out: Path, kind: str, seed: int) -> Path:
    return out / "heads" / f"{kind}-{seed}"


def call(words: Sequence[str]) -> None:
    print(shlex.join(["selfroute", *words]), flush=True)
    done = subprocess.run([sys.executable, "-m", "selfroute.commands.main", *words], check=False)
    if done.returncode:
        raise SystemExit(f"that failed with exit code {done.returncode}; start again to go on")


def read(folder: Path, name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return values


# --- the page ----------------------------------------------------------------------------------------------------


def page(folders: Sequence[Path], out: Path) -> str:
    """The results as Markdown."""
    if not folders:
        raise SystemExit(f"nothing has finished in {out}")
    summaries = [read(folder, "summary") for folder in folders]
    seeds = ", ".join(str(summary["seed"]) for summary in summaries)
    ends = {side: spread([s[f"{side}_accuracy"] for s in summaries], 100) for side in ("device", "cloud")}
    parts = [
        HEAD,
        f"n = {summaries[0]['n']} for each of the seeds {seeds}. Right, in %: device alone {ends['device']}, cloud "
        f"alone {ends['cloud']}.",
        *(section(axis, summaries) for axis in AXES),
        gap_section(summaries),
        heads_section(folders, out),
        commands(folders),
    ]
    return "\n\n".join(parts) + "\n"


def section(axis: str, summaries: Sequence[Summary]) -> str:
    """Accuracy of every strategy at fractions of what the cloud alone spends of one resource."""
    found = [next(part for part in summary["axes"] if part["axis"] == axis) for summary in summaries]
    whole = spread([part["cloud_spent"] for part in found], 1, places=2)
    fractions = found[0]["fractions"]
    names = [line["name"] for line in found[0]["lines"] if any(value is not None for value in line["accuracy"])]
    rows = {name: [next(line for line in part["lines"] if line["name"] == name) for part in found] for name in names}
    lines = [
        f"## {TITLES[axis]}",
        f"The cloud alone spends {whole} per request. Right, in %, at a fraction of that; a star where, on every seed, "
        "a paired interval does not tell it apart from the best that is no oracle.",
        "| strategy | " + " | ".join(f"{100 * f:g} %" for f in fractions) + " |\n|---|" + "---|" * len(fractions),
    ]
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


def gap_section(summaries: Sequence[Summary]) -> str:
    """What closes nine tenths of the gap between device and cloud, with how many of the cloud's tokens."""
    lines = [
        "## Closing the gap",
        "Each point as run: tokens that the cloud wrote, in % of what it writes alone, and the part of the gap between "
        "device and cloud that is closed, in %; the cheapest point that closes 90 %, else the one that closes most.",
        "| strategy | threshold | cloud tokens | gap closed | round trips |\n|---|---|---|---|---|",
    ]
    listed = part_of(summaries[0], "cloud_tokens")["lines"]
    names = [line["name"] for line in listed if line["points"][0]["point"] is not None]
    return "\n\n".join(lines) + "\n" + "\n".join(gap_row(name, summaries) for name in names)


def gap_row(name: str, summaries: Sequence[Summary]) -> str:
    points = [gaps(name, summary) for summary in summaries]
    mean = {point: np.mean([found[point] for found in points], axis=0) for point in points[0]}
    closing = [point for point, (_, closed, _) in mean.items() if closed >= 0.9]
    best = min(closing, key=lambda point: mean[point][0]) if closing else max(mean, key=lambda point: mean[point][1])
    tokens, closed, trips = ([found[best][at] for found in points] for at in range(3))
    return f"| {name} | {best:g} | {spread(tokens, 100)} | {spread(closed, 100)} | {spread(trips, 1)} |"


def gaps(name: str, summary: Summary) -> dict[float, tuple[float, float, float]]:
    """Of each point: share of the cloud's tokens, part of the gap, round trips."""
    tokens, trips = (part_of(summary, axis) for axis in ("cloud_tokens", "round_trips"))
    gap = tokens["cloud_accuracy"] - tokens["device_accuracy"]
    own, calls = (next(line for line in part["lines"] if line["name"] == name)["points"] for part in (tokens, trips))
    return {
        point["point"]: (
            point["spent"] / tokens["cloud_spent"],
            (point["accuracy"] - tokens["device_accuracy"]) / gap,
            call["spent"],
        )
        for point, call in zip(own, calls, strict=True)
    }


def part_of(summary: Summary, axis: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(part for part in summary["axes"] if part["axis"] == axis)
    return found


def heads_section(folders: Sequence[Path], out: Path) -> str:
    """How the heads do on held-out places."""
    seeds = [folder.name.removeprefix("seed-") for folder in folders]
    lines = [
        "## The heads",
        "On places of validation answers that no head has seen, half of the answers mixed: AUROC for a token that is "
        "not the cloud's, and for one with p_c(y) / max p_c below a half; distance of score and target (ten bins).",
        "| head | places | AUROC, not the cloud's | AUROC, below a half | calibration error |\n|---|---|---|---|---|",
    ]
    rows = []
    for name, (_, kind) in HEADS.items():
        runs = [read(head_of(out, kind, int(s)), "run") for s in seeds if head_of(out, kind, int(s)).is_dir()]
        if runs:
            cells = [
                spread([run["places"] for run in runs], 1, places=0),
                *(spread([run[key] for run in runs], 1, places=3) for key in MEASURES),
            ]
            rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n\n".join(lines) + "\n" + "\n".join(rows)


def commands(folders: Sequence[Path]) -> str:
    abouts = [read(folder, "run") for folder in folders]
    lines = [f"{about.get('command')}  # commit {str(about.get('commit'))[:16]}" for about in abouts]
    return "## Commands\n\n```sh\npython benchmarks/inside/run.py\n" + "\n".join(lines) + "\n```"


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

Written by `python benchmarks/inside/run.py`: the shipped chain pair, greedy decoding, `token_level` at several
thresholds and `speculative` beside query-level strategies, on the same problems. Mean ± standard deviation over seeds,
each of which draws other problems and trains other heads; the pair is the same throughout. Between two thresholds lies
the straight line, which a draw between both attains. Bytes are those of encoded messages, as of a cloud behind
`selfroute.backends.linked.Linked`."""


if __name__ == "__main__":
    main()

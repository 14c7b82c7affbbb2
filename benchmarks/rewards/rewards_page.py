"""results.md and the figure, of the parts that are there."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs/figures"))

from figure_style import COLOURS, INK, canvas, save, tone

CONDITIONS = {
    "clean": "as they are",
    "wrong20": "20 % of the intents exchanged",
    "wrong40": "40 % of the intents exchanged",
    "unseen": "a fifth of the pairs of values left out",
    "long": "three wishes at once",
}
NAMES = {
    "best_of_n": "best of N",
    "reflexion": "Reflexion",
    "tree_search": "UCT",
    "released_tree": "UCT as released",
}
COMMAND = "python benchmarks/rewards/run.py all --out out/rewards"


def write_page(out: Path, here: Path, parts: Sequence[str]) -> None:
    """Write results.md and, where the choice among N is there, docs/figures/rewards.svg."""
    found = {name: _seeds(out, name) for name in parts}
    lines = [line for make in (_head, _pairs, _choice, _handoff, _equal) for line in make(found)]
    (here / "results.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    if found.get("choice-clean"):
        _figure(found, here.parents[1] / "docs" / "figures" / "rewards.svg")


def _seeds(out: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(out.glob(f"{name}-[0-9].json"))]


def _spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean, and the least and the highest over seeds."""
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _table(*heads: str) -> list[str]:
    return [_row(*heads), _row(*["---"] * len(heads))]


def _head(found: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    commits = sorted({one["commit"] for seeds in found.values() for one in seeds})
    seeds = sorted({one["seed"] for seeds in found.values() for one in seeds})
    yield "# Learned rewards and planning"
    yield ""
    yield f"`{COMMAND}`, commit {', '.join(commits)}, seeds {', '.join(map(str, seeds))}; means over"
    yield "seeds, the least and the highest in brackets. Two cores that several jobs shared; seconds of processor."
    yield ""


def _pairs(found: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    yield "## Order of held-out pairs"
    yield ""
    yield "A decoder of three layers, width 64, learned from walks in `shop`; judged on clean pairs of other wishes."
    yield ""
    yield from _table(
        "learned from",
        "seeds",
        "pairs",
        "accuracy",
        "calibration error",
        "by shared words",
        "by length",
        "unseen pairs of values",
    )
    for name, told in CONDITIONS.items():
        if not (seeds := found.get(f"pairs-{name}")):
            continue
        quality = [one["quality"] for one in seeds]
        unseen = [one["unseen"]["accuracy"] for one in seeds if "unseen" in one]
        yield _row(
            told,
            len(seeds),
            round(float(np.mean([one["pairs"] for one in seeds]))),
            _spread([one["accuracy"] for one in quality]),
            _spread([one["calibration_error"] for one in quality]),
            _spread([one["by_words"] for one in quality]),
            _spread([one["by_length"] for one in quality]),
            _spread(unseen) if unseen else "–",
        )
    yield ""


def _choice(found: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    for condition in ("clean", "wrong40"):
        if not (seeds := found.get(f"choice-{condition}")):
            continue
        yield f"## The best of N, by a reward learned from walks {CONDITIONS[condition]}"
        yield ""
        yield f"Share of right purchases; {seeds[0]['n']} wishes, seeds: {len(seeds)}; a shopper that is seldom right."
        yield ""
        ladder = seeds[0]["ladder"]
        yield from _table("N", *map(str, ladder))
        for name in ("learned", "oracle", "random", "score"):
            means = np.mean([one[name] for one in seeds], axis=0)
            yield _row("its score" if name == "score" else name, *(f"{mean:.2f}" for mean in means))
        gaps = [
            max(o - v for n, o, v in zip(ladder, one["oracle"], one["learned"], strict=True) if n <= 32)
            for one in seeds
        ]
        yield ""
        yield f"Widest gap to the oracle up to N = 32, in points: {_spread([100 * gap for gap in gaps], 1)}."
        yield ""


def _handoff(found: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    if not (seeds := found.get("handoff")):
        return
    yield "## Hand-off"
    yield ""
    yield "The best of 8 by the reward, or by the mean log-probability of what was done; the lowest are sent to a cloud"
    yield f"that is always right. {seeds[0]['n']} wishes, seeds: {len(seeds)}; 95 % over wishes, widest seed."
    yield ""
    yield from _table("call share", "by reward", "by log-probability", "difference")
    for share in seeds[0]["learned"]:
        yield _row(
            f"{100 * float(share):.0f} %",
            *(_interval([one["learned"][share][way] for one in seeds]) for way in ("reward", "logprob", "difference")),
        )
    yield ""


def _interval(values: Sequence[Sequence[float]]) -> str:
    middle, low, high = np.mean([v[0] for v in values]), min(v[1] for v in values), max(v[2] for v in values)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def _equal(found: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    for part, told in (
        ("equal", "`shop`, three wishes at once, by the learned reward"),
        ("game24", "`game24`, by an exact checker"),
    ):
        if not (seeds := found.get(part)):
            continue
        yield f"## Equal calls of the environment: {told}"
        yield ""
        yield f"Share right of {seeds[0]['n']} problems, seeds: {len(seeds)}; the last columns are at the most calls."
        yield ""
        yield from _table("search", *(f"{calls} calls" for calls in seeds[0]["calls"]), "attempts", "tokens", "seconds")
        for name, shown in NAMES.items():
            lines = [one[name] for one in seeds]
            shares = [_spread([line[k]["right"] for line in lines], 2) for k in range(len(seeds[0]["calls"]))]
            last = [_spread([line[-1][what] for line in lines], 2) for what in ("attempts", "tokens", "seconds")]
            yield _row(shown, *shares, *last)
        yield ""


def _figure(found: dict[str, list[dict[str, Any]]], file: Path) -> None:
    figure = canvas(9.0, 3.4)
    left, right = figure.subplots(1, 2)
    for condition, style in (("clean", "-"), ("wrong40", "--")):
        if not (seeds := found.get(f"choice-{condition}")):
            continue
        ladder = seeds[0]["ladder"]
        for name, colour in (("learned", COLOURS[0]), ("oracle", COLOURS[2]), ("random", INK)):
            if condition == "clean" or name == "learned":
                label = f"{name}, {CONDITIONS[condition]}" if name == "learned" else name
                left.plot(ladder, np.mean([one[name] for one in seeds], axis=0), style, color=colour, label=label)
        right.plot(
            ladder,
            np.mean([one["score"] for one in seeds], axis=0),
            style,
            color=COLOURS[0],
            label=CONDITIONS[condition],
        )
    left.set(xscale="log", xlabel="N", ylabel="share right", title="truth of the chosen attempt")
    right.set(xscale="log", xlabel="N", ylabel="reward", title="its reward")
    for axis in (left, right):
        axis.legend(fontsize=8)
        tone(axis)
    save(figure, file)

"""results.md and the figure of the trees of attempts, of the cells that are there."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs/figures"))

from figure_style import COLOURS, canvas, save, tone

COMMAND = "python benchmarks/agents/run.py all --out out/agents"
GAIN = 0.1  # above the start, to which calls are counted
PAIRS = (("entropy", "random"), ("threshold", "random"), ("entropy", "never"), ("random", "never"))
Point = Mapping[str, float]
Cell = Mapping[str, Any]


def write_page(results: Mapping[str, Any], here: Path) -> None:
    """Write results.md and docs/figures/agents.svg."""
    cells: Sequence[Cell] = results["cells"]
    lines = [line for part in (_head, _sampling, _training, _verdicts, _noise) for line in part(cells)]
    (here / "results.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    _figure(_trained(cells), here.parents[1] / "docs" / "figures" / "agents.svg")


def at(points: Sequence[Point], what: str, spent: float, by: str) -> float:
    """A value when so many calls or tokens were spent, on the line between two measurements."""
    for before, after in pairwise(points):
        if after[by] >= spent:
            part = (spent - before[by]) / max(1e-9, after[by] - before[by])
            return before[what] + part * (after[what] - before[what])
    return points[-1][what]


def calls_to(points: Sequence[Point], success: float) -> float | None:
    """Calls that were made when a success was reached first; None if it was not."""
    for before, after in pairwise(points):
        if after["success"] >= success:
            rise = max(1e-9, after["success"] - before["success"])
            return before["calls"] + max(0.0, success - before["success"]) / rise * (after["calls"] - before["calls"])
    return None


def _trained(cells: Sequence[Cell]) -> dict[str, dict[int, Sequence[Point]]]:
    """The curve of every arm and seed."""
    found: dict[str, dict[int, Sequence[Point]]] = {}
    for cell in cells:
        if cell["part"] == "train":
            found.setdefault(cell["arm"], {})[cell["seed"]] = cell["points"]
    return found


def _budgets(curves: Mapping[str, Mapping[int, Sequence[Point]]], by: str) -> dict[int, float]:
    """What the cheapest arm of each seed has spent in the end."""
    spent: dict[int, float] = {}
    for seeds in curves.values():
        for seed, points in seeds.items():
            spent[seed] = min(spent.get(seed, math.inf), points[-1][by])
    return spent


def _spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean, and the least and the highest over seeds."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _table(*heads: str) -> list[str]:
    return [_row(*heads), _row(*["---"] * len(heads))]


def _head(cells: Sequence[Cell]) -> Iterator[str]:
    seeds = sorted({cell["seed"] for cell in cells})
    yield "# Where an agent's attempts fork"
    yield ""
    yield f"`{COMMAND}`, commit {', '.join(sorted({cell['commit'] for cell in cells}))}, seeds"
    minutes = sum(cell["cpu_s"] for cell in cells) / 60
    yield f"{', '.join(map(str, seeds))}; {len(cells)} cells, {minutes:.0f} minutes of processor, one thread."
    yield "The rule and all constants stand in `benchmarks/agents/run.py`. Means over seeds, the least and the highest"
    yield "in brackets."
    yield ""


def _sampling(cells: Sequence[Cell]) -> Iterator[str]:
    found = [cell for cell in cells if cell["part"] == "sampling"]
    if not found:
        return
    yield "## What trees cost beside flat attempts"
    yield ""
    yield "Groups of 8 of the agent as it was begun, all rules in turn on the same prompts; seconds of processor."
    yield ""
    yield from _table("rule", "seeds", "tokens", "calls of tools", "tokens per second", "forks", "rise of entropy")
    for rule in (name for name, value in found[0].items() if isinstance(value, dict)):
        pairs = [(cell[rule], cell["never"]) for cell in found]
        speed = [one["tokens"] / one["seconds"] / (flat["tokens"] / flat["seconds"]) for one, flat in pairs]
        yield _row(
            rule,
            len(found),
            _spread([one["tokens"] / flat["tokens"] for one, flat in pairs], 2),
            _spread([one["calls"] / flat["calls"] for one, flat in pairs], 2),
            _spread(speed, 2),
            _spread([one["rate"] for one, _ in pairs], 2),
            _spread([one["rise"] for one, _ in pairs]) if any(one["rise"] for one, _ in pairs) else "–",
        )
    yield ""


def _training(cells: Sequence[Cell]) -> Iterator[str]:
    curves = _trained(cells)
    if not curves:
        return
    calls, tokens = _budgets(curves, "calls"), _budgets(curves, "tokens")
    starts = [points[0]["success"] for seeds in curves.values() for points in seeds.values()]
    yield "## Learning"
    yield ""
    yield f"Right by itself at the start {_spread(starts)}."
    yield f"Equal calls: {_spread(list(calls.values()), 0)}; equal tokens: {_spread(list(tokens.values()), 0)}."
    yield ""
    yield from _table(
        "rule / credit",
        "seeds",
        "right at equal calls",
        "at equal tokens",
        "cloud calls per question",
        f"calls to {GAIN:g} above the start",
    )
    for arm, seeds in curves.items():
        yield _row(
            arm,
            len(seeds),
            _spread([at(points, "success", calls[seed], "calls") for seed, points in seeds.items()]),
            _spread([at(points, "success", tokens[seed], "tokens") for seed, points in seeds.items()]),
            _spread([at(points, "asked", calls[seed], "calls") for seed, points in seeds.items()]),
            _reached(seeds),
        )
    yield ""


def _reached(seeds: Mapping[int, Sequence[Point]]) -> str:
    found = [calls_to(points, points[0]["success"] + GAIN) for points in seeds.values()]
    there = [value for value in found if value is not None]
    if not there:
        return "not reached"
    return _spread(there, 0) + (f"; {len(there)} of {len(found)} seeds" if len(there) < len(found) else "")


def _verdicts(cells: Sequence[Cell]) -> Iterator[str]:
    curves = _trained(cells)
    spent = {by: _budgets(curves, by) for by in ("calls", "tokens")}
    lines = []
    for credit in sorted({arm.partition(" / ")[2] for arm in curves}):
        for one, other in PAIRS:
            mine, theirs = curves.get(f"{one} / {credit}", {}), curves.get(f"{other} / {credit}", {})
            if seeds := sorted(mine.keys() & theirs.keys()):
                gaps = {
                    by: [
                        100 * (at(mine[s], "success", spent[by][s], by) - at(theirs[s], "success", spent[by][s], by))
                        for s in seeds
                    ]
                    for by in spent
                }
                lines.append(_row(f"{one} - {other}", credit, len(seeds), *(_interval(gaps[by]) for by in spent)))
    if lines:
        yield "Differences in points of right answers from the same start; 95 % interval of Student over seeds:"
        yield ""
        yield from _table("rules", "credit", "seeds", "at equal calls", "at equal tokens")
        yield from lines
        yield ""


def _interval(gaps: Sequence[float]) -> str:
    mean = f"{statistics.mean(gaps):+.1f}"
    if len(gaps) < 2:
        return mean
    reach = stats.t.ppf(0.975, len(gaps) - 1) * statistics.stdev(gaps) / math.sqrt(len(gaps))
    return f"{mean} ± {reach:.1f}"


def _noise(cells: Sequence[Cell]) -> Iterator[str]:
    arms: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell["part"] == "noise":
            arms.setdefault(cell["arm"], []).append(cell)
    if not arms:
        return
    yield "## Variance of the gradient"
    yield ""
    yield "Of the same prompts and policy, drawn again and again: the sum of the variances of its parts, by the square"
    yield "of its mean (means over seeds of both); and that times the tokens that were written for it, flat and `soft`"
    yield "being 1."
    yield ""
    yield from _table("rule / credit", "seeds", "variance by square", "at equal tokens")
    values = {arm: _relative(some) for arm, some in arms.items()}
    base = values.get("never / soft")
    for arm, some in arms.items():
        ratio = values[arm] / base * _tokens(some) / _tokens(arms["never / soft"]) if base else math.nan
        yield _row(arm, len(some), f"{values[arm]:.1f}", f"{ratio:.2f}")
    yield ""


def _relative(cells: Sequence[Cell]) -> float:
    square = statistics.mean(cell["square"] for cell in cells)
    return statistics.mean(cell["variance"] for cell in cells) / square if square > 0 else math.inf


def _tokens(cells: Sequence[Cell]) -> float:
    return statistics.mean(cell["tokens"] for cell in cells)


def _figure(curves: Mapping[str, Mapping[int, Sequence[Point]]], file: Path) -> None:
    figure = canvas(9.0, 3.4)
    axes = figure.subplots(1, 2, sharey=True)
    for axis, credit in zip(axes, ("soft", "weighted"), strict=True):
        for number, rule in enumerate(("never", "entropy", "threshold", "random")):
            if seeds := curves.get(f"{rule} / {credit}"):
                every = list(seeds.values())
                calls = [statistics.mean(points[k]["calls"] for points in every) for k in range(len(every[0]))]
                right = [statistics.mean(points[k]["success"] for points in every) for k in range(len(every[0]))]
                axis.plot(calls, right, color=COLOURS[number], label=rule)
        axis.set(xlabel="calls of tools", title=credit)
    axes[0].set(ylabel="right by itself")
    axes[0].legend(fontsize=8)
    for axis in axes:
        tone(axis)
    save(figure, file)

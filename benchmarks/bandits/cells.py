"""Runs of a benchmark, seed by seed, each kept as one line: what is there is not run again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Numbers = Mapping[str, float]
Cell = Callable[[int], Numbers]  # one seed of one cell


def run_missing(folder: Path, cells: Mapping[str, Cell], seeds: int, *, commit: str) -> None:
    """Run the seeds 0 to `seeds` - 1 of every cell that have no line yet; can be stopped at any time."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, cell in cells.items():
        path = folder / f"{name}.jsonl"
        done = {line["seed"] for line in lines(path)}
        missing = [seed for seed in range(seeds) if seed not in done]
        with path.open("a", encoding="utf-8") as file:
            for seed in missing:
                file.write(json.dumps({"seed": seed, "commit": commit, **cell(seed)}) + "\n")
                file.flush()
        print(f"{folder.name}/{name}: {len(missing)} seeds run, {len(done)} were there", flush=True)


def lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file; one that was cut when a run was killed is dropped from it."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return [json.loads(line) for line in whole.splitlines()]


def read(folder: Path, seeds: int) -> dict[str, dict[str, Any]]:
    """Mean, standard deviation, standard error and n of every number of every cell, and the commits they ran at."""
    found = {}
    for path in sorted(folder.glob("*.jsonl")):
        rows = [row for row in lines(path) if row["seed"] < seeds]
        if rows:
            found[path.stem] = summary(rows)
    return found


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    numbers = [name for name in rows[0] if name not in ("seed", "commit")]
    table: dict[str, Any] = {"n": len(rows), "commits": sorted({row["commit"] for row in rows})}
    for name in numbers:
        values = np.array([row[name] for row in rows if row[name] is not None], dtype=float)
        if not len(values):
            continue
        deviation = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        error = deviation / len(values) ** 0.5
        table[name] = {"mean": float(values.mean()), "sd": deviation, "se": error, "n": len(values)}
    return table

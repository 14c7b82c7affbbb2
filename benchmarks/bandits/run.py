"""What bandits reach: regret, drift, replay, speed, a gateway, real answers, and a protocol fixed beforehand.

    python benchmarks/bandits/run.py                       # every part, then the page
    python benchmarks/bandits/run.py regret drift          # some parts
    python benchmarks/bandits/run.py regret seeds=40       # fewer seeds, nothing is written
    python benchmarks/bandits/run.py --write               # the page alone, from what was run

Every seed of every cell is one line in out/bandits; stopped and started again it goes on where it was. Results and page
are `benchmarks/bandits/results.json` and `benchmarks/bandits/results.md`.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import coverage
import protocol
import real
import regret
from cells import Cell, lines, read, run_missing
from page import page

import gateway
from selfroute.environment import commit

HERE = Path(__file__).resolve().parent
OUT = Path("out/bandits")
# Cells of each part, and seeds of each cell.
PARTS: dict[str, tuple[Callable[[], Mapping[str, Cell]], int]] = {
    "speed": (coverage.speeds, 5),
    "gateway": (gateway.cells, 10),
    "real": (real.cells, 20),
    "two_arms": (regret.two_arms, 4000),
    "protocol": (protocol.cells, protocol.SEEDS),
    "drift": (regret.drifts, 200),
    "coverage": (coverage.cells, 200),
    "regret": (regret.settings, 1000),
}


def main() -> None:
    """Run what is missing of the parts asked for, and write what is whole."""
    options = [argument for argument in sys.argv[1:] if "=" in argument]
    seeds = {key: int(value) for key, _, value in (option.partition("=") for option in options)}.get("seeds")
    names = [argument for argument in sys.argv[1:] if "=" not in argument and argument != "--write"]
    if unknown := [name for name in names if name not in PARTS]:
        raise SystemExit(f"no part {unknown[0]}; there are {', '.join(PARTS)}")
    code = commit() or "unknown"  # what is loaded now, whatever is changed while it runs
    for name in [] if "--write" in sys.argv else names or PARTS:
        make, most = PARTS[name]
        run_missing(OUT / name, make(), seeds or most, commit=code)
    if seeds is None:
        write()


def write() -> None:
    """Results of all parts that were run, and the page."""
    path = HERE / "results.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name, (_, seeds) in PARTS.items():
        found = read(OUT / name, seeds)
        if name not in BESIDE:
            results |= {name: found} if found else {}
        elif found and all(cell["n"] == seeds for cell in found.values()) and len(found) == len(PARTS[name][0]()):
            results[name] = BESIDE[name](found)
    if (HERE / "distil.json").exists():
        results["distil"] = json.loads((HERE / "distil.json").read_text(encoding="utf-8"))
    path.write_text(json.dumps(rounded(results), indent=1) + "\n", encoding="utf-8")
    (HERE / "results.md").write_text(page(rounded(results)), encoding="utf-8")


def with_bounds(found: Mapping[str, Any]) -> dict[str, Any]:
    """The routers on real answers, beside what bounds them."""
    return {"bounds": real.bounds(), "cells": found}


def with_verdicts(found: Mapping[str, Any]) -> dict[str, Any]:
    """The protocol's numbers, beside what its rule says of each policy."""
    worth: dict[str, dict[str, list[float]]] = {}
    for scenario, name in product(protocol.SCENARIOS, (*protocol.MAKERS, protocol.STATIC)):
        rows = sorted(lines(OUT / "protocol" / f"{scenario}, {name}.jsonl"), key=lambda row: row["seed"])
        worth.setdefault(scenario, {})[name] = [row["worth"] for row in rows[: protocol.SEEDS]]
    verdicts = {}
    for name in protocol.MAKERS:
        if name != protocol.BASELINE:
            keep, gain, half = protocol.verdict(worth, name)
            single = protocol.gains(worth, name, protocol.BASELINE)
            static = protocol.gains(worth, name, protocol.STATIC)
            verdicts[name] = {
                "keep": keep,
                "gain": gain,
                "half": half,
                "worse": [one for one, (mean, width) in single.items() if mean + width < 0.0],
                "behind_static": [one for one, (mean, width) in static.items() if mean + width < 0.0],
            }
    return {"verdicts": verdicts, "cells": found}


def with_medians(found: Mapping[str, Any]) -> dict[str, Any]:
    """Rounds of the gateway by their medians: on a busy machine a round may stall. Ratios are of one round each."""
    rows = [row for name in found for row in lines(OUT / "gateway" / f"{name}.jsonl")]
    medians = {key: statistics.median(row[key] for row in rows) for key in rows[0] if key.endswith("_ms")}
    for what in ("p50", "cpu"):
        ratios = sorted(row[f"five_{what}_ms"] / row[f"one_{what}_ms"] for row in rows)
        medians |= {f"{what}_ratio": statistics.median(ratios), f"{what}_low": ratios[0], f"{what}_high": ratios[-1]}
    return {"medians": medians, "cells": found}


# What stands beside the numbers of a part.
BESIDE: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "gateway": with_medians,
    "real": with_bounds,
    "protocol": with_verdicts,
}


def rounded(value: Any) -> Any:
    """Numbers with six digits: more would only make a longer file."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()

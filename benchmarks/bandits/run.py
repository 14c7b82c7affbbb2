"""What bandits reach: regret, drift, replay, speed, real answers, and a protocol fixed beforehand.

    python benchmarks/bandits/run.py                       # every part, then the page
    python benchmarks/bandits/run.py regret drift          # some parts
    python benchmarks/bandits/run.py regret seeds=40       # fewer seeds, nothing is written
    python benchmarks/bandits/run.py --write               # the page alone, from what was run

Every seed of every cell is one line in out/bandits; stopped and started again it goes on where it was. Results and page
are `benchmarks/bandits/results.json` and `benchmarks/bandits/results.md`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import coverage
import protocol
import real
import regret
from cells import Cell, read, run_missing

from selfroute.environment import commit

HERE = Path(__file__).resolve().parent
OUT = Path("out/bandits")
# Cells of each part, and seeds of each cell.
PARTS: dict[str, tuple[Callable[[], Mapping[str, Cell]], int]] = {
    "speed": (coverage.speeds, 5),
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
    for name in [] if "--write" in sys.argv else names or PARTS:
        make, most = PARTS[name]
        run_missing(OUT / name, make(), seeds or most, commit=commit() or "unknown")
    if seeds is None:
        write()


def write() -> None:
    """Results of all parts that were run."""
    results = (
        json.loads((HERE / "results.json").read_text(encoding="utf-8")) if (HERE / "results.json").exists() else {}
    )
    for name, (_, seeds) in PARTS.items():
        if found := read(OUT / name, seeds):
            results[name] = found
    (HERE / "results.json").write_text(json.dumps(rounded(results), indent=1) + "\n", encoding="utf-8")


def rounded(value: Any) -> Any:
    """Numbers with six digits: more would only make a longer file."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()

"""What is looked at before any row is answered: the arguments, and the folder."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from selfroute.errors import ConfigError
from selfroute.evaluation import provenance
from selfroute.evaluation.bench import Bench, Entrant
from selfroute.evaluation.counting.columns import read_columns
from selfroute.evaluation.counting.metrics import calls_at
from selfroute.evaluation.records import Key, repair
from selfroute.strategies.base import Knobbed, check_sides
from selfroute.tasks.base import Row

__all__ = ["check_run", "finished_rows", "identity_of", "open_folder"]


def check_run(entrants: Sequence[Entrant], rows: Sequence[Row], share: float) -> None:
    """See that there is something to evaluate.

    Raises:
        ConfigError: no strategy or row, names that are equal, a knob without points, a share outside [0, 1], a strategy
            that needs a cloud and has none, or matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise ConfigError("matplotlib is not installed; run: pip install 'selfroute[eval]'")
    if not entrants:
        raise ConfigError("no strategy to evaluate; name at least one, e.g. strategies=[always_device]")
    if not rows:
        raise ConfigError("no row to evaluate; choose another split or a limit above 0")
    calls_at(share, len(rows))
    for kind, names in (("strategy", [entrant.name for entrant in entrants]), ("row id", [row.id for row in rows])):
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ConfigError(f"{kind} '{twice[0]}' occurs more than once; names must differ")
    for entrant in entrants:
        check_sides(entrant.strategy, entrant.sides)
        if isinstance(entrant.strategy, Knobbed):
            _check_points(entrant.name, entrant.strategy.points)


def _check_points(name: str, points: Sequence[float]) -> None:
    if not points:
        raise ConfigError(f"strategy '{name}' has no points to be run at; give at least one")
    if wrong := [point for point in points if not math.isfinite(point)]:
        raise ConfigError(f"strategy '{name}': point {wrong[0]} is not finite; give numbers")
    if twice := [point for point, count in Counter(map(float, points)).items() if count > 1]:
        raise ConfigError(f"strategy '{name}': point {twice[0]:g} occurs more than once; points must differ")


def identity_of(bench: Bench, rows: Sequence[Row], *, share: float, seed: int) -> dict[str, Any]:
    """Everything a record depends on, as plain data a person can compare."""
    return {
        "task": bench.task.name,
        "rows": provenance.rows_digest(rows),
        "sampling": asdict(bench.sampling),
        "template": provenance.digest(bench.template.facts()),
        "cloud": bench.cloud.name,
        "share": share,
        "seed": seed,
        "strategies": {entrant.name: _described(entrant, bench) for entrant in bench.entrants},
    }


def _described(entrant: Entrant, bench: Bench) -> str:
    """Class, device, words of its own, and plain options of a strategy."""
    strategy, options = entrant.strategy, {"device": entrant.sides.device.name}
    if entrant.sides.template != bench.template:
        options["template"] = provenance.digest(entrant.sides.template.facts())
    if is_dataclass(strategy):
        values = {f.name: getattr(strategy, f.name) for f in fields(strategy)}
        options |= {k: v for k, v in values.items() if k != "name" and isinstance(v, (bool, int, float, str))}
    if isinstance(strategy, Knobbed):
        options["points"] = " ".join(f"{point:g}" for point in strategy.points)
    return f"{type(strategy).__name__}({', '.join(f'{k}={v}' for k, v in options.items())})"


def open_folder(out: Path, identity: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Make the folder of a run, or see that it is the one that holds it.

    Raises:
        ConfigError: it cannot be written to, or holds another evaluation.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        provenance.open_run(out / "run.json", identity, about)
    except OSError as error:
        raise ConfigError(f"cannot write to out='{out}': {error.strerror}; choose another folder") from None


def finished_rows(out: Path) -> set[Key]:
    """Keys of the rows that need no second try; a line that was being written when a run died is cut off."""
    for name in ("records.jsonl", "samples.jsonl"):
        repair(out / name)
    path = out / "records.jsonl"
    if not path.exists():
        return set()
    found = read_columns(path)
    done = np.flatnonzero(found.finished)
    return {(*found.settings[found.setting[i]], found.ids[found.id[i]]) for i in done}

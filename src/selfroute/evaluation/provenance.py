"""What must not change between the parts of one run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfroute.errors import ConfigError
from selfroute.evaluation.files import write_text
from selfroute.tasks.base import Row

__all__ = ["digest", "open_run", "read_about", "rows_digest"]


def digest(value: object) -> str:
    """A short fingerprint of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def rows_digest(rows: Sequence[Row]) -> str:
    """How many rows, and a fingerprint of their ids, questions and golds."""
    return f"{len(rows)} rows ({digest([(row.id, row.question, row.gold) for row in rows])})"


def open_run(path: Path, identity: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Begin a run in `path` (run.json), or go on with the one that is there if it is the same.

    Args:
        identity: everything a record depends on; must be equal to go on.
        about: what is worth knowing beside it, e.g. the command; replaced on every start.

    Raises:
        ConfigError: the folder holds a run with another identity; names the first key that differs, both ways.
    """
    wanted = json.loads(json.dumps(identity, default=str))
    if path.exists():
        _check_same(path, _read_identity(path), wanted)
    elif (path.parent / "records.jsonl").exists():
        raise ConfigError(f"'{path.parent}' holds records.jsonl without run.json; choose another out= or delete it")
    write_text(path, json.dumps({**about, "identity": wanted}, indent=2, ensure_ascii=False) + "\n")


def read_about(path: Path) -> dict[str, Any]:
    """What a run.json says, or nothing if there is none."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _read_identity(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["identity"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"'{path}' is not the run.json of an evaluation; choose another out= or delete it") from None


def _check_same(path: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    for key in sorted({*there, *here}):
        old, new = there.get(key), here.get(key)
        if old != new:
            raise ConfigError(
                f"'{path.parent}' holds another evaluation: {key} is {_shown(old)} there and {_shown(new)} here; "
                f"choose another out= or delete the folder"
            )


def _shown(value: object) -> str:
    return "missing" if value is None else json.dumps(value, ensure_ascii=False)

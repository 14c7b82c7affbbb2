"""`selfroute init`: a small project that runs as it is, to be made one's own."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from selfroute.errors import ConfigError
from selfroute.tasks.countdown import Countdown

__all__ = ["write_project"]

ROWS = {"train": 240, "test": 60}
SEED = 1


def write_project(folder: Path) -> list[Path]:
    """Write rows and recipes into a new folder; returns the files.

    Raises:
        ConfigError: the folder holds something, is a file, or cannot be written.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"'{folder}' is not empty, and nothing is overwritten; name a new folder")
    try:
        (folder / "data").mkdir(parents=True, exist_ok=True)
        return [*_write_recipes(folder), *(_write_rows(folder / "data", split) for split in ROWS)]
    except OSError as error:
        raise ConfigError(f"'{folder}' cannot be written: {error.strerror}; name another folder") from None


def _write_recipes(folder: Path) -> list[Path]:
    written = []
    for source in sorted(files("selfroute.assets").joinpath("project").iterdir(), key=lambda source: source.name):
        written.append(folder / source.name)
        written[-1].write_bytes(source.read_bytes())
    return written


def _write_rows(folder: Path, split: str) -> Path:
    """Problems of Countdown, the one thing that the embedded models know, as anybody's rows look."""
    rows = Countdown(seed=SEED, limit=ROWS[split]).rows(split)
    file = folder / f"{split}.jsonl"
    lines = (json.dumps({"question": row.question, "answer": row.fields["target"]}) for row in rows)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return file

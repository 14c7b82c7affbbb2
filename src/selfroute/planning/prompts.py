"""Prompts to measure a load on: from text files, JSON Lines, or what an evaluation sent to the cloud."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfroute.errors import ConfigError

__all__ = ["read_prompts"]

_FIELDS = ("prompt", "question", "text")


def read_prompts(path: Path, *, strategy: str | None = None) -> list[str]:
    """The prompts of a file, or those of an evaluation's folder.

    Args:
        path: text with a prompt on every line; `.jsonl` with a field `prompt`, `question` or `text`; or a folder that
            `selfroute evaluate` wrote, whose prompts come with the cloud's answers.
        strategy: of an evaluation: only the requests that this strategy sent to the cloud; None takes all requests.

    Raises:
        ConfigError: there is no such file, a line is not what it should be, no prompt is left, or a strategy without an
            evaluation.
    """
    if path.is_dir():
        found = list(_evaluated(path, strategy))
    elif strategy is not None:
        raise ConfigError(f"load.measured: strategy: '{strategy}' needs the folder of an evaluation, not '{path}'")
    elif path.suffix == ".jsonl":
        found = [_prompt(values, path) for values in _lines(path)]
    else:
        found = [line for line in _text(path).splitlines() if line.strip()]
    if not found:
        raise ConfigError(f"load.measured: prompts: '{path}' has none")
    return found


def _evaluated(folder: Path, strategy: str | None) -> Iterator[str]:
    """The questions of an evaluation, each once, and what the cloud wrote: it passes its own words too."""
    texts: dict[str, str] = {}
    for row in _lines(folder / "samples.jsonl"):
        answer = row.get("cloud_text", "")
        if answer or str(row["id"]) not in texts:
            texts[str(row["id"])] = "\n".join([_prompt(row, folder), answer]).rstrip("\n")
    if strategy is None:
        yield from texts.values()
        return
    records = list(_lines(folder / "records.jsonl"))
    names = sorted({str(row["strategy"]) for row in records})
    if strategy not in names:
        raise ConfigError(f"load.measured: strategy: '{strategy}' is not in '{folder}'; known: {', '.join(names)}")
    sent = {str(row["id"]) for row in records if row["strategy"] == strategy and row["source"] == "cloud"}
    yield from (text for number, text in texts.items() if number in sent)


def _prompt(values: Any, path: Path) -> str:
    for field in _FIELDS:
        if isinstance(values, dict) and isinstance(values.get(field), str):
            return str(values[field])
    raise ConfigError(f"load.measured: prompts: a line of '{path}' has none of the fields {', '.join(_FIELDS)}")


def _lines(path: Path) -> Iterator[Any]:
    for number, line in enumerate(_text(path).splitlines(), start=1):
        try:
            yield json.loads(line)
        except ValueError:
            raise ConfigError(f"load.measured: prompts: line {number} of '{path}' is not whole JSON") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"load.measured: prompts: '{path}' does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"load.measured: prompts: '{path}' cannot be read: {' '.join(str(error).split())}") from None

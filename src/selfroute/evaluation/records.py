"""What an evaluation leaves on disk: one line per strategy and prompt, from which every number can be recomputed.

`records.jsonl` holds the facts and `samples.jsonl` the texts of the same rows. Both are appended to as rows finish,
so an interrupted run goes on where it was; a line that was being written when the run died is cut off.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TextIO

from selfroute.errors import ConfigError
from selfroute.types import Source

__all__ = ["Record", "Sample", "append", "read_records", "read_samples", "repair"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One prompt answered by one strategy; a line of `records.jsonl`.

    Attributes:
        strategy: name of the strategy.
        id: the row's id.
        source: who gave the final answer.
        wants_cloud: what the strategy decided, before any budget or failure.
        score: how much it wants the cloud (higher = send); None if it has no score.
        correct: whether the answer served is right; None if nobody answered or the verifier failed.
        device_correct: whether what the device delivers locally is right: its own answer if it gave one, else its
            forced local attempt.
        cloud_correct: whether the cloud's answer is right, also for prompts that were not sent.
        local_correct: whether the forced local attempt is right; None if none was made because the device answered.
        device_tokens: completion tokens written by the device for the answer served.
        cloud_tokens: the same of the cloud.
        usd: what the answer served cost.
        seconds: time both sides worked on it.
        error: what failed, None if nothing did.
    """

    strategy: str
    id: str
    source: Source
    wants_cloud: bool
    score: float | None = None
    correct: bool | None = None
    device_correct: bool | None = None
    cloud_correct: bool | None = None
    local_correct: bool | None = None
    device_tokens: int = 0
    cloud_tokens: int = 0
    usd: float = 0.0
    seconds: float = 0.0
    error: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.strategy, self.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The texts of one record; a line of `samples.jsonl`. Empty where a side wrote nothing."""

    strategy: str
    id: str
    question: str
    gold: str
    device_text: str = ""
    cloud_text: str = ""
    local_text: str = ""

    @property
    def key(self) -> tuple[str, str]:
        return self.strategy, self.id


def append(file: TextIO, row: Record | Sample) -> None:
    """Write one line and hand it to the operating system, so that a killed run keeps it."""
    file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
    file.flush()


def read_records(path: Path) -> list[Record]:
    """The records of a file, each key once: a row that was tried again replaces the earlier one.

    Raises:
        ConfigError: the file cannot be read, or a line is not a record; names file and line.
    """
    return list({record.key: record for record in _rows(path, Record)}.values())


def read_samples(path: Path) -> list[Sample]:
    """The texts of a file, each key once, the last one written.

    Raises:
        ConfigError: as `read_records`.
    """
    return list({sample.key: sample for sample in _rows(path, Sample)}.values())


def repair(path: Path) -> None:
    """Cut a half-written last line off a JSONL file; a missing file is fine."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with path.open("r+b") as file:
            file.truncate(len(whole))


def _rows(path: Path, kind: type[Any]) -> Iterator[Any]:
    try:
        with path.open(encoding="utf-8") as lines:
            yield from _parsed(path, lines, kind)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read '{path}': {error}; give a folder that `selfroute evaluate` wrote") from None


def _parsed(path: Path, lines: Iterable[str], kind: type[Any]) -> Iterator[Any]:
    names = {field.name for field in fields(kind)}
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
            # Keys that a later version adds are not ours to refuse; missing ones are.
            yield kind(**{name: value for name, value in values.items() if name in names})
        except (json.JSONDecodeError, TypeError, AttributeError):
            name = kind.__name__.lower()
            raise ConfigError(
                f"{path}:{number} is not a {name}; delete the line or evaluate into a new folder"
            ) from None

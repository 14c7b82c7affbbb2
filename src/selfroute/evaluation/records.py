"""What an evaluation leaves on disk: one line per strategy, point and prompt, from which every number follows.

`records.jsonl` holds the facts and `samples.jsonl` the texts of the same rows. Both are appended to as rows finish,
so an interrupted run goes on where it was; a line that was being written when the run died is cut off.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from selfroute.errors import ConfigError
from selfroute.types import Answerer

__all__ = ["Key", "Record", "Sample", "Setting", "append", "find_samples", "read_records", "read_samples", "repair"]

# A strategy, and the point at which its knob stands; None if it has none.
Setting = tuple[str, float | None]
# Strategy, point, row.
Key = tuple[str, float | None, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One prompt answered by one strategy; a line of `records.jsonl`.

    A verdict is a quality in [0, 1]: true is 1, and a judge may give what lies between.

    Attributes:
        strategy: name of the strategy.
        id: the row's id.
        source: who wrote the final answer: one side, or both in turn.
        wants_cloud: what the strategy decided, before any budget or failure.
        score: how much it wants the cloud (higher = send); None if it has no score.
        correct: whether the answer served is right; None if nobody answered or the verifier failed.
        device_correct: whether what the device delivers locally is right: its own answer if it gave one, else its
            forced local attempt; where `joint`, the answer of the device alone.
        cloud_correct: whether the cloud's answer is right, also for prompts that were not sent; where `joint`, the
            answer of the cloud alone.
        local_correct: whether the forced local attempt is right; None if none was made because the device answered.
        device_tokens: completion tokens written by the device for the answer served.
        cloud_tokens: the same of the cloud.
        usd: what the answer served cost.
        seconds: time both sides worked on it.
        error: what failed, None if nothing did.
        device_prompt_tokens, cloud_prompt_tokens: prompt tokens each side read for the answer served.
        attempt_prompt_tokens, attempt_tokens: what the device reads and writes before the decision falls, so also if
            the request is then sent; 0 for a strategy that decides from the prompt. None if nobody knows.
        local_prompt_tokens, local_tokens: what the device reads and writes in all if the request stays with it: its
            answer, or its attempt and the forced one after it. None if nobody knows.
        cloud_answer_prompt_tokens, cloud_answer_tokens: what the cloud reads and writes if the request is sent,
            also where it was not. None if nobody knows.
        solve_rate: share of sampled answers of the device alone that are right, q(x) of arXiv 2509.24050; None if
            none were sampled.
        solve_samples: how many were sampled.
        point: where the strategy's knob stood; None for a strategy without one.
        joint: whether both sides may write one answer, so that neither is credited with it.
        cloud_calls: calls to the cloud for the answer served; of an answer that stays open, exchanges with it.
        up_bytes, down_bytes: of the messages to and from the cloud, as encoded; 0 where nobody counted.
        device_layer_tokens, cloud_layer_tokens: tokens times the layers that each went through on that side; 0 where
            nobody counted.
        void_tokens: completion tokens of both sides that do not stand, e.g. rejected steps.
        oracle: whether the strategy decides by what nobody can know in time.
        values_leaked: private values of the row that nobody else has to know, and that the cloud was told.
        values_lost: those without which nobody can answer, and that a cloud which was asked was not told. Both are 0
            where nothing left, and None for a row that names no private values.
    """

    strategy: str
    id: str
    source: Answerer
    wants_cloud: bool
    score: float | None = None
    correct: float | None = None
    device_correct: float | None = None
    cloud_correct: float | None = None
    local_correct: float | None = None
    device_tokens: int = 0
    cloud_tokens: int = 0
    usd: float = 0.0
    seconds: float = 0.0
    error: str | None = None
    device_prompt_tokens: int = 0
    cloud_prompt_tokens: int = 0
    attempt_prompt_tokens: int | None = None
    attempt_tokens: int | None = None
    local_prompt_tokens: int | None = None
    local_tokens: int | None = None
    cloud_answer_prompt_tokens: int | None = None
    cloud_answer_tokens: int | None = None
    solve_rate: float | None = None
    solve_samples: int = 0
    point: float | None = None
    joint: bool = False
    cloud_calls: int = 0
    up_bytes: int = 0
    down_bytes: int = 0
    device_layer_tokens: int = 0
    cloud_layer_tokens: int = 0
    void_tokens: int = 0
    oracle: bool = False
    values_leaked: int | None = None
    values_lost: int | None = None

    @property
    def key(self) -> Key:
        return self.strategy, self.point, self.id

    @property
    def is_finished(self) -> bool:
        """Whether it needs no second try: nothing failed, and both sides are graded."""
        return self.error is None and None not in (self.device_correct, self.cloud_correct)


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
    point: float | None = None

    @property
    def key(self) -> Key:
        return self.strategy, self.point, self.id


# What not every strategy has, left out of a line where it says nothing.
_OPTIONAL: dict[str, object] = dict.fromkeys(("point", "values_leaked", "values_lost"))
_OPTIONAL |= {"joint": False, "oracle": False} | dict.fromkeys(
    ("cloud_calls", "up_bytes", "down_bytes", "device_layer_tokens", "cloud_layer_tokens", "void_tokens"), 0
)


def append(file: TextIO, row: Record | Sample) -> None:
    """Write one line and hand it to the operating system, so that a killed run keeps it.

    Raises:
        ConfigError: a number is NaN or infinite; names strategy, row and field.
    """
    try:
        values = {name: value for name, value in asdict(row).items() if value != _OPTIONAL.get(name, ...)}
        line = json.dumps(values, ensure_ascii=False, allow_nan=False)
    except ValueError:
        wrong = next(f for f in fields(row) if _is_no_number(getattr(row, f.name)))
        raise ConfigError(
            f"strategy '{row.strategy}', row '{row.id}': {wrong.name} is {getattr(row, wrong.name)}; "
            f"return a finite number, or None where there is none"
        ) from None
    file.write(line + "\n")
    file.flush()


def read_records(path: Path) -> list[Record]:
    """The records of a file, each key once: a row that was tried again replaces the failed one.

    Raises:
        ConfigError: the file cannot be read; a line is not a record, holds a value that cannot be (a NaN score), or
            repeats a finished row. Names file, line and fix.
    """
    found: dict[Key, Record] = {}
    lines: dict[Key, int] = {}
    for line, record in _rows(path, Record):
        _check_values(record, f"{path}:{line}")
        before = found.get(record.key)
        if before is not None and before.is_finished:
            raise ConfigError(
                f"{path}:{line} repeats row '{record.id}' of '{record.strategy}', which line {lines[record.key]} "
                f"answers; delete one of the two lines"
            )
        found[record.key], lines[record.key] = record, line
    return list(found.values())


def read_samples(path: Path) -> list[Sample]:
    """The texts of a file, each key once, the last one written.

    Raises:
        ConfigError: the file cannot be read, or a line is not a sample; names file and line.
    """
    return list({sample.key: sample for _, sample in _rows(path, Sample)}.values())


def find_samples(path: Path, keys: Collection[Key]) -> dict[Key, Sample]:
    """The texts of some rows, the last ones written; rows that the file lacks are left out, as is a missing file.

    Raises:
        ConfigError: as `read_samples`.
    """
    if not path.exists():
        return {}
    # Most of a large file is skipped without being parsed: `append` begins every line with its key.
    starts = tuple(json.dumps({"strategy": name, "id": id}, ensure_ascii=False)[:-1] + ", " for name, _, id in keys)
    rows = _rows(path, Sample, only=lambda line: line.startswith(starts))
    return {sample.key: sample for _, sample in rows if sample.key in keys}


def repair(path: Path) -> None:
    """Cut a half-written last line off a JSONL file; a missing file is fine."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        file.truncate(_end_of_lines(file))


def _end_of_lines(file: BinaryIO, *, block: int = 1 << 16) -> int:
    """Where the last whole line ends, looked for from the end of the file."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - block)
        file.seek(start)
        at = file.read(end - start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0


def _rows(path: Path, kind: type[Any], *, only: Callable[[str], bool] | None = None) -> Iterator[tuple[int, Any]]:
    try:
        with path.open(encoding="utf-8") as lines:
            yield from _parsed(path, lines, kind, only)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read '{path}': {error}; give a file that `selfroute evaluate` wrote") from None


def _parsed(
    path: Path, lines: Iterable[str], kind: type[Any], only: Callable[[str], bool] | None
) -> Iterator[tuple[int, Any]]:
    names = {field.name for field in fields(kind)}
    for number, line in enumerate(lines, 1):
        if only is not None and not only(line):
            continue
        try:
            values = json.loads(line)
            # Keys that a later version adds are not ours to refuse; missing ones are.
            row = kind(**{name: value for name, value in values.items() if name in names})
        except (json.JSONDecodeError, TypeError, AttributeError):
            raise ConfigError(
                f"{path}:{number} is not a {kind.__name__.lower()}{_why(line, kind)}; give a file that "
                f"`selfroute evaluate` wrote, or delete the line"
            ) from None
        yield number, row


def _why(line: str, kind: type[Any]) -> str:
    try:
        values = json.loads(line)
    except json.JSONDecodeError:
        return " (it is no JSON)"
    if not isinstance(values, dict):
        return " (it is no JSON object)"
    missing = [f.name for f in fields(kind) if f.default is MISSING and f.name not in values]
    return f" ('{missing[0]}' is missing)"


# --- values ----------------------------------------------------------------------------------------------------

_TEXTS = ("strategy", "id")
_QUALITIES = ("correct", "device_correct", "cloud_correct", "local_correct")
_NUMBERS = (
    *("device_tokens", "cloud_tokens", "usd", "seconds", "device_prompt_tokens", "cloud_prompt_tokens"),
    *("cloud_calls", "up_bytes", "down_bytes", "device_layer_tokens", "cloud_layer_tokens", "void_tokens"),
)
_NUMBERS_OR_NONE = (
    "attempt_prompt_tokens", "attempt_tokens", "local_prompt_tokens", "local_tokens",
    "cloud_answer_prompt_tokens", "cloud_answer_tokens", "values_leaked", "values_lost",
)  # fmt: skip


def _check_values(record: Record, where: str) -> None:
    """Refuse a value that no evaluation writes.

    Raises:
        ConfigError: names the line, the field, the value and what may stand there.
    """
    for name, allowed, fits in _RULES:
        value = getattr(record, name)
        if not fits(value):
            shown = "NaN" if isinstance(value, float) and math.isnan(value) else json.dumps(value, ensure_ascii=False)
            raise ConfigError(f"{where}: {name} is {shown}, not {allowed}; mend the line or evaluate the row again")


def _is_no_number(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _is_number(value: object, *, low: float = -math.inf, high: float = math.inf) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and low <= value <= high
    )


def _is_quality(value: object) -> bool:
    return value is None or isinstance(value, bool) or _is_number(value, low=0, high=1)


_RULES: tuple[tuple[str, str, Callable[[object], bool]], ...] = (
    *((name, "text", lambda v: isinstance(v, str)) for name in _TEXTS),
    ("source", '"device", "cloud" or "both"', lambda v: v in ("device", "cloud", "both")),
    ("wants_cloud", "true or false", lambda v: isinstance(v, bool)),
    ("score", "a finite number or null", lambda v: v is None or _is_number(v)),
    *((name, "true, false, a number from 0 to 1, or null", lambda v: _is_quality(v)) for name in _QUALITIES),
    *((name, "a number, 0 or more", lambda v: _is_number(v, low=0)) for name in _NUMBERS),
    *((name, "a number, 0 or more, or null", lambda v: v is None or _is_number(v, low=0)) for name in _NUMBERS_OR_NONE),
    ("error", "text or null", lambda v: v is None or isinstance(v, str)),
    ("solve_rate", "between 0 and 1, or null", lambda v: v is None or _is_number(v, low=0, high=1)),
    ("solve_samples", "a number, 0 or more", lambda v: _is_number(v, low=0)),
    ("point", "a finite number or null", lambda v: v is None or _is_number(v)),
    *((name, "true or false", lambda v: isinstance(v, bool)) for name in ("joint", "oracle")),
)

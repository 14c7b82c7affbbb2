"""Recorded answers of models, in the formats that the field publishes them in, read as one kind of row.

Formats, told apart by what a file holds unless one is named:

* `selfroute`: our own JSONL, one answer a line (see `selfroute.backends.recorded`).
* `routellm`: RouteLLM's CSV, a row per prompt with, for each model, whether it was right (or a grade from 0 to 1) and,
  in some files, its text; a folder of such files is one set (arXiv 2406.18665).
* `zeroeval`: ZeroEval's outputs, a line per prompt with `id`, `question`, `gold`, `model` and `output`.
* `gsm8k`: the example solutions that came with GSM8K, a line per problem with `solution` and `is_correct` of each
  model.
* `routerarena`: RouterArena's answers of one model (`cached_results/MODEL.jsonl`: `global_index`, `question`,
  `llm_selected`, `generated_answer`, `evaluation_result` with `score`, `ground_truth` and `inference_cost`), or of the
  models that a router chose (`predictions/ROUTER.json`: `global index`, `prompt`, `prediction`, `generated_result`,
  `accuracy`, `cost`); a folder of such files is one set of many models.

Files may be gzipped, begin with a byte order mark (of UTF-16 too), and be one JSON array in place of lines. In every
format equal prompts, also absent ones, are told apart by spaces at their end, so that each row keeps its own answer
when it is replayed; a model would read them alike.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selfroute.errors import ConfigError
from selfroute.types import Usage

__all__ = [
    "FORMATS",
    "RecordedAnswer",
    "format_of",
    "is_plain_lines",
    "models_in",
    "objects_of",
    "read_answers",
    "rows_looked_at",
    "shifted",
    "unrecorded_text",
]

_LARGEST_FIELD = 16 * 2**20
_FEWEST, _LOOKED_AT = 20, 64  # rows that tell whether answers are shifted


@dataclass(frozen=True, slots=True)
class RecordedAnswer:
    """What one model answered to one prompt.

    Attributes:
        where: file and row, for messages.
        id: unique within the file.
        prompt: the question; equal ones differ in the spaces at their end.
        text: the answer; where only a verdict was recorded, `unrecorded_text` of the model.
        model: who answered.
        correct: the verdict that was recorded: true, false or a grade in [0, 1]; None if there is none.
        gold: the reference answer, None if it was not recorded.
        usage, seconds, usd: what the answer took; None where nobody knows.
    """

    where: str
    id: str
    prompt: str
    text: str
    model: str
    correct: float | None = None
    gold: str | None = None
    usage: Usage | None = None
    seconds: float | None = None
    usd: float | None = None


def unrecorded_text(model: str) -> str:
    """What stands for an answer of which only the verdict is known: the same for every prompt, so it tells nothing."""
    return f"[{model} answered; the text was not recorded]"


def read_answers(path: str | Path, *, format: str | None = None, model: str | None = None) -> list[RecordedAnswer]:
    """The answers of one model, in file order.

    Args:
        path: a file, or for RouteLLM's MMLU the folder of its files.
        format: a key of `FORMATS`; None looks into the file.
        model: which one, by its name in the file or a part of it that no other has; needed where there are several.

    Raises:
        ConfigError: no such file, format or model, a broken row, or an id that occurs twice; names file, row and fix.
    """
    path = Path(path)
    reader = _reader(path, format)
    chosen = _choose(models_in(path, format=format), model, path)
    answers = _told_apart([answer for answer in reader(path) if answer.model == chosen])
    seen: dict[str, str] = {}
    for answer in answers:
        if answer.id in seen:
            raise ConfigError(
                f"{answer.where}: id '{answer.id}' stands at {seen[answer.id]} too; give each row an id of its own"
            )
        seen[answer.id] = answer.where
    return answers


def models_in(path: str | Path, *, format: str | None = None) -> list[str]:
    """Names of the models whose answers a file holds.

    Raises:
        ConfigError: as `read_answers`.
    """
    path = Path(path)
    models = list(dict.fromkeys(answer.model for answer in _reader(path, format)(path)))
    if not models:
        raise ConfigError(f"{path} holds no answer; give a file with at least one row")
    return models


def _choose(models: Sequence[str], wanted: str | None, path: Path) -> str:
    if wanted is None:
        if len(models) == 1:
            return models[0]
        raise ConfigError(f"{path} holds answers of {', '.join(models)}; say which with model: NAME")
    if wanted in models:
        return wanted
    near = [name for name in models if wanted.lower() in name.lower()]
    if len(near) == 1:
        return near[0]
    raise ConfigError(f"{path}: model '{wanted}' is {'one of several' if near else 'none'} of {', '.join(models)}")


def _told_apart(answers: Iterable[RecordedAnswer]) -> list[RecordedAnswer]:
    """The k-th of equal prompts gets k - 1 spaces at its end."""
    seen: Counter[str] = Counter()
    told = []
    for answer in answers:
        plain = answer.prompt.rstrip()
        told.append(replace(answer, prompt=plain + " " * seen[plain]) if seen[plain] else replace(answer, prompt=plain))
        seen[plain] += 1
    return told


# --- formats -------------------------------------------------------------------------------------------------------


def _selfroute(path: Path) -> Iterator[RecordedAnswer]:
    for where, number, row in _objects(path):
        prompt = row.get("prompt")
        if prompt is None:
            turns = [m for m in row.get("messages") or [] if isinstance(m, Mapping) and m.get("role") == "user"]
            prompt = turns[-1].get("content") if turns else None
        usage = row.get("usage") or {}
        yield RecordedAnswer(
            where,
            str(row.get("id", number)),
            _text(prompt, "prompt", where),
            _text(row.get("text"), "text", where),
            str(row.get("model") or row.get("backend") or path.stem),
            _grade(row.get("correct"), "correct", where),
            None if row.get("gold") is None else str(row["gold"]),
            Usage(int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)) if usage else None,
            _number(row.get("seconds"), "seconds", where),
            _number(row.get("usd"), "usd", where),
        )


def _routellm(path: Path) -> Iterator[RecordedAnswer]:
    files = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f"{path} holds no .csv file; give RouteLLM's file or the folder of its files")
    for file in files:
        rows = _table(file)
        columns = next(rows)[1]
        models = [name for name in columns if name != "prompt" and not name.endswith("_response")]
        if "prompt" not in columns or not models:
            raise ConfigError(f"{file}:1 has the columns {', '.join(columns)[:120]}; it needs 'prompt' and a model's")
        for number, cells in rows:
            where = f"{file}:{number}"
            if len(cells) != len(columns):
                raise ConfigError(f"{where}: {len(cells)} cells under {len(columns)} columns; mend or delete the row")
            row = dict(zip(columns, cells, strict=True))
            for model in models:
                text = row.get(f"{model}_response", unrecorded_text(model))
                verdict = _cell(row[model], model, where)
                yield RecordedAnswer(where, f"{file.stem}-{number}", row["prompt"], text, model, verdict)


def _zeroeval(path: Path) -> Iterator[RecordedAnswer]:
    for where, number, row in _objects(path):
        output = row.get("output")
        if isinstance(output, list) and len(output) == 1:  # as ZeroEval itself writes it
            output = output[0]
        question = row.get("question", row.get("chat_history"))
        if isinstance(question, list):
            question = question[0] if question else ""
        gold = row.get("gold", row.get("answer"))
        yield RecordedAnswer(
            where,
            str(row.get("id", row.get("session_id", number))),
            _text(question if question is not None else "", "question", where),
            _text(output, "output", where),
            str(row.get("model") or row.get("generator") or path.name.partition(".jsonl")[0]),
            gold=None if gold is None else str(gold).removeprefix("#").strip(),
        )


def _gsm8k(path: Path) -> Iterator[RecordedAnswer]:
    for where, number, row in _objects(path):
        question = _text(row.get("question"), "question", where)
        truth = _text(row.get("ground_truth", ""), "ground_truth", where)
        gold = truth.rpartition("A:")[2].strip() or None
        solutions = {name: value for name, value in row.items() if isinstance(value, Mapping) and "solution" in value}
        if not solutions:
            raise ConfigError(f"{where}: no model with a 'solution' and 'is_correct'; mend or delete the row")
        for model, value in solutions.items():
            verdict = _grade(value.get("is_correct"), f"{model}.is_correct", where)
            if verdict is None:
                raise ConfigError(f"{where}: '{model}' has no 'is_correct'; mend or delete the row")
            text = _text(value["solution"], f"{model}.solution", where)
            yield RecordedAnswer(where, f"{number}", question, text, model, verdict, gold)


def _routerarena(path: Path) -> Iterator[RecordedAnswer]:
    files = sorted((*path.glob("*.jsonl"), *path.glob("*.json"))) if path.is_dir() else [path]
    for file in files:
        for where, number, row in _objects(file):
            made = row.get("generated_result", row)
            if not isinstance(made, Mapping) or not made.get("success", made.get("generated_answer") is not None):
                continue  # nobody has asked yet, or the model failed
            judged = row.get("evaluation_result") or {}
            usage = made.get("token_usage") or {}
            gold = judged.get("ground_truth")
            score = judged.get("score", row.get("accuracy"))
            yield RecordedAnswer(
                where,
                str(row.get("global_index", row.get("global index", number))),
                _text(row.get("question", row.get("prompt")), "question", where),
                _text(made.get("generated_answer"), "generated_answer", where),
                str(row.get("llm_selected") or row.get("prediction") or file.name.partition(".json")[0]),
                _grade(score, "score", where),
                None if gold is None else str(gold),
                Usage(int(usage.get("input_tokens") or 0), int(usage.get("output_tokens") or 0)) if usage else None,
                usd=_number(judged.get("inference_cost", row.get("cost")), "cost", where),
            )


Reader = Callable[[Path], Iterator[RecordedAnswer]]
FORMATS: dict[str, Reader] = {
    "selfroute": _selfroute,
    "routellm": _routellm,
    "zeroeval": _zeroeval,
    "gsm8k": _gsm8k,
    "routerarena": _routerarena,
}


def _reader(path: Path, format: str | None) -> Reader:
    format = format or format_of(path)
    if format not in FORMATS:
        raise ConfigError(f"unknown format '{format}' of a recording; use one of {', '.join(FORMATS)}")
    return FORMATS[format]


def format_of(path: Path) -> str:
    """The key of `FORMATS` that fits what a file holds.

    Raises:
        ConfigError: it does not exist, or its first line is no JSON object.
    """
    if not path.exists():
        raise ConfigError(f"no recording '{path}'; name a file, or write one with `selfroute record`")
    if ".csv" in path.suffixes:
        return "routellm"
    if path.is_dir():
        return "routellm" if any(path.glob("*.csv")) or not any(path.glob("*.json*")) else "routerarena"
    row = next((row for _, _, row in _objects(path)), {})
    if "global_index" in row or "global index" in row:
        return "routerarena"
    if "output" in row:
        return "zeroeval"
    if any(isinstance(value, Mapping) and "is_correct" in value for value in row.values()):
        return "gsm8k"
    return "selfroute"


# --- files ---------------------------------------------------------------------------------------------------------


_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    # Bytes decoded line by line, so that a bad one is reported with its line.
    number = 0
    try:
        with _opened(path) as file:
            for number, line in enumerate(file, start=1):
                yield number, line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}:{number} is not UTF-8 text ({str(error)[:80]}); mend or delete the line") from None
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path}: cannot read after line {number} ({str(error)[:80]}); fetch it again") from None


@contextmanager
def _opened(path: Path) -> Iterator[Iterator[bytes]]:
    """Lines of a file as UTF-8, whatever it is packed in; UTF-16, as some shells write it, is known by its mark."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        mark = file.peek(2)[:2]
        yield iter(file.read().decode("utf-16").encode().splitlines(keepends=True)) if mark in _BOMS else iter(file)


def is_plain_lines(path: Path) -> bool:
    """Whether a file is JSON, one value a line, in UTF-8 and not packed: to be read bytewise, and added to."""
    if path.suffix == ".gz":
        return False
    with path.open("rb") as file:
        start = file.read(4096)
    return start[:2] not in _BOMS and not start.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")


def shifted(is_right: Callable[[int, int], bool], count: int) -> int:
    """By how many rows answers stand beside their questions: 1 or -1, or 0 if no shift fits better.

    The first and the last rows are looked at, since a row may be missing in the middle.

    Args:
        is_right: whether the answer of one row is right for the gold of another.
        count: of rows.
    """
    for rows in rows_looked_at(count):
        # Three deviations of a difference of two rates, at most.
        margin = 3.0 * math.sqrt(0.5 / len(rows))
        here = _rate(is_right, rows, 0)
        if here + margin >= 1.0:
            continue  # no other can be as much better
        best = max((1, -1), key=lambda by: _rate(is_right, rows, by))
        if _rate(is_right, rows, best) - here > margin:
            return best
    return 0


def rows_looked_at(count: int) -> list[range]:
    """The rows by which `shifted` decides; none of few."""
    ends = [range(min(_LOOKED_AT, count)), range(max(0, count - _LOOKED_AT), count)]
    return ends if count >= _FEWEST else []


def _rate(is_right: Callable[[int, int], bool], rows: range, by: int) -> float:
    return sum(is_right(row, row + by) for row in rows if row + by in rows) / len(rows)


def objects_of(path: Path) -> Iterator[tuple[int, Any]]:
    """The values of a JSONL file with the numbers of their lines, or of one JSON array with their numbers.

    Raises:
        ConfigError: the file cannot be read, or a line is no JSON; names it.
    """
    lines = ((number, line) for number, line in _lines(path) if line.strip())
    first = next(lines, None)
    if first is None:
        return
    if first[1].lstrip().startswith("["):
        yield from _array(path, "".join(line for _, line in (first, *lines)))
        return
    for number, line in (first, *lines):
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path}:{number}: not JSON ({str(error)[:80]}); mend or delete the line") from None


def _array(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    try:
        yield from enumerate(json.loads(text), start=1)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path}: not a JSON array ({str(error)[:80]}); mend it, or write one object a line"
        ) from None


def _objects(path: Path) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    for number, row in objects_of(path):
        where = f"{path}:{number}"
        if not isinstance(row, dict):
            raise ConfigError(f"{where}: a {type(row).__name__}, not an object; mend or delete the line")
        yield where, number, row


def _table(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of each row of a CSV file, the header first."""
    csv.field_size_limit(_LARGEST_FIELD)
    content = "".join(line for _, line in _lines(file))
    rows = csv.reader(io.StringIO(content, newline=""))
    empty, start = True, 1
    try:
        for cells in rows:
            if cells:
                empty = False
                yield start, cells
            start = rows.line_num + 1
    except csv.Error as error:
        raise ConfigError(f"{file}:{rows.line_num}: {error}; mend or delete the row") from None
    if empty:
        raise ConfigError(f"{file} is empty; it needs a header and rows")


def _text(value: Any, field: str, where: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{where}: '{field}' is {str(value)[:40]!r}, not text; mend or delete the row")
    return value


def _number(value: Any, field: str, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{where}: '{field}' is {str(value)[:40]!r}, not a number; mend or delete the row")
    return float(value)


def _grade(value: Any, field: str, where: str) -> float | None:
    """A verdict, or a grade as RouterArena has them; a boolean stays one."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float) and 0 <= value <= 1:
        return float(value)
    raise ConfigError(
        f"{where}: '{field}' is {str(value)[:40]!r}, not true, false or a number from 0 to 1; mend or delete the row"
    )


def _cell(text: str, field: str, where: str) -> float:
    """A verdict of a table: True, False or a number."""
    verdict = {"true": True, "false": False}.get(text.strip().lower())
    if verdict is not None:
        return verdict
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise ConfigError(
            f"{where}: '{text[:40]}' under '{field}' is not True, False or a number from 0 to 1; mend the row"
        )
    return number

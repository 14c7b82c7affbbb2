"""Answers on disk: write down what a backend says, and replay it later without the backend.

A recording is a JSONL file, one answer per line::

    {"id": "7", "messages": [{"role": "user", "content": "…"}], "text": "…", "finish_reason": "stop",
     "usage": {"prompt_tokens": 9, "completion_tokens": 4}, "seconds": 0.8}

`"prompt": "…"` may stand for a conversation of one user message, whatever system prompt it is asked under; all fields
but the prompt and `text` are optional, among them `"usd"`, what the answer cost. Recordings of other projects
(`selfroute.recordings`) are replayed as they are.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, get_args

from selfroute.backends.base import Backend, BatchBackend, complete, complete_all, find_capability, refuse_fields
from selfroute.backends.flight import in_flight
from selfroute.backends.function import replay
from selfroute.errors import ConfigError, RecordingMissing, SelfRouteError, UnsupportedByBackend
from selfroute.recordings import format_of, is_plain_lines, objects_of, read_answers
from selfroute.types import Completion, Delta, Message, Role, Sampling, Token, Usage

__all__ = ["RecordedBackend", "Recording", "completion_from_row", "completion_to_row", "record", "recorded_ids"]

Item = tuple[str, Sequence[Message]]
_Conversation = tuple[tuple[str, str], ...]


class RecordedBackend(Backend):
    """Replays the answers of a JSONL file as they were recorded; `sampling` does not change them.

    Where a prompt occurs twice in our own format, under two ids or none, the later line wins.

    Args:
        name: shown in traces and reports.
        path: a file written by `record` or by hand, or one of the formats of `selfroute.recordings`.
        format: its format; None looks into the file.
        model: whose answers, where the file holds several models'.

    Raises:
        ConfigError: if the file is missing, a line is broken or an id occurs twice; names the file and the line.
    """

    def __init__(self, name: str, path: str | Path, *, format: str | None = None, model: str | None = None) -> None:
        self.name = name
        self.path = Path(path)
        rows = _read(self.path) if _is_own(self.path, format, model) else _imported(self.path, format, model)
        self._answers = {row.conversation: row.completion for row in rows}
        # Prompts are found whatever spaces theirs begin or end in; of several that differ in these alone, the first.
        self._stripped: dict[_Conversation, Completion] = {}
        for conversation, answer in self._answers.items():
            self._stripped.setdefault(_without_spaces(conversation), answer)

    def __repr__(self) -> str:
        return f"RecordedBackend({self.name!r}, {str(self.path)!r})"

    def __len__(self) -> int:
        return len(self._answers)

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        """Replay the answer to `messages`.

        Raises:
            RecordingMissing: if there is none.
            UnsupportedByBackend: if `sampling` forbids text, or asks for log-probabilities that were not recorded, or
                the request asks for more than text.
        """
        refuse_fields(self, messages, sampling)
        answer = self._find(_conversation(messages))
        if answer is None:
            raise RecordingMissing(_missing(self, messages))
        if sampling.forbid:
            raise UnsupportedByBackend(f"{self.name}: a recorded answer cannot be made again without {sampling.forbid}")
        if sampling.top_logprobs is None:
            answer = replace(answer, tokens=())
        elif answer.text and not answer.tokens:
            raise UnsupportedByBackend(
                f"{self.name}: {self.path} holds no log-probabilities; record it again with top_logprobs set"
            )
        for delta in replay(answer):
            await asyncio.sleep(0)
            yield delta

    def _find(self, conversation: _Conversation) -> Completion | None:
        # Recorded under a prompt alone: the system prompt is the strategy's business.
        alone = tuple(turn for turn in conversation if turn[0] != "system")
        exact = self._answers.get(conversation) or self._answers.get(alone)
        return exact or self._stripped.get(_without_spaces(conversation)) or self._stripped.get(_without_spaces(alone))


@dataclass(frozen=True, slots=True)
class Recording:
    """What `record` did with one item: the answer it wrote, or the error for which it wrote nothing."""

    id: str
    outcome: Completion | SelfRouteError


async def record(
    backend: Backend,
    items: Iterable[Item],
    path: str | Path,
    sampling: Sampling,
    *,
    concurrency: int = 8,
    resume: bool = True,
    cost_usd: Callable[[Usage], float] | None = None,
) -> AsyncGenerator[Recording, None]:
    """Ask a backend about every item and write each answer to `path` as soon as it is there.

    Nothing happens until the iterator is drained. A failed item is reported and not written, so that the next run
    asks again; an interrupted run loses only the answers that were in the air.

    Args:
        items: pairs of an id, unique in the file, and the conversation to answer.
        path: a JSONL file for `RecordedBackend`; its folder is made if need be.
        concurrency: requests in flight at once, or the size of a batch for a `BatchBackend`.
        resume: skip the ids that `path` already holds, and repair its last line if it was half written;
            False starts the file anew.
        cost_usd: what an answer costs, to be written down with it; None writes what the backend says, if anything.

    Yields:
        The items answered in this run, as they finish.

    Raises:
        ConfigError: if `path` cannot be written, holds answers of another model or limit, or one of the ids with
            another prompt, or an id occurs twice.
    """
    if concurrency < 1:
        raise ConfigError(f"concurrency is {concurrency}; it must be at least 1")
    asked = _by_id(items)
    made_by = {"backend": backend.name, "identity": backend.identity, "max_tokens": sampling.max_tokens}
    file, known = _open(Path(path), resume=resume, made_by=made_by)
    with file:
        todo = iter(_not_known(asked, known, Path(path)))
        answer = _as_finished if find_capability(backend, BatchBackend) is None else _in_batches
        async with aclosing(answer(backend, todo, sampling, concurrency)) as answers:
            async for (item_id, messages), outcome in answers:
                if isinstance(outcome, Completion):
                    if cost_usd is not None:
                        outcome = replace(outcome, usd=cost_usd(outcome.usage))
                    file.write(_line({"id": item_id, **made_by, **_row(messages, outcome)}))
                    file.flush()
                yield Recording(item_id, outcome)


def recorded_ids(path: Path) -> set[str]:
    """The ids that a recording holds, as far as its lines can be read; none if there is no such file."""
    found = set()
    with suppress(OSError, UnicodeDecodeError):
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, AttributeError):
                found.add(str(json.loads(line).get("id")))
    return found


def completion_to_row(completion: Completion) -> dict[str, Any]:
    """A completion as JSON values; `completion_from_row` gives it back."""
    row: dict[str, Any] = {
        "text": completion.text,
        "usage": {
            "prompt_tokens": completion.usage.prompt_tokens,
            "completion_tokens": completion.usage.completion_tokens,
        },
        "finish_reason": completion.finish_reason,
        "seconds": completion.seconds,
    }
    if completion.usd is not None:
        row["usd"] = completion.usd
    if completion.tokens:
        row["tokens"] = [[token.text, token.logprob, dict(token.top)] for token in completion.tokens]
    return row


def completion_from_row(row: Mapping[str, Any]) -> Completion:
    """The completion in a row of a recording.

    Raises:
        ValueError: if a field has the wrong type; names it.
    """
    usage = _field(row, "usage", dict, {})
    return Completion(
        text=_field(row, "text", str),
        usage=Usage(_field(usage, "prompt_tokens", int, 0), _field(usage, "completion_tokens", int, 0)),
        finish_reason=_field(row, "finish_reason", str, "stop"),
        tokens=tuple(_token(token) for token in _field(row, "tokens", list, [])),
        seconds=_finite(row, "seconds") or 0.0,
        usd=_finite(row, "usd"),
    )


@dataclass(frozen=True, slots=True)
class _Row:
    id: str | None
    conversation: _Conversation
    completion: Completion


def _is_own(path: Path, format: str | None, model: str | None) -> bool:
    """Whether to read it as `record` wrote it, with its tokens; a missing file is reported there."""
    if format is not None or model is not None:
        return format == "selfroute" and model is None
    return not path.exists() or format_of(path) == "selfroute"


def _imported(path: Path, format: str | None, model: str | None) -> Iterator[_Row]:
    for answer in read_answers(path, format=format, model=model):
        completion = Completion(answer.text, answer.usage or Usage(), seconds=answer.seconds or 0.0, usd=answer.usd)
        yield _Row(answer.id, (("user", answer.prompt),), completion)


def _read(path: Path) -> Iterator[_Row]:
    lines: dict[str, int] = {}
    try:
        for number, row in _rows(path):
            if row.id is not None and lines.setdefault(row.id, number) != number:
                first = lines[row.id]
                raise ConfigError(
                    f"{path}:{number}: id '{row.id}' stands at line {first} too; give each row an id of its own"
                )
            yield row
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; `selfroute record` writes such a file") from error


def _rows(path: Path) -> Iterator[tuple[int, _Row]]:
    if not is_plain_lines(path):
        for number, value in objects_of(path):
            yield number, _parse(json.dumps(value).encode(), f"{path}:{number}")
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, _parse(line, f"{path}:{number}")


def _parse(line: bytes, where: str) -> _Row:
    try:
        row = json.loads(line.decode("utf-8-sig"))
        if not isinstance(row, dict):
            raise ValueError("it is not a JSON object")
        item_id = row.get("id")
        return _Row(None if item_id is None else str(item_id), _row_conversation(row), completion_from_row(row))
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{where} is not a recorded answer: {error}; mend or delete the line, "
            "or let `selfroute record` write the file anew"
        ) from error


def _row_conversation(row: Mapping[str, Any]) -> _Conversation:
    if "messages" not in row:
        return (("user", _field(row, "prompt", str)),)
    messages = _field(row, "messages", list)
    if not all(isinstance(message, dict) and message.get("role") in get_args(Role) for message in messages):
        raise ValueError(f"'messages' must be objects with a role of {', '.join(get_args(Role))}")
    return tuple((message["role"], _field(message, "content", str)) for message in messages)


_NEEDED = object()


def _field(row: Mapping[str, Any], key: str, kind: type | tuple[type, ...], default: Any = _NEEDED) -> Any:
    """A field of a JSON object, checked; null stands for the default."""
    value = row.get(key)
    if value is None:
        if default is _NEEDED:
            raise ValueError(f"{key!r} is missing")
        return default
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{key!r} is {value!r:.60}")
    return value


def _finite(row: Mapping[str, Any], key: str) -> float | None:
    value = _field(row, key, (int, float), None)
    if value is not None and not math.isfinite(value):
        raise ValueError(f"{key!r} is {value}")
    return None if value is None else float(value)


def _token(value: Any) -> Token:
    try:
        text, logprob, top = value
        return Token(str(text), float(logprob), {str(key): float(number) for key, number in top.items()})
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f"'tokens' holds {value!r:.60}, not [text, logprob, {{text: logprob}}]") from None


def _without_spaces(conversation: _Conversation) -> _Conversation:
    return tuple((role, content.strip()) for role, content in conversation)


def _conversation(messages: Iterable[Message]) -> _Conversation:
    return tuple((message.role, message.content) for message in messages)


def _row(messages: Sequence[Message], completion: Completion) -> dict[str, Any]:
    turns = [{"role": message.role, "content": message.content} for message in messages]
    return {"messages": turns, **completion_to_row(completion)}


def _line(row: Mapping[str, Any]) -> bytes:
    # ASCII: a model may write half of a surrogate pair, which UTF-8 cannot hold, and line separators other than \n.
    return json.dumps(row).encode("ascii") + b"\n"


def _missing(backend: RecordedBackend, messages: Sequence[Message]) -> str:
    asked = [message.content for message in messages if message.role == "user"] or [""]
    start = " ".join(asked[-1].split())[:60]
    return (
        f"{backend.name}: {backend.path} has no answer to {start!r} among its {len(backend)}; "
        "add it with `selfroute record`, under the same prompt template"
    )


def _open(path: Path, *, resume: bool, made_by: Mapping[str, Any]) -> tuple[BinaryIO, dict[str, _Conversation]]:
    """The file, ready to append whole lines, and the ids it holds."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not resume:
            return path.open("wb"), {}
        file = path.open("ab+")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; choose another place for the recording") from error
    try:
        _repair(file)
        _check_made_by(path, made_by)
        return file, {row.id: row.conversation for row in _read(path) if row.id is not None}
    except BaseException:
        file.close()
        raise


def _check_made_by(path: Path, made_by: Mapping[str, Any]) -> None:
    """Refuse to add to a file of another model, or of answers that were cut elsewhere.

    Raises:
        ConfigError: names both; a row that says nothing of it, as one written by hand, is let be.
    """
    names = {"backend": "model", "identity": "model", "max_tokens": "max_tokens"}
    for number, row in objects_of(path):
        for key, now in made_by.items():
            if isinstance(row, dict) and row.get(key, now) != now:
                raise ConfigError(
                    f"{path}:{number} was recorded with {names[key]} {row[key]!r}, not {now!r}; record to a new file"
                )


def _repair(file: BinaryIO) -> None:
    """Finish or drop a last line that has no line end: the run that wrote it was killed."""
    file.seek(0)
    data = file.read()
    start = data.rfind(b"\n") + 1
    if start == len(data):
        return
    try:
        _parse(data[start:], "")
        file.write(b"\n")
    except ConfigError:
        file.truncate(start)
    file.flush()


def _by_id(items: Iterable[Item]) -> dict[str, Sequence[Message]]:
    asked: dict[str, Sequence[Message]] = {}
    for item_id, messages in items:
        if item_id in asked:
            raise ConfigError(f"two items have the id {item_id!r}; ids must be unique in a recording")
        asked[item_id] = messages
    return asked


def _not_known(asked: Mapping[str, Sequence[Message]], known: Mapping[str, _Conversation], path: Path) -> list[Item]:
    for item_id in asked.keys() & known.keys():
        if known[item_id] != _conversation(asked[item_id]):
            raise ConfigError(f"{path} holds another prompt under the id {item_id!r}; record to a new file")
    return [item for item in asked.items() if item[0] not in known]


Outcome = tuple[Item, Completion | SelfRouteError]


async def _as_finished(
    backend: Backend, items: Iterator[Item], sampling: Sampling, concurrency: int
) -> AsyncGenerator[Outcome, None]:
    async def one(item: Item) -> Outcome:
        try:
            return item, await complete(backend, item[1], sampling)
        except (ConfigError, UnsupportedByBackend):
            raise  # every other item would fail in the same way
        except SelfRouteError as error:
            return item, error

    async with aclosing(in_flight(items, one, limit=concurrency)) as outcomes:
        async for outcome in outcomes:
            yield outcome


async def _in_batches(
    backend: Backend, items: Iterator[Item], sampling: Sampling, size: int
) -> AsyncGenerator[Outcome, None]:
    while batch := list(islice(items, size)):
        outcomes = await complete_all(backend, [messages for _, messages in batch], sampling)
        for outcome in zip(batch, outcomes, strict=True):
            yield outcome

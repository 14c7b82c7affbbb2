from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfroute.errors import ConfigError
from selfroute.evaluation.counting.columns import BITS, NUMBERS, columns_of, read_columns
from selfroute.evaluation.records import Record, Sample, append, read_records, read_samples, repair

FIELDS = [
    *("strategy", "id", "source", "wants_cloud", "score", "correct", "device_correct", "cloud_correct"),
    *("local_correct", "device_tokens", "cloud_tokens", "usd", "seconds", "error"),
    *("device_prompt_tokens", "cloud_prompt_tokens", "attempt_prompt_tokens", "attempt_tokens"),
    *("local_prompt_tokens", "local_tokens", "cloud_answer_prompt_tokens", "cloud_answer_tokens"),
    *("solve_rate", "solve_samples"),
]

bit = st.sampled_from([True, False, None])
text = st.text(st.characters(codec="utf-8"), max_size=20)
records = st.builds(
    Record,
    strategy=text,
    id=text,
    source=st.sampled_from(["device", "cloud"]),
    wants_cloud=st.booleans(),
    score=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    correct=bit,
    device_correct=bit,
    cloud_correct=bit,
    local_correct=bit,
    local_tokens=st.none() | st.integers(0, 9),
    solve_rate=st.none() | st.floats(0, 1),
    usd=st.floats(0, 10),
    error=st.none() | text,
)


def test_the_fields_are_those_users_rely_on() -> None:
    assert list(asdict(Record(strategy="s", id="1", source="device", wants_cloud=False))) == FIELDS


@given(rows=st.lists(records, max_size=5, unique_by=lambda r: r.key))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list[Record]) -> None:
    path = tmp_path_factory.mktemp("records") / "records.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            append(file, row)
    assert read_records(path) == rows


def write(path: Path, *rows: Record | Sample) -> None:
    with path.open("a", encoding="utf-8") as file:
        for row in rows:
            append(file, row)


def record(id: str, **values: object) -> Record:
    return Record(strategy="s", id=id, source="device", wants_cloud=False, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("cut", range(1, 40, 7))
def test_a_half_written_line_is_cut_off(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "records.jsonl"
    write(path, record("1"), record("2", error="täst"))
    path.write_bytes(path.read_bytes()[:-cut])
    repair(path)
    assert read_records(path) == [record("1")]
    repair(path)
    write(path, record("3"))
    assert [r.id for r in read_records(path)] == ["1", "3"]


def test_repair_of_nothing_is_nothing(tmp_path: Path) -> None:
    repair(tmp_path / "absent.jsonl")
    assert not (tmp_path / "absent.jsonl").exists()


def test_a_second_try_replaces_the_first(tmp_path: Path) -> None:
    write(tmp_path / "r.jsonl", record("1", error="down"), record("1", correct=True))
    assert read_records(tmp_path / "r.jsonl") == [record("1", correct=True)]
    first, second = (Sample(strategy="s", id="1", question="q", gold="g", device_text=t) for t in "ab")
    write(tmp_path / "s.jsonl", first, second)
    assert read_samples(tmp_path / "s.jsonl") == [second]


@pytest.mark.parametrize("line", ["{", "[]", "3", '{"strategy": "s"}'])
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "records.jsonl"
    write(path, record("1"))
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ConfigError, match=r"records\.jsonl:2 is not a record"):
        read_records(path)


BASE = {"strategy": "s", "id": "2", "source": "device", "wants_cloud": False}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"score": math.nan}, r"records\.jsonl:2: score is NaN, not a finite number or null; mend the line"),
        ({"score": math.inf}, "score is Infinity"),
        ({"wants_cloud": "yes"}, 'wants_cloud is "yes", not true or false'),
        ({"device_correct": 1}, "device_correct is 1, not true, false or null"),
        ({"id": 7}, "id is 7, not text"),
        ({"source": "edge"}, 'source is "edge"'),
        ({"device_tokens": -1}, "device_tokens is -1"),
        ({"solve_rate": 1.5}, "solve_rate is 1.5"),
        ({"id": "1", "cloud_correct": True}, "records.jsonl:2 repeats row '1' of 's', which line 1 answers"),
    ],
)
@pytest.mark.parametrize("read", [read_records, read_columns])
def test_a_value_that_cannot_be_is_named(
    tmp_path: Path, values: dict[str, object], message: str, read: Callable[[Path], object]
) -> None:
    path = tmp_path / "records.jsonl"
    write(path, record("1", device_correct=True, cloud_correct=True))
    path.write_text(path.read_text() + json.dumps(BASE | values) + "\n")
    with pytest.raises(ConfigError, match=message):
        read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", "x:1 is not a record \\(it is no JSON\\)"),
        ("[]\n", "x:1 is not a record \\(it is no JSON object\\)"),
        ('{"id": "1"}\n', "x:1 is not a record \\('strategy' is missing\\)"),
        ("\x00\x01\n", "x:1 is not a record"),
    ],
)
def test_a_file_of_something_else_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x").write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_columns(tmp_path / "x")


def test_a_score_that_is_no_number_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="strategy 's', row '1': score is nan; return a finite number"):
        write(tmp_path / "r.jsonl", record("1", score=math.nan))
    assert (tmp_path / "r.jsonl").read_text() == ""


@settings(deadline=None)  # the first example imports Arrow
@given(rows=st.lists(records, max_size=8, unique_by=lambda r: r.key))
def test_the_fast_reader_reads_the_same(tmp_path_factory: pytest.TempPathFactory, rows: list[Record]) -> None:
    path = tmp_path_factory.mktemp("records") / "records.jsonl"
    path.touch()
    write(path, *rows)
    fast, plain = read_columns(path), columns_of(read_records(path))
    assert (fast.strategies, fast.ids) == (plain.strategies, plain.ids)
    for name in ("strategy", "id", "wants", "sent", "failed"):
        np.testing.assert_array_equal(getattr(fast, name), getattr(plain, name))
    for name in BITS:
        np.testing.assert_array_equal(fast.bits[name], plain.bits[name])
    for name in NUMBERS:
        np.testing.assert_array_equal(fast.numbers[name], plain.numbers[name])


def test_a_second_try_counts_in_the_fast_reader_too(tmp_path: Path) -> None:
    failed, done = record("1", error="down"), record("1", device_correct=True, cloud_correct=True)
    write(tmp_path / "r.jsonl", failed, record("2"), done)
    read = read_columns(tmp_path / "r.jsonl")
    assert read.places().tolist() == [[2, 1]] and read.finished.tolist() == [False, False, True]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read '.*absent\.jsonl'"):
        read_records(tmp_path / "absent.jsonl")

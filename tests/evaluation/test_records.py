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
from selfroute.evaluation.counting import columns
from selfroute.evaluation.counting.columns import NUMBERS, QUALITIES, columns_of, read_columns
from selfroute.evaluation.records import Record, Sample, append, read_records, read_samples, repair

FIELDS = [
    *("strategy", "id", "source", "wants_cloud", "score", "correct", "device_correct", "cloud_correct"),
    *("local_correct", "device_tokens", "cloud_tokens", "usd", "seconds", "error"),
    *("device_prompt_tokens", "cloud_prompt_tokens", "attempt_prompt_tokens", "attempt_tokens"),
    *("local_prompt_tokens", "local_tokens", "cloud_answer_prompt_tokens", "cloud_answer_tokens"),
    *("solve_rate", "solve_samples", "point", "joint", "cloud_calls", "up_bytes", "down_bytes"),
    *("device_layer_tokens", "cloud_layer_tokens", "void_tokens", "oracle", "values_leaked", "values_lost"),
]

verdict = st.booleans() | st.none() | st.floats(0, 1)
text = st.text(st.characters(codec="utf-8"), max_size=20)
records = st.builds(
    Record,
    strategy=text,
    id=text,
    source=st.sampled_from(["device", "cloud"]),
    wants_cloud=st.booleans(),
    score=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    correct=verdict,
    device_correct=verdict,
    cloud_correct=verdict,
    local_correct=verdict,
    local_tokens=st.none() | st.integers(0, 9),
    solve_rate=st.none() | st.floats(0, 1),
    usd=st.floats(0, 10),
    error=st.none() | text,
    point=st.none() | st.floats(-1, 1),
    joint=st.booleans(),
    oracle=st.booleans(),
    up_bytes=st.integers(0, 9),
    values_leaked=st.none() | st.integers(0, 4),
    values_lost=st.none() | st.integers(0, 1),
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
        ({"device_correct": 2}, "device_correct is 2, not true, false, a number from 0 to 1, or null"),
        ({"correct": -0.5}, r"correct is -0\.5, not true, false"),
        ({"cloud_correct": "yes"}, 'cloud_correct is "yes", not true, false'),
        ({"point": math.inf}, "point is Infinity, not a finite number or null"),
        ({"joint": 1}, "joint is 1, not true or false"),
        ({"oracle": "yes"}, 'oracle is "yes", not true or false'),
        ({"up_bytes": -3}, "up_bytes is -3, not a number, 0 or more"),
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
@given(rows=st.lists(records, max_size=8, unique_by=lambda r: r.key), block=st.sampled_from([1, 700, 32 << 20]))
def test_the_fast_reader_reads_the_same(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Record], block: int
) -> None:
    """In whatever blocks the file is read: fields that not every record has may be missing from some."""
    path = tmp_path_factory.mktemp("records") / "records.jsonl"
    path.touch()
    write(path, *rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "_BLOCK_BYTES", block)
        fast, plain = read_columns(path), columns_of(read_records(path))
    assert (fast.settings, fast.ids) == (plain.settings, plain.ids)
    for name in ("setting", "id", "wants", "sent", "joint", "failed", "oracle"):
        np.testing.assert_array_equal(getattr(fast, name), getattr(plain, name))
    for name in QUALITIES:
        np.testing.assert_array_equal(fast.qualities[name], plain.qualities[name])
    assert fast.numbers.keys() | {"up_bytes"} == plain.numbers.keys() | {"up_bytes"} <= set(NUMBERS)
    for name in plain.numbers:
        np.testing.assert_array_equal(fast.numbers[name], plain.numbers[name])


def test_the_fast_reader_reads_verdicts_of_both_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tricky = '", "correct": true, "cloud_correct": false'
    rows = [
        record("1", correct=True, device_correct=0.25, cloud_correct=True),
        record(tricky, correct=0.75, device_correct=False, error=tricky),
        record("3", correct=None, device_correct=1.0, cloud_correct=0.5),
    ]
    write(tmp_path / "r.jsonl", *rows)
    monkeypatch.setattr(columns, "read_records", lambda path: pytest.fail("the plain reader was asked"))
    read = read_columns(tmp_path / "r.jsonl")
    assert read.ids == ("1", tricky, "3")
    assert read.qualities["correct"].tolist()[:2] == [1, 0.75] and np.isnan(read.qualities["correct"][2])
    assert read.qualities["device_correct"].tolist() == [0.25, 0, 1]


def test_records_of_the_first_version_are_read(tmp_path: Path) -> None:
    old = {**BASE, "device_correct": True, "cloud_correct": False, "correct": True, "device_tokens": 3, "usd": 0.5}
    (tmp_path / "r.jsonl").write_text(json.dumps(old) + "\n")
    fast, plain = read_columns(tmp_path / "r.jsonl"), columns_of(read_records(tmp_path / "r.jsonl"))
    for read in (fast, plain):
        assert read.settings == (("s", None),) and not read.joint.any() and "cloud_calls" not in read.numbers
        assert read.numbers["cloud_prompt_tokens"].tolist() == [0] and read.qualities["correct"].tolist() == [1]


def test_what_not_every_strategy_has_is_left_out_of_a_line(tmp_path: Path) -> None:
    write(tmp_path / "r.jsonl", record("1"), record("2", point=0.0, up_bytes=7, joint=True))
    first, second = map(json.loads, (tmp_path / "r.jsonl").read_text().splitlines())
    assert second.keys() - first.keys() == {"point", "up_bytes", "joint"}
    assert [r.point for r in read_records(tmp_path / "r.jsonl")] == [None, 0.0]


def test_a_second_try_counts_in_the_fast_reader_too(tmp_path: Path) -> None:
    failed, done = record("1", error="down"), record("1", device_correct=True, cloud_correct=True)
    write(tmp_path / "r.jsonl", failed, record("2"), done)
    read = read_columns(tmp_path / "r.jsonl")
    assert read.places().tolist() == [[2, 1]] and read.finished.tolist() == [False, False, True]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read '.*absent\.jsonl'"):
        read_records(tmp_path / "absent.jsonl")

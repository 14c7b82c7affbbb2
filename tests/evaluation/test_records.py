from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.errors import ConfigError
from selfroute.evaluation.records import Record, Sample, append, read_records, read_samples, repair

FIELDS = [
    *("strategy", "id", "source", "wants_cloud", "score", "correct", "device_correct", "cloud_correct"),
    *("local_correct", "device_tokens", "cloud_tokens", "usd", "seconds", "error"),
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


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read '.*absent\.jsonl'"):
        read_records(tmp_path / "absent.jsonl")

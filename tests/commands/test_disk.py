"""Disks that are full and folders that are closed: one line, whichever library says it."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner

from selfroute.assemble.pieces import check_writable
from selfroute.commands.disk import of_a_disk
from selfroute.commands.main import app
from selfroute.errors import ConfigError

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


@needs_full
def test_a_full_disk_as_python_says_it() -> None:
    with pytest.raises(OSError) as caught, FULL.open("w") as file:
        file.write("x")
    assert of_a_disk(caught.value) == "No space left on device; free some space there"


@pytest.mark.parametrize(
    "said",
    [
        "Error while serializing: I/O error: No space left on device (os error 28)",
        "[enforce fail at inline_container.cc:672] .\nPytorchStreamWriter failed writing file data/0",
    ],
)
def test_a_full_disk_as_the_writers_of_weights_say_it(said: str) -> None:
    """Their words alone: safetensors puts a file of its own in the place of what it writes to."""
    line = of_a_disk(RuntimeError(said))
    assert line is not None and line.endswith("; free some space there") and "\n" not in line


def test_a_full_disk_as_sqlite_says_it() -> None:
    database = sqlite3.connect(":memory:")
    database.execute("pragma max_page_count = 2")
    database.execute("create table t (x)")
    with pytest.raises(sqlite3.OperationalError) as caught:
        database.execute("insert into t values (zeroblob(100000))")
    database.close()
    assert of_a_disk(caught.value) == "database or disk is full; free some space there"


def test_a_closed_folder_and_others() -> None:
    closed = PermissionError(errno.EACCES, "Permission denied", "data/train.jsonl")
    assert of_a_disk(closed) == (
        "'data/train.jsonl': Permission denied; see who may read and write it, or choose another place"
    )
    assert of_a_disk(IsADirectoryError(errno.EISDIR, "Is a directory", "a.jsonl")) == (
        "'a.jsonl': Is a directory; see that the place exists and is whole"
    )
    assert of_a_disk(sqlite3.DatabaseError("file is not a database")) == (
        "file is not a database; see that the file is whole"
    )
    assert of_a_disk(ValueError("a fault of ours")) is None


def test_a_command_says_it_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SELFROUTE_DEBUG", raising=False)
    (tmp_path / "rows.jsonl").mkdir()
    result = CliRunner().invoke(app, ["tasks", "--check", "jsonl", f"path={tmp_path / 'rows.jsonl'}"])
    lines = [line for line in result.output.splitlines() if line.strip()]
    assert result.exit_code in (1, 2) and len(lines) == 1 and lines[0].startswith("error: "), result.output


def test_a_place_that_cannot_be_written_to_is_named_before_any_work(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "run")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"out: cannot write to '.*file': .*; choose another folder"):
        check_writable(tmp_path / "file" / "run")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="this system has no /proc")
def test_training_into_such_a_place_is_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "train.yaml"
    recipe.write_text("task: countdown\nalgorithm: task_tuning\nout: /proc/nowhere\n", encoding="utf-8")
    result = CliRunner().invoke(app, ["train", str(recipe)])
    assert result.exit_code == 2 and "error: out: cannot write to '/proc'" in result.output

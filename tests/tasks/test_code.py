"""Code and output prediction: what passes, what is refused, and that nothing escapes or hangs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from selfroute.errors import ConfigError, TaskError
from selfroute.tasks.check import check
from selfroute.tasks.code import HumanEval, OutputPrediction
from selfroute.verify.sandbox import run_tests
from selfroute.verify.sandbox_child import _guard

PROBLEM = {
    "task_id": "HumanEval/0",
    "prompt": 'from typing import List\n\ndef inc(xs: List[int]) -> List[int]:\n    """Add one."""\n',
    "test": "def check(candidate):\n    assert candidate([1]) == [2]\n",
    "entry_point": "inc",
    "canonical_solution": "    return [x + 1 for x in xs]\n",
}
OUTPUT = {"id": "s0", "code": "def f(x):\n    return {x: 1}", "input": "'a'", "output": "{'a': 1}"}


def task_of(kind: Any, path: Path, row: dict[str, Any]) -> Any:
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    return kind(path=path)


@pytest.mark.parametrize(
    ("completion", "correct", "reason"),
    [
        ("```python\ndef inc(xs):\n    return [x + 1 for x in xs]\n```", True, ""),
        ("    return [x + 1 for x in xs]", True, ""),
        ("return [x + 1 for x in xs]", True, ""),
        ("```python\ndef inc(xs: List[int]):\n    return [x + 1 for x in xs]", True, ""),
        ("```python\ndef inc(xs):\n    return xs\n```", False, "AssertionError"),
        ("```\ndef inc(xs): return xs\n```\n```\ndef inc(xs): return [2]\n```", False, "AssertionError"),
        ("<think>```python\ndef inc(xs): return [2]\n```</think>", False, "no code"),
        ("```python\nimport sys\ndef inc(xs): sys.exit(0)\n```", False, "SystemExit"),
        ("", False, "no code"),
        ("x" * 1_000_000, False, "NameError"),
    ],
)
def test_humaneval(tmp_path: Path, completion: str, correct: bool, reason: str) -> None:
    task = task_of(HumanEval, tmp_path / "test.jsonl", PROBLEM)
    (row,) = task.rows("test")
    verdict = task.verify(row, completion)
    assert verdict.correct == correct
    assert verdict.reason.startswith(reason)


def test_gold_answers_pass(tmp_path: Path) -> None:
    check(task_of(HumanEval, tmp_path / "h.jsonl", PROBLEM), "test")
    check(task_of(OutputPrediction, tmp_path / "o.jsonl", OUTPUT), "test")
    broken = PROBLEM | {"canonical_solution": "    return xs\n"}
    with pytest.raises(TaskError, match="HumanEval/0"):
        check(task_of(HumanEval, tmp_path / "b.jsonl", broken), "test")


def test_rows_that_lack_a_field(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"h\.jsonl:1: field 'test' is 'None'"):
        task_of(HumanEval, tmp_path / "h.jsonl", PROBLEM | {"test": None}).rows("test")
    with pytest.raises(TaskError, match=r"o\.jsonl:1: field 'input'"):
        task_of(OutputPrediction, tmp_path / "o.jsonl", OUTPUT | {"input": 1}).rows("test")
    with pytest.raises(ConfigError, match=r"split 'train' of '.*h\.jsonl' is empty"):
        task_of(HumanEval, tmp_path / "h.jsonl", PROBLEM).rows("train")


def test_an_id_that_occurs_twice_is_named(tmp_path: Path) -> None:
    for kind, row, key in ((HumanEval, PROBLEM, "task_id"), (OutputPrediction, OUTPUT, "id")):
        path = tmp_path / f"{key}.jsonl"
        path.write_text(f"{json.dumps(row)}\n{json.dumps(row)}\n", encoding="utf-8")
        with pytest.raises(TaskError, match=rf"{key}\.jsonl:2: {key} '.*' stands at .*{key}\.jsonl:1 too"):
            kind(path=path).rows("test")


# --- the sandbox -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "x = 44**19**35",
        "import time; time.sleep(60)",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\nwhile True: pass",
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: pass",
    ],
)
def test_what_does_not_end_is_ended(code: str) -> None:
    started = time.perf_counter()
    assert run_tests(code, "", timeout_s=0.8).reason in ("timeout", "MemoryError: ")
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    "code",
    [
        "import os; os._exit(0)",
        "print('token'); raise SystemExit",
        "import os; os.kill(os.getpid(), 9)",
        "class E(BaseException):\n    def __str__(self): raise self\nraise E",
        "raise KeyboardInterrupt",
        "x = 'a' * 10**10",
        "import sys; sys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
        "def (",
        "\0",
        "(" * 100_000,
    ],
)
def test_ending_early_is_not_passing(code: str) -> None:
    assert not run_tests(code, "").passed


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.create_connection(('127.0.0.1', PORT), 1)",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:PORT')",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.system('true')",
        "import os; os.fork()",
        "import ctypes; ctypes.CDLL(None)",
        "open('OUTSIDE', 'w')",
        "import os; os.open('OUTSIDE', os.O_CREAT | os.O_WRONLY)",
        "import os; os.remove('KEPT')",
        "import os; os.rename('KEPT', 'OUTSIDE')",
        "import os; os.symlink('FOLDER', 'link'); open('link/new', 'w')",
        "import sqlite3; sqlite3.connect('OUTSIDE')",
        "import os; here = os.open('.', 0); os.mkdir('a'); os.chdir('a'); os.open('../x', os.O_CREAT, dir_fd=here)",
        "open('KEPT')",
        "import io; io.FileIO('KEPT')",
        "import os; os.open('KEPT', os.O_RDONLY)",
        "import pathlib; pathlib.Path('KEPT').read_bytes()",
        "import os; os.listdir('FOLDER')",
        "import os; list(os.scandir('FOLDER'))",
        "import os; open(f'/proc/{os.getppid()}/environ')",
    ],
)
def test_nothing_gets_out(code: str, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("here", encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.01)
        places = {"PORT": server.getsockname()[1], "OUTSIDE": tmp_path / "new", "KEPT": kept, "FOLDER": tmp_path}
        for word, value in places.items():
            code = code.replace(word, str(value))
        assert not run_tests(code, "", timeout_s=5).passed
        with pytest.raises(TimeoutError):
            server.accept()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_files_are_small_and_its_own() -> None:
    assert run_tests("open('ok', 'w').write('a' * 1000)", "assert len(open('ok').read()) == 1000").passed
    assert not run_tests("open('big', 'w').write('a' * (2 << 20))", "").passed
    ran = run_tests("for i in range(101): open(str(i), 'w').write('a')", "")
    assert ran.reason == "PermissionError: more than 100 changes of files are not allowed here"
    assert run_tests("import os, tempfile\nwith tempfile.TemporaryFile() as f: f.write(b'a')", "os.listdir()").passed


NATIVE = """
import os, sys
from selfroute.verify.sandbox_child import _libraries, lock_files
folder, kept = sys.argv[1:]
if not lock_files(folder, _libraries()):
    sys.exit("no Landlock")
with open(os.path.join(folder, "own"), "w") as own:
    own.write("a")
import decimal, hashlib, zlib
attempts = [
    lambda: open(kept),
    lambda: open(kept, "w"),
    lambda: os.listdir(os.path.dirname(kept)),
    lambda: os.remove(kept),
    lambda: open(f"/proc/{os.getppid()}/environ"),
]
for attempt in attempts:
    try:
        attempt()
    except PermissionError:
        continue
    sys.exit("not refused")
"""


@pytest.mark.parametrize(
    ("event", "args"),
    [
        ("open", ("OUTSIDE", "r", 0)),
        ("open", ("OUTSIDE", None, os.O_RDONLY)),
        ("open", ("OUTSIDE", "w", 0)),
        ("os.listdir", ("FOLDER/..",)),
        ("os.remove", ("OUTSIDE", -1)),
        ("os.rename", ("inside", "OUTSIDE", -1, -1)),
        ("socket.connect", ()),
        ("sqlite3.connect", ("inside",)),
    ],
)
def test_the_hook_refuses_files_without_the_kernel(event: str, args: tuple[Any, ...], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    words = {"OUTSIDE": str(tmp_path / "kept"), "inside": str(folder / "own"), "FOLDER/..": str(folder / "..")}
    hook = _guard(str(folder), ["/usr/lib"])
    with pytest.raises(PermissionError, match="not allowed here"):
        hook(event, tuple(words.get(value, value) for value in args))
    for inside in (("open", (words["inside"], "r", 0)), ("open", ("/usr/lib/os.py", "r", 0)), ("os.listdir", (None,))):
        hook(*inside)


@pytest.mark.skipif(sys.platform != "linux", reason="Landlock is Linux's")
def test_the_kernel_refuses_files_without_the_hook(tmp_path: Path) -> None:
    folder, kept = tmp_path / "folder", tmp_path / "kept"
    folder.mkdir()
    kept.write_text("here", encoding="utf-8")
    command = [sys.executable, "-c", NATIVE, str(folder), str(kept)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "no Landlock" in ran.stderr:
        pytest.skip("this kernel has no Landlock")
    assert ran.returncode == 0, ran.stderr
    assert kept.read_text(encoding="utf-8") == "here"


def test_the_usual_libraries_are_there() -> None:
    libraries = "collections, functools, hashlib, heapq, itertools, math, random, re, string, typing, datetime, copy"
    assert run_tests(f"import {libraries}", "assert math.gcd(4, 6) == 2").passed


# --- output prediction ---------------------------------------------------------------------------------------------


def test_output_prediction_compares_values(tmp_path: Path) -> None:
    task = task_of(OutputPrediction, tmp_path / "o.jsonl", OUTPUT)
    (row,) = task.rows("test")
    assert task.verify(row, "So f('a') == {'a': 1}").correct
    assert task.verify(row, '<answer>{"a": 0x1}</answer>').correct
    assert task.verify(row, "<answer>{'a': True}</answer>").reason == "{'a': True} is not {'a': 1}"


def test_the_block_that_defines_the_function_counts(tmp_path: Path) -> None:
    task = task_of(HumanEval, tmp_path / "test.jsonl", PROBLEM)
    (row,) = task.rows("test")
    use = "```python\nprint(inc([1]))\n```"
    assert task.verify(row, f"{use}\n```python\ndef inc(xs):\n    return [x + 1 for x in xs]\n```").correct

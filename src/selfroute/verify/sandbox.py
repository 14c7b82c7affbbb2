"""Run a model's Python code against tests, in a process of its own that is short of everything.

What is enforced where:

* Everywhere: a clock after which the whole process group is killed, long where processor time is limited; a fresh
  folder that is deleted afterwards; an empty environment; no site packages; and an audit hook in the child that refuses
  sockets, processes, ctypes, SQLite, reading any file but Python's library and the folder's own, changes outside of the
  folder, and more than 100 changes within it. The hook binds Python code; it is not a wall against native exploits.
* POSIX: limits on processor time, memory, file size, open files and core dumps; on the number of processes for users
  other than root.
* Linux from 5.13 with Landlock: the kernel itself refuses all files but the folder and, to read, the libraries of
  Python and of the system; from 6.12 also signals to other processes.
* Linux, where the kernel lets a user make namespaces: no network interface at all.

The names and sizes of files outside can still be asked for. Code that means to cheat inside its own process can, for
instance by returning an object that equals everything; it cannot by printing, exiting early or raising.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from selfroute.verify.patience import PATIENCE_WITH_PROGRAMS

__all__ = ["Ran", "run_tests"]

_SCRIPT = Path(__file__).with_name("sandbox_child.py")
_MOST_CODE = 200_000
_REPLY_BYTES = 4096
# What a child ends with that has used up its processor time. Windows has no such signal, nor such a limit.
_OUT_OF_TIME = {-int(signal.SIGXCPU)} if hasattr(signal, "SIGXCPU") else set()


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of it: whether code and tests ran through, and if not, a short reason."""

    passed: bool
    reason: str = ""


def run_tests(
    code: str,
    tests: str,
    *,
    timeout_s: float = 1.5,
    memory_bytes: int = 512 << 20,
    file_bytes: int = 1 << 20,
) -> Ran:
    """Run code, then tests, in a sandbox; never raises on what they hold or do.

    Args:
        timeout_s: processor time of the child in full seconds, its start included; on the clock it may take four times
            as long.
        memory_bytes: of address space. file_bytes: of each file it writes.
    """
    if len(code) + len(tests) > _MOST_CODE:
        return Ran(False, f"longer than {_MOST_CODE} characters")
    token = secrets.token_hex(16)
    request = {
        "code": code,
        "tests": tests,
        "token": token,
        "cpu_s": math.ceil(timeout_s),
        "memory_bytes": memory_bytes,
        "file_bytes": file_bytes,
    }
    with tempfile.TemporaryDirectory(prefix="selfroute-", ignore_cleanup_errors=True) as folder:
        reply = _exchange(
            json.dumps(request).encode("utf-8"), os.path.realpath(folder), timeout_s * PATIENCE_WITH_PROGRAMS
        )
    if reply is None:
        return Ran(False, "timeout")
    try:
        said = json.loads(reply)
    except ValueError:
        return Ran(False, "ended before its tests did")
    if isinstance(said, dict) and said.get("token") == token:
        return Ran(True)
    return Ran(False, str(said.get("error", "no verdict") if isinstance(said, dict) else "no verdict"))


def _exchange(request: bytes, folder: str, timeout_s: float) -> bytes | None:
    """The child's reply, empty if it died without one; None if it used up its time and is dead now."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as replies:
        try:
            child = subprocess.Popen(
                # -I: no user site, no variables; -S: no site packages; -B: no cached bytecode.
                [sys.executable, "-I", "-S", "-B", str(_SCRIPT), str(writing)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={"PATH": "", "HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8"},
                pass_fds=(writing,),
                start_new_session=True,
            )
        finally:
            os.close(writing)
        late = threading.Event()

        def kill() -> None:
            late.set()
            _kill_group(child.pid)

        timer = threading.Timer(timeout_s, kill)
        timer.daemon = True
        timer.start()
        try:
            with contextlib.suppress(OSError):  # it died while we wrote
                child.communicate(request)
            said = b"" if late.is_set() else replies.read(_REPLY_BYTES)
        finally:
            timer.cancel()
            _kill_group(child.pid)  # what it may have left behind
            child.wait()
        return None if not said and (late.is_set() or child.returncode in _OUT_OF_TIME) else said


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)

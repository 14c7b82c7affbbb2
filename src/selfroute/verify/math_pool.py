"""Comparing mathematical expressions without ever hanging: math-verify in processes that can be killed.

math-verify stops itself with SIGALRM, which works in the main thread only and cannot interrupt the C code that
raises 9 to the 9th to the 9th. So it runs in a few child processes with its timeouts off; a child that uses up its
time is killed and replaced. The limit is on the child's own processor time, so that a busy machine changes no verdict.
Threads may call at the same time.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

from selfroute.errors import ConfigError
from selfroute.verify.patience import PATIENCE

__all__ = ["LATE", "expressions_equal"]

# Processor time of one comparison; typical ones take 1 to 50 ms. Starting a child (about 0.5 s) is not part of it.
TIMEOUT_S = 1.0
_START_TIMEOUT_S = 120.0
_WORKERS = min(4, os.cpu_count() or 1)
_SCRIPT = Path(__file__).with_name("math_worker.py")

LATE = "timeout"


class _Worker:
    """One child process, asked by one thread at a time."""

    def __init__(self) -> None:
        # -P keeps this folder's module names off the child's import path.
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
        )
        self.ready = False

    def ask(self, request: dict[str, Any], *, timeout_s: float) -> dict[str, Any] | None:
        """The reply, or None from a child that died or used up its processor time; it is dead then."""
        if not self.ready and self._exchange(None, timeout_s=_START_TIMEOUT_S) is None:
            raise ConfigError(
                f"the math verifier's process does not start: run '{sys.executable} {_SCRIPT}' to see why"
            )
        self.ready = True
        return self._exchange(json.dumps(request | {"cpu_s": timeout_s}), timeout_s=timeout_s * PATIENCE)

    def _exchange(self, line: str | None, *, timeout_s: float) -> dict[str, Any] | None:
        # A timer that kills ends the blocking read on every platform; select() cannot wait for pipes on Windows.
        timer = threading.Timer(timeout_s, self.process.kill)
        timer.daemon = True
        timer.start()
        try:
            if line is not None:
                self._pipe(self.process.stdin).write(line + "\n")
                self._pipe(self.process.stdin).flush()
            reply = self._pipe(self.process.stdout).readline()
            return json.loads(reply) if reply.endswith("\n") else None
        except OSError:  # the child died before the request reached it
            return None
        finally:
            timer.cancel()
            timer.join()  # it may be about to kill: afterwards it is known whether it did

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe

    def alive(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        self.process.kill()
        with contextlib.suppress(OSError):  # what was still buffered cannot be delivered
            self._pipe(self.process.stdin).close()
        self._pipe(self.process.stdout).close()
        self.process.wait()


class _Pool:
    """Up to `_WORKERS` children, started as they are needed; the last used is used first."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(_WORKERS):
            self.idle.put(None)

    def ask(self, request: dict[str, Any], *, timeout_s: float) -> dict[str, Any] | None:
        worker = self.idle.get()
        try:
            if worker is None or not worker.alive():
                worker = self._replace(worker)
            reply = worker.ask(request, timeout_s=timeout_s)
            if reply is None or not worker.alive():
                worker = self._replace(worker)  # now, so that it starts while the caller does something else
            return reply
        except BaseException:
            if worker is not None:  # out of step with its replies
                worker.close()
                worker = None
            raise
        finally:
            self.idle.put(worker)

    @staticmethod
    def _replace(worker: _Worker | None) -> _Worker:
        if worker is not None:
            worker.close()
        return _Worker()

    def close(self) -> None:
        while not self.idle.empty():
            worker = self.idle.get_nowait()
            if worker is not None:
                worker.close()


_pool: _Pool | None = None
_pool_lock = threading.Lock()


def expressions_equal(
    answer: str, gold: str, *, marked: bool = True, timeout_s: float = TIMEOUT_S
) -> bool | str | None:
    """Whether two LaTeX or plain expressions are mathematically equal.

    Args:
        answer: an expression of bounded length, or, if not `marked`, text whose last expression counts.
        gold: the reference expression.
        marked: whether `answer` is an expression and nothing else.
        timeout_s: processor time it may take.

    Returns:
        True or False; None if one of them cannot be read; `LATE` if the child was killed or died on the way.

    Raises:
        ConfigError: math-verify is not installed.
    """
    reply = _current_pool().ask({"answer": answer, "gold": gold, "marked": marked}, timeout_s=timeout_s)
    if reply is None:
        return LATE
    equal: bool | None = reply["equal"]
    return equal


def _current_pool() -> _Pool:
    global _pool
    with _pool_lock:
        # A forked child must not talk through its parent's pipes.
        if _pool is None or _pool.pid != os.getpid():
            if importlib.util.find_spec("math_verify") is None:
                raise ConfigError("the math verifier needs math-verify: pip install 'selfroute[eval]'")
            _pool = _Pool()
        return _pool


@atexit.register
def _close() -> None:
    if _pool is not None and _pool.pid == os.getpid():
        _pool.close()

"""Call somebody else's function in a process that is killed when it is late. Internal to `selfroute.tasks`.

For verifiers that are not ours: they may hang in C code, exhaust memory or crash the interpreter, none of which a
thread or a signal can stop. One child serves many calls and is started again after it was killed. It is no fork or
spawn of `multiprocessing`, which would run the user's own script a second time.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any

from selfroute.verify.patience import PATIENCE, at_most

__all__ = ["bounded", "serve"]

TIMEOUT_S = 1.5
_START_TIMEOUT_S = 120.0
_MEMORY_BYTES = 2 << 30
_START = "import sys; sys.path[:] = {path!r}; from selfroute.verify.bounded import serve; serve()"

_lock = threading.Lock()
_child: subprocess.Popen[bytes] | None = None
_owner = 0


def bounded(function: Callable[..., Any], *arguments: Any, timeout_s: float = TIMEOUT_S) -> tuple[bool, Any]:
    """Call a function of a module in another process.

    Args:
        function: at the top of its module; arguments and result are pickled.
        timeout_s: processor time of the call, without the start of the child and the import of the module; on the
            clock it may take ten times as long.

    Returns:
        Whether it came to an end in time, and its result; an exception that it raised counts as None.
    """
    place = function.__module__, function.__qualname__
    with _lock:
        child = _running()
        if _exchange(child, (place, None, 0.0), _START_TIMEOUT_S) is not None:
            reply = _exchange(child, (place, arguments, timeout_s), timeout_s * PATIENCE)
            if reply is not None:
                return True, reply[0]
        _stop()
        return False, None


def _running() -> subprocess.Popen[bytes]:
    global _child, _owner
    # A forked child must not talk through its parent's pipes.
    if _child is None or _owner != os.getpid() or _child.poll() is not None:
        _child = subprocess.Popen(
            [sys.executable, "-c", _START.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        _owner = os.getpid()
    return _child


def _exchange(child: subprocess.Popen[bytes], request: Any, timeout_s: float) -> tuple[Any] | None:
    assert child.stdin is not None and child.stdout is not None
    timer = threading.Timer(timeout_s, child.kill)  # a timer that kills ends the blocking read on every platform
    timer.daemon = True
    timer.start()
    try:
        pickle.dump(request, child.stdin)
        child.stdin.flush()
        reply: tuple[Any] = pickle.load(child.stdout)
        return reply
    except (OSError, EOFError, pickle.UnpicklingError):
        return None
    finally:
        timer.cancel()
        timer.join()


def _stop() -> None:
    global _child
    child, _child = _child, None
    if child is not None and _owner == os.getpid():
        child.kill()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what was still buffered cannot be delivered
                    pipe.close()
        child.wait()


def serve() -> None:
    """The child: answer requests until standard input ends."""
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a library that prints must not break the protocol
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            (module, name), arguments, cpu_s = pickle.load(requests)
            function = getattr(import_module(module), name)
            result: Any = None
            if arguments is not None:
                with contextlib.suppress(Exception), at_most(cpu_s):
                    result = function(*arguments)
            pickle.dump((result,), replies)
            replies.flush()


atexit.register(_stop)

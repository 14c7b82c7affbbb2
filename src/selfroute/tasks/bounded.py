"""Call somebody else's function in a process that is killed when it is late. Internal to `selfroute.tasks`.

For verifiers that are not ours: they may hang in C code, exhaust memory or crash the interpreter, none of which a
thread or a signal can stop. One child serves many calls and is started again after it was killed.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["bounded"]

TIMEOUT_S = 1.5
_START_TIMEOUT_S = 120.0
_MEMORY_BYTES = 2 << 30

_lock = threading.Lock()
_child: tuple[Any, Any, int] | None = None


def bounded(function: Callable[..., Any], *arguments: Any, timeout_s: float = TIMEOUT_S) -> tuple[bool, Any]:
    """Call a function of a module by name in another process.

    Args:
        function: importable there; its arguments and its result are pickled.
        timeout_s: wall time; the first start of the child, which imports things, is not part of it.

    Returns:
        Whether it came to an end in time, and its result; an exception that it raised counts as None.
    """
    with _lock:
        if not _send(("warm", function)) or _receive(_START_TIMEOUT_S) is None:
            _stop()
            return False, None
        if _send((function, arguments)) and (reply := _receive(timeout_s)) is not None:
            return True, reply[0]
        _stop()
        return False, None


def _send(request: Any) -> bool:
    global _child
    if _child is None or _child[2] != os.getpid() or not _child[0].is_alive():
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        _child = (process, ours, os.getpid())
    try:
        _child[1].send(request)
    except OSError:
        return False
    return True


def _receive(timeout_s: float) -> tuple[Any] | None:
    assert _child is not None
    with contextlib.suppress(EOFError, OSError):
        if _child[1].poll(timeout_s):
            reply: tuple[Any] = _child[1].recv()
            return reply
    return None


def _stop() -> None:
    global _child
    if _child is not None and _child[2] == os.getpid():
        _child[0].kill()
        _child[0].join()
        _child[1].close()
    _child = None


def _serve(pipe: Any) -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            function, arguments = pipe.recv()
            if function == "warm":
                pipe.send((None,))
                continue
            try:
                pipe.send((function(*arguments),))
            except Exception:
                pipe.send((None,))


atexit.register(_stop)

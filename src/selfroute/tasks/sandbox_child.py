"""The process that runs a model's code; `sandbox` starts it, kills it and reads its verdict.

Run as a script with the standard library alone. Reads one JSON object from standard input, `{"code": …, "tests": …,
"token": …, …}`, shuts itself in, runs the code and then the tests, and writes one JSON object to the pipe it was given:
the token if all of it ran through, else what went wrong. Code that exits or prints proves nothing: it lacks the token.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
from typing import Any

_NEW_USER, _NEW_NET, _NEW_IPC = 0x10000000, 0x40000000, 0x08000000
# Prefixes of the names of audit events.
_FORBIDDEN = (
    *("socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.system", "os.kill"),
    *("os.startfile", "pty.", "ctypes.", "shutil.rmtree", "ftplib.", "smtplib.", "urllib.", "webbrowser."),
)
_CHANGES = (
    *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod"),
    *("os.chown", "os.utime", "os.chflags", "os.setxattr", "os.removexattr"),
)


def main() -> None:
    """Run one request."""
    request: dict[str, Any] = json.loads(sys.stdin.buffer.read())
    reply = int(sys.argv[1])
    folder = os.getcwd()
    _limit(request)
    _leave_the_network()
    sys.addaudithook(_guard(folder))
    token = request.pop("token")
    try:
        names: dict[str, Any] = {"__name__": "__candidate__"}
        exec(compile(request["code"], "<answer>", "exec"), names)
        exec(compile(request["tests"], "<tests>", "exec"), names)
        said = {"token": token}
    except BaseException as error:
        said = {"error": f"{type(error).__name__}: {_words(error)}"[:200]}
    os.write(reply, json.dumps(said).encode())
    os._exit(0)  # no thread or exit hook of the code runs on


def _words(error: BaseException) -> str:
    try:
        return " ".join(str(error).split())
    except BaseException:  # the code's own exception may have a broken __str__
        return ""


def _limit(request: dict[str, Any]) -> None:
    """Processor time, memory, size and number of files, processes; what the platform lacks is left out."""
    try:
        import resource
    except ImportError:  # Windows: the parent's wall clock is what is left
        return
    seconds, memory = int(request["cpu_s"]), int(request["memory_bytes"])
    limits = {
        "RLIMIT_CPU": seconds,
        "RLIMIT_AS": memory,
        "RLIMIT_FSIZE": int(request["file_bytes"]),
        "RLIMIT_NOFILE": 32,
        "RLIMIT_CORE": 0,
        "RLIMIT_NPROC": 1,
    }
    for name, value in limits.items():
        if hasattr(resource, name):
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(getattr(resource, name), (value, value))


def _leave_the_network() -> None:
    """A network namespace without any interface, where the kernel lets a user make one."""
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_NEW_USER | _NEW_NET | _NEW_IPC) != 0:
            libc.unshare(_NEW_NET | _NEW_IPC)


def _guard(folder: str) -> Any:
    """An audit hook: no sockets, no processes, no foreign code, and changes to files below `folder` alone."""

    def inside(path: Any) -> bool:
        if isinstance(path, int):
            return True
        real = os.path.realpath(os.fsdecode(path))
        return real == folder or real.startswith(folder + os.sep)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event.startswith(_FORBIDDEN):
            raise PermissionError(f"{event} is not allowed here")
        if event == "open" and not isinstance(args[0], int) and _writes(args[1], args[2]) and not inside(args[0]):
            raise PermissionError("writing outside of the working folder is not allowed here")
        if event.startswith(_CHANGES) and not all(
            inside(path) for path in args[:2] if isinstance(path, str | bytes | os.PathLike)
        ):
            raise PermissionError("changes outside of the working folder are not allowed here")

    return hook


def _writes(mode: Any, flags: Any) -> bool:
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return bool(isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))


if __name__ == "__main__":
    main()

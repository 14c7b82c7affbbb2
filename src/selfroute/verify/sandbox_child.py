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
import struct
import sys
from typing import Any

_NEW_USER, _NEW_NET, _NEW_IPC = 0x10000000, 0x40000000, 0x08000000
_MOST_CHANGES = 100
# Prefixes of the names of audit events.
_FORBIDDEN = (
    *("socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.system", "os.kill"),
    *("os.startfile", "pty.", "ctypes.", "shutil.rmtree", "ftplib.", "smtplib.", "urllib.", "webbrowser."),
    # SQLite opens files by itself; in another folder a relative path with a dir_fd would mean another file.
    *("sqlite3.", "os.chdir"),
)
_LOOKS = ("os.listdir", "os.scandir", "os.getxattr", "os.listxattr")
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
    readable = _libraries()
    lock_files(folder, readable)
    sys.addaudithook(_guard(folder, readable))
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
        "RLIMIT_AS": memory,
        "RLIMIT_FSIZE": int(request["file_bytes"]),
        "RLIMIT_NOFILE": 32,
        "RLIMIT_CORE": 0,
        "RLIMIT_NPROC": 1,
    }
    with contextlib.suppress(ValueError, OSError, AttributeError):
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))  # SIGXCPU, and SIGKILL for who catches it
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


def _libraries() -> list[str]:
    """What a program has to read to import the standard library: Python's own files and those it is linked with."""
    system = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/usr/share/zoneinfo"]
    found = [*sys.path, os.path.join(sys.base_prefix, "lib"), *system, "/dev/null", "/dev/urandom"]
    return sorted({os.path.realpath(path) for path in found if path and os.path.exists(path)})


# --- Landlock (https://docs.kernel.org/userspace-api/landlock.html) ----------------------------------------------

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture but alpha
_NO_NEW_PRIVILEGES = 38
_WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 14
# Also remove folder and file, make folder, file and link.
_IN_FOLDER = _WRITE_FILE | _READ_FILE | _READ_DIR | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 12 | _TRUNCATE
# Rights over files that a kernel's version of the interface knows, from the first one on.
_RIGHTS = (13, 14, 15, 15, 16)


def lock_files(folder: str, readable: list[str]) -> bool:
    """Have the kernel refuse this process, for good, all files but those below `folder` and, to read, `readable`.

    Binds native code as well. Where the kernel can, also TCP, abstract sockets and signals to other processes.

    Returns:
        Whether the kernel does it.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return False
    rights = (1 << _RIGHTS[min(version, len(_RIGHTS)) - 1]) - 1
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = libc.syscall(_CREATE_RULESET, struct.pack("=QQQ", rights, 3, 3), size, 0)
    if ruleset < 0:
        return False
    for path in readable:
        _allow(libc, ruleset, path, rights & (_READ_FILE | (_READ_DIR if os.path.isdir(path) else 0)))
    _allow(libc, ruleset, folder, rights & _IN_FOLDER)
    _allow(libc, ruleset, os.devnull, rights & (_READ_FILE | _WRITE_FILE))
    locked = libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0 and libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0
    os.close(ruleset)
    return bool(locked)


def _allow(libc: Any, ruleset: int, path: str, rights: int) -> None:
    with contextlib.suppress(OSError):
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        libc.syscall(_ADD_RULE, ruleset, 1, struct.pack("=Qi", rights, place), 0)
        os.close(place)


# --- the audit hook ----------------------------------------------------------------------------------------------


def _guard(folder: str, readable: list[str]) -> Any:
    """An audit hook: no sockets, no processes, no foreign code; reads and changes below `folder`, a hundred of the
    latter at most, and reads below `readable`.
    """
    changes = [0]

    def below(path: Any, *roots: str) -> bool:
        if path is None or isinstance(path, int):
            return True
        real = os.path.realpath(os.fsdecode(path))
        return any(real == root or real.startswith(root + os.sep) for root in roots)

    def count() -> None:
        changes[0] += 1
        if changes[0] > _MOST_CHANGES:
            raise PermissionError(f"more than {_MOST_CHANGES} changes of files are not allowed here")

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event.startswith(_FORBIDDEN):
            raise PermissionError(f"{event} is not allowed here")
        if event == "open" and not isinstance(args[0], int):
            if not _writes(args[1], args[2]):
                if not below(args[0], folder, *readable):
                    raise PermissionError("reading outside of the working folder is not allowed here")
                return
            if not below(args[0], folder, os.devnull):
                raise PermissionError("writing outside of the working folder is not allowed here")
            count()
        if event.startswith(_LOOKS) and not below(args[0], folder, *readable):
            raise PermissionError("reading outside of the working folder is not allowed here")
        if event.startswith(_CHANGES):
            if not all(below(path, folder) for path in args[:2] if isinstance(path, str | bytes | os.PathLike)):
                raise PermissionError("changes outside of the working folder are not allowed here")
            count()

    return hook


def _writes(mode: Any, flags: Any) -> bool:
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return bool(isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))


if __name__ == "__main__":
    main()

"""Who holds leases in a ledger file, whether it still lives, and which of its calls had left when it died.

Each ledger that has leases open has two files in a folder beside the database: a lock, which the system lets go when
the process ends in whatever way, and one byte per lease, which says whether a call of it is in the air. The byte is
written without a transaction, just before each call leaves; like everything that a process has written to a file, it
outlives the process. The lock is SQLite's own, which the ledger rests on anyway.
"""

from __future__ import annotations

import sqlite3
import threading
import uuid
import weakref
from collections.abc import Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path

__all__ = ["Dead", "Owner", "dead_owners"]

_LOCK, _MARKS = ".lock", ".sent"
_IN_AIR, _NOT_IN_AIR = b"\1", b"\0"


class Owner:
    """This process as the owner of leases, which it numbers; it is one until `close`, or until it is forgotten.

    Args:
        folder: of the ledger's owners.

    Raises:
        OSError, sqlite3.Error: the folder cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.name = uuid.uuid4().hex
        self._path = folder / self.name
        self._turn = threading.Lock()  # calls leave in one thread, leases begin and end in another
        self._free: list[int] = []
        self._said: list[bool] = []  # by number, what the file says
        lock = _locked(self._path.with_suffix(_LOCK))
        self._marks = self._path.with_suffix(_MARKS).open("w+b", buffering=0)
        self._let_go = weakref.finalize(self, _close, lock, self._marks)

    @property
    def has_leases(self) -> bool:
        return len(self._said) > len(self._free)

    def take(self) -> int:
        """A number for a lease, whose call is not in the air."""
        if self._free:
            self.mark(self._free[-1], in_air=False)
            return self._free.pop()
        self._write(len(self._said), in_air=False)
        self._said.append(False)
        return len(self._said) - 1

    def give_back(self, number: int) -> None:
        """The number's lease is over."""
        self._free.append(number)

    def mark(self, number: int, *, in_air: bool) -> None:
        """Say whether a call of a lease is in the air.

        Raises:
            OSError: it cannot be written.
        """
        if self._said[number] != in_air:
            self._write(number, in_air=in_air)
            self._said[number] = in_air

    def _write(self, number: int, *, in_air: bool) -> None:
        with self._turn:
            self._marks.seek(number)
            self._marks.write(_IN_AIR if in_air else _NOT_IN_AIR)

    def close(self) -> None:
        """Let go, and take the files away."""
        self._let_go()
        _remove(self._path)


class Dead:
    """An owner whose process has ended, kept from others until `close`."""

    def __init__(self, path: Path, lock: sqlite3.Connection) -> None:
        self.name = path.stem
        self._path = path
        self._lock = lock
        try:
            self._marks = path.with_suffix(_MARKS).read_bytes()
        except FileNotFoundError:  # nobody knows: every call may have left
            self._marks = b""

    def had_sent(self, number: int) -> bool:
        """Whether a call of this lease may have left."""
        return self._marks[number : number + 1] != _NOT_IN_AIR

    def close(self, *, remove: bool) -> None:
        """Let others see it again, or take its files away."""
        self._lock.close()
        if remove:
            _remove(self._path)


def dead_owners(folder: Path, *, but: Owner | None) -> Iterator[Dead]:
    """Owners whose processes have ended, one that asks left out; close each of them."""
    for path in folder.glob(f"*{_LOCK}"):
        if but is None or path.stem != but.name:
            with suppress(sqlite3.Error):  # locked, or another user's: it may live
                yield Dead(path, _locked(path))


def _locked(path: Path) -> sqlite3.Connection:
    """A lock on a file, for as long as the connection is open.

    Raises:
        sqlite3.Error: somebody else has it, or it cannot be used.
    """
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _close(lock: sqlite3.Connection, marks: FileIO) -> None:
    marks.close()
    lock.close()


def _remove(path: Path) -> None:
    for suffix in (_MARKS, _LOCK):
        with suppress(OSError):
            path.with_suffix(suffix).unlink()

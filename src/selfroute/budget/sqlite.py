"""A ledger in an SQLite file, shared by all processes of one machine.

A thread of its own does the writing, so that waiting for another process never holds up the event loop, and books all
that waits in one transaction. With a write-ahead log what is booked survives the end of a process by whatever signal,
and of the machine but for the last moments before a power cut.
"""

from __future__ import annotations

import asyncio
import math
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from selfroute.budget import limits
from selfroute.budget.limits import Bucket, Charge, Reply
from selfroute.errors import BudgetUnavailable, ConfigError

__all__ = ["SQLiteLedger", "default_path"]

T = TypeVar("T")

_KEPT_S = 86400  # how long a window that has ended can still be settled
_SWEEP_S = 3600  # between two looks for windows that have ended
_BATCH = 256  # most operations in one transaction
_VERSION = 1
_TABLE = """
CREATE TABLE IF NOT EXISTS counters (
    scope TEXT NOT NULL, key TEXT NOT NULL, value INTEGER NOT NULL, ends INTEGER, PRIMARY KEY (scope, key)
) WITHOUT ROWID
"""


def default_path() -> Path:
    """Where the ledger lies if nobody says: in `$XDG_STATE_HOME/selfroute`, by default `~/.local/state/selfroute`."""
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local" / "state") / "selfroute" / "budget.sqlite"


class SQLiteLedger:
    """Counters in a file; see `selfroute.budget.ledger.Ledger`.

    Args:
        path: the file, made if it is missing; not on a network drive, whose locks SQLite cannot rely on. By default
            `default_path()`.
        scope: keeps apart budgets that share the file.
        timeout_s: how long to wait while other processes write.

    Raises:
        ConfigError: the file cannot be used.
    """

    def __init__(self, path: Path | None = None, *, scope: str = "default", timeout_s: float = 10.0) -> None:
        self.path = default_path() if path is None else path
        self.scope = scope
        self.timeout_s = timeout_s
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._worker: threading.Thread | None = None
        self._start = threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._connect()) as connection:
                self._prepare(connection)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"budget ledger '{self.path}' cannot be used: {error}; give another path: ledger: sqlite:FILE"
            ) from None

    async def count(self, bucket: Bucket) -> None:
        await self._do(lambda rows: limits.count(rows, bucket))

    async def reserve(self, charges: Sequence[Charge], bucket: Bucket | None) -> Reply:
        return await self._do(lambda rows: limits.reserve(rows.ending(charges), charges, bucket))

    async def settle(self, charges: Sequence[Charge], used: Sequence[int]) -> None:
        await self._do(lambda rows: limits.settle(rows.ending(charges), charges, used))

    async def release(self, charges: Sequence[Charge], bucket: Bucket | None) -> None:
        await self._do(lambda rows: limits.release(rows.ending(charges), charges, bucket))

    async def read(self, keys: Sequence[str]) -> list[int]:
        return await self._do(lambda rows: [rows[key] for key in keys])

    async def aclose(self) -> None:
        with self._start:
            worker, self._worker = self._worker, None
            if worker is not None:
                self._jobs.put(None)
        if worker is not None:
            await asyncio.to_thread(worker.join)

    # --- the thread

    async def _do(self, work: Callable[[_Rows], T]) -> T:
        job = _Job(work)
        with self._start:
            self._jobs.put(job)
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="selfroute budget", daemon=True)
                self._worker.start()
        result: T = await asyncio.wrap_future(job.done)
        return result

    def _work(self) -> None:
        connection: sqlite3.Connection | None = None
        swept = -math.inf  # a clock that starts at boot must not make the first sweep wait
        try:
            while (job := self._jobs.get()) is not None:
                jobs, ended = self._waiting(job)
                try:
                    connection = connection or self._connect()
                    if time.monotonic() - swept > _SWEEP_S:
                        connection.execute("DELETE FROM counters WHERE ends < ?", (time.time() - _KEPT_S,))
                        swept = time.monotonic()
                    results = self._book(connection, jobs)
                except Exception as error:  # the thread must outlive any failure
                    self._fail(jobs, error)
                else:
                    for one, result in zip(jobs, results, strict=True):
                        one.done.set_result(result)
                if ended:
                    return
        finally:
            if connection is not None:
                connection.close()

    def _waiting(self, job: _Job) -> tuple[list[_Job], bool]:
        """A job and those behind it, without those that were cancelled, and whether the end has come."""
        jobs: list[_Job] = []
        following: _Job | None = job
        while following is not None:
            if following.done.set_running_or_notify_cancel():
                jobs.append(following)
            if len(jobs) >= _BATCH:
                return jobs, False
            try:
                following = self._jobs.get_nowait()
            except queue.Empty:
                return jobs, False
        return jobs, True

    def _book(self, connection: sqlite3.Connection, jobs: Sequence[_Job]) -> list[Any]:
        connection.execute("BEGIN IMMEDIATE")
        try:
            rows = _Rows(connection, self.scope)
            results = [job.work(rows) for job in jobs]
            rows.write()
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        return results

    def _fail(self, jobs: Sequence[_Job], error: Exception) -> None:
        failure = BudgetUnavailable(f"budget ledger '{self.path}': {error}; check the file and its disk")
        for job in jobs:
            job.done.set_exception(failure)

    def _connect(self) -> sqlite3.Connection:
        # No isolation level: transactions are begun by hand, and lock at once.
        connection = sqlite3.connect(self.path, timeout=self.timeout_s, isolation_level=None)
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, _VERSION):
            raise sqlite3.DatabaseError(f"it has version {version}, not {_VERSION}")
        connection.execute(_TABLE)
        connection.execute(f"PRAGMA user_version={_VERSION}")
        connection.execute("COMMIT")


class _Job:
    """One operation on its way through the thread."""

    def __init__(self, work: Callable[[_Rows], Any]) -> None:
        self.work = work
        self.done: Future[Any] = Future()


class _Rows(dict[str, int]):
    """Counters of one transaction: read when first needed, written together."""

    def __init__(self, connection: sqlite3.Connection, scope: str) -> None:
        super().__init__()
        self._connection = connection
        self._scope = scope
        self._stored: dict[str, int] = {}
        self._ends: dict[str, int | None] = {}

    def __missing__(self, key: str) -> int:
        found = self._connection.execute(
            "SELECT value FROM counters WHERE scope = ? AND key = ?", (self._scope, key)
        ).fetchone()
        self[key] = self._stored[key] = found[0] if found else 0
        return self[key]

    def ending(self, charges: Sequence[Charge]) -> _Rows:
        """Remember when the charges' counters may be forgotten."""
        self._ends |= {key: charge.ends for charge in charges for key in (charge.spent, charge.held)}
        return self

    def write(self) -> None:
        changed = [
            (self._scope, key, value, self._ends.get(key))
            for key, value in self.items()
            if value != self._stored.get(key)
        ]
        self._connection.executemany(
            "INSERT INTO counters VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", changed
        )

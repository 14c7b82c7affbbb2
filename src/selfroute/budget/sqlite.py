"""A ledger in an SQLite file, shared by all processes of one machine.

A thread of its own does the writing, so that waiting for another process never holds up the event loop, and books all
that waits in one transaction. With a write-ahead log what is booked survives the end of a process by whatever signal,
and of the machine but for the last moments before a power cut.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from selfroute.budget import limits
from selfroute.budget.limits import Bucket, Charge, Hold, Reply
from selfroute.budget.owners import Dead, Owner, dead_owners
from selfroute.errors import BudgetUnavailable, ConfigError

__all__ = ["SQLiteLedger", "default_path"]

T = TypeVar("T")

_KEPT_S = 86400  # how long a window that has ended can still be spent in
_SWEEP_S = 3600  # between two looks for windows that have ended
_LOOK_S = 1.0  # at least, between two looks for owners that have died
_BATCH = 256  # most operations in one transaction
_VERSION = 2  # 1, of selfroute 0.1, had no leases
_TABLES = (
    """
CREATE TABLE IF NOT EXISTS counters (
    scope TEXT NOT NULL, key TEXT NOT NULL, value INTEGER NOT NULL, ends INTEGER, PRIMARY KEY (scope, key)
) WITHOUT ROWID
""",
    """
CREATE TABLE IF NOT EXISTS leases (
    scope TEXT NOT NULL, owner TEXT NOT NULL, number INTEGER NOT NULL, share INTEGER NOT NULL, held TEXT NOT NULL,
    PRIMARY KEY (scope, owner, number)
) WITHOUT ROWID
""",
)


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
        self._owner: Owner | None = None
        self._owners = self.path.with_name(f"{self.path.name}-owners")
        self._looked = -math.inf
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
        return await self._do(lambda rows: self._reserve(rows.ending(charges), charges, bucket))

    async def sent(self, hold: Hold) -> None:
        assert self._owner is not None
        try:
            self._owner.mark(hold.number, in_air=True)
        except OSError as error:
            raise self._lost(error) from error

    async def spend(self, hold: Hold, left: Hold, used: Sequence[int], *, in_air: bool) -> None:
        if not hold.is_over:
            await self.sent(hold)  # until it is booked, nobody may give it back

        def book(rows: _Rows) -> None:
            limits.spend(rows.ending(hold.charges), hold, left, used)
            if not hold.is_over:
                rows.keep(left, in_air=in_air)

        await self._do(book)

    async def close(self, hold: Hold) -> None:
        def book(rows: _Rows) -> None:
            limits.close(rows.ending(hold.charges), hold)
            rows.keep(hold.nothing(), in_air=False)

        await self._do(book)

    async def read(self, keys: Sequence[str]) -> list[int]:
        def look(rows: _Rows) -> list[int]:
            self._reclaim(rows)
            return [rows[key] for key in keys]

        return await self._do(look)

    async def aclose(self) -> None:
        with self._start:
            worker, self._worker = self._worker, None
            if worker is not None:
                self._jobs.put(None)
        if worker is not None:
            await asyncio.to_thread(worker.join)
        if self._owner is not None and not self._owner.has_leases:
            owner, self._owner = self._owner, None
            owner.close()

    # --- the thread

    async def _do(self, work: Callable[[_Rows], T]) -> T:
        job = _Job(work)
        with self._start:
            self._jobs.put(job)
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="selfroute budget", daemon=True)
                self._worker.start()
        result: T = await job.done
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
                    _tell(
                        [partial(one.done.set_result, result) for one, result in zip(jobs, results, strict=True)], jobs
                    )
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
            if not following.done.cancelled():
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
        rows = _Rows(connection, self.scope, self._owner)
        try:
            results = [job.work(rows) for job in jobs]
            rows.write()
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            rows.undo()
            raise
        rows.done()
        return results

    def _reserve(self, rows: _Rows, charges: Sequence[Charge], bucket: Bucket | None) -> Reply:
        reply = limits.reserve(rows, charges, bucket)
        if not reply.granted and self._reclaim(rows):
            reply = limits.admit(rows, charges, bucket)
        if not reply.granted:
            return reply
        # Within the transaction, as others look for owners within theirs: none is seen before it is locked.
        self._owner = self._owner or Owner(self._owners)
        return rows.lease(self._owner, reply, charges, share=bucket is not None)

    def _reclaim(self, rows: _Rows) -> bool:
        """Give back what dead owners had not sent; says no if it has looked for them just now."""
        if time.monotonic() - self._looked < _LOOK_S:
            return False
        self._looked = time.monotonic()
        for dead in dead_owners(self._owners, but=self._owner):
            rows.bury(dead)
        return True

    def _fail(self, jobs: Sequence[_Job], error: Exception) -> None:
        failure = self._lost(error)
        _tell([partial(job.done.set_exception, failure) for job in jobs], jobs)

    def _lost(self, error: Exception) -> BudgetUnavailable:
        return BudgetUnavailable(f"budget ledger '{self.path}': {error}; check the file and its disk")

    def _connect(self) -> sqlite3.Connection:
        # No isolation level: transactions are begun by hand, and lock at once.
        connection = sqlite3.connect(self.path, timeout=self.timeout_s, isolation_level=None)
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise sqlite3.DatabaseError(f"it has version {version}, and this selfroute knows {_VERSION}")
        for table in _TABLES:
            connection.execute(table)
        connection.execute(f"PRAGMA user_version={_VERSION}")
        connection.execute("COMMIT")


class _Job:
    """One operation on its way through the thread."""

    def __init__(self, work: Callable[[_Rows], Any]) -> None:
        self.work = work
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[Any] = self.loop.create_future()


def _tell(outcomes: Sequence[Callable[[], None]], jobs: Sequence[_Job]) -> None:
    """Set futures in the loops that wait for them: waking a loop costs more than a booking, so once per loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Callable[[], None], _Job]]] = {}
    for outcome, job in zip(outcomes, jobs, strict=True):
        by_loop.setdefault(job.loop, []).append((outcome, job))
    for loop, mine in by_loop.items():
        with suppress(RuntimeError):  # it is closed, and nobody waits any more
            loop.call_soon_threadsafe(_set, mine)


def _set(outcomes: Sequence[tuple[Callable[[], None], _Job]]) -> None:
    for outcome, job in outcomes:
        if not job.done.done():
            outcome()


class _Rows(dict[str, int]):
    """Counters and leases of one transaction: counters are read when first needed, all are written together."""

    def __init__(self, connection: sqlite3.Connection, scope: str, owner: Owner | None) -> None:
        super().__init__()
        self._connection = connection
        self._scope = scope
        self._owner = owner
        self._stored: dict[str, int] = {}
        self._ends: dict[str, int | None] = {}
        self._taken: list[int] = []
        self._holds: dict[int, Hold] = {}
        self._landed: list[int] = []
        self._dead: dict[Dead, bool] = {}  # whether its files may go

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

    def lease(self, owner: Owner, reply: Reply, charges: Sequence[Charge], *, share: bool) -> Reply:
        """Give what was granted a number, under which others find what it holds."""
        self._owner = owner
        number = owner.take()
        self._taken.append(number)
        self._holds[number] = Hold(number, tuple(charges), share)
        return replace(reply, number=number)

    def keep(self, hold: Hold, *, in_air: bool) -> None:
        """What a lease holds from now on, and whether a call of it is in the air."""
        self._holds[hold.number] = hold
        if not in_air and not hold.is_over:
            self._landed.append(hold.number)

    def bury(self, dead: Dead) -> None:
        """Give back what a dead owner had not sent, and forget its leases."""
        self._dead[dead] = False
        mine = (self._scope, dead.name)
        for number, share, held in self._connection.execute(
            "SELECT number, share, held FROM leases WHERE scope = ? AND owner = ?", mine
        ).fetchall():
            if not dead.had_sent(number):
                charges = tuple(Charge(key, amount, 0, None) for key, amount in json.loads(held).items())
                limits.close(self, Hold(number, charges, bool(share)))
        self._connection.execute("DELETE FROM leases WHERE scope = ? AND owner = ?", mine)
        left = self._connection.execute("SELECT 1 FROM leases WHERE owner = ?", (dead.name,)).fetchone()
        self._dead[dead] = left is None  # a ledger of another scope has to see to the rest

    def write(self) -> None:
        changed = [
            (self._scope, key, value, self._ends.get(key))
            for key, value in self.items()
            if value != self._stored.get(key)
        ]
        self._connection.executemany(
            "INSERT INTO counters VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", changed
        )
        if self._owner is not None and self._holds:
            self._write_holds(self._owner.name)

    def _write_holds(self, owner: str) -> None:
        over = [(self._scope, owner, number) for number, hold in self._holds.items() if hold.is_over]
        open_ = [
            (self._scope, owner, number, hold.share, json.dumps({c.key: c.amount for c in hold.charges}))
            for number, hold in self._holds.items()
            if not hold.is_over
        ]
        self._connection.executemany("DELETE FROM leases WHERE scope = ? AND owner = ? AND number = ?", over)
        self._connection.executemany("INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?, ?)", open_)

    def done(self) -> None:
        """The transaction stands: let go of what it ended."""
        for number in self._landed:
            assert self._owner is not None
            with suppress(OSError):  # then it stays booked, should the process die
                self._owner.mark(number, in_air=False)
        for number, hold in self._holds.items():
            assert self._owner is not None
            if hold.is_over:
                self._owner.give_back(number)
        for dead, over in self._dead.items():
            dead.close(remove=over)

    def undo(self) -> None:
        """Nothing of it stands."""
        for number in self._taken:
            assert self._owner is not None
            self._owner.give_back(number)
        for dead in self._dead:
            dead.close(remove=False)

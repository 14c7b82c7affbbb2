"""A journal in an SQLite file, shared by all processes of one machine; the file may be the budget's."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from selfroute.budget.journal import KEPT_LINES, Joined, Page, Settled, Waiting
from selfroute.budget.sqlite import default_path
from selfroute.errors import BudgetUnavailable, ConfigError

__all__ = ["SQLiteJournal"]

T = TypeVar("T")

_TABLES = (
    "CREATE TABLE IF NOT EXISTS journal (scope TEXT, number INTEGER, line TEXT, PRIMARY KEY (scope, number))"
    " WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS journals (scope TEXT PRIMARY KEY, last INTEGER, replicas INTEGER, number INTEGER,"
    " state TEXT) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS waiting (scope TEXT, trace TEXT, record TEXT, at REAL, said TEXT,"
    " PRIMARY KEY (scope, trace)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS waiting_at ON waiting (scope, at)",
)


class SQLiteJournal:
    """A journal in a file; see `selfroute.budget.journal.Journal`.

    Args:
        path: the file, made if it is missing; by default the budget's.
        scope: keeps apart journals that share the file.
        timeout_s: how long to wait while other processes write.

    Raises:
        ConfigError: the file cannot be used.
    """

    def __init__(self, path: Path | None = None, *, scope: str = "default", timeout_s: float = 10.0) -> None:
        self.path = default_path() if path is None else path
        self.scope = scope
        self.timeout_s = timeout_s
        self._turn = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._connect()) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
                for table in _TABLES:
                    connection.execute(table)
                connection.execute("INSERT OR IGNORE INTO journals VALUES (?, 0, 0, 0, NULL)", (scope,))
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"'{self.path}' cannot be used: {error}; give another path: sqlite:FILE") from None

    async def join(self) -> Joined:
        def work(connection: sqlite3.Connection) -> Joined:
            connection.execute("UPDATE journals SET replicas = replicas + 1 WHERE scope = ?", (self.scope,))
            found = connection.execute("SELECT replicas, number, state FROM journals WHERE scope = ?", (self.scope,))
            return Joined(*found.fetchone())

        return await self._do(work)

    async def exchange(self, seen: int, lines: Sequence[str], waiting: Sequence[Waiting]) -> Page:
        writes = bool(lines or waiting)
        return await self._do(lambda connection: self._exchange(connection, seen, lines, waiting), writes=writes)

    def _exchange(
        self, connection: sqlite3.Connection, seen: int, lines: Sequence[str], waiting: Sequence[Waiting]
    ) -> Page:
        if lines:
            (last,) = connection.execute("SELECT last FROM journals WHERE scope = ?", (self.scope,)).fetchone()
            rows = [(self.scope, last + place, line) for place, line in enumerate(lines, 1)]
            connection.executemany("INSERT INTO journal VALUES (?, ?, ?)", rows)
            connection.execute("UPDATE journals SET last = ? WHERE scope = ?", (last + len(lines), self.scope))
        connection.executemany(
            "INSERT OR REPLACE INTO waiting VALUES (?, ?, ?, ?, NULL)",
            [(self.scope, one.trace, one.record, one.at_s) for one in waiting],
        )
        found = connection.execute(
            "SELECT number, line FROM journal WHERE scope = ? AND number > ? ORDER BY number", (self.scope, seen)
        ).fetchall()
        return Page(found[0][0] if found else seen + 1, [line for _, line in found])

    async def keep(self, number: int, state: str, *, waiting: int, since_s: float) -> None:
        def work(connection: sqlite3.Connection) -> None:
            kept = connection.execute(
                "UPDATE journals SET number = ?, state = ? WHERE scope = ? AND number < ?",
                (number, state, self.scope, number),
            )
            if kept.rowcount:
                self._drop(connection, number - KEPT_LINES, waiting, since_s)

        await self._do(work)

    def _drop(self, connection: sqlite3.Connection, number: int, waiting: int, since_s: float) -> None:
        connection.execute("DELETE FROM journal WHERE scope = ? AND number <= ?", (self.scope, number))
        connection.execute("DELETE FROM waiting WHERE scope = ? AND at < ?", (self.scope, since_s))
        connection.execute(
            "DELETE FROM waiting WHERE scope = ? AND at <"
            " (SELECT at FROM waiting WHERE scope = ? ORDER BY at DESC LIMIT 1 OFFSET ?)",
            (self.scope, self.scope, max(0, waiting - 1)),
        )

    async def settle(self, trace: str, said: str, *, since_s: float) -> Settled:
        def work(connection: sqlite3.Connection) -> Settled:
            found = connection.execute(
                "SELECT record, said, at FROM waiting WHERE scope = ? AND trace = ?", (self.scope, trace)
            ).fetchone()
            if found is None:
                return Settled()
            record, before, at_s = found
            is_over = before is None and at_s < since_s
            if before is None and not is_over:
                connection.execute(
                    "UPDATE waiting SET said = ? WHERE scope = ? AND trace = ?", (said, self.scope, trace)
                )
            return Settled(record, before, is_over)

        return await self._do(work)

    async def aclose(self) -> None:
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        with self._turn:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    async def _do(self, work: Callable[[sqlite3.Connection], T], *, writes: bool = True) -> T:
        """One transaction, in a thread, as another process may be writing."""
        return await asyncio.to_thread(self._transact, work, writes)

    def _transact(self, work: Callable[[sqlite3.Connection], T], writes: bool) -> T:
        with self._turn:
            try:
                self._connection = self._connection or self._connect()
                self._connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
                try:
                    done = work(self._connection)
                    self._connection.execute("COMMIT")
                except BaseException:
                    self._connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise BudgetUnavailable(f"'{self.path}': {error}; check the file and its disk") from error
            return done

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=self.timeout_s, isolation_level=None, check_same_thread=False
        )  # one thread at a time, by our own lock
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection

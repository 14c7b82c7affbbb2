"""The SQLite ledger's own: files that cannot be used, scopes, old windows, disks that fail."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from selfroute.budget.base import Estimate
from selfroute.budget.ledger import LedgerBudget
from selfroute.budget.limits import Limits, WindowLimit
from selfroute.budget.sqlite import SQLiteLedger, default_path
from selfroute.errors import BudgetUnavailable, ConfigError
from selfroute.types import Usage

LIMITS = Limits(windows=(WindowLimit(unit="calls", window="total", cap=5),))


def test_what_is_no_ledger(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database, but long enough to be looked at " * 50)
    with pytest.raises(
        ConfigError, match=r"budget ledger '.*text' cannot be used: file is not a database; give another"
    ):
        SQLiteLedger(tmp_path / "text")
    with pytest.raises(ConfigError, match=r"cannot be used: "):
        SQLiteLedger(tmp_path / "text" / "below")
    with closing(sqlite3.connect(tmp_path / "new")) as other:
        other.execute("PRAGMA user_version=9")
    with pytest.raises(ConfigError, match=r"it has version 9, not 1"):
        SQLiteLedger(tmp_path / "new")


def test_the_default_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_path() == tmp_path / "selfroute" / "budget.sqlite"
    monkeypatch.delenv("XDG_STATE_HOME")
    assert default_path() == Path.home() / ".local" / "state" / "selfroute" / "budget.sqlite"


async def test_scopes_do_not_mix(tmp_path: Path) -> None:
    one, other = (LedgerBudget(LIMITS, SQLiteLedger(tmp_path / "b", scope=scope)) for scope in ("one", "other"))
    await one.reserve(Estimate())
    assert [(await budget.status())[0].spent for budget in (one, other)] == [1, 0]
    await asyncio.gather(one.aclose(), other.aclose())


async def test_it_works_on_after_it_was_closed(tmp_path: Path) -> None:
    budget = LedgerBudget(LIMITS, SQLiteLedger(tmp_path / "b"))
    await budget.reserve(Estimate())
    await budget.aclose()
    await budget.reserve(Estimate())
    assert (await budget.status())[0].spent == 2
    await budget.aclose()


def test_it_works_from_one_loop_after_another(tmp_path: Path) -> None:
    budget = LedgerBudget(LIMITS, SQLiteLedger(tmp_path / "b"))
    for _ in range(2):
        asyncio.run(budget.keep())
        asyncio.run(budget.reserve(Estimate()))
    assert asyncio.run(budget.status())[0].spent == 2
    asyncio.run(budget.aclose())


async def test_a_ledger_that_is_locked_refuses_and_recovers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    budget = LedgerBudget(LIMITS, SQLiteLedger(tmp_path / "b", timeout_s=0.05))
    lease = await budget.reserve(Estimate())
    with closing(sqlite3.connect(tmp_path / "b", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BudgetUnavailable, match=r"budget ledger '.*': database is locked; check"):
            await budget.reserve(Estimate())
        await lease.settle(Usage(), 0)  # does not fail the request that was answered
        assert "stays booked at its estimate" in caplog.text
        other.execute("ROLLBACK")
    assert (await budget.status())[0] == (await budget.status())[0]
    assert [(s.spent, s.held) for s in await budget.status()] == [(1, 1)]
    await budget.aclose()


async def test_windows_long_past_are_forgotten(tmp_path: Path) -> None:
    day = Limits(windows=(WindowLimit(unit="calls", window="day", cap=5),))
    old = LedgerBudget(day, SQLiteLedger(tmp_path / "b"), clock=lambda: 1e9)
    await old.reserve(Estimate())
    await old.aclose()
    new = LedgerBudget(day, SQLiteLedger(tmp_path / "b"))
    await new.reserve(Estimate())
    await new.aclose()
    with closing(sqlite3.connect(tmp_path / "b")) as connection:
        (count,) = connection.execute("SELECT count(*) FROM counters WHERE ends < 1100000000").fetchone()
    assert count == 0

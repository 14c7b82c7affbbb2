"""The SQLite ledger's own: files that cannot be used, scopes, old windows, disks that fail."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from selfroute.budget.base import Estimate
from selfroute.budget.ledger import LedgerBudget
from selfroute.budget.limits import Limits, ShareLimit, WindowLimit
from selfroute.budget.sqlite import SQLiteLedger, default_path
from selfroute.errors import BudgetExceeded, BudgetUnavailable, ConfigError
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
    with pytest.raises(ConfigError, match=r"it has version 9, and this selfroute knows 2; give another"):
        SQLiteLedger(tmp_path / "new")


def test_the_default_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_path() == tmp_path / "selfroute" / "budget.sqlite"
    monkeypatch.delenv("XDG_STATE_HOME")
    assert default_path() == Path.home() / ".local" / "state" / "selfroute" / "budget.sqlite"


async def test_scopes_do_not_mix(tmp_path: Path) -> None:
    one, other = (LedgerBudget(LIMITS, SQLiteLedger(tmp_path / "b", scope=scope)) for scope in ("one", "other"))
    lease = await one.reserve(Estimate())
    assert [(await budget.status())[0].spent for budget in (one, other)] == [1, 0]
    await lease.close()
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
        await lease.spend(Usage(), 0)  # does not fail the request that was answered
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


OLD = """
CREATE TABLE counters (
    scope TEXT NOT NULL, key TEXT NOT NULL, value INTEGER NOT NULL, ends INTEGER, PRIMARY KEY (scope, key)
) WITHOUT ROWID;
INSERT INTO counters VALUES ('default', 'calls_total.spent', 3, NULL), ('default', 'calls_total.held', 1, NULL);
PRAGMA user_version=1;
"""


async def test_a_ledger_of_selfroute_0_1_is_read_on(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "b")) as old:
        old.executescript(OLD)
    budget = LedgerBudget(LIMITS, SQLiteLedger(tmp_path / "b"))
    assert [(state.spent, state.held) for state in await budget.status()] == [(4, 1)]
    lease = await budget.reserve(Estimate())
    with pytest.raises(BudgetExceeded):
        await budget.reserve(Estimate())
    await lease.close()
    assert [(state.spent, state.held) for state in await budget.status()] == [(4, 1)]
    await budget.aclose()
    again = LedgerBudget(LIMITS, SQLiteLedger(tmp_path / "b"))  # as what it is now
    assert (await again.status())[0].spent == 4
    await again.aclose()


# --- owners that die


CENTS = Limits(
    share=ShareLimit(share=1.0),
    windows=(WindowLimit(unit="calls", window="total", cap=9), WindowLimit(unit="usd", window="total", cap=1)),
)


async def dies_with(folder: Path, *acts: str, scope: str = "default") -> None:
    """An owner reserves two calls of 4 cents, does some of what follows, and is gone."""
    budget = LedgerBudget(CENTS, SQLiteLedger(folder / "b", scope=scope))
    lease = await budget.reserve(Estimate(Usage(calls=2), 0.04))
    for act in acts:
        await (lease.sent() if act == "sent" else lease.spend(Usage(), 0.01))
    await budget.aclose()
    assert list((folder / "b-owners").iterdir())  # it might go on
    del budget, lease
    gc.collect()  # its lock goes with it, as with a process


@pytest.mark.parametrize(
    ("acts", "left"),
    [
        ((), [(0, 0), (0, 0), (0, 0)]),
        (("sent",), [(1, 0), (2, 2), (0.04, 0.04)]),
        (("sent", "spend"), [(1, 0), (1, 0), (0.01, 0)]),
        (("sent", "spend", "sent"), [(1, 0), (2, 1), (0.04, 0.03)]),
        (("sent", "sent", "spend"), [(1, 0), (2, 1), (0.04, 0.03)]),
        (("spend",), [(1, 0), (1, 0), (0.01, 0)]),
    ],
)
async def test_what_is_left_of_a_lease_whose_owner_died(
    tmp_path: Path, acts: tuple[str, ...], left: list[tuple[float, float]]
) -> None:
    await dies_with(tmp_path, *acts)
    budget = LedgerBudget(CENTS, SQLiteLedger(tmp_path / "b"))
    assert [(state.spent, state.held) for state in await budget.status()] == left
    await budget.aclose()
    assert list((tmp_path / "b-owners").iterdir()) == []
    with closing(sqlite3.connect(tmp_path / "b")) as connection:
        assert connection.execute("SELECT count(*) FROM leases").fetchone() == (0,)


async def test_a_limit_that_would_refuse_asks_whether_the_owners_live(tmp_path: Path) -> None:
    budget = LedgerBudget(CENTS, SQLiteLedger(tmp_path / "b"))
    lease = await budget.reserve(Estimate(Usage(calls=6)))
    await dies_with(tmp_path)
    with pytest.raises(BudgetExceeded):
        await budget.reserve(Estimate(Usage(calls=4)))
    assert (await budget.reserve(Estimate(Usage(calls=3)))) is not lease
    await budget.aclose()


async def test_each_scope_buries_its_own(tmp_path: Path) -> None:
    await dies_with(tmp_path, scope="one")
    for scope, files in (("other", 2), ("one", 0)):
        budget = LedgerBudget(CENTS, SQLiteLedger(tmp_path / "b", scope=scope))
        assert [state.spent for state in await budget.status()] == [0, 0, 0]
        await budget.aclose()
        assert len(list((tmp_path / "b-owners").iterdir())) == files


async def test_an_owner_whose_marks_are_lost_may_have_sent_everything(tmp_path: Path) -> None:
    await dies_with(tmp_path)
    (marks,) = (tmp_path / "b-owners").glob("*.sent")
    marks.unlink()
    budget = LedgerBudget(CENTS, SQLiteLedger(tmp_path / "b"))
    assert [state.held for state in await budget.status()] == [0, 2, 0.04]
    await budget.aclose()


async def test_lease_numbers_are_used_again(tmp_path: Path) -> None:
    budget = LedgerBudget(Limits(share=ShareLimit(share=1.0)), SQLiteLedger(tmp_path / "b"))
    for _ in range(50):
        leases = await asyncio.gather(*(budget.reserve(Estimate()) for _ in range(3)))
        await asyncio.gather(*(lease.sent() for lease in leases))
        await asyncio.gather(*(lease.spend(Usage(), 0) for lease in leases))
    (marks,) = (tmp_path / "b-owners").glob("*.sent")
    assert marks.stat().st_size == 3
    await budget.aclose()
    assert list((tmp_path / "b-owners").iterdir()) == []

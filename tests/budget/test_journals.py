"""Journals of every kind: one order for all replicas, answers that are settled once, and bounded size."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.budget.conftest import LEDGERS

from selfroute.budget import journal as journals
from selfroute.budget.journal import Journal, MemoryJournal, Waiting
from selfroute.budget.sqlite_journal import SQLiteJournal
from selfroute.errors import BudgetUnavailable, ConfigError

Open = Callable[..., Journal]
pytestmark = pytest.mark.parametrize("kind", LEDGERS)


@pytest.fixture
def open_journal(kind: str, place: str) -> Open:
    """Opens the journal of a test once more; one in memory is the same again."""
    memory: dict[str, MemoryJournal] = {}

    def open_one(scope: str = "default") -> Journal:
        if kind == "memory":
            return memory.setdefault(scope, MemoryJournal())
        if kind == "sqlite":
            return SQLiteJournal(Path(place), scope=scope)
        from selfroute.budget.redis_journal import RedisJournal

        return RedisJournal(place, scope=scope)

    return open_one


async def test_all_read_the_same_lines_in_the_same_order(open_journal: Open) -> None:
    one, other = open_journal(), open_journal()
    assert [(await one.join()).replica, (await other.join()).replica] == [1, 2]
    assert await one.exchange(0, ["a", "b"], []) == (1, ["a", "b"])
    assert await other.exchange(0, ["ü"], []) == (1, ["a", "b", "ü"])
    assert await one.exchange(2, [], []) == (3, ["ü"])
    assert (await one.exchange(3, [], [])).lines == []
    await one.aclose()
    await other.aclose()


async def test_lines_written_at_once_are_all_there(open_journal: Open) -> None:
    each = [open_journal() for _ in range(4)]
    pages = await asyncio.gather(
        *(one.exchange(0, [f"{number}.{turn}"], []) for number, one in enumerate(each) for turn in range(10))
    )
    found = await each[0].exchange(0, [], [])
    assert sorted(found.lines) == sorted(f"{number}.{turn}" for number in range(4) for turn in range(10))
    assert all(found.lines[: len(page.lines)] == page.lines for page in pages)
    for one in each:
        await one.aclose()


async def test_scopes_are_apart(open_journal: Open) -> None:
    one, other = open_journal("one"), open_journal("other")
    await one.exchange(0, ["a"], [Waiting("t", "{}", 1.0)])
    assert (await other.exchange(0, [], [])).lines == []
    assert await other.settle("t", "1", since_s=0.0) == (None, None, False)
    await one.aclose()
    await other.aclose()


async def test_an_answer_is_settled_once_and_only_in_time(open_journal: Open) -> None:
    journal = open_journal()
    await journal.exchange(0, [], [Waiting("t", "record", 10.0), Waiting("old", "record", 1.0)])
    assert await journal.settle("t", "first", since_s=5.0) == ("record", None, False)
    assert await journal.settle("t", "second", since_s=5.0) == ("record", "first", False)
    assert await journal.settle("t", "third", since_s=50.0) == ("record", "first", False)  # it was in time
    assert await journal.settle("old", "first", since_s=5.0) == ("record", None, True)
    assert await journal.settle("old", "again", since_s=0.5) == ("record", None, False)  # nothing was written
    assert await journal.settle("never", "first", since_s=0.0) == (None, None, False)
    await journal.aclose()


async def test_of_many_who_settle_at_once_one_is_first(open_journal: Open) -> None:
    each = [open_journal() for _ in range(4)]
    await each[0].exchange(0, [], [Waiting("t", "record", 1.0)])
    found = await asyncio.gather(*(one.settle("t", str(number), since_s=0.0) for number, one in enumerate(each)))
    assert sum(settled.said is None for settled in found) == 1
    for one in each:
        await one.aclose()


async def test_a_newcomer_begins_at_the_snapshot(open_journal: Open) -> None:
    journal = open_journal()
    await journal.exchange(0, [f"line {n}" for n in range(5)], [])
    await journal.keep(4, "state", waiting=10, since_s=0.0)
    await journal.keep(2, "older", waiting=10, since_s=0.0)  # of a replica that is behind
    newcomer = open_journal()
    joined = await newcomer.join()
    await newcomer.aclose()
    assert (joined.number, joined.state) == (4, "state")
    assert await journal.exchange(4, [], []) == (5, ["line 4"])
    await journal.aclose()


async def test_its_size_is_bounded(open_journal: Open) -> None:
    journal = open_journal()
    count = journals.KEPT_LINES + 100
    waiting = [Waiting(f"t{n}", "record", float(n)) for n in range(50)]
    await journal.exchange(0, ["x"] * count, waiting)
    await journal.keep(count, "state", waiting=20, since_s=35.0)
    first, lines = await journal.exchange(0, [], [])
    assert (first, len(lines)) == (101, journals.KEPT_LINES)
    assert await journal.exchange(count, ["new"], []) == (count + 1, ["new"])
    known = [(await journal.settle(one.trace, "1", since_s=0.0)).record for one in waiting]
    assert [record is not None for record in known] == [False] * 35 + [True] * 15
    await journal.aclose()


async def test_the_oldest_that_wait_make_room(open_journal: Open) -> None:
    journal = open_journal()
    await journal.exchange(0, ["x"], [Waiting(f"t{n}", "record", float(n)) for n in range(50)])
    await journal.keep(1, "state", waiting=20, since_s=0.0)
    known = [(await journal.settle(f"t{n}", "1", since_s=0.0)).record for n in range(50)]
    assert [record is not None for record in known] == [False] * 30 + [True] * 20
    await journal.aclose()


async def test_a_store_that_goes_says_so(kind: str, open_journal: Open, place: str) -> None:
    if kind != "sqlite":
        return
    journal = open_journal()
    await journal.join()
    await journal.aclose()
    Path(place).write_bytes(b"no database at all" * 100)
    with pytest.raises(BudgetUnavailable, match="check the file and its disk"):
        await journal.exchange(0, ["x"], [])
    with pytest.raises(ConfigError, match="cannot be used"):
        open_journal()

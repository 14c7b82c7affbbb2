"""Ledgers of every kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from selfroute.budget.ledger import Ledger
from selfroute.budget.memory import MemoryLedger
from selfroute.budget.sqlite import SQLiteLedger

LEDGERS = ("memory", "sqlite", "redis")
SHARED = ("sqlite", "redis")  # those that other processes can open


@pytest.fixture
def place(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Where a shared ledger lies, as `spender.py` takes it."""
    if kind == "redis":
        return str(request.getfixturevalue("redis_server").url)
    return str(tmp_path / "budget.sqlite")


@pytest.fixture
def open_ledger(kind: str, place: str) -> Callable[[], Ledger]:
    """Opens the ledger of a test once more; a memory ledger is the same one again."""
    memory = MemoryLedger()

    def open_one() -> Ledger:
        if kind == "memory":
            return memory
        if kind == "sqlite":
            return SQLiteLedger(Path(place))
        from selfroute.budget.redis import RedisLedger

        return RedisLedger(place)

    return open_one

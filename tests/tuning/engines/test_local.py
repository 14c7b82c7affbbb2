"""Workers as tasks: those that fail are dropped and come back, and nothing but distributions travels."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from selfroute.errors import BackendUnavailable, BudgetExceeded, ConfigError
from selfroute.tuning.base import Choices
from selfroute.tuning.consensus import Consensus, Order, Orders, Report
from selfroute.tuning.engines.local import run_local
from selfroute.tuning.worker import Worker

SIZES = (3, 2)
SECRET = "17 * 23?"  # of a pool, and of a row


async def first(choices: Sequence[Choices], round: int) -> list[float | None]:
    return [float(sum(k == 0 for k in chosen)) for chosen in choices]


def team(measures: dict[str, Any], **options: Any) -> tuple[Consensus, dict[str, Worker]]:
    workers = {name: Worker(name, SIZES, (4,), measure, step=0.05) for name, measure in measures.items()}
    return Consensus(list(workers), SIZES, **{"quorum": len(workers), "patience": 4} | options), workers


class Heard(Consensus):
    """A server that keeps every message, both ways."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.messages: list[object] = []

    def begin(self) -> Orders:
        return self._sent(super().begin())

    def receive(self, report: Report) -> Orders:
        self.messages.append(report)
        return self._sent(super().receive(report))

    def _sent(self, orders: Orders) -> Orders:
        self.messages += [order for _, order in orders]
        return orders


async def test_only_distributions_over_sentences_travel() -> None:
    async def secret(choices: Sequence[Choices], round: int) -> list[float | None]:
        assert SECRET
        return await first(choices, round)

    workers = {name: Worker(name, SIZES, (4,), secret) for name in ("a", "b")}
    server = Heard(list(workers), SIZES, quorum=1, patience=3)
    assert await run_local(server, workers, on_update=lambda: server.version >= 20) == "enough"
    assert len(server.messages) > 40
    for message in server.messages:
        held = {field.name: getattr(message, field.name) for field in dataclasses.fields(message)}  # type: ignore[arg-type]
        arrays = held.pop("sentences", None) or held.pop("consensus")
        assert isinstance(message, Order | Report) and set(held) <= {"worker", "version"}
        assert [array.shape for array in arrays] == [(n,) for n in SIZES], "of sentences, whose slots all workers share"
        assert all(array.dtype == np.float64 and array.sum() == pytest.approx(1.0) for array in arrays)


async def test_it_ends_when_the_budget_does() -> None:
    calls = 0

    async def paid(choices: Sequence[Choices], round: int) -> list[float | None]:
        nonlocal calls
        calls += len(choices)
        if calls > 40:
            raise BudgetExceeded("calls", spent=40, cap=40)
        return await first(choices, round)

    server, workers = team({"a": paid})
    assert await run_local(server, workers, on_update=lambda: False) == "budget" and server.version == 10


async def test_a_worker_that_dies_is_dropped_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async def dies(choices: Sequence[Choices], round: int) -> list[float | None]:
        nonlocal deaths
        if round == 3 and deaths < 2:
            deaths += 1
            raise BackendUnavailable("gone", backend="device")
        return await first(choices, round)

    deaths = 0
    dropped: list[str] = []
    server, workers = team({"a": first, "b": dies}, quorum=1)
    drop = server.drop
    monkeypatch.setattr(server, "drop", lambda name: (dropped.append(name), drop(name))[1])
    ended = await run_local(server, workers, on_update=lambda: workers["b"].rounds >= 8, rest_s=0.001)
    assert ended == "enough" and dropped == ["b", "b"] and len(server.members) == 2 and deaths == 2


async def test_workers_that_never_answer_end_the_run() -> None:
    async def never(choices: Sequence[Choices], round: int) -> list[float | None]:
        raise BackendUnavailable("gone", backend="device")

    server, workers = team({"a": never})
    assert await run_local(server, workers, on_update=lambda: False, rest_s=0.0) == "nobody"


async def test_other_errors_end_the_run_and_leave_nobody_at_work() -> None:
    async def wrong(choices: Sequence[Choices], round: int) -> list[float | None]:
        raise ConfigError("wrong")

    async def slow(choices: Sequence[Choices], round: int) -> list[float | None]:
        await asyncio.sleep(60)
        return []

    server, workers = team({"a": wrong, "b": slow})
    with pytest.raises(ConfigError, match="wrong"):
        await run_local(server, workers, on_update=lambda: False)
    assert len(asyncio.all_tasks()) == 1

"""What a crash costs: the calls that were in the air, and nothing that only waited for its turn."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.backends.chat_server import ChatServer, answer
from tests.budget.conftest import SHARED
from tests.gateway.test_budget import Served, recipe_over

from selfroute.budget.ledger import Ledger, LedgerBudget
from selfroute.budget.limits import Limits, WindowLimit

CAP, WORKERS, AT_ONCE = 100, 4, 2  # calls, processes, calls in the air per process
SILENCE_S = 1.0


async def slowly(server: ChatServer, request: Any, body: Any) -> Any:
    await asyncio.sleep(5)
    return await answer(server, request, body)


def ledger(kind: str, place: str) -> Mapping[str, Any]:
    return {"redis": {"url": place, "silence_s": SILENCE_S}} if kind == "redis" else {"sqlite": place}


def recipe(cloud: ChatServer, kind: str, place: str, folder: Path) -> Path:
    path = recipe_over(cloud, "sqlite", CAP, folder)
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values["cloud"]["openai"]["concurrency"] = AT_ONCE
    values["budget"]["ledger"] = ledger(kind, place)
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


async def until_used_up(ledger: Ledger) -> None:
    budget = LedgerBudget(Limits(windows=(WindowLimit(unit="calls", window="total", cap=CAP),)), ledger)
    while (await budget.status())[0].spent < CAP:
        await asyncio.sleep(0.05)
    await budget.aclose()


def kill_workers(folder: Path) -> None:
    """All of them: one may have taken all requests, and another none."""
    for ring in folder.glob("selfroute-*/*.ring"):  # each keeps a ring of records under its process id
        os.kill(int(ring.stem), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SHARED)
async def test_killed_workers_take_along_what_they_had_sent_and_no_more(
    kind: str, place: str, tmp_path: Path, open_ledger: Callable[[], Ledger]
) -> None:
    async with ChatServer() as cloud:
        cloud.script.extend([slowly] * WORKERS * AT_ONCE)  # the others wait behind them
        gateway = Served(recipe(cloud, kind, place, tmp_path), WORKERS)
        try:
            await gateway.ready()
            await gateway.all_workers()
            asking = asyncio.ensure_future(gateway.ask(500))
            await until_used_up(open_ledger())
            kill_workers(tmp_path)
            lost = (await asking).count("lost")
            made = len(cloud.requests)
            await asyncio.sleep(1 + SILENCE_S)
            await gateway.ready()
            again = await gateway.ask(200)
        finally:
            gateway.stop()
    assert lost >= CAP and made <= WORKERS * AT_ONCE
    assert CAP - WORKERS * AT_ONCE <= again.count("always") <= CAP - made
    assert len(cloud.requests) == made + again.count("always")

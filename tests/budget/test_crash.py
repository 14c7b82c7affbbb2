"""What a crash costs: the calls that were in the air, and nothing that only waited for its turn."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.backends.chat_server import ChatServer, answer
from tests.budget.conftest import SHARED
from tests.gateway.test_budget import Served, recipe_over

CAP, WORKERS, AT_ONCE = 100, 4, 2  # calls, processes, calls in the air per process
SILENCE_S = 1.0


async def slowly(server: ChatServer, request: Any, body: Any) -> Any:
    await asyncio.sleep(0.1)
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


def a_worker(folder: Path) -> int:
    """The process id of one of a gateway's workers: each keeps a ring of records."""
    return int(next(folder.glob("selfroute-*/*.ring")).stem)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SHARED)
async def test_a_killed_worker_takes_along_what_it_had_sent_and_no_more(kind: str, place: str, tmp_path: Path) -> None:
    async with ChatServer() as cloud:
        cloud.script.extend([slowly] * 1000)
        gateway = Served(recipe(cloud, kind, place, tmp_path), WORKERS)
        try:
            await gateway.ready()
            await gateway.all_workers()
            asking = asyncio.ensure_future(gateway.ask(500))
            while len(cloud.requests) < 4 * AT_ONCE:
                await asyncio.sleep(0.01)
            os.kill(a_worker(tmp_path), signal.SIGKILL)
            lost = (await asking).count("lost")
            await asyncio.sleep(1 + SILENCE_S)
            again = await gateway.ask(200)
        finally:
            gateway.stop()
    assert lost > 20 and again.count("budget") > 0
    assert CAP - AT_ONCE <= len(cloud.requests) <= CAP

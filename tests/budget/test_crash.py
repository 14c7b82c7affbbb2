"""What a crash costs: the calls that were in the air, and nothing that only waited for its turn."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
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


async def kill_until_some_are_lost(folder: Path, asking: Sequence[asyncio.Future[list[str]]]) -> int:
    """Kill one worker after the other until one had requests open; how many it took.

    One worker may have taken all requests, and another none.
    """
    for killed, ring in enumerate(sorted(folder.glob("selfroute-*/*.ring")), 1):
        os.kill(int(ring.stem), signal.SIGKILL)  # each worker keeps a ring of records under its process id
        await asyncio.sleep(0.3)
        if sum(one.done() and one.result() == ["lost"] for one in asking) > 2 * AT_ONCE:
            return killed
    raise AssertionError("no worker had requests open")


@pytest.mark.slow
@pytest.mark.parametrize("kind", SHARED)
async def test_a_killed_worker_takes_along_what_it_had_sent_and_no_more(kind: str, place: str, tmp_path: Path) -> None:
    async with ChatServer() as cloud:
        cloud.script.extend([slowly] * 1000)
        gateway = Served(recipe(cloud, kind, place, tmp_path), WORKERS)
        try:
            await gateway.ready()
            await gateway.all_workers()
            asking = [asyncio.ensure_future(gateway.ask(1)) for _ in range(500)]
            while len(cloud.requests) < 2 * AT_ONCE:
                await asyncio.sleep(0.01)
            killed = await kill_until_some_are_lost(tmp_path, asking)
            await asyncio.gather(*asking)
            await asyncio.sleep(1 + SILENCE_S)
            again = await gateway.ask(200)
        finally:
            gateway.stop()
    assert again.count("budget") > 0
    assert CAP - killed * AT_ONCE <= len(cloud.requests) <= CAP

"""Real ledgers behind real gateways: what a refusal looks like to a client; no crowd of gateways overspends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
import yaml
from tests.backends.chat_server import ChatServer, answer
from tests.gateway.live import CLOUD_TEXT, DEVICE_TEXT, HARD, ask, gateway, service
from tests.gateway.test_faults import DEVICE_ANSWER, unused_port
from tests.redis_server import RedisServer

from selfroute.budget.ledger import LedgerBudget
from selfroute.budget.limits import Limits, Window, WindowLimit
from selfroute.budget.memory import MemoryLedger
from selfroute.budget.redis import RedisLedger


def calls(cap: int, window: Window = "day") -> Limits:
    return Limits(windows=(WindowLimit(unit="calls", window=window, cap=cap),))


# --- what the client is told ------------------------------------------------------------------------------------------


async def test_a_used_up_budget_is_told_in_headers_body_and_metrics() -> None:
    with gateway(service(budget=LedgerBudget(calls(2), MemoryLedger()))) as live:
        async with live.async_client() as client:
            answers = [await client.chat.completions.with_raw_response.create(**ask(HARD)) for _ in range(3)]
    assert [each.headers["x-selfroute-source"] for each in answers] == ["cloud", "cloud", "device"]
    assert [each.headers["x-selfroute-reason"] for each in answers] == ["hand-off", "hand-off", "budget"]
    assert float(answers[2].headers["x-selfroute-cost-usd"]) < float(answers[1].headers["x-selfroute-cost-usd"])
    texts = [each.parse().choices[0].message.content for each in answers]
    assert texts == [CLOUD_TEXT, CLOUD_TEXT, DEVICE_ANSWER]
    told = answers[2].parse().model_extra["selfroute"]["budget"]
    assert (told["limit"], told["spent"], told["cap"]) == ("calls_per_day", 2, 2)
    assert (told["call"], told["held"]) == (1, 0)
    assert 0 < told["reset_s"] <= 86_400
    assert told["reset_at"] == pytest.approx(time.time() + told["reset_s"], abs=30)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_used_up_budget_can_be_a_429_that_says_when_to_come_back(streamed: bool) -> None:
    made = service(budget=LedgerBudget(calls(1), MemoryLedger()), on_budget="reject")
    with gateway(made) as live:
        async with live.async_client() as client:
            await client.chat.completions.create(**ask(HARD))
            # A stream begins with the device's thoughts; there the refusal is the error that ends it.
            with pytest.raises(openai.APIError) as caught:
                events = await client.chat.completions.create(**ask(HARD), stream=streamed)
                assert [each async for each in events] == []
    error: Any = caught.value.body
    assert (error["code"], error["limit"], error["spent"], error["cap"]) == ("budget_exceeded", "calls_per_day", 1, 1)
    assert 0 < error["reset_s"] <= 86_400
    assert error["reset_at"] == pytest.approx(time.time() + error["reset_s"], abs=30)
    if not streamed:
        assert isinstance(caught.value, openai.RateLimitError)
        seconds = int(caught.value.response.headers["Retry-After"])
        assert 0 <= seconds - error["reset_s"] < 1


async def test_a_ledger_out_of_reach_keeps_the_answer_on_the_device(redis_server: RedisServer) -> None:
    budget = LedgerBudget(calls(10), RedisLedger(redis_server.url))
    with gateway(service(budget=budget)) as live, gateway(service(budget=budget, on_budget="reject")) as strict:
        async with live.async_client() as client, strict.async_client() as refused:
            before = await client.chat.completions.create(**ask(HARD))
            redis_server.kill()
            during = await client.chat.completions.create(**ask(HARD))
            with pytest.raises(openai.InternalServerError, match="check the Redis server") as caught:
                await refused.chat.completions.create(**ask(HARD))
            async with aiohttp.ClientSession(live.url) as http, http.get("/readyz") as ready:
                assert ready.status == 200  # it still answers
            redis_server.start()
            after = await client.chat.completions.create(**ask(HARD))
    sources = [each.model_extra["selfroute"]["source"] for each in (before, during, after)]
    assert sources == ["cloud", "device", "cloud"]
    told = during.model_extra["selfroute"]
    assert told["reason"] == "budget" and "check the Redis server" in told["budget"]["error"]
    assert (caught.value.status_code, caught.value.code) == (503, "budget_unavailable")


# --- several gateways, one budget -------------------------------------------------------------------------------------


class Served:
    """`selfroute serve` in a process of its own."""

    def __init__(self, recipe: Path, workers: int = 1) -> None:
        self.port = unused_port()
        self.folder, self.workers = recipe.parent, workers
        command = [sys.executable, "-m", "selfroute.commands.main", "serve", str(recipe), "--port", str(self.port)]
        self.process = subprocess.Popen(
            [*command, "--workers", str(workers)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"TMPDIR": str(self.folder)},
        )

    async def ready(self) -> None:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{self.port}") as http:
            for _ in range(600):
                assert self.process.poll() is None, "the gateway ended"
                try:
                    async with http.get("/readyz") as response:
                        if response.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.05)
        raise TimeoutError("the gateway does not come up")

    async def all_workers(self) -> None:
        """Wait until each worker has answered, on the device: one that has keeps a ring of records."""
        while len(list(self.folder.glob("selfroute-*/*.ring"))) < self.workers:
            await self.ask(4, mode="device")

    async def ask(self, times: int, mode: str = "auto") -> list[str]:
        """Who answered each of so many requests at once; "lost" where the gateway was killed."""
        headers = {"x-selfroute-mode": mode}

        async def one(http: aiohttp.ClientSession) -> str:
            try:
                async with http.post("/v1/chat/completions", json=ask(HARD), headers=headers) as response:
                    return response.headers["x-selfroute-reason"] if response.status == 200 else str(response.status)
            except aiohttp.ClientError:
                return "lost"

        every_one_at_once = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{self.port}", connector=every_one_at_once) as http:
            return await asyncio.gather(*(one(http) for _ in range(times)))

    def stop(self, how: int = signal.SIGTERM) -> None:
        self.process.send_signal(how)
        self.process.wait(30)


@asynccontextmanager
async def two_gateways(recipe: Path) -> AsyncIterator[list[Served]]:
    gateways = [Served(recipe), Served(recipe)]
    try:
        await asyncio.gather(*(each.ready() for each in gateways))
        yield gateways
    finally:
        for each in gateways:
            each.stop(signal.SIGKILL)


def recipe_over(cloud: ChatServer, ledger: str, cap: int, folder: Path) -> Path:
    """Every request wants the cloud, and the cap is all there is."""
    device = folder / "device.jsonl"
    device.write_text(json.dumps({"prompt": HARD, "text": DEVICE_TEXT}), encoding="utf-8")
    values = {
        "device": f"recorded:{device}",
        "cloud": {"openai": {"base_url": cloud.url, "model": "m", "api_key_env": None}},
        "strategy": "always_cloud",
        "budget": {"calls": {"total": cap}, "ledger": ledger},
        "limits": {"concurrent": 1000},
    }
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


async def slowly(server: ChatServer, request: Any, body: Any) -> Any:
    await asyncio.sleep(0.3)
    return await answer(server, request, body)


@pytest.fixture
def ledger(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    if kind == "redis":
        return f"redis:{request.getfixturevalue('redis_server').url}"
    return f"sqlite:{tmp_path}/budget.sqlite"


async def test_a_running_gateway_takes_the_share_that_its_file_says_now(tmp_path: Path) -> None:
    async with ChatServer() as cloud:
        recipe = recipe_over(cloud, f"sqlite:{tmp_path}/budget.sqlite", 10**6, tmp_path)
        values = yaml.safe_load(recipe.read_text(encoding="utf-8"))
        values["budget"] |= {"share": 1.0, "burst": 1}
        recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
        gateway = Served(recipe)
        try:
            await gateway.ready()
            assert await gateway.ask(20) == ["always"] * 20
            values["budget"]["share"] = 0.1
            recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
            for _ in range(100):
                await asyncio.sleep(0.1)
                if (await gateway.ask(10)).count("budget") >= 8:
                    break
            answers = await gateway.ask(100)
        finally:
            gateway.stop(signal.SIGKILL)
    assert answers.count("always") in range(9, 12)


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_two_gateways_spend_one_budget_to_the_call(ledger: str, tmp_path: Path) -> None:
    cap, each = 40, 100
    async with ChatServer() as cloud, two_gateways(recipe_over(cloud, ledger, cap, tmp_path)) as gateways:
        # One at a time first: among many at once the faster gateway may take the whole budget.
        firsts = [await one.ask(1) for one in gateways]
        answers = await asyncio.gather(*(one.ask(each - 1) for one in gateways))
    assert firsts == [["always"], ["always"]]
    reasons = [reason for some in firsts + answers for reason in some]
    assert len(cloud.requests) == cap
    assert (reasons.count("always"), reasons.count("budget")) == (cap, 2 * each - cap)


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
@pytest.mark.parametrize("workers", [1, 4])
async def test_1000_at_once_spend_no_call_too_many(ledger: str, tmp_path: Path, workers: int) -> None:
    cap = 100
    async with ChatServer() as cloud:
        gateway = Served(recipe_over(cloud, ledger, cap, tmp_path), workers)
        try:
            await gateway.ready()
            await gateway.all_workers()
            reasons = await gateway.ask(1000)
        finally:
            gateway.stop()
    assert len(cloud.requests) == cap
    assert (reasons.count("always"), reasons.count("budget")) == (cap, 1000 - cap)


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_a_killed_gateway_takes_its_open_calls_along(ledger: str, tmp_path: Path) -> None:
    cap = 40
    async with ChatServer() as cloud:
        cloud.script.extend([slowly] * 20)
        recipe = recipe_over(cloud, ledger, cap, tmp_path)
        async with two_gateways(recipe) as gateways:
            asking = [asyncio.ensure_future(one.ask(10)) for one in gateways]
            while len(cloud.requests) < 20:
                await asyncio.sleep(0.01)
            gateways[0].stop(signal.SIGKILL)
            lost, kept = await asyncio.gather(*asking)
            assert (lost, kept) == (["lost"] * 10, ["always"] * 10)
            gateways[0] = Served(recipe)
            await gateways[0].ready()
            again = await asyncio.gather(*(one.ask(50) for one in gateways))
    assert len(cloud.requests) == cap
    assert sum(some.count("always") for some in again) == cap - 20

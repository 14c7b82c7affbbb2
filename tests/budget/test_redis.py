"""The Redis ledger's own: addresses, secrets, a server that goes away, replies that get lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from tests.budget.spender import ESTIMATE, USED, limits
from tests.redis_server import RedisServer

from selfroute.budget.ledger import LedgerBudget
from selfroute.budget.limits import Limits, ShareLimit
from selfroute.budget.memory import MemoryLedger
from selfroute.budget.redis import RedisLedger
from selfroute.errors import BudgetExceeded, BudgetUnavailable, ConfigError


def test_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match=r"Redis at redis://127\.0\.0\.1:1/0 does not answer: .*refused; start it"
    ) as caught:
        RedisLedger("redis://127.0.0.1:1/0")
    assert "\n" not in str(caught.value)
    monkeypatch.delenv("REDIS_URL", raising=False)
    with pytest.raises(ConfigError, match=r"no address of a Redis server; .* export REDIS_URL"):
        RedisLedger()


def test_a_password_comes_from_the_environment_and_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="holds a password") as caught:
        RedisLedger("redis://user:secret@127.0.0.1:1/0")
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("REDIS_URL", "redis://user:secret@127.0.0.1:1/0")
    with pytest.raises(ConfigError, match="Redis at redis://127") as caught:
        RedisLedger()
    assert "secret" not in str(caught.value)


async def test_a_server_that_goes_away_refuses_and_has_kept_the_books(redis_server: RedisServer) -> None:
    budget = LedgerBudget(limits(10, 10.0), RedisLedger(redis_server.url))
    await (await budget.reserve(ESTIMATE)).spend(*USED)
    await budget.reserve(ESTIMATE)
    redis_server.kill()
    with pytest.raises(BudgetUnavailable, match=r"budget ledger redis://.*; check the Redis server"):
        await budget.reserve(ESTIMATE)
    await budget.keep()
    redis_server.start()
    for _ in range(100):
        try:
            calls, usd = await budget.status()
            break
        except BudgetUnavailable:
            await asyncio.sleep(0.05)
    assert (calls.spent, calls.held) == (2, 1)
    assert usd.spent == pytest.approx(USED[1] + ESTIMATE.cost_usd)
    await budget.aclose()


@asynccontextmanager
async def losing_replies(port: int) -> AsyncIterator[int]:
    """A proxy that cuts every third connection's replies after the server has done the work."""
    draw = random.Random(5)
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)

        async def forward() -> None:
            while data := await reader.read(65536):
                up_writer.write(data)
                await up_writer.drain()

        there = asyncio.ensure_future(forward())
        try:
            while data := await up_reader.read(65536):
                # Replies to the script are arrays; the rest is the greeting of a connection.
                if data.startswith(b"*") and draw.random() < 0.3:
                    break
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            there.cancel()
            await asyncio.gather(there, return_exceptions=True)
            for end in (writer, up_writer):
                end.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_lost_reply_books_nothing_twice(redis_server: RedisServer) -> None:
    straight = LedgerBudget(limits(10_000, 1e4), RedisLedger(redis_server.url))
    async with losing_replies(redis_server.port) as port:
        budget = LedgerBudget(limits(10_000, 1e4), await asyncio.to_thread(RedisLedger, f"redis://127.0.0.1:{port}/0"))
        settled = lost = 0
        for _ in range(60):
            try:
                lease = await budget.reserve(ESTIMATE)
            except BudgetUnavailable:  # four lost replies in a row; the booking stays
                lost += 1
                continue
            await lease.spend(*USED)
            settled += 1
        await budget.aclose()
    calls, usd = await straight.status()
    assert settled > 40
    # A settlement whose four replies were lost has been booked all the same.
    assert (calls.spent, calls.held) == (settled + lost, lost)
    assert usd.spent == pytest.approx(settled * USED[1] + lost * ESTIMATE.cost_usd)
    await straight.aclose()


async def test_it_agrees_with_the_arithmetic_in_python(redis_server: RedisServer) -> None:
    draw = random.Random(6)
    for share in (None, ShareLimit(share=0.3, burst=2), ShareLimit(share=1 / 3, burst=5)):
        rules = Limits(share=share, windows=limits(15, 0.31).windows)
        ledger = RedisLedger(redis_server.url, scope=f"scope {share}")
        budgets = [LedgerBudget(rules, MemoryLedger()), LedgerBudget(rules, ledger)]
        leases: list[Any] = []
        for _ in range(200):
            act = draw.choice(["keep", "reserve", "reserve", "sent", "spend", "spend", "close"])
            if act == "keep":
                await asyncio.gather(*(budget.keep() for budget in budgets))
            elif act == "reserve":
                estimate = replace(ESTIMATE, usage=replace(ESTIMATE.usage, calls=draw.randint(1, 3)))
                answers = await asyncio.gather(*(b.reserve(estimate) for b in budgets), return_exceptions=True)
                if isinstance(answers[0], BudgetExceeded):
                    assert str(answers[0]) == str(answers[1])
                else:
                    leases.append(answers)
            elif leases:
                pair = leases[draw.randrange(len(leases))]
                for lease in pair:
                    await (lease.sent() if act == "sent" else lease.spend(*USED) if act == "spend" else lease.close())
                if act == "close":
                    leases.remove(pair)
            assert await budgets[0].status() == await budgets[1].status()
        await ledger.aclose()


async def test_a_silent_owner_loses_what_it_had_not_sent_and_learns_of_it(redis_server: RedisServer) -> None:
    rules = Limits(share=ShareLimit(share=1.0, burst=3), windows=limits(3, 10.0).windows)
    slow = LedgerBudget(rules, RedisLedger(redis_server.url, silence_s=0.2))
    waiting, flying, cached = [await slow.reserve(ESTIMATE) for _ in range(3)]
    await flying.sent()
    await slow.aclose()  # it says no more that it lives
    budget = LedgerBudget(rules, RedisLedger(redis_server.url))
    await asyncio.sleep(0.3)
    leases = [await budget.reserve(ESTIMATE), await budget.reserve(ESTIMATE)]
    with pytest.raises(BudgetExceeded):
        await budget.reserve(ESTIMATE)

    with pytest.raises(BudgetUnavailable, match=r"silent for over 0\.2 s, and what it had reserved was given back"):
        await waiting.sent()
    await waiting.close()
    await flying.spend(*USED)
    await cached.spend(*USED)  # of what cost nothing by then: booked all the same
    for lease in leases:
        await lease.close()
    share, calls, usd = await budget.status()
    assert (share.spent, calls.spent, calls.held, usd.held) == (pytest.approx(1 / 6), 2, 0, 0)
    assert usd.spent == pytest.approx(2 * USED[1])
    await asyncio.gather(slow.aclose(), budget.aclose())


def test_a_silence_that_is_none(redis_server: RedisServer) -> None:
    with pytest.raises(ConfigError, match=r"silence_s: 0 is not above 0"):
        RedisLedger(redis_server.url, silence_s=0)


async def test_counters_of_windows_end(redis_server: RedisServer) -> None:
    import redis

    from selfroute.budget.limits import WindowLimit

    rules = Limits(windows=(WindowLimit(unit="calls", window="minute", cap=5),))
    budget = LedgerBudget(rules, RedisLedger(redis_server.url))
    await (await budget.reserve(ESTIMATE)).close()  # with it ends all that the server knows of it
    with redis.Redis.from_url(redis_server.url, decode_responses=True) as client:
        keys = list(client.scan_iter("*"))
        assert keys and all(key.startswith("selfroute:{default}:") for key in keys)
        assert all(0 < client.ttl(key) <= 86_400 + 60 for key in keys)
    await budget.aclose()

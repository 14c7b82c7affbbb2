"""What every ledger keeps, alone and between processes. A new one joins in `conftest.py`."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, suppress
from pathlib import Path

import pytest
from tests.budget.conftest import LEDGERS, SHARED
from tests.budget.spender import ESTIMATE, SILENCE_S, USED, limits, spend

from selfroute.backends.base import Backend
from selfroute.budget.base import Estimate, Lease
from selfroute.budget.ledger import Ledger, LedgerBudget
from selfroute.budget.limits import Limits, ShareLimit, Unit, Window, WindowLimit
from selfroute.errors import BackendUnavailable, BudgetExceeded
from selfroute.prices import Price, Prices
from selfroute.prompts import TEMPLATES
from selfroute.strategies.always import AlwaysCloud
from selfroute.strategies.base import Sides
from selfroute.strategies.sides import most_used
from selfroute.types import Delta, Finished, Message, Sampling, TextDelta, Usage

SPENDER = Path(__file__).with_name("spender.py")
Open = Callable[[], Ledger]
# Made-up times begin at the next one: windows long past are forgotten.
MIDNIGHT = (int(time.time()) // 86_400 + 1) * 86_400
TEN = Estimate(Usage(4, 6), 0.001)


@pytest.fixture(params=LEDGERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


shared = pytest.mark.parametrize("kind", SHARED, indirect=True)


def window(unit: Unit, length: Window, cap: float) -> WindowLimit:
    return WindowLimit(unit=unit, window=length, cap=cap)


async def reserve_all(budget: LedgerBudget, count: int) -> int:
    answers = await asyncio.gather(*(budget.reserve(TEN) for _ in range(count)), return_exceptions=True)
    assert all(isinstance(a, BudgetExceeded) or not isinstance(a, BaseException) for a in answers)
    return sum(not isinstance(answer, BaseException) for answer in answers)


async def test_holds_spends_and_gives_back(open_ledger: Open) -> None:
    budget = LedgerBudget(Limits(windows=(window("tokens", "total", 100), window("usd", "total", 1))), open_ledger())
    one, two = await budget.reserve(TEN), await budget.reserve(TEN)
    assert [(s.limit, s.spent, s.held) for s in await budget.status()] == [
        ("tokens_total", 20, 20),
        ("usd_total", 0.002, 0.002),
    ]
    await one.spend(Usage(4, 1), 0.0004)
    for lease in (one, two, one, two):  # a lease ends once
        await lease.close()
    assert [(s.spent, s.held, s.cap, s.reset_s) for s in await budget.status()] == [
        (5, 0, 100, None),
        (0.0004, 0, 1, None),
    ]
    await budget.aclose()


@pytest.mark.parametrize(
    ("cap", "left_open", "message"),
    [
        (
            25,
            True,
            "has no room for this call: it may take 10, and 5 is left: 10 of 25 spent, 10 held for calls under way",
        ),
        (25, False, "has no room for this call: it may take 10, and 5 is left: 20 of 25 spent; it resets in 80000 s"),
        (20, False, "is used up: 20 of 20 spent; it resets in 80000 s"),
        (
            9,
            False,
            "lets no call of this size pass: it may take 10; raise it, or limit the answer's tokens; 0 of 9 spent",
        ),
    ],
)
async def test_a_refusal_says_what_a_call_may_take_and_what_is_left(
    open_ledger: Open, cap: int, left_open: bool, message: str
) -> None:
    limits = Limits(windows=(window("tokens", "day", cap), window("calls", "total", 9)))
    budget = LedgerBudget(limits, open_ledger(), clock=lambda: MIDNIGHT + 6400.0)
    with pytest.raises(BudgetExceeded) as caught:
        for spent in (True, not left_open, True):
            lease = await budget.reserve(TEN)
            if spent:
                await lease.spend(Usage(4, 6), 0.001)
    refusal = caught.value
    assert f"cloud budget 'tokens_per_day' {message}" in str(refusal)
    assert (refusal.call, refusal.held, refusal.cap) == (10, 10 if left_open else 0, cap)
    await budget.aclose()


async def test_what_a_limit_says_when_it_refuses(open_ledger: Open) -> None:
    now = MIDNIGHT + 6400.0  # 01:46:40
    budget = LedgerBudget(
        Limits(windows=(window("calls", "minute", 2), window("calls", "hour", 2))), open_ledger(), clock=lambda: now
    )
    for _ in range(2):
        await (await budget.reserve(TEN)).spend(Usage(), 0)
    with pytest.raises(BudgetExceeded, match="'calls_per_hour' is used up: 2 of 2 spent; it resets in 800 s") as caught:
        await budget.reserve(TEN)
    error = caught.value
    assert (error.limit, error.spent, error.cap, error.reset_s) == ("calls_per_hour", 2, 2, 800)
    now += 20  # a new minute, the same hour
    with pytest.raises(BudgetExceeded) as caught:
        await budget.reserve(TEN)
    assert (caught.value.limit, caught.value.reset_s) == ("calls_per_hour", 780)
    now += 780
    await budget.reserve(TEN)
    await budget.aclose()


async def test_a_refused_call_holds_nothing(open_ledger: Open) -> None:
    budget = LedgerBudget(Limits(windows=(window("calls", "total", 9), window("tokens", "total", 15))), open_ledger())
    assert await reserve_all(budget, 5) == 1
    assert [state.spent for state in await budget.status()] == [1, 10]
    await budget.aclose()


async def test_a_call_belongs_to_the_window_in_which_it_began(open_ledger: Open) -> None:
    now = MIDNIGHT + 86_399.0
    budget = LedgerBudget(Limits(windows=(window("calls", "day", 1),)), open_ledger(), clock=lambda: now)
    lease = await budget.reserve(TEN)
    now = MIDNIGHT + 86_401.0
    await lease.spend(Usage(), 0)
    (state,) = await budget.status()
    assert (state.spent, state.held, state.reset_s) == (0, 0, 86_399)
    await budget.reserve(TEN)
    await budget.aclose()


async def test_the_share_counts_every_request(open_ledger: Open) -> None:
    budget = LedgerBudget(Limits(share=ShareLimit(share=0.5, burst=1)), open_ledger())
    await budget.reserve(TEN)
    with pytest.raises(BudgetExceeded, match=r"'share' is used up: 0.5 of 0.5 spent; every further request") as caught:
        await budget.reserve(TEN)
    assert (caught.value.limit, caught.value.cap, caught.value.reset_s) == ("share", 0.5, None)
    await budget.keep()
    lease = await budget.reserve(TEN)
    await lease.close()  # the request stays counted, but not as one that used the cloud
    (state,) = await budget.status()
    assert (state.limit, state.spent, state.cap) == ("share", 1 / 4, 0.5)
    await budget.reserve(TEN)
    await budget.aclose()


async def test_nothing_is_lost_between_two_that_share_it(open_ledger: Open) -> None:
    budgets = [LedgerBudget(limits(60, 100.0), open_ledger()) for _ in range(2)]
    granted = await asyncio.gather(*(reserve_all(budget, 500) for budget in budgets))
    assert sum(granted) == 60
    for budget in budgets:
        assert (await budget.status())[0].held == 60
        await budget.aclose()


async def test_a_cancelled_reservation_leaves_nothing(open_ledger: Open) -> None:
    budget = LedgerBudget(limits(100, 100.0), open_ledger())
    tasks = [asyncio.create_task(budget.reserve(TEN)) for _ in range(50)]
    for turn, task in enumerate(tasks):
        if turn % 3 == 0:
            await asyncio.sleep(0)
        task.cancel()
    kept = [
        lease for lease in await asyncio.gather(*tasks, return_exceptions=True) if not isinstance(lease, BaseException)
    ]
    for _ in range(200):
        held = (await budget.status())[0].held
        if held == len(kept):
            break
        await asyncio.sleep(0.01)
    assert held == len(kept)
    await budget.aclose()


# --- several calls of one request


THREE = Estimate(Usage(30, 60, calls=3), 0.03)


def everything() -> Limits:
    windows = (window("calls", "total", 10), window("tokens", "total", 200), window("usd", "total", 1))
    return Limits(share=ShareLimit(share=1.0), windows=windows)


async def test_three_calls_are_one_request_of_the_share_and_three_of_the_windows(open_ledger: Open) -> None:
    budget = LedgerBudget(everything(), open_ledger())
    lease = await budget.reserve(THREE)
    await budget.keep()
    seen = []
    for _ in range(3):
        await lease.sent()
        await lease.spend(Usage(10, 10), 0.005)
        seen.append([(state.spent, state.held) for state in await budget.status()])
    await lease.close()
    assert seen == [
        [(0.5, 0), (3, 2), (90, 70), (pytest.approx(0.03), pytest.approx(0.025))],
        [(0.5, 0), (3, 1), (90, 50), (pytest.approx(0.03), pytest.approx(0.02))],
        [(0.5, 0), (3, 0), (60, 0), (pytest.approx(0.015), 0)],
    ]
    assert [(state.spent, state.held) for state in await budget.status()] == seen[-1]
    await budget.aclose()


async def test_a_request_that_calls_less_often_gives_the_rest_back(open_ledger: Open) -> None:
    budget = LedgerBudget(everything(), open_ledger())
    lease = await budget.reserve(THREE)
    await lease.spend(Usage(10, 10), 0.005)
    await lease.close()
    assert [(s.spent, s.held) for s in await budget.status()] == [(1, 0), (1, 0), (20, 0), (0.005, 0)]
    await budget.aclose()


async def test_what_is_spent_beyond_the_estimate_is_booked_and_seen_by_the_next(open_ledger: Open) -> None:
    budget = LedgerBudget(Limits(windows=(window("tokens", "total", 100),)), open_ledger())
    lease = await budget.reserve(Estimate(Usage(10, 10, calls=2)))
    await lease.spend(Usage(10, 50), 0)
    assert [(s.spent, s.held) for s in await budget.status()] == [(60, 0)]
    await lease.spend(Usage(10, 10), 0)
    await lease.spend(Usage(10, 10), 0)  # one call more than it said
    await lease.close()
    await lease.spend(Usage(1, 4), 0)  # late, but spent
    assert [(s.spent, s.held) for s in await budget.status()] == [(105, 0)]
    with pytest.raises(BudgetExceeded, match="105 of 100 spent"):
        await budget.reserve(TEN)
    await budget.aclose()


async def test_calls_of_one_request_at_once_are_each_booked(open_ledger: Open) -> None:
    budget = LedgerBudget(everything(), open_ledger())

    async def call(lease: Lease) -> None:
        await lease.sent()
        await asyncio.sleep(0)
        await lease.spend(Usage(5, 5), 0.001)

    lease = await budget.reserve(THREE)
    await asyncio.gather(*(call(lease) for _ in range(3)))
    assert [(s.spent, s.held) for s in await budget.status()] == [(1, 0), (3, 0), (30, 0), (pytest.approx(0.003), 0)]
    await lease.close()
    await budget.aclose()


# --- crowds


async def test_1000_at_once_spend_no_more_than_the_cap(open_ledger: Open) -> None:
    budget = LedgerBudget(limits(100, 100.0), open_ledger())
    assert await spend(budget, 1000, hold=False) == {"spent": 100, "waiting": 0, "sent": 0}
    calls, usd = await budget.status()
    assert (calls.spent, calls.held, usd.held) == (100, 0, 0)
    assert usd.spent == pytest.approx(100 * USED[1])
    await budget.aclose()


async def test_1000_at_once_spend_no_more_than_the_money(open_ledger: Open) -> None:
    budget = LedgerBudget(limits(10_000, 1.0), open_ledger())
    settled = (await spend(budget, 1000, hold=False))["spent"]
    _, usd = await budget.status()
    assert usd.spent == pytest.approx(settled * USED[1]) and usd.spent <= 1.0
    # Of the last calls the estimate no longer fits.
    assert usd.spent > 1.0 - ESTIMATE.cost_usd or settled >= 50
    await budget.aclose()


# --- several processes


def start(place: str, attempts: int, calls: int, usd: float, *how: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(SPENDER), place, str(attempts), str(calls), str(usd), *how]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str]) -> dict[str, int]:
    assert process.stdout is not None
    found: dict[str, int] = json.loads(process.stdout.readline())
    return found


def end(process: subprocess.Popen[str]) -> None:
    assert process.wait(60) == 0
    assert process.stdout is not None
    process.stdout.close()


@shared
@pytest.mark.parametrize("workers", [1, 4])
async def test_1000_at_once_in_processes(place: str, workers: int, open_ledger: Open) -> None:
    processes = [start(place, 1000 // workers, 100, 100.0) for _ in range(workers)]
    settled = [result(process)["spent"] for process in processes]
    for process in processes:
        end(process)
    assert sum(settled) == 100
    budget = LedgerBudget(limits(100, 100.0), open_ledger())
    calls, usd = await budget.status()
    assert (calls.spent, calls.held) == (100, 0)
    assert usd.spent == pytest.approx(100 * USED[1])
    await budget.aclose()


async def killed(process: subprocess.Popen[str], kind: str) -> None:
    """Kill a process, and wait until others may know."""
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert process.stdout is not None
    process.stdout.close()
    if kind == "redis":
        await asyncio.sleep(SILENCE_S)


@shared
async def test_of_a_killed_process_what_it_had_sent_stays_and_the_rest_comes_back(
    kind: str, place: str, open_ledger: Open
) -> None:
    victim = start(place, 40, 100, 100.0, "hold")
    assert result(victim) == {"spent": 20, "waiting": 10, "sent": 10}
    await killed(victim, kind)

    restarted = start(place, 1000, 100, 100.0)
    assert result(restarted)["spent"] == 70
    end(restarted)
    budget = LedgerBudget(limits(100, 100.0), open_ledger())
    calls, usd = await budget.status()
    assert (calls.spent, calls.held) == (100, 10)
    # What was in the air may have been spent: it counts with its estimate.
    assert usd.spent == pytest.approx(90 * USED[1] + 10 * ESTIMATE.cost_usd)
    await budget.aclose()


@shared
async def test_nothing_of_a_process_that_lives_is_given_back(place: str, open_ledger: Open) -> None:
    busy = start(place, 40, 40, 100.0, "hold")
    assert result(busy) == {"spent": 20, "waiting": 10, "sent": 10}
    await asyncio.sleep(1.5 * SILENCE_S)
    budget = LedgerBudget(limits(40, 100.0), open_ledger())
    assert await reserve_all(budget, 5) == 0
    assert (await budget.status())[0].spent == 40
    await killed(busy, "redis")
    assert await reserve_all(budget, 20) == 10
    await budget.aclose()


@shared
async def test_what_a_dead_process_held_comes_back_with_the_window(open_ledger: Open) -> None:
    now = MIDNIGHT + 50.0
    windows = Limits(windows=(window("calls", "minute", 10),))
    dead = LedgerBudget(windows, open_ledger(), clock=lambda: now)
    assert await reserve_all(dead, 10) == 10
    await dead.aclose()  # nothing was settled
    budget = LedgerBudget(windows, open_ledger(), clock=lambda: now)
    assert await reserve_all(budget, 1) == 0
    now = MIDNIGHT + 60.0
    assert await reserve_all(budget, 11) == 10
    await budget.aclose()


# --- the ledger's sum is the provider's


class Provider(Backend):
    """A cloud that fails in every way, and keeps its own books."""

    name = "provider"

    def __init__(self) -> None:
        self.random = random.Random(7)
        self.calls = 0
        self.booked = Usage()

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        fate = self.random.choice(["fine", "fine", "refuses", "cut", "hangs", "hangs later"])
        most = most_used(messages, sampling, Price()).usage.prompt_tokens
        await asyncio.sleep(self.random.random() / 100)
        if fate == "refuses":
            raise BackendUnavailable("provider: busy", backend=self.name)
        if fate == "hangs":
            await asyncio.Event().wait()
        self.calls += 1
        pieces = self.random.randint(1, 5)
        for piece in range(pieces):
            # Of a call that breaks off nobody knows the prompt: the largest one counts.
            self.booked += Usage(0 if piece else most, 1)
            yield Delta("x")
            await asyncio.sleep(0)
        if fate == "cut":
            raise BackendUnavailable("provider: connection lost", backend=self.name)
        if fate == "hangs later":
            await asyncio.Event().wait()
        self.booked += Usage(5 - most, 0)
        yield Delta(finish_reason="stop", usage=Usage(5, pieces))


async def test_the_sum_is_the_providers_whatever_fails(open_ledger: Open) -> None:
    provider = Provider()
    budget = LedgerBudget(
        Limits(
            windows=(window("calls", "total", 10_000), window("tokens", "total", 10**7), window("usd", "total", 1e4))
        ),
        open_ledger(),
    )
    from selfroute.backends.function import FunctionBackend

    price = Price(prompt_usd=3, completion_usd=15)
    sides = Sides(
        device=FunctionBackend("device", lambda messages, sampling: "<answer>1</answer>"),
        cloud=provider,
        template=TEMPLATES["think"],
        budget=budget,
        prices=Prices(cloud=price),
    )
    leaving = random.Random(3)

    async def one(number: int) -> None:
        messages = TEMPLATES["think"].conversation(f"question {number}")
        async with aclosing(AlwaysCloud().stream(sides, messages, Sampling(max_tokens=9))) as events:
            async for event in events:
                if isinstance(event, Finished) or (isinstance(event, TextDelta) and leaving.random() < 0.1):
                    return

    at_once = asyncio.Semaphore(100)

    async def impatient(number: int) -> None:
        async with at_once:
            with suppress(TimeoutError):
                await asyncio.wait_for(one(number), 0.5 + leaving.random())

    await asyncio.gather(*(impatient(number) for number in range(300)))
    for _ in range(200):  # releases of cancelled reservations may be under way
        calls, tokens, usd = await budget.status()
        if calls.held == 0:
            break
        await asyncio.sleep(0.02)
    assert (calls.held, tokens.held, usd.held) == (0, 0, 0)
    assert provider.calls > 50
    assert calls.spent == provider.calls
    assert tokens.spent == provider.booked.prompt_tokens + provider.booked.completion_tokens
    assert usd.spent == pytest.approx(price.cost_usd(provider.booked))
    await budget.aclose()

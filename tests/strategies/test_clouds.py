"""Strategies over several clouds: each call is reserved and booked at the price of the cloud that answers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from selfroute.backends.clouds import DEVICE, Cloud, Clouds, width
from selfroute.backends.function import FunctionBackend
from selfroute.bandits import catalogue
from selfroute.bandits.beliefs import Beliefs
from selfroute.budget.base import Budget
from selfroute.budget.ledger import Ledger, LedgerBudget
from selfroute.budget.limits import Limits, WindowLimit
from selfroute.budget.memory import MemoryLedger
from selfroute.budget.sqlite import SQLiteLedger
from selfroute.prices import Price, Prices
from selfroute.strategies.always import AlwaysCloud
from selfroute.strategies.bandit_router import BanditRouter
from selfroute.strategies.base import Sides, Strategy, answer, check_sides
from selfroute.types import Completion, Message, Sampling, Trace, Usage

NAMES = ("small", "middle", "large")
USD = {"small": 1, "middle": 4, "large": 40}
USED = Usage(10, 100)


def several(*, device: bool = False) -> Clouds:
    each = [
        Cloud(
            backend=FunctionBackend(name, lambda messages, sampling, name=name: Completion(name, USED)),
            price=Price(completion_usd=USD[name]),
        )
        for name in NAMES
    ]
    arms = [*([DEVICE] if device else []), *NAMES]
    return Clouds(
        each, Beliefs(catalogue.thompson(catalogue.Learning(floor=1.0, trials=0), arms=arms, features=width(())))
    )


def sides(budget: Budget, clouds: Clouds) -> Sides:
    device = FunctionBackend("device", lambda messages, sampling: Completion("<answer>device</answer>", Usage(5, 20)))
    return Sides(device=device, cloud=clouds, budget=budget, prices=Prices(device=Price(completion_usd=0.1)))


async def ask(strategy: Strategy, pair: Sides) -> Trace:
    return await answer(strategy, pair, [Message("user", "2+2")], Sampling(max_tokens=100))


@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis"])
async def test_1000_at_once_over_all_clouds_overspend_nothing(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The money of some tens of calls; whichever cloud answers, no more than the cap is spent or held at any time."""
    if kind == "redis":
        from selfroute.budget.redis import RedisLedger

        ledger: Ledger = RedisLedger(request.getfixturevalue("redis_server").url)
    else:
        ledger = MemoryLedger() if kind == "memory" else SQLiteLedger(tmp_path / "budget.sqlite")
    cap = 0.05
    budget = LedgerBudget(Limits(windows=(WindowLimit(unit="usd", window="total", cap=cap),)), ledger)
    pair = sides(budget, several())
    traces = await asyncio.gather(*(ask(AlwaysCloud(), pair) for _ in range(1000)))
    booked = sum(segment.cost_usd for trace in traces for segment in trace.segments if segment.source == "cloud")
    (state,) = await budget.status()
    assert state.held == 0 and state.spent == pytest.approx(booked)
    assert max(state.spent, booked) < cap + 1e-12  # sums of the same amounts in another order differ in a last digit
    assert booked > 0.8 * cap
    asked = {trace.end.model for trace in traces if trace.source == "cloud"}
    assert len(asked) >= 2
    assert all(trace.refusal is not None for trace in traces if trace.source == "device")
    await budget.aclose()


async def test_a_segment_says_which_cloud_at_what_price_and_how_likely() -> None:
    pair = sides(LedgerBudget(Limits(), MemoryLedger()), several())
    for _ in range(10):
        trace = await ask(AlwaysCloud(), pair)
        assert (trace.end.model, trace.end.propensity) == (trace.text, pytest.approx(1 / 3))
        assert trace.cost_usd == pytest.approx(USD[trace.text] * USED.completion_tokens / 1e6)


async def test_the_device_is_an_arm_of_the_bandit_router_alone() -> None:
    pair = sides(LedgerBudget(Limits(), MemoryLedger()), several(device=True))
    check_sides(BanditRouter(), pair)
    assert {(await ask(BanditRouter(), pair)).source for _ in range(30)} == {"device", "cloud"}
    assert {(await ask(AlwaysCloud(), pair)).source for _ in range(30)} == {"cloud"}


async def test_what_stays_on_the_device_is_counted_too(tmp_path: Path) -> None:
    clouds = several(device=True)
    pair = sides(LedgerBudget(Limits(), MemoryLedger()), clouds)
    while (trace := await ask(BanditRouter(), pair)).source != "device":
        pass
    assert (trace.reason, trace.end.propensity) == ("routed", 0.25)
    assert clouds.beliefs.usd(DEVICE) == pytest.approx(20 * 0.1 / 1e6)

"""The controller: the share for any scores, the best ones first, and the limits above it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.budget.base import Estimate
from selfroute.budget.controller import CompetingBudget, ShareController
from selfroute.budget.ledger import LedgerBudget
from selfroute.budget.limits import Limits, ShareLimit, WindowLimit
from selfroute.budget.memory import MemoryLedger
from selfroute.errors import BudgetExceeded, ConfigError
from selfroute.types import Usage

NOTHING = Estimate()
scores = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, 0.5, 1.0])


@given(
    share=st.floats(0.01, 1.0),
    gain=st.floats(0.01, 1.0),
    stream=st.lists(scores, min_size=1, max_size=300),
    memory=st.integers(1, 50),
)
def test_the_share_holds_for_any_scores(share: float, gain: float, stream: list[float], memory: int) -> None:
    controller = ShareController(share, gain=gain, memory=memory)
    for number, score in enumerate(stream, 1):
        controller.decide(score)
        assert abs(controller.calls / number - share) <= (1 + gain) / (gain * number) + 1e-9
        assert -gain - 1e-9 <= controller.level <= 1 + gain + 1e-9


@given(st.lists(st.none() | scores, max_size=300), st.floats(0.05, 1.0))
def test_calls_never_run_further_ahead_than_the_gain_allows(stream: list[float | None], share: float) -> None:
    """Over any stretch: requests that do not want the cloud save nothing up beyond that."""
    controller = ShareController(share, gain=0.2)
    excess = lowest = 0.0
    for score in stream:
        excess += controller.decide(score) - share
        lowest = min(lowest, excess)
        assert excess - lowest <= (1 + 0.2) / 0.2 + share + 1e-9


def stationary(draw: random.Random) -> Iterator[float]:
    while True:
        yield draw.betavariate(0.5, 0.5)


def few_values(draw: random.Random) -> Iterator[float]:
    while True:
        yield draw.choice([0.0, 0.0, 0.5, 1.0])


def constant(draw: random.Random) -> Iterator[float]:
    while True:
        yield 0.7


def drifting(draw: random.Random) -> Iterator[float]:
    n = 0
    while True:
        n += 1
        yield draw.gauss(math.sin(n / 700) * 3 + n / 1000, 1)


def jumping(draw: random.Random) -> Iterator[float]:
    n = 0
    while True:
        n += 1
        yield draw.gauss(5 * (n // 900 % 3), 1)


STREAMS = [stationary, few_values, constant, drifting, jumping]


async def realised(share: float, stream: Iterator[float | None], count: int, burst: int = 20) -> list[bool]:
    """Which requests became calls, through the whole budget."""
    limit = ShareLimit(share=share, burst=burst)
    budget = CompetingBudget(LedgerBudget(Limits(share=limit), MemoryLedger()), ShareController.under(limit))
    sent = []
    for _ in range(count):
        score = next(stream)
        if score is None:
            await budget.keep()
            sent.append(False)
            continue
        try:
            lease = await budget.reserve(NOTHING, score=score)
            await lease.spend(Usage(), 0)
            sent.append(True)
        except BudgetExceeded as refusal:
            assert (refusal.limit, refusal.cap) == ("share", share)
            sent.append(False)
    return sent


@pytest.mark.parametrize("share", [0.05, 0.3, 0.8])
@pytest.mark.parametrize("stream", STREAMS)
async def test_long_run_share_is_within_a_point(
    stream: Callable[[random.Random], Iterator[float]], share: float
) -> None:
    sent = await realised(share, stream(random.Random(1)), 6000)
    assert abs(sum(sent) / len(sent) - share) < 0.01
    assert all(sum(sent[:n]) <= share * n + 20 for n in range(len(sent)))


async def test_the_highest_scores_are_sent() -> None:
    draw = random.Random(2)
    stream = [draw.random() for _ in range(5000)]
    sent = await realised(0.3, iter(stream), 5000)
    assert sum(score > 0.7 for score, was in zip(stream, sent, strict=True) if was) / sum(sent) > 0.8
    arrival = sum(stream) / len(stream)
    assert sum(score for score, was in zip(stream, sent, strict=True) if was) / sum(sent) > arrival + 0.25


async def test_those_who_want_the_cloud_get_it_while_they_are_few() -> None:
    draw = random.Random(3)
    stream = [draw.random() if draw.random() < 0.1 else None for _ in range(3000)]
    sent = await realised(0.3, iter(stream), 3000)
    wanted = [score is not None for score in stream]
    assert sum(sent[200:]) == sum(wanted[200:])


async def test_a_crowd_after_a_quiet_time_gets_no_more_than_a_burst() -> None:
    draw = random.Random(4)
    quiet: list[float | None] = [None] * 2000
    sent = await realised(0.1, iter(quiet + [draw.random() for _ in range(500)]), 2500)
    assert sum(sent) <= 0.1 * 500 + 20


async def test_other_limits_refuse_and_are_given_back_to_the_controller() -> None:
    limits = Limits(share=ShareLimit(share=0.5), windows=(WindowLimit(unit="calls", window="total", cap=3),))
    controller = ShareController(0.5)
    budget = CompetingBudget(LedgerBudget(limits, MemoryLedger()), controller)
    seen = []
    for score in range(100):
        try:
            lease = await budget.reserve(NOTHING, score=float(score % 7))
            await lease.spend(Usage(), 0)
        except BudgetExceeded as refusal:
            seen.append(refusal.limit)
    assert set(seen) == {"share", "calls_total"}
    assert controller.calls == 3


async def test_a_call_that_was_not_made_is_not_counted() -> None:
    controller = ShareController(1.0)
    inner = LedgerBudget(Limits(share=ShareLimit(share=1.0)), MemoryLedger())
    budget = CompetingBudget(inner, controller)
    lease = await budget.reserve(NOTHING, score=1.0)
    await lease.close()
    assert controller.calls == 0
    assert [state.spent for state in await budget.status()] == [0]


async def test_no_score_is_served_as_it_comes() -> None:
    limit = ShareLimit(share=0.01, burst=3)
    budget = CompetingBudget(LedgerBudget(Limits(share=limit), MemoryLedger()), ShareController.under(limit))
    for _ in range(3):
        await budget.reserve(NOTHING)
    with pytest.raises(BudgetExceeded, match="every further request makes room"):
        await budget.reserve(NOTHING)


async def test_another_share_is_met_from_the_change_on() -> None:
    limit = ShareLimit(share=0.1, burst=20)
    budget = CompetingBudget(LedgerBudget(Limits(share=limit), MemoryLedger()), ShareController.under(limit))
    rng = random.Random(0)

    async def sent(requests: int) -> float:
        granted = 0
        for _ in range(requests):
            try:
                await budget.reserve(Estimate(), score=rng.random())
            except BudgetExceeded as refusal:
                assert refusal.cap == budget.controller.share
            else:
                granted += 1
        return granted / requests

    assert await sent(1000) == pytest.approx(0.1, abs=0.02)
    budget.retarget(0.5)
    assert await sent(1000) == pytest.approx(0.5, abs=0.03)
    assert (await budget.status())[0].cap == 0.5
    budget.retarget(0.2)
    assert await sent(1000) == pytest.approx(0.2, abs=0.03)
    with pytest.raises(ConfigError, match=r"share: 0 is not in \(0, 1\]"):
        budget.retarget(0.0)


def test_arguments_out_of_range() -> None:
    with pytest.raises(ConfigError, match="share: 0 is not in"):
        ShareController(0)
    with pytest.raises(ConfigError, match="gain 0 is not in"):
        ShareController(0.5, gain=0)

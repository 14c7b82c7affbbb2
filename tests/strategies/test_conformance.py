"""What every strategy keeps. A new strategy joins by adding a line to `STRATEGIES`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from tests.strategies.pair import (
    ASKING_TEXT,
    CLOUD_TEXT,
    DEVICE_TEXT,
    SAMPLING,
    TEMPLATE,
    Ledger,
    Plain,
    Recorder,
    Stalling,
    asks_when_hard,
    down,
    easy,
    hard,
    offered,
    spoken,
)
from tests.strategies.turns import ALTERNATING, THREE_CALLS

from selfroute.backends.base import Backend
from selfroute.budget.base import Budget, NoCloud
from selfroute.errors import BackendUnavailable
from selfroute.handoff import HANDOFF_TEXT
from selfroute.prices import Price, Prices
from selfroute.scores.evidence import Evidence
from selfroute.strategies import catalogue
from selfroute.strategies.always import AlwaysCloud, AlwaysDevice
from selfroute.strategies.base import Sides, Strategy, answer
from selfroute.strategies.cascade import Cascade
from selfroute.strategies.prompt_router import PromptRouter
from selfroute.strategies.random_offload import RandomOffload
from selfroute.strategies.search.agent import OneAnswer
from selfroute.strategies.search.arena import Limits
from selfroute.strategies.search.planned import Planned
from selfroute.strategies.search.tool_agent import ToolAgent
from selfroute.strategies.self_route import SelfRoute
from selfroute.testing import STRATEGY_CASES
from selfroute.types import Event, Finished, HandOff, Message, Refusal, TextDelta, Usage

Make = Callable[[], Strategy]


def hardness(evidence: Evidence) -> float:
    return float(evidence.question.count("hard"))


def easiness(rows: Sequence[tuple[str, str]]) -> list[float | None]:
    return [-float(question.count("hard")) for question, _ in rows]


# Name → how it is made, and which of an easy and a hard question it sends to the cloud.
STRATEGIES: dict[str, tuple[Make, bool, bool]] = {
    "always_device": (AlwaysDevice, False, False),
    "always_cloud": (AlwaysCloud, True, True),
    "random_none": (lambda: RandomOffload(share=0), False, False),
    "random_all": (lambda: RandomOffload(share=1), True, True),
    "prompt_router": (lambda: PromptRouter(score=lambda q: q.count("hard"), threshold=1), False, True),
    "planned": (lambda: Planned(scores=easiness, threshold=1, limits=Limits(attempts=1)), False, True),
    "tool_agent": (lambda: ToolAgent(open=lambda question: OneAnswer()), False, True),
    "cascade": (lambda: Cascade(score=hardness, threshold=1), False, True),
    "cascade_all": (lambda: Cascade(score=lambda e: 1.0, threshold=0), True, True),
    "prompt_length": (lambda: catalogue.prompt_length(threshold=9e9), False, False),
    "self_consistency": (
        lambda: catalogue.self_consistency(score=hardness, threshold=1, samples=2),
        False,
        True,
    ),
    "self_verification": (
        lambda: catalogue.self_verification(score=hardness, threshold=1),
        False,
        True,
    ),
    "self_route": (SelfRoute, False, True),
    "self_route_unscored": (lambda: SelfRoute(scored=False), False, True),
}
for name in ("tfidf_ridge", "embedding_knn", "embedding_logistic", "embedding_mlp", "matrix_factorization"):
    factory = getattr(catalogue, name)
    STRATEGIES[name] = (partial(factory, score=lambda question: question.count("hard"), threshold=1), False, True)
STRATEGIES["encoder_router"] = (
    partial(catalogue.encoder_router, score=lambda q: q.count("hard"), threshold=1),
    False,
    True,
)
for name in ("answer_features", "quality_gap", "answer_blend", "frugal_cascade"):
    STRATEGIES[name] = (partial(getattr(catalogue, name), score=hardness, threshold=1), False, True)
NEED_TOKENS = ("mean_logprob", "min_logprob", "entropy")
for name in NEED_TOKENS:
    STRATEGIES[name] = (partial(getattr(catalogue, name), threshold=0.2), False, True)
PRICES = Prices(device=Price(completion_usd=1), cloud=Price(prompt_usd=3, completion_usd=15))
CASES = [
    pytest.param(make, question, sends, id=f"{name}-{question.__name__}")
    for name, (make, *sent) in STRATEGIES.items()
    for question, sends in zip((easy, hard), sent, strict=True)
]
EACH = [pytest.param(make, id=name) for name, (make, *_) in STRATEGIES.items()]
# Answers that both sides write, and requests that call the cloud more than once.
TOGETHER = [pytest.param(lambda: ALTERNATING, id="alternating"), pytest.param(lambda: THREE_CALLS, id="three_calls")]
SENDING = [pytest.param(make, id=name) for name, (make, _, sends_hard) in STRATEGIES.items() if sends_hard]


class Pair:
    """A fresh pair for one test, under a ledger that remembers."""

    def __init__(self, *, device: Backend | None = None, cloud: Backend | None = None) -> None:
        self.device: Any = device or Recorder("device", asks_when_hard)
        self.cloud: Any = cloud or Recorder("cloud", lambda messages, sampling: CLOUD_TEXT)
        self.ledger = Ledger()

    def sides(self, budget: Budget | None = None) -> Sides:
        return Sides(
            device=self.device, cloud=self.cloud, template=TEMPLATE, budget=budget or self.ledger, prices=PRICES
        )


async def events_of(strategy: Strategy, sides: Sides, messages: list[Message]) -> list[Event]:
    return [event async for event in strategy.stream(sides, messages, SAMPLING)]


def said(events: list[Event], source: str, kind: str = "content") -> str:
    return "".join(e.text for e in events if isinstance(e, TextDelta) and (e.source, e.kind) == (source, kind))


@pytest.mark.parametrize(("make", "question", "sends"), CASES)
async def test_the_trace_tells_what_the_events_told(make: Make, question: Any, sends: bool) -> None:
    pair = Pair()
    strategy = make()
    events = await events_of(strategy, pair.sides(), question())
    assert [isinstance(event, Finished) for event in events] == [False] * (len(events) - 1) + [True]
    trace = events[-1].trace  # type: ignore[union-attr]
    assert trace.strategy == strategy.name
    assert (trace.source, trace.wants_cloud) == (("cloud", True) if sends else ("device", False))
    assert trace.text == trace.end.text == (CLOUD_TEXT if sends else DEVICE_TEXT)
    assert said(events, trace.source) == (CLOUD_TEXT if sends else "4 by device")
    assert trace.error is None
    assert len(pair.cloud.asked) == sends


@pytest.mark.parametrize(("make", "question", "sends"), CASES)
async def test_no_markup_and_no_handoff_reaches_the_reader(make: Make, question: Any, sends: bool) -> None:
    events = await events_of(make(), Pair().sides(), question())
    shown = said(events, "device") + said(events, "device", "reasoning")
    assert not any(mark in shown for mark in ("<think>", "<answer>", "<unknown>", "external", HANDOFF_TEXT))


@pytest.mark.parametrize(("make", "question", "sends"), CASES)
async def test_each_side_sees_its_own_prompt(make: Make, question: Any, sends: bool) -> None:
    pair = Pair()
    strategy = make()
    await answer(strategy, pair.sides(), question(), SAMPLING)
    for messages, sampling in pair.cloud.asked:
        assert messages == question()  # the conversation, and nothing of the device's
        assert sampling == SAMPLING
    for messages, _ in pair.device.asked:
        assert messages[0].role == "system"
        assert messages[1 : 1 + len(question())] == question()
        assert offered(messages) == isinstance(strategy, SelfRoute | ToolAgent)


@pytest.mark.parametrize(("make", "question", "sends"), CASES)
async def test_a_cloud_call_is_reserved_and_settled_and_paid(make: Make, question: Any, sends: bool) -> None:
    pair = Pair()
    trace = await answer(make(), pair.sides(), question(), SAMPLING)
    assert (pair.ledger.reserved, pair.ledger.released) == (sends, 0)
    assert pair.ledger.settled == [(s.usage, s.cost_usd) for s in trace.segments if s.source == "cloud"]
    usage = trace.usage("cloud")
    paid = (3 * usage.prompt_tokens + 15 * usage.completion_tokens + trace.usage("device").completion_tokens) / 1e6
    assert trace.cost_usd == pytest.approx(paid)
    assert trace.cost_usd > 0
    assert trace.seconds > 0


@pytest.mark.parametrize(("make", "question", "sends"), CASES)
async def test_the_budget_is_told_of_every_request_once(make: Make, question: Any, sends: bool) -> None:
    pair = Pair()
    strategy = make()
    trace = await answer(strategy, pair.sides(), question(), SAMPLING)
    told = not isinstance(strategy, AlwaysDevice)  # which must touch nothing but the device
    assert pair.ledger.reserved + pair.ledger.kept == told
    for estimate, score in pair.ledger.asked:
        assert score == trace.score
        used = trace.usage("cloud")
        assert estimate.usage.prompt_tokens >= used.prompt_tokens > 0
        assert estimate.usage.completion_tokens == SAMPLING.max_tokens
        assert estimate.cost_usd == pytest.approx(PRICES.cloud.cost_usd(estimate.usage))


@pytest.mark.parametrize(
    ("device", "make", "question", "sends"),
    [
        pytest.param(device, *case.values, id=f"{device.__name__}-{case.id}")
        for device in (Recorder, Plain)
        for case in CASES
        if device is Recorder or not str(case.id).startswith(NEED_TOKENS)
    ],
)
async def test_no_cloud_means_a_forced_local_attempt(device: Any, make: Make, question: Any, sends: bool) -> None:
    pair = Pair(device=device("device", asks_when_hard))
    strategy = make()
    events = await events_of(strategy, pair.sides(NoCloud()), question())
    trace = events[-1].trace  # type: ignore[union-attr]
    assert (trace.source, trace.text, trace.wants_cloud) == ("device", DEVICE_TEXT, sends)
    assert said(events, "device") == "4 by device"
    assert (trace.reason == "budget") == sends
    assert (trace.error is not None) == sends
    assert trace.refusal == (Refusal("calls", 0, 0, None) if sends else None)
    assert not pair.cloud.asked
    assert not any(isinstance(event, HandOff) for event in events)
    assert not offered(pair.device.asked[-1][0]) or not sends


@pytest.mark.parametrize("make", SENDING)
async def test_a_cloud_that_fails_means_a_forced_local_attempt(make: Make) -> None:
    pair = Pair(cloud=Recorder("cloud", down))
    trace = await answer(make(), pair.sides(), hard(), SAMPLING)
    assert (trace.source, trace.reason, trace.text) == ("device", "cloud-error", DEVICE_TEXT)
    assert trace.wants_cloud
    assert trace.error == "connection refused"
    assert all(segment.source == "device" for segment in trace.segments)
    assert (pair.ledger.reserved, pair.ledger.released) == (1, 1)
    messages, sampling = pair.device.asked[-1]
    assert not offered(messages)
    assert HANDOFF_TEXT in sampling.forbid


@pytest.mark.parametrize("make", SENDING)
async def test_a_cloud_that_breaks_off_has_cost_something(make: Make) -> None:
    broken = Stalling("The cl", "oud", failure=BackendUnavailable("connection lost", backend="cloud"))
    pair = Pair(cloud=broken)
    trace = await answer(make(), pair.sides(), hard(), SAMPLING)
    assert (trace.reason, trace.text) == ("cloud-error", DEVICE_TEXT)
    assert [s.text for s in trace.segments if s.source == "cloud"] == ["The cloud"]
    # Nobody knows what the prompt has cost: the most it can have cost is booked.
    assert pair.ledger.settled[0][0] == Usage(pair.ledger.asked[0][0].usage.prompt_tokens, 2, calls=1)
    assert pair.ledger.settled[0][1] == PRICES.cloud.cost_usd(pair.ledger.settled[0][0])
    assert not pair.ledger.is_open


@pytest.mark.parametrize("make", SENDING)
async def test_a_forced_attempt_that_still_asks_is_an_empty_answer(make: Make) -> None:
    stubborn = Recorder("device", lambda messages, sampling: spoken(ASKING_TEXT, sampling, logprob=-2.0))
    trace = await answer(make(), Pair(device=stubborn).sides(NoCloud()), hard(), SAMPLING)
    assert (trace.source, trace.reason, trace.text) == ("device", "budget", "")
    assert trace.segments[-1].text == ASKING_TEXT


@pytest.mark.parametrize("case", STRATEGY_CASES)
@pytest.mark.parametrize("make", [*EACH, *TOGETHER])
async def test_it_keeps_the_contract(make: Make, case: str) -> None:
    await STRATEGY_CASES[case](make)

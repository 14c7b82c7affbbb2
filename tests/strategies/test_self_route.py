from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from tests.strategies.pair import (
    ASKING_TEXT,
    CLOUD_TEXT,
    SAMPLING,
    TEMPLATE,
    Plain,
    Recorder,
    Stalling,
    asks_when_hard,
    easy,
    hard,
)

from selfroute.backends.base import Backend
from selfroute.backends.function import FunctionBackend
from selfroute.budget.base import NoCloud
from selfroute.errors import ConfigError
from selfroute.handoff import HANDOFF_TEXT
from selfroute.strategies.base import Sides, answer
from selfroute.strategies.self_route import SelfRoute
from selfroute.types import Completion, Delta, HandOff, Message, Sampling, TextDelta, Token, Usage


def sides(device: Any, **options: Any) -> Sides:
    cloud = FunctionBackend("cloud", lambda messages, sampling: CLOUD_TEXT)
    return Sides(device=device, cloud=cloud, template=TEMPLATE, **options)


def with_logprobs(ending: str) -> Callable[[Sequence[Message], Sampling], Completion]:
    """A device that decides in one token, as the embedded one: 30 % hand-off, 60 % answer."""
    top = {HANDOFF_TEXT: math.log(0.3), "<answer>": math.log(0.6)}
    tokens = [Token(text, 0.0) for text in ("<think>", "hm", "</think>")] + [Token(ending, top[ending], top)]
    if ending == "<answer>":
        tokens += [Token("4", 0.0), Token("</answer>", 0.0)]

    def fn(messages: Sequence[Message], sampling: Sampling) -> Completion:
        kept = tokens if sampling.top_logprobs else ()
        text = "".join(token.text for token in tokens)
        return Completion(text, Usage(9, len(tokens)), tokens=tuple(kept))

    return fn


@pytest.mark.parametrize("share", [-0.1, 1.5, 30.0, math.nan])
def test_a_told_share_is_one(share: float) -> None:
    with pytest.raises(ConfigError, match=r"told_share=.* lies between 0 and 1"):
        SelfRoute(told_share=share)


async def test_reasoning_is_live_and_the_cloud_follows_the_handoff() -> None:
    events = [event async for event in SelfRoute().stream(sides(Recorder("device", asks_when_hard)), hard(), SAMPLING)]
    at = next(i for i, event in enumerate(events) if isinstance(event, HandOff))
    before, after = events[:at], events[at + 1 : -1]
    assert "".join(e.text for e in before if isinstance(e, TextDelta)) == "no idea"
    assert all(isinstance(e, TextDelta) and (e.source, e.kind) == ("device", "reasoning") for e in before)
    assert all(isinstance(e, TextDelta) and e.source == "cloud" for e in after)


async def test_reasoning_comes_before_the_device_has_finished() -> None:
    device = Stalling("<think>step one")
    stream = SelfRoute().stream(sides(device), easy(), SAMPLING)
    event = await anext(stream)
    assert event == TextDelta("step one", "device", "reasoning")
    await stream.aclose()  # type: ignore[attr-defined]
    assert device.closed


async def test_the_tokens_of_the_whole_handoff_are_counted() -> None:
    def fn(messages: Sequence[Message], sampling: Sampling) -> Completion:
        return Completion(ASKING_TEXT + " and on I go", Usage(5, 40))

    trace = await answer(SelfRoute(), sides(FunctionBackend("device", fn)), hard(), SAMPLING)
    assert trace.source == "cloud"
    assert trace.usage("device") == Usage(5, 40, calls=1)


@pytest.mark.parametrize("ending", [HANDOFF_TEXT, "<answer>"])
async def test_the_score_is_the_handoffs_probability(ending: str) -> None:
    events = [
        e async for e in SelfRoute().stream(sides(FunctionBackend("device", with_logprobs(ending))), hard(), SAMPLING)
    ]
    assert events[-1].trace.score == pytest.approx(0.3)  # type: ignore[union-attr]
    assert [e.score for e in events if isinstance(e, HandOff)] == [pytest.approx(0.3)] * (ending == HANDOFF_TEXT)


async def test_the_score_survives_a_refused_budget() -> None:
    device = FunctionBackend("device", with_logprobs(HANDOFF_TEXT))
    trace = await answer(SelfRoute(), sides(device, budget=NoCloud()), hard(), SAMPLING)
    assert trace.score == pytest.approx(0.3)
    assert (trace.source, trace.wants_cloud, trace.reason) == ("device", True, "budget")
    assert [segment.source for segment in trace.segments] == ["device", "device"]


async def test_a_device_without_logprobs_has_no_score() -> None:
    device = Plain("device", asks_when_hard)
    trace = await answer(SelfRoute(), sides(device), hard(), SAMPLING)
    assert (trace.source, trace.score) == ("cloud", None)
    assert [sampling for _, sampling in device.asked] == [SAMPLING]


async def test_unscored_asks_for_no_logprobs() -> None:
    device = Recorder("device", asks_when_hard)
    await answer(SelfRoute(scored=False), sides(device), easy(), SAMPLING)
    assert device.asked[0][1] == SAMPLING


async def test_a_completion_that_answers_and_then_asks_is_an_answer() -> None:
    device = FunctionBackend("device", lambda messages, sampling: f"<answer>4</answer> {HANDOFF_TEXT}")
    events = [e async for e in SelfRoute().stream(sides(device), easy(), SAMPLING)]
    trace = events[-1].trace  # type: ignore[union-attr]
    assert (trace.source, trace.wants_cloud, trace.reason) == ("device", False, "answered")
    assert "".join(e.text for e in events if isinstance(e, TextDelta)).strip() == "4"


@pytest.mark.parametrize(
    "text", ["", " \n", "<think>hm hm", "<think>hm</think>\n", "<think>hm</think><answer></answer>"]
)
@pytest.mark.parametrize("budget", [None, NoCloud()])
async def test_a_device_that_stops_without_an_answer_leaves_it_to_the_cloud(text: str, budget: NoCloud | None) -> None:
    words = iter([text, "<answer>4</answer>"])
    device = FunctionBackend("device", lambda messages, sampling: next(words))
    got = await answer(SelfRoute(), sides(device, **({"budget": budget} if budget else {})), easy(), SAMPLING)
    if budget is None:
        assert (got.text.removeprefix("<answer>").removesuffix("</answer>"), got.reason, got.wants_cloud) == (
            CLOUD_TEXT,
            "empty",
            True,
        )
        assert [segment.part for segment in got.segments] == ["attempt", "answer"]
    else:  # the device is asked again, as after any refusal
        assert (got.text.removeprefix("<answer>").removesuffix("</answer>"), got.reason) == ("4", "budget")


@pytest.mark.parametrize("cloud", [True, False])
async def test_a_thought_that_was_cut_is_no_empty_answer_and_without_a_cloud_nothing_is(cloud: bool) -> None:
    cut = Completion("<think>hm", Usage(3, 2), finish_reason="length" if cloud else "stop")
    device = FunctionBackend("device", lambda messages, sampling: cut)
    both = sides(device)
    got = await answer(SelfRoute(), both if cloud else replace(both, cloud=None), easy(), SAMPLING)
    assert (got.reason, got.source) == ("answered", "device")


async def test_replayed_seconds_are_the_traces_seconds() -> None:
    class Replay(Backend):
        name = "replay"

        async def stream(self, messages: Sequence[Message], sampling: Sampling) -> Any:
            yield Delta("<answer>4</answer>")
            yield Delta(finish_reason="stop", usage=Usage(1, 1), seconds=12.5)

    trace = await answer(SelfRoute(), sides(Replay()), easy(), SAMPLING)
    assert trace.seconds == 12.5


async def test_the_cloud_may_see_the_attempt_in_the_users_turn() -> None:
    cloud = Recorder("cloud", lambda messages, sampling: CLOUD_TEXT)
    device = FunctionBackend("device", asks_when_hard)
    pair = Sides(device=device, cloud=cloud, template=TEMPLATE)
    trace = await answer(SelfRoute(context="attempt"), pair, hard(), SAMPLING)
    ((asked, _),) = cloud.asked
    assert trace.source == "cloud"
    assert asked[0].content.startswith(hard()[0].content)
    assert "<attempt>\nno idea\n</attempt>" in asked[0].content
    assert HANDOFF_TEXT not in asked[0].content


async def test_of_a_request_the_cloud_sees_the_message_alone() -> None:
    cloud = Recorder("cloud", lambda messages, sampling: CLOUD_TEXT)
    device = FunctionBackend("device", lambda messages, sampling: f"<think>2+2</think>{HANDOFF_TEXT} Add 2 and 2")
    pair = Sides(device=device, cloud=cloud, template=TEMPLATE)
    trace = await answer(SelfRoute(context="message"), pair, hard(), replace(SAMPLING, extra={"user": "anna"}))
    ((asked, sampling),) = cloud.asked
    assert asked == [Message("user", "Add 2 and 2")]
    assert not sampling.extra
    assert (trace.source, trace.reason, trace.wants_cloud) == ("cloud", "hand-off", True)


@pytest.mark.parametrize("text", [HANDOFF_TEXT, "<think>hm</think>"])
async def test_without_a_message_nothing_leaves(text: str) -> None:
    cloud = Recorder("cloud", lambda messages, sampling: CLOUD_TEXT)

    def device(messages: Sequence[Message], sampling: Sampling) -> str:
        return "<answer>4</answer>" if HANDOFF_TEXT in sampling.forbid else text

    pair = Sides(device=FunctionBackend("device", device), cloud=cloud, template=TEMPLATE)
    trace = await answer(SelfRoute(context="message", scored=False), pair, hard(), SAMPLING)
    assert not cloud.asked
    assert (trace.source, trace.reason, trace.wants_cloud) == ("device", "privacy", True)
    assert trace.error == "the device wrote no message for the cloud"


def test_a_judged_answer_has_no_message() -> None:
    with pytest.raises(ConfigError, match=r"threshold=0\.5: an answer that is judged has no message"):
        SelfRoute(context="message", threshold=0.5)


async def test_tool_calls_of_the_device_reach_the_reader_and_end_its_segment() -> None:
    calls = {"tool_calls": [{"index": 0, "id": "c1"}]}

    class Caller(Backend):
        name = "caller"

        async def stream(self, messages: Sequence[Message], sampling: Sampling) -> Any:
            yield Delta("<think>look it up</think>")
            yield Delta(extra=calls)
            yield Delta(finish_reason="tool_calls", usage=Usage(3, 4))

    events = [event async for event in SelfRoute().stream(sides(Caller()), easy(), SAMPLING)]
    assert [event.extra for event in events if isinstance(event, TextDelta) and event.extra] == [calls]
    assert events[-1].trace.segments[-1].finish_reason == "tool_calls"


@pytest.mark.parametrize("ending", [HANDOFF_TEXT, "<answer>"])
async def test_tokens_come_with_the_text_they_begin_in(ending: str) -> None:
    device = FunctionBackend("device", with_logprobs(ending))
    events = [event async for event in SelfRoute().stream(sides(device), easy(), SAMPLING)]
    said = [event for event in events if isinstance(event, TextDelta) and event.source == "device"]
    assert [[token.text for token in event.tokens] for event in said] == [[event.text] for event in said]
    assert [event.text for event in said] == (["hm"] if ending == HANDOFF_TEXT else ["hm", "4"])


# --- a threshold in place of the device's own decision -----------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "threshold", "source", "reason"),
    [
        ("<answer>", 0.31, "device", "answered"),  # kept, as the device decided
        ("<answer>", 0.29, "cloud", "judged"),  # sent against the device's decision
        (HANDOFF_TEXT, 0.29, "cloud", "hand-off"),  # sent, as the device decided
        (HANDOFF_TEXT, 0.31, "device", "judged"),  # kept against it: the device answers without the offer
        ("<answer>", -math.inf, "cloud", "judged"),
        (HANDOFF_TEXT, math.inf, "device", "judged"),
    ],
)
async def test_a_threshold_decides(ending: str, threshold: float, source: str, reason: str) -> None:
    device = FunctionBackend("device", with_logprobs(ending))
    strategy = SelfRoute(threshold=threshold)
    events = [event async for event in strategy.stream(sides(device), hard(), SAMPLING)]
    trace = events[-1].trace  # type: ignore[union-attr]
    assert (trace.source, trace.reason, trace.wants_cloud) == (source, reason, source == "cloud")
    assert trace.score == pytest.approx(0.3)
    shown = [e.source for e in events if isinstance(e, TextDelta) and e.kind == "content"]
    assert set(shown) <= {source}, "an answer is shown once it is accepted"


async def test_an_answer_that_was_to_be_sent_is_served_where_the_budget_refuses() -> None:
    device = FunctionBackend("device", with_logprobs("<answer>"))
    trace = await answer(SelfRoute(threshold=0.2), sides(device, budget=NoCloud()), hard(), SAMPLING)
    assert (trace.source, trace.reason, trace.wants_cloud) == ("device", "budget", True)
    assert [segment.part for segment in trace.segments] == ["answer"], "it is not written a second time"


async def test_without_scores_the_devices_own_decision_counts() -> None:
    for question, source in ((hard(), "cloud"), (easy(), "device")):
        trace = await answer(SelfRoute(threshold=0.9), sides(Plain("device", asks_when_hard)), question, SAMPLING)
        assert (trace.source, trace.score) == (source, None)


@pytest.mark.parametrize("options", [{"threshold": math.nan}, {"threshold": 0.5, "scored": False}])
def test_a_threshold_is_a_number_over_scores(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="selfroute calibrate"):
        SelfRoute(**options)

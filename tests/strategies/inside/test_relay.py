"""Answers in which the device calls for tokens: who writes what, what is passed over, and clouds that fail."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.strategies.inside.pair import PLAIN, ask
from tests.strategies.inside.scripted import END, Next, Scripted, Words

from selfroute.budget.base import NoCloud
from selfroute.config import make_strategy, parse_spec
from selfroute.errors import BackendUnavailable, ConfigError
from selfroute.prices import Price, Prices
from selfroute.strategies.base import Knobbed, Sides, answer, check_sides
from selfroute.strategies.inside.relay import Relay
from selfroute.testing import RecordingBudget
from selfroute.types import Finished, Sampling, TextDelta, Trace

SAMPLING = Sampling(max_tokens=40)


def script(*parts: str) -> Next:
    """Writes the parts, word by word, between what others write."""
    words = " ".join(parts).split(" ")

    def following(so_far: Sequence[str]) -> str:
        own = [word for word in so_far if not word.startswith("C")]
        return words[len(own)] if len(own) < len(words) else END

    return following


def counting(so_far: Sequence[str]) -> str:
    """A cloud that says where it is, and sees no calls."""
    assert not any("call" in word for word in so_far)
    return f"C{len(so_far)}"


def pair(device: Next, cloud: Next = counting, **options: Any) -> Sides:
    words = Words()
    return Sides(
        device=Scripted("device", words, device), cloud=Scripted("cloud", words, cloud), template=PLAIN, **options
    )


async def relayed(device: Next, cloud: Next = counting, strategy: Relay | None = None, **options: Any) -> Trace:
    return await answer(strategy or Relay(), pair(device, cloud, **options), ask(1), SAMPLING)


CALLING = script("d0 d1 <call> 2 </call> d2 <call> 1 </call> d3")


class TestCalls:
    async def test_the_cloud_writes_as_many_tokens_as_are_called_for(self) -> None:
        trace = await relayed(CALLING)
        assert trace.text == "d0d1C2C3d2C5d3"
        assert (trace.source, trace.wants_cloud, trace.reason, trace.error) == ("both", True, "hand-off", None)
        assert [s.text for s in trace.segments if s.part == "void"] == ["<call>2</call>", "<call>1</call>"]
        assert not any(segment.note for segment in trace.segments)
        assert trace.usage("cloud").completion_tokens == 3
        assert trace.usage("cloud").prompt_tokens == 3  # d0 d1, then d2

    async def test_a_calls_tokens_are_its_own_segments(self) -> None:
        trace = await relayed(CALLING)
        written = [(s.part, s.usage.completion_tokens) for s in trace.segments if s.source == "device"]
        assert written == [("answer", 2), ("void", 3), ("answer", 1), ("void", 3), ("answer", 2)]

    async def test_the_reader_sees_who_writes_and_no_call(self) -> None:
        events = [event async for event in Relay().stream(pair(CALLING), ask(1), SAMPLING)]
        assert isinstance(events[-1], Finished)
        said = [event for event in events[:-1] if isinstance(event, TextDelta)]
        assert "".join(event.text for event in said) == events[-1].trace.text
        assert [event.source for event in said] == ["device", "cloud", "device", "cloud", "device"]

    async def test_the_device_keeps_its_calls_before_it(self) -> None:
        sides = pair(CALLING)
        await answer(Relay(), sides, ask(1), SAMPLING)
        device: Any = sides.device
        read = [device.words[i] for i in device.opened[0].ids]
        assert read[:7] == ["d0", "d1", "<call>", "2", "</call>", "C2", "C3"]

    async def test_the_cloud_may_end_the_answer(self) -> None:
        trace = await relayed(CALLING, lambda so_far: END)
        assert trace.text == "d0d1" and trace.end.finish_reason == "stop"

    async def test_calls_count_to_the_length(self) -> None:
        sides = pair(script(*["<call> 1 </call>"] * 30))
        trace = await answer(Relay(), sides, ask(1), SAMPLING)
        device: Any = sides.device
        assert len(device.opened[0].ids) == SAMPLING.max_tokens
        assert trace.text == "".join(f"C{i}" for i in range(10)) and trace.end.finish_reason == "length"

    async def test_an_answer_without_calls_is_the_devices(self) -> None:
        budget = RecordingBudget()
        trace = await relayed(script("d0 d1 d2"), budget=budget)
        assert (trace.text, trace.source, trace.wants_cloud) == ("d0d1d2", "device", False)
        assert (budget.estimates, budget.kept) == ([], 1)

    @pytest.mark.parametrize(("stop", "text"), [("C3", "d0d1C2"), ("d2", "d0d1C2C3")])
    async def test_a_stop_string_ends_it_whoever_writes_it(self, stop: str, text: str) -> None:
        trace = await answer(Relay(), pair(CALLING), ask(1), Sampling(max_tokens=40, stop=(stop,)))
        assert trace.text == text and trace.end.finish_reason == "stop"

    @pytest.mark.parametrize("ended", ["<call>", "<call> 3", "<"])
    async def test_a_call_that_the_end_cuts_off_is_left_out(self, ended: str) -> None:
        trace = await relayed(script("d0", ended))
        assert trace.text == ("d0<" if ended == "<" else "d0")
        assert trace.source == "device"


PASSED_OVER = [
    ("d0 <call> five </call> d1", "d0fived1", "malformed call"),
    ("d0 <call> 0 </call> d1", "d0d1", "a call for 0 tokens; 1 to 8 are given"),
    ("d0 <call> 9 </call> d1", "d0d1", "a call for 9 tokens; 1 to 8 are given"),
    ("d0 <call> 6 </call> d1", "d0d1", "a call for 6 tokens, of which 5 are left"),
]


class TestPassedOver:
    @pytest.mark.parametrize(("said", "text", "note"), PASSED_OVER)
    async def test_the_device_goes_on_and_the_trace_says_why(self, said: str, text: str, note: str) -> None:
        trace = await relayed(script(said), strategy=Relay(most_tokens=8, max_cloud_tokens=5))
        assert (trace.text, trace.source, trace.error) == (text, "device", None)
        assert note in {segment.note for segment in trace.segments if segment.part == "void"}

    async def test_more_than_is_left_of_the_answer(self) -> None:
        trace = await relayed(script("d0 <call> 37 </call> d1"))
        assert trace.text == "d0d1"
        assert trace.segments[1].note == "a call for 37 tokens, of which 36 are left"
        assert (await relayed(script("d0 <call> 36 </call> d1"))).usage("cloud").completion_tokens == 36

    async def test_what_the_limit_leaves(self) -> None:
        trace = await relayed(CALLING, strategy=Relay(max_cloud_tokens=2))
        assert trace.text == "d0d1C2C3d2d3"
        assert [s.note for s in trace.segments if s.part == "void"] == ["", "a call for 1 tokens, of which 0 are left"]


class TestBudget:
    async def test_one_lease_is_settled_with_what_was_used(self) -> None:
        budget, prices = RecordingBudget(), Prices(device=Price(), cloud=Price(prompt_usd=1, completion_usd=10))
        trace = await relayed(CALLING, strategy=Relay(max_cloud_tokens=4), budget=budget, prices=prices)
        [estimate], [(used, usd)] = budget.estimates, budget.spent
        assert used == trace.usage("cloud") and usd == pytest.approx(trace.cost_usd)
        assert estimate.usage.completion_tokens == 4 and used.prompt_tokens <= estimate.usage.prompt_tokens
        assert (used.calls, budget.open) == (1, 0)

    async def test_a_refusal_leaves_the_device_to_go_on(self) -> None:
        trace = await relayed(CALLING, budget=NoCloud())
        assert trace.text == "d0d1d2d3"
        assert (trace.reason, trace.wants_cloud, trace.source) == ("budget", True, "device")
        assert trace.refusal is not None and trace.refusal.limit == "calls"

    async def test_a_reader_that_leaves_owes_what_was_used(self) -> None:
        budget = RecordingBudget()
        sides = pair(CALLING, budget=budget)
        stream: Any = Relay().stream(sides, ask(1), SAMPLING)
        while (await anext(stream)).source != "cloud":
            pass
        await stream.aclose()
        [(used, _)] = budget.spent
        assert used.completion_tokens == 2 and budget.open == 0
        opened: list[Any] = [*sides.device.opened, *sides.cloud.opened]  # type: ignore[union-attr, attr-defined]
        assert all(session.closed for session in opened)


def gone_later(so_far: Sequence[str]) -> str:
    if len(so_far) > 4:
        raise BackendUnavailable("cloud: connection lost", backend="cloud")
    return f"C{len(so_far)}"


async def test_a_cloud_that_fails_leaves_the_rest_to_the_device() -> None:
    budget = RecordingBudget()
    trace = await relayed(CALLING, gone_later, budget=budget)
    assert trace.text == "d0d1C2C3d2d3"
    assert (trace.reason, trace.source) == ("cloud-error", "both")
    assert "connection lost" in (trace.error or "") and budget.open == 0


WORDS = ["d0", "d1", "<", "<call>", "</call>", "1", "2", "9", "99", "x", END]


@given(st.lists(st.sampled_from(WORDS), max_size=60), st.integers(0, 6) | st.none(), st.integers(0, 9))
@settings(max_examples=150, deadline=None)
def test_whatever_the_device_writes(said: list[str], most: int | None, lost_at: int) -> None:
    """No call is served, no limit passed, and what both hold is one answer."""

    def cloud(so_far: Sequence[str]) -> str:
        if len(so_far) > 3 * lost_at:
            raise BackendUnavailable("cloud: lost", backend="cloud")
        return "C"

    sides = pair(script(" ".join(said) or END), cloud)
    trace = asyncio.run(answer(Relay(most_tokens=8, max_cloud_tokens=most), sides, ask(1), SAMPLING))
    device: Any = sides.device
    written = [device.words[i] for i in device.opened[0].ids]
    assert "<call>" not in trace.text and "</call>" not in trace.text
    assert len(written) <= SAMPLING.max_tokens
    assert trace.usage("cloud").completion_tokens <= (SAMPLING.max_tokens if most is None else most)
    assert trace.text.count("C") == written.count("C")
    assert "".join(s.text for s in trace.segments) == "".join(word for word in written if word != END)


class TestRecipe:
    def test_is_made_with_its_options(self) -> None:
        made: Any = make_strategy(parse_spec({"relay": {"most_tokens": 4, "max_cloud_tokens": 12}}, "strategy"))
        assert (made.name, made.most_tokens, made.max_cloud_tokens) == ("relay", 4, 12)
        assert not isinstance(made, Knobbed)

    def test_is_evaluated_at_several_limits(self) -> None:
        made: Any = make_strategy(parse_spec({"relay": {"points": [0, 4]}}, "strategy"))
        assert isinstance(made, Knobbed) and made.points == (0, 4)
        assert made.at(4.0).max_cloud_tokens == 4 and made.at(4.0).name == "relay"

    @pytest.mark.parametrize("option", ["most_tokens", "max_cloud_tokens"])
    def test_numbers_below_their_range_are_refused(self, option: str) -> None:
        with pytest.raises(ConfigError, match=f"{option}: -1 is below"):
            Relay(**{option: -1})

    def test_other_vocabularies_are_refused(self) -> None:
        sides = pair(CALLING)
        sides.cloud.vocabulary = "other"  # type: ignore[union-attr, attr-defined]
        with pytest.raises(ConfigError, match="have different vocabularies"):
            check_sides(Relay(), sides)

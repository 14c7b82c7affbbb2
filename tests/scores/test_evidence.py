"""Scores that need no training, and the cascade that uses them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies.pair import SAMPLING, TEMPLATE, Plain, Recorder, hard

from selfroute.backends.function import FunctionBackend
from selfroute.errors import ConfigError, UnsupportedByBackend
from selfroute.scores.evidence import (
    VERDICT_QUESTION,
    Evidence,
    disagreement,
    doubt_in,
    final_answer,
    mean_entropy,
    mean_surprise,
    most_surprise,
    self_doubt,
)
from selfroute.strategies import catalogue
from selfroute.strategies.base import Sides, answer
from selfroute.types import Completion, Message, Sampling, Token, Usage


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("<answer>4 apples</answer>", "4"),
        (r"so \boxed{\frac{1}{2}}", "1/2"),
        ("<think>7</think>\n#### 1,200", "1200"),
        ("It is\nthe answer is 12.", "12"),
        ("Paris ", "paris"),
        ("<answer>(3+4)*5</answer>", "(3+4)*5"),
        ("", ""),
        ("<think>only thought", ""),
    ],
)
def test_final_answer(text: str, result: str) -> None:
    assert final_answer(text) == result


@given(st.text(max_size=300))
def test_final_answer_takes_any_text(text: str) -> None:
    assert len(final_answer(text)) <= 600


def test_disagreement_is_the_share_that_differs() -> None:
    samples = ("#### 4", "the answer is 4", "#### 5", "")
    assert disagreement(Evidence("q", "#### 4", samples=samples)) == 0.5
    assert disagreement(Evidence("q", "", samples=samples)) == 1.0


def test_surprise_and_entropy() -> None:
    sure, unsure = Token("a", -0.0, {"a": 0.0}), Token("b", math.log(0.5), {"b": math.log(0.5), "c": math.log(0.5)})
    evidence = Evidence("q", "ab", tokens=(sure, unsure))
    assert mean_surprise(evidence) == pytest.approx(math.log(2) / 2)
    assert most_surprise(evidence) == pytest.approx(math.log(2))
    assert mean_entropy(evidence) == pytest.approx(math.log(2) / 2)
    with pytest.raises(UnsupportedByBackend, match="answer_features"):
        mean_surprise(Evidence("q", "text without tokens"))


@pytest.mark.parametrize(
    ("text", "doubt"), [("A", 0.0), ("(B)", 1.0), ("B) False", 1.0), ("True.", 0.0), ("perhaps", 0.5), ("", 0.5)]
)
def test_doubt_in_words(text: str, doubt: float) -> None:
    assert doubt_in(text) == doubt


@given(st.text() | st.text("\r\x0b\u00a0 .ab()"))
def test_doubt_in_any_text_is_a_chance(text: str) -> None:
    assert doubt_in(text, [Token(text, -1.0, {text: -1.0})]) in (0.0, 0.5, 1.0)


def test_doubt_in_probabilities() -> None:
    token = Token(" A", math.log(0.6), {" A": math.log(0.6), "B": math.log(0.2), "C": math.log(0.1)})
    assert doubt_in("A", [Token("(", 0.0), token]) == pytest.approx(0.25)
    assert self_doubt(Evidence("q", "")) == 1.0


def sides(device: Any) -> Sides:
    return Sides(device=device, cloud=Recorder("cloud", lambda messages, sampling: "cloud"), template=TEMPLATE)


async def test_self_consistency_asks_again_and_counts_what_that_cost() -> None:
    def device(messages: Any, sampling: Sampling) -> str:
        return "<answer>1</answer>" if sampling.temperature == 0 else f"<answer>{sampling.seed}</answer>"

    recorder = Recorder("device", device)
    strategy = catalogue.self_consistency(threshold=0.5, samples=4)
    trace = await answer(strategy, sides(recorder), hard(), SAMPLING)
    assert trace.score == 0.75  # seeds 1 to 4, of which 1 agrees
    assert trace.source == "cloud" and trace.reason == "judged"
    assert len([s for s in trace.segments if s.source == "device"]) == 5
    assert trace.usage("device").completion_tokens == sum(
        s.usage.completion_tokens for s in trace.segments if s.source == "device"
    )
    assert len({sampling.seed for _, sampling in recorder.asked}) == 5


async def test_self_verification_asks_within_the_conversation() -> None:
    def device(messages: list[Message], sampling: Sampling) -> str:
        return "B" if messages[-1].content == VERDICT_QUESTION else "<answer>4</answer>"

    recorder = Plain("device", device)
    trace = await answer(catalogue.self_verification(threshold=0.5), sides(recorder), hard(), SAMPLING)
    assert (trace.score, trace.source) == (1.0, "cloud")
    asked = recorder.asked[-1][0]
    assert [message.role for message in asked] == ["system", "user", "assistant", "user"]
    assert trace.segments[-1].source == "cloud"


@pytest.mark.parametrize("name", ["mean_logprob", "min_logprob", "entropy"])
async def test_token_scores_read_what_the_device_reports(name: str) -> None:
    def device(messages: Any, sampling: Sampling) -> Completion:
        assert sampling.top_logprobs
        low = -3.0 if "hard" in messages[-1].content else -0.1
        return Completion("ok", Usage(1, 1), tokens=(Token("ok", low, {"ok": low}),))

    strategy, pair = getattr(catalogue, name)(threshold=0.5), sides(FunctionBackend("device", device))
    trace = await answer(strategy, pair, hard(), SAMPLING)
    easy_trace = await answer(strategy, pair, TEMPLATE.conversation("easy"), SAMPLING)
    assert trace.score is not None and easy_trace.score is not None
    if name != "entropy":
        assert trace.score > easy_trace.score


async def test_token_scores_need_tokens() -> None:
    device = Plain("device", lambda messages, sampling: "text")
    with pytest.raises(UnsupportedByBackend):
        await answer(catalogue.mean_logprob(threshold=1.0), sides(device), hard(), SAMPLING)


async def test_a_device_that_hands_off_has_no_answer_to_keep() -> None:
    device = Plain("device", lambda messages, sampling: "<unknown> I need external assistance </unknown>")
    strategy = catalogue.answer_features(score=lambda evidence: 0.0, threshold=1.0)
    trace = await answer(strategy, sides(device), hard(), SAMPLING)
    assert (trace.source, trace.text) == ("cloud", "cloud")


@pytest.mark.parametrize("options", [{"samples": 0}, {"temperature": 0.0}])
def test_samples_that_show_no_spread(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="show no spread"):
        catalogue.self_consistency(threshold=0.5, **options)


def test_a_threshold_that_is_none() -> None:
    with pytest.raises(ConfigError, match="nan is not a threshold"):
        catalogue.answer_features(score=lambda evidence: 0.0, threshold=math.nan)

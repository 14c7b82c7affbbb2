from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.grading import Outcome, answerer, grade, is_formatted, judge
from selfroute.tasks.base import Row
from selfroute.types import Part, Reason, Segment, Source, Trace, Usage
from selfroute.verify.base import Verdict

ROW = Row("r1", "What is 40 + 2?", "42")


class Echo:
    """Correct if the completion holds the gold answer; fails itself on the word "crash"."""

    name, template = "echo", "think"

    def rows(self, split: str) -> Iterable[Row]:
        return [ROW]

    def verify(self, row: Row, completion: str) -> Verdict:
        if "crash" in completion:
            raise RuntimeError("grader is down")
        return Verdict(row.gold in completion)

    def gold_completion(self, row: Row) -> str:
        return row.gold


def trace(text: str, *, source: Source = "device", wants_cloud: bool = False, error: str | None = None) -> Trace:
    device = Segment(source="device", model="d", part="attempt", text="<think>hm</think>", usage=Usage(3, 5))
    last = Segment(source=source, model="m", text=text, usage=Usage(2, 7))
    reason: Reason = "hand-off" if source == "cloud" else "answered"
    return Trace(strategy="s", wants_cloud=wants_cloud, reason=reason, segments=(device, last), error=error)


def test_a_device_answer_is_put_down_to_the_device() -> None:
    assert grade(Echo(), ROW, trace("<answer>42</answer>")) == Outcome(
        wants_cloud=False, device_correct=True, cloud_correct=None, formatted=True, correct=True, device_tokens=12
    )


def test_a_cloud_answer_is_put_down_to_the_cloud() -> None:
    outcome = grade(Echo(), ROW, trace("41", source="cloud", wants_cloud=True))
    assert (outcome.device_correct, outcome.cloud_correct, outcome.correct) == (None, False, False)
    assert (outcome.device_tokens, outcome.cloud_tokens, outcome.formatted) == (5, 7, False)


def test_a_verifier_that_fails_gives_none_and_says_so() -> None:
    outcome = grade(Echo(), ROW, trace("crash"))
    assert outcome.correct is None and outcome.device_correct is None
    assert outcome.error == "verifier of task 'echo' failed on row 'r1': RuntimeError: grader is down"
    assert judge(Echo(), ROW, "42") == (True, None)


def test_a_cloud_failure_is_kept_beside_the_device_answer() -> None:
    outcome = grade(Echo(), ROW, trace("42", wants_cloud=True, error="cloud did not answer"))
    assert outcome.cloud_correct is None and outcome.device_correct is True
    assert outcome.error == "cloud did not answer"


@pytest.mark.parametrize(
    ("segments", "decided_after", "expected"),
    [
        ([("device", "answer")], 0, "device"),
        ([("device", "attempt"), ("cloud", "answer")], 1, "cloud"),
        ([("device", "attempt"), ("cloud", "void"), ("device", "answer")], 1, "device"),
        ([("device", "answer"), ("cloud", "answer"), ("device", "answer")], 0, None),
        ([("cloud", "probe"), ("device", "answer")], 0, None),
        ([("device", "answer")], None, None),
        ([("cloud", "answer")], None, None),
    ],
)
def test_an_answer_is_put_down_to_one_side_only_where_it_is_its_own(
    segments: list[tuple[Source, Part]], decided_after: int | None, expected: Source | None
) -> None:
    written = tuple(Segment(source=source, model="m", part=part, text="42") for source, part in segments)
    found = Trace(strategy="s", wants_cloud=False, reason="judged", segments=written, decided_after=decided_after)
    assert answerer(found) == expected
    outcome = grade(Echo(), ROW, found)
    known = {side for side, right in (("device", outcome.device_correct), ("cloud", outcome.cloud_correct)) if right}
    assert known == ({expected} - {None}) and outcome.correct is True


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a</think><answer>b</answer>", True),
        ("hello <think>a\nb</think> so\n<answer></answer>.", True),
        ("<answer>b</answer><think>a</think>", False),
        ("<think>a<answer>b</answer>", False),
        ("<think>a</think><answer>b", False),
        ("", False),
    ],
)
def test_format_is_think_then_answer(text: str, expected: bool) -> None:
    assert is_formatted(text) is expected


@given(st.text(alphabet="<>/thinkaswer ", max_size=200))
def test_format_accepts_any_text(text: str) -> None:
    assert is_formatted(text) in (True, False)


@pytest.mark.parametrize("unit", ["<think>", "</think><think>", "<think></think>", "<answer>", "</answer><think>"])
def test_format_is_linear_on_hostile_text(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    started = time.perf_counter()
    is_formatted(text)
    is_formatted(text + "</think>")
    is_formatted("</answer>" + text + "</think>")
    assert time.perf_counter() - started < 2


class Judge(Echo):
    """Returns what the completion says."""

    def verify(self, row: Row, completion: str) -> Any:
        return {"half": 0.5, "most": Verdict(True, quality=0.9), "all": 1.0, "none": False, "odd": 2.0}[completion]


@pytest.mark.parametrize(("text", "quality"), [("half", 0.5), ("most", 0.9), ("all", True), ("none", False)])
def test_a_verifier_may_return_a_quality(text: str, quality: float) -> None:
    found, failure = judge(Judge(), ROW, text)
    assert (found, failure) == (quality, None)
    assert isinstance(found, bool) is isinstance(quality, bool)  # records of what is right or wrong stay what they are
    assert grade(Judge(), ROW, trace(text)).correct == quality


def test_a_quality_outside_its_range_is_a_failure_of_the_verifier() -> None:
    found, failure = judge(Judge(), ROW, "odd")
    assert found is None and failure is not None and "quality: 2 is not between 0 and 1" in failure

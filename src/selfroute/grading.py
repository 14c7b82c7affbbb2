"""Facts first: what happened to one row, before anybody turns it into a reward or a metric.

A cloud that did not answer and a verifier that crashed are `None`, never `False`: an infrastructure failure says
nothing about the model, so training leaves that rollout out and evaluation counts it apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from selfroute.privacy.values import Leakage
from selfroute.tasks.base import Row, Task
from selfroute.types import Source, Trace
from selfroute.verify.base import Verdict

__all__ = ["Outcome", "answerer", "grade", "is_formatted", "judge"]

_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is known about one trace, or about one completion of a group in training.

    Attributes:
        wants_cloud: whether the device asked for the cloud.
        device_correct: quality of the device's own answer in [0, 1], a bool where it is right or wrong; None if there
            is none or it could not be graded.
        cloud_correct: likewise of the cloud's answer; None if it was not asked, failed, or could not be graded.
        formatted: whether the device's text holds `<think>…</think>` and then `<answer>…</answer>`.
        correct: likewise of the answer that was served.
        device_tokens: completion tokens the device wrote.
        cloud_tokens: completion tokens the cloud wrote.
        cloud_share: part of the answer's tokens that the cloud wrote, where both wrote it.
        cut_off: whether the device's text ends at the token limit and not by itself, where that is known.
        leakage: what the message for the cloud tells of the row's private values; None without a message, or for a row
            that names none.
        violations: by the name of an attribute how much its channel violates it, in [0, 1]; without those whose channel
            is empty.
        score: what a learned reward gives the device's own answer, higher for better; None where none was asked.
        error: what failed, None if nothing did.
    """

    wants_cloud: bool
    device_correct: float | None = None
    cloud_correct: float | None = None
    formatted: bool = False
    correct: float | None = None
    device_tokens: int = 0
    cloud_tokens: int = 0
    cloud_share: float = 0.0
    cut_off: bool = False
    leakage: Leakage | None = None
    violations: Mapping[str, float] = field(default_factory=dict)
    score: float | None = None
    error: str | None = None


def is_formatted(text: str) -> bool:
    """Whether a completion reasons in think tags and then answers in answer tags."""
    at = 0
    for tag in _TAGS:
        at = text.find(tag, at)  # the leftmost place for each tag leaves the most room for the next: no backtracking
        if at < 0:
            return False
        at += len(tag)
    return True


def judge(task: Task, row: Row, text: str) -> tuple[float | None, str | None]:
    """Verify one completion.

    Returns:
        Its quality in [0, 1], a bool where it is right or wrong, and None; or None and what went wrong if the verifier
        itself failed.
    """
    try:
        verdict = Verdict.of(task.verify(row, text))
        return verdict.quality if 0.0 < verdict.quality < 1.0 else verdict.correct, None
    except Exception as error:  # a user's verifier may fail in any way; one row must not end a long run
        return None, f"verifier of task '{task.name}' failed on row '{row.id}': {type(error).__name__}: {error}"


def answerer(trace: Trace) -> Source | None:
    """The side whose own answer was served; None where both had a part in it, so that it is nobody's alone.

    A cloud that was shown the device's attempt gave its own answer all the same, as it was asked to.
    """
    helped = any(segment.source == "cloud" and segment.part != "void" for segment in trace.segments)
    if trace.source == "both" or trace.decided_after is None or (trace.source == "device" and helped):
        return None
    return trace.source


def grade(task: Task, row: Row, trace: Trace) -> Outcome:
    """Grade the answer a trace served, and put it down to the side that gave it.

    The other side stays None, and both where they wrote together: the trace alone does not tell.
    """
    correct, failure = judge(task, row, trace.text)
    by = answerer(trace)
    device_text = "".join(segment.text for segment in trace.segments if segment.source == "device")
    return Outcome(
        wants_cloud=trace.wants_cloud,
        device_correct=correct if by == "device" else None,
        cloud_correct=correct if by == "cloud" else None,
        formatted=is_formatted(device_text),
        correct=correct,
        device_tokens=trace.usage("device").completion_tokens,
        cloud_tokens=trace.usage("cloud").completion_tokens,
        error=trace.error or failure,
    )

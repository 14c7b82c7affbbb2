"""One answered row as a record: who wrote what, what each side alone makes of it, and what it took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from selfroute.evaluation.bench import Answered, Bench, Entrant
from selfroute.evaluation.records import Record, Sample
from selfroute.evaluation.references import CloudAlone
from selfroute.grading import answerer, grade, judge
from selfroute.privacy.values import Leakage
from selfroute.strategies.base import Oracle
from selfroute.tasks.base import Row
from selfroute.types import Trace, Usage

__all__ = ["Answer", "failed", "graded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of a row.

    Attributes:
        trace: of the strategy.
        local: of the device without a cloud; None where the trace says it already.
        leakage: what the cloud was told of the row's private values; None for a row that names none.
    """

    trace: Trace
    local: Trace | None
    leakage: Leakage | None = None


def failed(entrant: Entrant, row: Row, by_cloud: CloudAlone, error: Exception) -> Answered:
    """The record of a row that got no answer."""
    record = Record(
        strategy=entrant.name,
        id=row.id,
        source="device",
        wants_cloud=False,
        cloud_correct=by_cloud.correct,
        error=f"{type(error).__name__}: {error}",
        point=entrant.point,
        oracle=_is_oracle(entrant),
    )
    return record, Sample(strategy=entrant.name, id=row.id, question=row.question, gold=row.gold, point=entrant.point)


def graded(bench: Bench, entrant: Entrant, row: Row, found: Answer, by_cloud: CloudAlone) -> Answered:
    """The record of an answer, verified."""
    trace, local = found.trace, found.local
    joint = answerer(trace) is None
    outcome = grade(bench.task, row, trace)
    local_correct, failure = (None, None) if local is None else judge(bench.task, row, local.text)
    record = Record(
        strategy=entrant.name,
        id=row.id,
        source=trace.source,
        wants_cloud=trace.wants_cloud,
        score=trace.score,
        correct=outcome.correct,
        device_correct=outcome.device_correct if local is None else local_correct,
        # A cloud that answered may have seen more than the question: its own answer counts before that to it alone.
        cloud_correct=by_cloud.correct if outcome.cloud_correct is None else outcome.cloud_correct,
        local_correct=local_correct,
        usd=trace.cost_usd,
        seconds=trace.seconds,
        error=outcome.error or failure,
        point=entrant.point,
        joint=joint,
        oracle=_is_oracle(entrant),
        values_leaked=None if found.leakage is None else found.leakage.leaked,
        values_lost=None if found.leakage is None else found.leakage.lost,
        **_spent(trace),
        **_tokens("attempt", None if joint else _attempt(trace)),
        **_tokens("local", (local or trace).usage("device")),
        **_tokens("cloud_answer", trace.usage("cloud") if answerer(trace) == "cloud" else by_cloud.usage),
    )
    return record, Sample(
        strategy=entrant.name,
        id=row.id,
        question=row.question,
        gold=row.gold,
        device_text=_text(trace, "device"),
        cloud_text=_text(trace, "cloud"),
        local_text="" if local is None else local.text,
        point=entrant.point,
    )


def _is_oracle(entrant: Entrant) -> bool:
    return isinstance(entrant.strategy, Oracle) and entrant.strategy.oracle


def _spent(trace: Trace) -> dict[str, int]:
    """What the answer served took of both sides, and of the link between them."""
    device, cloud = trace.usage("device"), trace.usage("cloud")
    both = device + cloud
    return {
        "device_tokens": device.completion_tokens,
        "cloud_tokens": cloud.completion_tokens,
        "device_prompt_tokens": device.prompt_tokens,
        "cloud_prompt_tokens": cloud.prompt_tokens,
        "cloud_calls": cloud.round_trips or cloud.calls,
        "up_bytes": both.up_bytes,
        "down_bytes": both.down_bytes,
        "device_layer_tokens": device.layer_tokens,
        "cloud_layer_tokens": cloud.layer_tokens,
        "void_tokens": sum(s.usage.completion_tokens for s in trace.segments if s.part == "void"),
    }


def _attempt(trace: Trace) -> Usage:
    """What the device spent before the decision fell."""
    before = trace.segments[: trace.decided_after]
    return Usage.total(segment.usage for segment in before if segment.source == "device")


def _tokens(name: str, usage: Usage | None) -> dict[str, Any]:
    prompt, written = (None, None) if usage is None else (usage.prompt_tokens, usage.completion_tokens)
    return {f"{name}_prompt_tokens": prompt, f"{name}_tokens": written}


def _text(trace: Trace, source: str) -> str:
    return "\n".join(segment.text for segment in trace.segments if segment.source == source)

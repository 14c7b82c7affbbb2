"""Checking data before it is trained on: every gold answer must pass its own verifier, and wrong ones must not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from selfroute.errors import TaskError
from selfroute.tasks.base import Row, Task
from selfroute.verify.base import Verdict
from selfroute.verify.quantities import read_number
from selfroute.verify.variants import RESPELLED, refenced, respelled, spoilt

__all__ = ["ErrorRate", "Variant", "check", "error_rates", "failures", "variants"]

Progress = Callable[[int, int], object]


def failures(task: Task, split: str, *, on_progress: Progress | None = None) -> list[tuple[Row, Verdict]]:
    """The rows of a split whose gold answer their own verifier rejects, with its verdict."""
    return _judged(task, list(task.rows(split)), on_progress)


def check(task: Task, split: str, *, on_progress: Progress | None = None) -> int:
    """Refuse a split with broken rows: a gold answer that no completion can match is a prompt that looks too hard.

    Args:
        on_progress: called with rows done and rows in all.

    Returns:
        How many rows there are.

    Raises:
        TaskError: naming how many rows, the first ids and their reasons.
    """
    rows = list(task.rows(split))
    failing = _judged(task, rows, on_progress)
    if not failing:
        return len(rows)
    first = "; ".join(f"{row.id}: gold '{row.gold[:40]}', {verdict.reason}" for row, verdict in failing[:3])
    rest = f" and {len(failing) - 3} more" if len(failing) > 3 else ""
    raise TaskError(
        f"{task.name}: {len(failing)} gold answers of '{split}' fail their own verifier ({first}{rest}); "
        "correct these rows or choose another verifier"
    )


def _judged(task: Task, rows: list[Row], on_progress: Progress | None) -> list[tuple[Row, Verdict]]:
    failing = []
    for done, row in enumerate(rows, start=1):
        verdict = Verdict.of(task.verify(row, task.gold_completion(row)))
        if not verdict.correct:
            failing.append((row, verdict))
        if on_progress is not None:
            on_progress(done, len(rows))
    return failing


# --- error rates ---------------------------------------------------------------------------------------------------

_MOST_ROWS = 200
_MOST_EXAMPLES = 2
_MOST_SEARCHED = 50


@dataclass(frozen=True, slots=True)
class Variant:
    """A completion made from a row's gold answer by rule, and whether it must pass."""

    kind: str
    completion: str
    right: bool


@dataclass(slots=True)
class ErrorRate:
    """How a task's verifier does on one kind of variants.

    Attributes:
        kind: in words.
        right: whether they must pass: an error is a miss, else a false accept.
        tried: how many there were.
        errors: how many got the wrong verdict.
        examples: the first of those, as row id and completion.
    """

    kind: str
    right: bool
    tried: int = 0
    errors: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)


def error_rates(task: Task, split: str, *, on_progress: Progress | None = None) -> list[ErrorRate]:
    """Judge answers whose label is known, made from the gold answers of a split: at most 200 rows, evenly spread.

    Every task is tried with a thought before the answer and with another row's answer; those whose `judged_by` names
    one of our verifiers with other spellings and spoilt ones too (`selfroute.verify.variants`).

    Args:
        on_progress: called with rows done and rows in all.

    Returns:
        One entry per kind, those that must pass first.

    Raises:
        TaskError: a row has no gold answer to start from.
    """
    rows = list(task.rows(split))
    size = min(len(rows), _MOST_ROWS)
    chosen = [number * len(rows) // size for number in range(size)]
    rates: dict[tuple[bool, str], ErrorRate] = {}
    for done, at in enumerate(chosen, start=1):
        for variant in variants(task, rows[at], _other(rows, at)):
            _count(rates, task, rows[at], variant)
        if on_progress is not None:
            on_progress(done, len(chosen))
    return sorted(rates.values(), key=lambda rate: not rate.right)


def variants(task: Task, row: Row, other: Row | None) -> Iterator[Variant]:
    """Completions made from a row's gold answer and from another row with a different one, if there is such."""
    completion, verifier = task.gold_completion(row), str(getattr(task, "judged_by", ""))
    aside = other.gold if other else "something else"
    yield Variant("a thought before it", f"<think>{aside}</think>{completion}", True)
    for kind, text in refenced(completion).items():
        yield Variant(kind, text, True)
    if other:
        yield Variant("another row's answer", task.gold_completion(other), False)
    put = _put(completion, row.gold)
    if verifier not in RESPELLED or put is None:
        return
    for kind, text in respelled(verifier, row.gold).items():
        yield Variant(kind, put(text), True)
    for kind, text in spoilt(row.gold, aside).items():
        yield Variant(kind, put(text), False)


def _count(rates: dict[tuple[bool, str], ErrorRate], task: Task, row: Row, variant: Variant) -> None:
    rate = rates.setdefault((variant.right, variant.kind), ErrorRate(variant.kind, variant.right))
    rate.tried += 1
    if Verdict.of(task.verify(row, variant.completion)).correct != variant.right:
        rate.errors += 1
        if len(rate.examples) < _MOST_EXAMPLES:
            rate.examples.append((row.id, variant.completion))


def _other(rows: Sequence[Row], at: int) -> Row | None:
    """The next row with a different gold answer; None if there is none near."""
    row = rows[at]
    near = (rows[(at + ahead) % len(rows)] for ahead in range(1, min(len(rows), _MOST_SEARCHED)))
    return next((other for other in near if _different(row.gold, other.gold)), None)


def _different(one: str, other: str) -> bool:
    number = read_number(one)
    if number is not None and number == read_number(other):
        return False
    return "".join(filter(str.isalnum, one.lower())) != "".join(filter(str.isalnum, other.lower()))


def _put(completion: str, gold: str) -> Callable[[str], str] | None:
    """Puts another answer where a completion gives the gold one; None if it does not give it in so many words."""
    frames: list[Callable[[str], str]] = [
        lambda answer: f"\\boxed{{{answer}}}",
        lambda answer: f"<answer>{answer}</answer>",
        json.dumps,
        str,
    ]
    for frame in frames:
        before, found, after = completion.rpartition(frame(gold))
        if found:
            return partial(_framed, before, frame, after)
    return None


def _framed(before: str, frame: Callable[[str], str], after: str, answer: str) -> str:
    return f"{before}{frame(answer)}{after}"

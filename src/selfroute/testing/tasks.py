"""Whether a task keeps its contract."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from itertools import islice, zip_longest

from selfroute.actions import Action
from selfroute.prompts import TEMPLATES
from selfroute.tasks.base import Interactive, Row, Task
from selfroute.testing.contract import hold
from selfroute.testing.environments import check_environment
from selfroute.verify.base import Verdict
from selfroute.verify.extract import tagged_answer

__all__ = ["check_task"]

_ROWS_FOR_ANY_TEXT = 1


def check_task(
    task: Task,
    *,
    splits: Collection[str] = ("train", "validation", "test"),
    limit: int | None = 200,
    bound_s: float = 10.0,
) -> None:
    """Check that a task keeps the contract of `selfroute.Task`.

    Args:
        splits: those that it has.
        limit: rows of each split to look at; None for all.
        bound_s: most seconds for one verdict. Those of this package take 2, and more where a process must start first.

    Raises:
        AssertionError: the contract is broken; says which and how.
        ConfigError: the task has no such split.
    """
    hold(isinstance(task.name, str) and task.name != "", f"`name` is a text that is not empty, not {task.name!r}")
    hold(task.template in TEMPLATES, f"`template` is one of {', '.join(TEMPLATES)}, not {task.template!r}")
    for split in splits:
        rows = list(islice(task.rows(split), limit))
        hold(bool(rows), f"split '{split}' has rows; leave it out of `splits` if the task has no such split")
        _rows_are_stable(task, split, rows)
        _ids_are_unique(rows)
        _golds_are_right(task, rows)
        for row in rows[:_ROWS_FOR_ANY_TEXT]:
            _any_text_gets_a_verdict(task, row, bound_s)
            if isinstance(task, Interactive):
                _environments_judge_alike(task, row)


def _rows_are_stable(task: Task, split: str, rows: Sequence[Row]) -> None:
    again = islice(task.rows(split), len(rows))
    for number, (row, other) in enumerate(zip_longest(rows, again)):
        hold(row == other, f"rows('{split}') gives the same rows every time; row {number} was {row} and then {other}")


def _ids_are_unique(rows: Sequence[Row]) -> None:
    for row_id, count in Counter(row.id for row in rows).items():
        hold(count == 1, f"the id of a row is its own; {count} rows have the id {row_id!r}")


def _golds_are_right(task: Task, rows: Sequence[Row]) -> None:
    for row in rows:
        text = task.gold_completion(row)
        verdict = task.verify(row, text)
        hold(
            isinstance(verdict, Verdict) and verdict.correct,
            f"row {row.id!r}: its own verifier accepts its gold_completion; of {text!r:.80} it says {verdict}",
        )


def _any_text_gets_a_verdict(task: Task, row: Row, bound_s: float) -> None:
    for text in _any_texts(task.gold_completion(row)):
        began = time.perf_counter()
        try:
            verdict = task.verify(row, text)
        except Exception as error:
            raise AssertionError(
                f"row {row.id!r}: `verify` never raises on what a model wrote, but of {text!r:.80} "
                f"({len(text)} characters) it raised {error!r:.200}"
            ) from error
        took_s = time.perf_counter() - began
        what = f"row {row.id!r}, a text of {len(text)} characters, {text!r:.80}"
        hold(isinstance(verdict, Verdict), f"{what}: `verify` gives a Verdict, not {verdict!r:.80}")
        hold(took_s <= bound_s, f"{what}: `verify` ends within {bound_s:g} s on any text, not in {took_s:.1f} s")


def _environments_judge_alike(task: Interactive, row: Row) -> None:
    check_environment(partial(task.environment, row))
    environment, gold = task.environment(row), tagged_answer(task.gold_completion(row))
    environment.step(Action(gold or ""))
    hold(environment.score() == 1.0, f"row {row.id!r}: the gold answer has score 1, not {environment.score()}")
    unknown = task.environment(Row(id="", question=row.question, gold=""))
    unknown.step(Action(gold or ""))
    hold(unknown.score() is None, f"a question without gold has no score, not {unknown.score()}")


def _any_texts(gold: str) -> Iterator[str]:
    """What models write when they go astray, short ones first."""
    yield from ("", " ", "\x00", "\ud800", "\u2028", "👩‍👩‍👧 ½ ²", "nan", "-0.0", "1e999", "44**19**35", "None")
    yield from ("<think>", "</think><answer>", "\\boxed{", "\\frac{}{", "```python", '{"answer": ', "####", "(" * 50)
    yield from (gold[: len(gold) // 2], gold[::-1], gold + gold, f"<think>{gold}", f"<answer></answer>{gold}")
    letters = random.Random(0)
    for length in (10, 100, 1000):
        yield "".join(letters.choices("0123456789+-*/=()[]{}<>\\$.,#`\"' \nabcxyz", k=length))
    for piece in ("{", "(", "\\frac{1}{", "9", "1+", "<answer>", " ", gold):
        for length in (1_000, 100_000):
            yield (piece * length)[:length]

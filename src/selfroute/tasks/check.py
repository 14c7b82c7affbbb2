"""Checking data before it is trained on: every gold answer must pass its own verifier."""

from __future__ import annotations

from collections.abc import Callable

from selfroute.errors import TaskError
from selfroute.tasks.base import Row, Task
from selfroute.verify.base import Verdict

__all__ = ["check", "failures"]

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
        verdict = task.verify(row, task.gold_completion(row))
        if not verdict.correct:
            failing.append((row, verdict))
        if on_progress is not None:
            on_progress(done, len(rows))
    return failing

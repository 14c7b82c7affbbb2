"""Checking data before it is trained on: every gold answer must pass its own verifier."""

from __future__ import annotations

from selfroute.errors import TaskError
from selfroute.tasks.base import Row, Task, Verdict

__all__ = ["check", "failures"]


def failures(task: Task, split: str) -> list[tuple[Row, Verdict]]:
    """The rows of a split whose gold answer their own verifier rejects, with its verdict."""
    judged = ((row, task.verify(row, task.gold_completion(row))) for row in task.rows(split))
    return [(row, verdict) for row, verdict in judged if not verdict.correct]


def check(task: Task, split: str) -> None:
    """Refuse a split with broken rows: a gold answer that no completion can match is a prompt that looks too hard.

    Raises:
        TaskError: naming how many rows, the first ids and their reasons.
    """
    failing = failures(task, split)
    if not failing:
        return
    first = "; ".join(f"{row.id}: gold '{row.gold[:40]}', {verdict.reason}" for row, verdict in failing[:3])
    rest = f" and {len(failing) - 3} more" if len(failing) > 3 else ""
    raise TaskError(
        f"{task.name}: {len(failing)} gold answers of '{split}' fail their own verifier ({first}{rest}); "
        "correct these rows or choose another verifier"
    )

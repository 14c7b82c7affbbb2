"""A task's verifier beside the gateway: it judges answers to questions that it knows, as canaries are."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from selfroute.prompts import PromptTemplate
from selfroute.strategies.prompt_router import question_of
from selfroute.tasks.base import Row, Task
from selfroute.types import Message
from selfroute.verify.base import Verdict

__all__ = ["KnownQuestions"]


class KnownQuestions:
    """Rows of a task by their question; any request that asks one is judged against its gold answer.

    Args:
        task: whose verifier judges.
        rows: that are known.
        template: whose words around a question do not count.
    """

    def __init__(self, task: Task, rows: Iterable[Row], template: PromptTemplate) -> None:
        self._task = task
        self._rows = {row.question: row for row in rows}
        self._template = template

    async def __call__(self, messages: Sequence[Message], text: str) -> float | None:
        """Quality of an answer in [0, 1]; None if the question is not known."""
        row = self._rows.get(question_of(self._template, messages))
        if row is None:
            return None
        return Verdict.of(await asyncio.to_thread(self._task.verify, row, text)).quality

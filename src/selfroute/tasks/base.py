"""What a task is: rows of data, and a verifier that judges a completion."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from selfroute.verify.base import Verdict

__all__ = ["Row", "Stepwise", "Task"]


@dataclass(frozen=True, slots=True)
class Row:
    """One problem. Data only; behaviour lives in the task.

    Attributes:
        id: unique within the task, stable between runs.
        question: the problem's text, without any prompt template.
        gold: the reference answer in the task's own notation; `verify(row, gold wrapped as an answer)` must hold.
        fields: what the verifier needs beyond `gold`, and any columns worth keeping.
    """

    id: str
    question: str
    gold: str
    fields: Mapping[str, Any] = field(default_factory=dict)


def digest_of(row: Row) -> str:
    """A hash of what a row asks and how it is judged, whatever its place in the data; its id is not in it."""
    content = json.dumps([row.question, row.gold, row.fields], sort_keys=True, default=str)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


class Task(Protocol):
    """Data and verifier of one kind of problem.

    Attributes:
        name: as given on the command line.
        template: name of the prompt template in `selfroute.prompts.TEMPLATES` that fits the task.
    """

    name: str
    template: str

    def rows(self, split: str) -> Iterable[Row]:
        """Rows of "train", "validation" or "test"; the same rows in the same order every time.

        Raises:
            ConfigError: unknown split, or data that cannot be found.
            TaskError: a row that lacks a needed field; the message names file and line.
        """
        ...

    def verify(self, row: Row, completion: str) -> Verdict | float:
        """Judge any text in bounded time; never raises on model text.

        Returns:
            A verdict, or a quality in [0, 1], of which right and wrong are the ends.
        """
        ...

    def gold_completion(self, row: Row) -> str:
        """A completion that gives the gold answer, for checking the verifier and for replaying data sets."""
        ...


@runtime_checkable
class Stepwise(Task, Protocol):
    """Optional: a task whose completions go step by step, each of which can be judged.

    Attributes:
        step_end: the text that ends a step and stands nowhere else in one; the last step ends with the completion.
    """

    step_end: str

    def steps(self, row: Row) -> Sequence[str]:
        """The gold completion, step by step."""
        ...

    def judge_step(self, row: Row, before: str, written: str) -> bool:
        """Whether a step is right after the right steps in `before`; never raises on model text.

        A step is judged by what it says, not by whether it is the gold one: where the order is free, any order is
        right.
        """
        ...

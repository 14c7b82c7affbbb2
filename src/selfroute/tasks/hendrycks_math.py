"""MATH: competition mathematics (arXiv 2103.03874); 7,500 train and 5,000 test problems, the paper's MATH-lighteval."""

from __future__ import annotations

from pathlib import Path

from selfroute.errors import TaskError
from selfroute.tasks.base import Row
from selfroute.tasks.data import Record, Source
from selfroute.verify.base import Verdict
from selfroute.verify.extract import boxed
from selfroute.verify.verifiers import math

__all__ = ["HendrycksMath"]


class HendrycksMath:
    r"""Rows with `problem` and `solution`, whose last `\boxed{…}` is the gold answer, or with an `answer` of their own.

    Copies with one folder per subject and MATH-500 read as well. `level` and `subject` (or `type`) are kept in
    `Row.fields`.

    Args:
        path: a folder with train and test as .jsonl or .parquet, or one file, which is divided; without it the data is
            `$SELFROUTE_DATA_DIR/hendrycks_math` if that exists, else DigitalLearningGmbH/MATH-lighteval on the hub.
        validation_share: fraction of the train rows held out as "validation", drawn by a hash of the problem.
        seed: of that draw.
        limit: most rows per split, the first ones; None for all.

    Raises:
        ConfigError: an option out of range or a path that does not exist.
    """

    name = "hendrycks_math"
    template = "steps"
    judged_by = "math"

    def __init__(
        self,
        *,
        path: str | Path | None = None,
        validation_share: float = 0.05,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        self.source = Source(
            name=self.name,
            path=path,
            repository="DigitalLearningGmbH/MATH-lighteval",
            config="default",
            question_field="problem",
            validation_share=validation_share,
            test_share=0.1,
            seed=seed,
            limit=limit,
        )

    def rows(self, split: str) -> list[Row]:
        """Rows in file order; see `Task.rows` for the errors."""
        return [_row(record) for record in self.source.records(split)]

    def verify(self, row: Row, completion: str) -> Verdict:
        """Judge by `selfroute.verify.verifiers.math`."""
        return math(completion, row.gold)

    def gold_completion(self, row: Row) -> str:
        """The reference solution, which boxes its answer, or the bare answer in a box."""
        return str(row.fields.get("solution") or f"\\boxed{{{row.gold}}}")


def _row(record: Record) -> Row:
    values = record.values
    fields = {
        "level": str(values.get("level") or ""),
        "subject": str(values.get("subject") or values.get("type") or ""),
    }
    if values.get("answer") is not None:
        return Row(record.name, record.text("problem"), record.text("answer"), fields)
    solution = record.text("solution")
    gold = boxed(solution)
    if gold is None:
        raise TaskError(f"{record.where}: no \\boxed{{…}} in field 'solution'; box the answer or add a field 'answer'")
    return Row(record.name, record.text("problem"), gold, {**fields, "solution": solution})

"""MMLU: four-way multiple choice over 57 subjects (arXiv 2009.03300); 14,042 test questions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfroute.errors import TaskError
from selfroute.tasks.base import Row
from selfroute.tasks.data import Record, Source
from selfroute.verify.base import Verdict
from selfroute.verify.verifiers import choice

__all__ = ["MMLU"]

_LETTERS = "ABCDEFGHIJ"


class MMLU:
    """Rows with `question`, `choices` and `answer`, a number from 0 or a letter; judged by the option's letter.

    Args:
        path: a folder with train and test as .jsonl or .parquet, or one file, which is divided; without it the data is
            `$SELFROUTE_DATA_DIR/mmlu` if that exists, else cais/mmlu on the hub (train is "auxiliary_train").
        subject: one of the 57 subjects, or "all".
        validation_share: fraction of the train rows held out as "validation", drawn by a hash of the question.
        seed: of that draw.
        limit: most rows per split, the first ones; None for all.

    Raises:
        ConfigError: an option out of range or a path that does not exist.
    """

    name = "mmlu"
    template = "plain"
    judged_by = "choice"

    def __init__(
        self,
        *,
        path: str | Path | None = None,
        subject: str = "all",
        validation_share: float = 0.05,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        self.source = Source(
            name=self.name,
            path=path,
            repository="cais/mmlu",
            config=subject,
            question_field="question",
            validation_share=validation_share,
            test_share=0.1,
            seed=seed,
            limit=limit,
            hub_splits={"train": "auxiliary_train"},
        )

    def rows(self, split: str) -> list[Row]:
        """Rows in file order; see `Task.rows` for the errors."""
        return [_row(record) for record in self.source.records(split)]

    def verify(self, row: Row, completion: str) -> Verdict:
        """Judge by `selfroute.verify.verifiers.choice`."""
        return choice(completion, row.gold)

    def gold_completion(self, row: Row) -> str:
        """The letter, as the question asks for it."""
        return f"The answer is ({row.gold})."


def _row(record: Record) -> Row:
    choices = record.values.get("choices")
    if not isinstance(choices, Sequence) or isinstance(choices, str) or not 2 <= len(choices) <= len(_LETTERS):
        raise TaskError(f"{record.where}: field 'choices' must list 2 to {len(_LETTERS)} options")
    gold = _letter(record.values.get("answer"), len(choices))
    if gold is None:
        raise TaskError(
            f"{record.where}: field 'answer' is {str(record.values.get('answer'))[:40]!r}; give the number of a "
            f"choice, from 0 to {len(choices) - 1}, or its letter"
        )
    options = "\n".join(f"{letter}. {text}" for letter, text in zip(_LETTERS, choices, strict=False))
    question = f"{record.text('question')}\n{options}\nThink briefly and end with: The answer is (letter)."
    return Row(record.name, question, gold, {"subject": str(record.values.get("subject") or "")})


def _letter(answer: Any, count: int) -> str | None:
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < count:
        return _LETTERS[answer]
    if isinstance(answer, str) and len(answer.strip()) == 1 and answer.strip().upper() in _LETTERS[:count]:
        return answer.strip().upper()
    return None

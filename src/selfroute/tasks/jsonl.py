"""Your own prompts: a JSONL (or parquet) file with a question and an answer per row, and one of our verifiers."""

from __future__ import annotations

import difflib
from pathlib import Path

from selfroute.errors import ConfigError
from selfroute.tasks.base import Row, Verdict
from selfroute.tasks.data import Record, Source
from selfroute.tasks.verifiers import VERIFIERS

__all__ = ["JsonLines"]


class JsonLines:
    """Any file of questions with reference answers.

    Args:
        path: a file, divided by `validation_share` and `test_share`, or a folder with train.jsonl, test.jsonl and,
            if you have one, validation.jsonl. The draw hashes the question, so that equal questions stay together and
            rows may be added or reordered.
        question_field: name of the question's field.
        answer_field: name of the gold answer's field: text, a number or a boolean.
        verifier: name in `selfroute.tasks.verifiers.VERIFIERS`: exact, numeric, choice or math.
        template: name of the prompt template in `selfroute.handoff.TEMPLATES` ("think" answers in `<answer>` tags,
            "steps" in a box; the verifiers read both).
        validation_share: fraction for "validation", of a single file or of a folder's train rows.
        test_share: fraction for "test", of a single file.
        seed: of the draw.
        limit: most rows per split, the first ones; None for all.

    Raises:
        ConfigError: an unknown verifier, an option out of range or a path that does not exist.
    """

    name = "jsonl"

    def __init__(
        self,
        *,
        path: str | Path,
        question_field: str = "question",
        answer_field: str = "answer",
        verifier: str = "numeric",
        template: str = "steps",
        validation_share: float = 0.1,
        test_share: float = 0.1,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        if verifier not in VERIFIERS:
            near = difflib.get_close_matches(verifier, VERIFIERS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"use one of {', '.join(VERIFIERS)}"
            raise ConfigError(f"unknown verifier '{verifier}'; {hint}")
        self.template = template
        self.answer_field = answer_field
        self.verifier = VERIFIERS[verifier]
        self.source = Source(
            name=self.name,
            path=path,
            repository=None,
            config=None,
            question_field=question_field,
            validation_share=validation_share,
            test_share=test_share,
            seed=seed,
            limit=limit,
        )

    def rows(self, split: str) -> list[Row]:
        """Rows in file order; further columns are kept in `Row.fields`. See `Task.rows` for the errors."""
        return [self._row(record) for record in self.source.records(split)]

    def verify(self, row: Row, completion: str) -> Verdict:
        """Judge by the chosen verifier."""
        return self.verifier(completion, row.gold)

    def gold_completion(self, row: Row) -> str:
        """The gold answer in the template's notation."""
        return f"\\boxed{{{row.gold}}}" if self.template == "steps" else f"<answer>{row.gold}</answer>"

    def _row(self, record: Record) -> Row:
        question, gold = record.text(self.source.question_field), record.text(self.answer_field)
        taken = (self.source.question_field, self.answer_field)
        kept = {key: value for key, value in record.values.items() if key not in taken}
        return Row(record.name, question, gold, kept)

"""Your own prompts: a JSONL (or parquet) file with a question and an answer per row, and one of our verifiers."""

from __future__ import annotations

import json
import re
from pathlib import Path

from selfroute.errors import TaskError
from selfroute.tasks.base import Row
from selfroute.tasks.data import Record, Source
from selfroute.verify.base import Verdict
from selfroute.verify.code import code, named_verifier, regex
from selfroute.verify.verifiers import VERIFIERS, json_answer

__all__ = ["JsonLines"]


class JsonLines:
    """Any file of questions with reference answers.

    Args:
        path: a file, divided by `validation_share` and `test_share`, or a folder with train.jsonl, test.jsonl and,
            if you have one, validation.jsonl. The draw hashes the question, so that equal questions stay together and
            rows may be added or reordered.
        question_field: name of the question's field.
        answer_field: name of the gold answer's field: text, a number or a boolean.
        verifier: name in `selfroute.verify.verifiers.VERIFIERS` (exact, numeric, choice, math, json); "regex": the
            answer matches the gold as a pattern, whole; "code": the gold is Python tests, run on the answer's code in
            the sandbox; or the dotted path of a function of your own, `package.module:function`, from completion and
            gold to a `Verdict` or a boolean, which is trusted to end.
        gold_field: with "regex", "code" or a function: a field with an answer that passes, for checking the data.
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
        gold_field: str | None = None,
        template: str = "steps",
        validation_share: float = 0.1,
        test_share: float = 0.1,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        self.template = template
        self.answer_field = answer_field
        self.gold_field = gold_field
        self.judged_by = verifier
        self.verifier = named_verifier(verifier)
        self._needs_example = verifier not in VERIFIERS
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
        """The gold answer, or that of `gold_field`, in the template's notation.

        Raises:
            TaskError: the gold is a pattern or tests, and there is no field with an answer.
        """
        if self.gold_field is not None:
            return str(row.fields[self.gold_field])
        if self._needs_example and self.verifier in (regex, code):
            raise TaskError(f"{row.id}: its gold is no answer; name a field that holds one with gold_field=NAME")
        if self.verifier is json_answer:
            return f'{{"answer": {json.dumps(row.gold)}}}'
        return f"\\boxed{{{row.gold}}}" if self.template == "steps" else f"<answer>{row.gold}</answer>"

    def _row(self, record: Record) -> Row:
        question, gold = record.text(self.source.question_field), record.text(self.answer_field)
        if self.gold_field is not None:
            record.text(self.gold_field)
        if self.verifier is regex:
            _check_pattern(gold, record.where)
        taken = (self.source.question_field, self.answer_field)
        kept = {key: value for key, value in record.values.items() if key not in taken}
        return Row(record.name, question, gold, kept)


def _check_pattern(pattern: str, where: str) -> None:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise TaskError(f"{where}: the gold '{pattern[:40]}' is no regular expression ({error}); correct it") from None

"""Python problems: write a function that passes tests (HumanEval), and predict what a function returns (CRUXEval)."""

from __future__ import annotations

import re
from pathlib import Path

from selfroute.errors import TaskError
from selfroute.tasks.base import Row
from selfroute.tasks.data import Record, Source, own_id
from selfroute.verify.base import Verdict
from selfroute.verify.extract import code_in
from selfroute.verify.python_values import output
from selfroute.verify.sandbox import run_tests

__all__ = ["HumanEval", "OutputPrediction"]


class HumanEval:
    """Rows with `prompt` (a function's head), `test`, `entry_point` and `canonical_solution` (arXiv 2107.03374).

    The answer is the first code block of a completion, or the whole of it; a body alone goes below the prompt. It is
    right if the tests run through in the sandbox (`selfroute.verify.sandbox`, which says what is enforced where).

    Args:
        path: a folder with test.jsonl or test.parquet, or one file; without it the data is
            `$SELFROUTE_DATA_DIR/humaneval` if that exists, else openai/openai_humaneval on the hub.
        timeout_s: wall time of one run, its start included.
        validation_share, test_share: fractions of the 164 problems, drawn by a hash of the prompt; all are test rows
            unless you want some for training.
        seed: of that draw.
        limit: most rows per split, the first ones; None for all.

    Raises:
        ConfigError: an option out of range or a path that does not exist.
    """

    name = "humaneval"
    template = "plain"
    judged_by = "code"

    def __init__(
        self,
        *,
        path: str | Path | None = None,
        timeout_s: float = 1.5,
        validation_share: float = 0.0,
        test_share: float = 1.0,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        self.timeout_s = timeout_s
        self.source = Source(
            name=self.name,
            path=path,
            repository="openai/openai_humaneval",
            config=None,
            question_field="prompt",
            validation_share=validation_share,
            test_share=test_share,
            seed=seed,
            limit=limit,
            one_split=True,
        )

    def rows(self, split: str) -> list[Row]:
        """Rows in file order; see `Task.rows` for the errors."""
        seen: dict[str, str] = {}
        return [_humaneval_row(record, own_id(record, "task_id", seen)) for record in self.source.records(split)]

    def verify(self, row: Row, completion: str) -> Verdict:
        """Run the tests of the row on the completion's code."""
        entry = str(row.fields["entry_point"])
        code = code_in(completion, defining=entry)
        if not code.strip():
            return Verdict(False, reason="no code")
        prompt = str(row.fields["prompt"])
        if not re.search(rf"def\s{{1,4}}{re.escape(entry)}\b", code):
            code = f"{prompt}\n{_indented(code)}"
        else:  # imports and helpers of the prompt, which an answer need not repeat
            code = f"{prompt.partition(f'def {entry}')[0]}\n{code}"
        ran = run_tests(code, f"{row.fields['test']}\ncheck({entry})\n", timeout_s=self.timeout_s)
        return Verdict(ran.passed, code[-200:], ran.reason)

    def gold_completion(self, row: Row) -> str:
        """The reference solution in a code block."""
        return f"```python\n{row.fields['prompt']}{row.gold}\n```"


def _humaneval_row(record: Record, row_id: str) -> Row:
    # Not `text`, which cuts outer spaces: they are code here.
    values = {key: record.values.get(key) for key in ("prompt", "test", "entry_point", "canonical_solution")}
    for key, value in values.items():
        if not isinstance(value, str) or not value.strip():
            raise TaskError(f"{record.where}: field '{key}' is {str(value)[:40]!r}; give text")
    prompt, gold = str(values["prompt"]), str(values["canonical_solution"])
    question = f"Complete this Python function. Reply with one code block that holds all of it.\n\n{prompt}"
    kept = {"prompt": prompt, "test": values["test"], "entry_point": values["entry_point"]}
    return Row(row_id, question, gold, kept)


class OutputPrediction:
    """Rows with `code` (a function f), `input` and `output`: what does f return? (CRUXEval, arXiv 2401.03065)

    The answer is compared as a value of Python and never run; `selfroute.verify.python_values` says where it stands.

    Args:
        path: a folder with test.jsonl or test.parquet, or one file; without it the data is
            `$SELFROUTE_DATA_DIR/output_prediction` if that exists, else cruxeval-org/cruxeval on the hub.
        validation_share, test_share: fractions of the 800 problems, drawn by a hash of the code; all are test rows
            unless you want some for training.
        seed: of that draw.
        limit: most rows per split, the first ones; None for all.

    Raises:
        ConfigError: an option out of range or a path that does not exist.
    """

    name = "output_prediction"
    template = "plain"
    judged_by = "output"

    def __init__(
        self,
        *,
        path: str | Path | None = None,
        validation_share: float = 0.0,
        test_share: float = 1.0,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        self.source = Source(
            name=self.name,
            path=path,
            repository="cruxeval-org/cruxeval",
            config=None,
            question_field="code",
            validation_share=validation_share,
            test_share=test_share,
            seed=seed,
            limit=limit,
            one_split=True,
        )

    def rows(self, split: str) -> list[Row]:
        """Rows in file order; see `Task.rows` for the errors."""
        seen: dict[str, str] = {}
        return [_output_row(record, own_id(record, "id", seen)) for record in self.source.records(split)]

    def verify(self, row: Row, completion: str) -> Verdict:
        """Judge by `selfroute.verify.python_values.output`."""
        return output(completion, row.gold)

    def gold_completion(self, row: Row) -> str:
        """The output in an answer tag."""
        return f"<answer>{row.gold}</answer>"


def _output_row(record: Record, row_id: str) -> Row:
    code, given, gold = record.text("code"), record.values.get("input"), record.text("output")
    if not isinstance(given, str):
        raise TaskError(f"{record.where}: field 'input' is {str(given)[:40]!r}; give text")
    question = (
        f"{code}\n\nWhat does f({given}) return? Think step by step, then give the value as a Python literal in "
        "<answer> </answer> tags."
    )
    return Row(row_id, question, gold, {"code": code, "input": given})


def _indented(body: str) -> str:
    """A function's body, indented if no line of it is."""
    lines = body.splitlines()
    first = next((line for line in lines if line.strip()), "")
    return body if first[:1].isspace() else "\n".join(f"    {line}" for line in lines)

"""GSM8K: grade-school mathematics in words (arXiv 2110.14168); 7,473 train and 1,319 test problems."""

from __future__ import annotations

from pathlib import Path

from selfroute.errors import TaskError
from selfroute.tasks.base import Row
from selfroute.tasks.data import Record, Source
from selfroute.verify.base import Verdict
from selfroute.verify.quantities import read_number
from selfroute.verify.verifiers import numeric

__all__ = ["GSM8K"]


class GSM8K:
    """Rows with `question` and `answer`, a worked solution that ends in `#### gold`; judged as numbers.

    Args:
        path: a folder with train and test as .jsonl or .parquet, or one file, which is divided; without it the data is
            `$SELFROUTE_DATA_DIR/gsm8k` if that exists, else openai/gsm8k on the hub.
        validation_share: fraction of the train rows held out as "validation", drawn by a hash of the question.
        seed: of that draw.
        limit: most rows per split, the first ones; None for all.

    Raises:
        ConfigError: an option out of range or a path that does not exist.
    """

    name = "gsm8k"
    template = "steps"
    judged_by = "numeric"

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
            repository="openai/gsm8k",
            config="main",
            question_field="question",
            validation_share=validation_share,
            test_share=0.1,
            seed=seed,
            limit=limit,
        )

    def rows(self, split: str) -> list[Row]:
        """Rows in file order; see `Task.rows` for the errors."""
        return [_row(record) for record in self.source.records(split)]

    def verify(self, row: Row, completion: str) -> Verdict:
        """Judge by `selfroute.verify.verifiers.numeric`."""
        return numeric(completion, row.gold)

    def gold_completion(self, row: Row) -> str:
        """The worked solution, without the calculator's `<<3*4=12>>` notes, and the boxed answer."""
        return f"{row.fields['solution']}\n\\boxed{{{row.gold}}}"


def _row(record: Record) -> Row:
    worked, marker, gold = record.text("answer").rpartition("####")
    if not marker or read_number(gold) is None:
        raise TaskError(f"{record.where}: field 'answer' must end in '#### number', not {worked[-40:] + gold!r}")
    return Row(record.name, record.text("question"), gold.strip().replace(",", ""), {"solution": _plain(worked)})


def _plain(solution: str) -> str:
    pieces = solution.split("<<")
    return (pieces[0] + "".join(piece.rpartition(">>")[2] for piece in pieces[1:])).strip()

"""Recorded answers as a task: the prompts that two or more recorded models were asked, and who was right.

With the models as `recorded` backends, every strategy that needs text alone runs on them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from selfroute.errors import ConfigError, TaskError
from selfroute.recordings import RecordedAnswer, format_of, objects_of, read_answers, shifted, unrecorded_text
from selfroute.tasks.base import Row
from selfroute.tasks.data import SPLITS, fraction
from selfroute.verify.base import Verdict, is_solved
from selfroute.verify.verifiers import VERIFIERS, json_answer

__all__ = ["Recorded"]

_VERIFIER_OF = {"zeroeval": "json"}


class Recorded:
    """The prompts of recordings, judged by their own verdicts where they hold some.

    Args:
        answers: recordings of the same prompts, each a path or `{path, model, format}` as for the `recorded` backend.
        verifier: judge by this verifier and the gold answers in place of recorded verdicts; without either it is
            "json" for ZeroEval's outputs and "numeric" otherwise.
        exclude: JSONL of prompts to leave out, under `eval_prompt`, `prompt` or `question`, as RouteLLM lists those it
            found in training data.
        test_share: fraction of the prompts that make the test split, drawn by a hash of the prompt; the rest trains.
        seed: of the draw.
        limit: most rows per split, the first ones; None for all.

    Raises:
        ConfigError: a recording that cannot be read, recordings of different sets, an option out of range.
        TaskError: a row with neither a verdict nor a gold answer.
    """

    name = "recorded"
    template = "plain"

    def __init__(
        self,
        *,
        answers: Sequence[Any],
        verifier: str | None = None,
        exclude: str | Path | None = None,
        test_share: float = 1.0,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        if not answers or isinstance(answers, str):
            raise ConfigError("recorded: answers must list recordings, e.g. answers=[device.jsonl, cloud.jsonl]")
        if verifier is not None and verifier not in VERIFIERS:
            raise ConfigError(f"recorded: unknown verifier '{verifier}'; use one of {', '.join(VERIFIERS)}")
        if not 0 < test_share <= 1:
            raise ConfigError(f"recorded: test_share must be above 0 and at most 1, not {test_share}")
        sources = [_source(answer) for answer in answers]
        recordings = [read_answers(path, model=model, format=kind) for path, model, kind in sources]
        recordings = _shared(recordings, sources) if _is_partial(sources) else recordings
        _check_same(recordings)
        self.verifier = verifier
        self.test_share, self.seed, self.limit = test_share, seed, limit
        kind = sources[0][2] or format_of(sources[0][0])
        self.judged_by = verifier or _VERIFIER_OF.get(kind, "numeric")
        self._verify = VERIFIERS[self.judged_by]
        for answers_of_one in recordings:
            _check_shift(answers_of_one, self._verify)
        left_out = _prompts(Path(exclude)) if exclude is not None else set()
        together = zip(*recordings, strict=True)
        self._rows = [self._row(same) for same in together if same[0].prompt.strip() not in left_out]

    def rows(self, split: str) -> list[Row]:
        """Rows in the order of the first recording; see `Task.rows` for the errors."""
        if split not in SPLITS:
            raise ConfigError(f"unknown split '{split}' of task '{self.name}'; use one of {', '.join(SPLITS)}")
        rows = [row for row in self._rows if self._split(row) == split][: self.limit]
        if not rows:
            raise ConfigError(
                f"recorded: split '{split}' is empty; set test_share below 1, or folds=5 to judge each row by a fit "
                "without it"
            )
        return rows

    def verify(self, row: Row, completion: str) -> Verdict:
        """The recorded verdict of a recorded answer; any other text is judged by the verifier, if there is a gold.

        A recorded grade between 0 and 1 counts as right from one half on.
        """
        verdicts: Mapping[str, float] = row.fields["verdicts"]
        if self.verifier is None and completion in verdicts:
            grade = verdicts[completion]
            correct = is_solved(grade)
            return Verdict(correct, completion[:200], "" if correct else _reason(grade), quality=grade)
        if not row.gold:
            return Verdict(False, None, "not a recorded answer")
        return self._verify(completion, row.gold)

    def gold_completion(self, row: Row) -> str:
        """The gold answer where one was recorded.

        Raises:
            TaskError: the recording holds verdicts and no gold answers.
        """
        if not row.gold:
            raise TaskError(f"{row.id}: the recording holds verdicts and no gold answers, so there is nothing to check")
        return json.dumps({"answer": row.gold}) if self._verify is json_answer else f"<answer>{row.gold}</answer>"

    def _split(self, row: Row) -> str:
        return "test" if fraction(row.question, seed=self.seed) < self.test_share else "train"

    def _row(self, same: Sequence[RecordedAnswer]) -> Row:
        first = same[0]
        gold = next((answer.gold for answer in same if answer.gold), "")
        verdicts: dict[str, float] = {}
        for answer in same:
            if answer.correct is None and not gold:
                raise TaskError(
                    f"{answer.where}: neither a verdict nor a gold answer; add 'gold', or leave the row out"
                )
            if answer.correct is not None and verdicts.setdefault(answer.text, answer.correct) != answer.correct:
                raise TaskError(f"{answer.where}: the same answer is recorded with two verdicts; mend the row")
        return Row(first.id, first.prompt, gold, {"verdicts": verdicts})


def _reason(grade: float) -> str:
    return f"recorded with a grade of {grade:g}" if grade else "recorded as wrong"


def _source(answer: Any) -> tuple[Path, str | None, str | None]:
    if isinstance(answer, str | Path):
        return Path(answer), None, None
    if not isinstance(answer, Mapping) or "path" not in answer:
        raise ConfigError(f"recorded: answers: {answer!r} must be a path or {{path: …, model: …}}")
    for key in answer:
        if key not in ("path", "model", "format"):
            raise ConfigError(f"recorded: answers: unknown key '{key}'; known: path, model, format")
    return Path(str(answer["path"])), answer.get("model"), answer.get("format")


def _is_partial(sources: Sequence[tuple[Path, str | None, str | None]]) -> bool:
    """Whether the files may hold the answers of some prompts alone, in any order, as RouterArena's do."""
    return all((kind or format_of(path)) == "routerarena" for path, _, kind in sources)


def _shared(
    recordings: Sequence[list[RecordedAnswer]], sources: Sequence[tuple[Path, str | None, str | None]]
) -> list[list[RecordedAnswer]]:
    """The answers to prompts that all models were asked, in the order of the first."""
    known = [{answer.id: answer for answer in recording} for recording in recordings]
    ids = [answer.id for answer in recordings[0] if all(answer.id in other for other in known)]
    if not ids:
        names = ", ".join(str(path) for path, _, _ in sources)
        raise ConfigError(f"{names}: no prompt was answered by all of these models; choose others with model: NAME")
    return [[recording[one] for one in ids] for recording in known]


def _check_shift(answers: Sequence[RecordedAnswer], verify: Callable[[str, str], Verdict]) -> None:
    """Refuse answers that stand beside the wrong prompts.

    Raises:
        ConfigError: they are right for the gold of the row before or behind.
    """
    if any(answer.gold is None or answer.text == unrecorded_text(answer.model) for answer in answers):
        return

    def is_right(one: int, other: int) -> bool:
        return verify(answers[one].text, answers[other].gold or "").correct

    if by := shifted(is_right, len(answers)):
        raise ConfigError(
            f"{answers[0].where}: the answers of '{answers[0].model}' are right for the prompts of the row "
            f"{'behind' if by > 0 else 'before'} theirs; they are shifted by a row, put each beside its own prompt"
        )


def _check_same(recordings: Sequence[Sequence[RecordedAnswer]]) -> None:
    """Refuse recordings of different sets.

    Raises:
        ConfigError: names file, row and what differs.
    """
    first = recordings[0]
    for other in recordings[1:]:
        for one, same in zip(first, other, strict=False):
            if one.id != same.id or one.prompt.strip() != same.prompt.strip():
                what = "id" if one.id != same.id else "prompt"
                raise ConfigError(
                    f"{same.where}: {what} {_short(same, what)} where {one.where} has {_short(one, what)}; give "
                    "recordings of the same prompts in the same order"
                )
            if one.gold is not None and same.gold is not None and one.gold != same.gold:
                raise ConfigError(
                    f"{same.where}: gold '{same.gold[:40]}' where {one.where} has '{one.gold[:40]}'; correct one"
                )
        if len(first) != len(other):
            longer, shorter = (first, other) if len(first) > len(other) else (other, first)
            raise ConfigError(
                f"{shorter[-1].where} is the last of {len(shorter)} answers, and {longer[len(shorter)].where} has no "
                "partner; record the missing prompts or leave them out of both"
            )


def _short(answer: RecordedAnswer, what: str) -> str:
    return repr(" ".join((answer.id if what == "id" else answer.prompt).split())[:40])


def _prompts(path: Path) -> set[str]:
    if not path.is_file():
        raise ConfigError(f"recorded: exclude: cannot read '{path}' (no such file); name a JSONL file")
    prompts: set[str] = set()
    for number, row in objects_of(path):
        try:
            prompts.add(next(row[key] for key in ("eval_prompt", "prompt", "question") if key in row).strip())
        except (TypeError, AttributeError, StopIteration):
            raise ConfigError(f"{path}:{number}: no object with a 'prompt'; mend or delete the line") from None
    return prompts

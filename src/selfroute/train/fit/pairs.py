"""Pairs of answers of which one is the better: what a learned reward is trained on and judged by.

Pairs are divided by question and never by row, so that no question of a training pair is judged on. `lint` finds pairs
that give their order away: by words of the question copied into one side alone, or by one side that was cut off.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from selfroute.errors import ConfigError, TaskError
from selfroute.tasks.data import fraction, read_file

__all__ = [
    "Flaw",
    "Pair",
    "PairQuality",
    "Pairs",
    "clean",
    "divide",
    "lint",
    "quality_of",
    "read_pairs",
    "shared_words",
    "write_pairs",
]

Flaw = Literal["same", "copied", "cut", "passes"]
_COPIED_WORDS = 5  # in a row; attribute values that an intent must name are fewer
_BINS = 10
_TOLD = re.compile(r"<result>.*?</result>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one question.

    Attributes:
        question: or the intent of a trajectory.
        good, bad: the better and the worse answer, or the text of a trajectory.
        cut: whether one of them alone was cut off before its end.
    """

    question: str
    good: str
    bad: str
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs to learn from and others to be judged by, of other questions.

    Attributes:
        ordered_by_environment: whether a score of the environment, or a verifier, said which side is the better. Where
            it did, "no labels were needed" is not true of what was learned.
        dropped: pairs left out, by their flaw.
    """

    learn: tuple[Pair, ...]
    held_out: tuple[Pair, ...]
    ordered_by_environment: bool
    dropped: Mapping[str, int] = field(default_factory=dict)


def lint(pair: Pair, passes: Callable[[Pair], bool] | None = None) -> Flaw | None:
    """What is wrong with a pair, None if nothing is.

    Args:
        passes: whether the worse side would be accepted by a checker, where there is one.
    """
    if pair.good == pair.bad:
        return "same"
    if pair.cut:
        return "cut"
    if _copies(pair.question, pair.good) != _copies(pair.question, pair.bad):
        return "copied"
    return "passes" if passes is not None and passes(pair) else None


def clean(pairs: Iterable[Pair], passes: Callable[[Pair], bool] | None = None) -> tuple[list[Pair], dict[str, int]]:
    """The pairs without a flaw, and how many had which."""
    kept: list[Pair] = []
    flaws: Counter[str] = Counter()
    for pair in pairs:
        if (flaw := lint(pair, passes)) is None:
            kept.append(pair)
        else:
            flaws[flaw] += 1
    return kept, dict(flaws)


def divide(
    pairs: Sequence[Pair],
    *,
    held_out: float,
    seed: int,
    ordered_by_environment: bool,
    dropped: Mapping[str, int] | None = None,
) -> Pairs:
    """Divide by a hash of the question, so that equal questions stay on one side.

    Raises:
        ConfigError: one side would be empty.
    """
    sides: dict[bool, list[Pair]] = {True: [], False: []}
    for pair in pairs:
        sides[fraction(pair.question, seed=seed) < held_out].append(pair)
    if not sides[True] or not sides[False]:
        raise ConfigError(
            f"pairs: of {len(pairs)} pairs {len(sides[False])} are left to learn from and {len(sides[True])} to judge "
            f"by, with held_out={held_out:g}; give more questions"
        )
    return Pairs(tuple(sides[False]), tuple(sides[True]), ordered_by_environment, dict(dropped or {}))


def _copies(question: str, text: str) -> bool:
    """Whether a run of the question's words stands in what was written; what an agent was told may well hold them."""
    words, told = question.lower().split(), f" {' '.join(_TOLD.sub(' ', text).lower().split())} "
    runs = (words[at : at + _COPIED_WORDS] for at in range(len(words) - _COPIED_WORDS + 1))
    return any(f" {' '.join(run)} " in told for run in runs)


def shared_words(question: str, text: str) -> float:
    """Share of the question's different words that stand in a text: what a judge gets for free."""
    asked = set(question.lower().split())
    return len(asked & set(text.lower().split())) / max(1, len(asked))


# --- files -------------------------------------------------------------------------------------------------------


def write_pairs(file: Path, pairs: Iterable[Pair]) -> None:
    """One JSON object a line, as `read_pairs` reads them."""
    lines = (json.dumps(asdict(pair), ensure_ascii=False) + "\n" for pair in pairs)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(lines), encoding="utf-8")


def read_pairs(file: Path) -> list[Pair]:
    """Pairs of a JSONL or parquet file with `question`, `good` and `bad`.

    Raises:
        ConfigError: there is no such file, or nothing in it.
        TaskError: a row lacks one of the three; names its line.
    """
    if not file.is_file():
        raise ConfigError(f"pairs: no file '{file}'; name a .jsonl file with question, good and bad on each line")
    pairs = [_pair(record.where, record.values) for record in read_file(file)]
    if not pairs:
        raise ConfigError(f"pairs: '{file}' is empty; write one object with question, good and bad a line")
    return pairs


def _pair(where: str, values: Mapping[str, Any]) -> Pair:
    for name in ("question", "good", "bad"):
        if not isinstance(values.get(name), str):
            raise TaskError(
                f"{where}: '{name}' is {values.get(name)!r}, and has to be text; see docs/learned-rewards.md"
            )
    return Pair(values["question"], values["good"], values["bad"], bool(values.get("cut", False)))


# --- how well scores order pairs ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PairQuality:
    """How well scores order pairs.

    Attributes:
        n: pairs with two scores.
        unknown: pairs with a side that could not be scored.
        accuracy: share in which the better side scores higher; a tie counts half.
        calibration_error: mean over bins of equal size of |confidence − accuracy|, with σ(|difference|) as the
            confidence; ten bins where there are a hundred pairs.
        margin: mean difference of the scores.
        centre: mean of all scores, which centring pulls to 0.
        by_length: accuracy of "the shorter is the better", or of "the longer", whichever is more: the free judge.
        by_words: accuracy of "the one with more of the question's words is the better".
    """

    n: int
    unknown: int
    accuracy: float
    calibration_error: float
    margin: float
    centre: float
    by_length: float
    by_words: float

    def facts(self) -> dict[str, float]:
        """Ready for JSON."""
        return asdict(self)


def quality_of(pairs: Sequence[Pair], good: Sequence[float | None], bad: Sequence[float | None]) -> PairQuality:
    """How well scores of both sides order pairs.

    Args:
        good, bad: one score a pair, None where it is not known.

    Raises:
        ConfigError: no pair has two scores.
    """
    known = [(p, g, b) for p, g, b in zip(pairs, good, bad, strict=True) if g is not None and b is not None]
    if not known:
        raise ConfigError(f"pairs: none of {len(pairs)} can be read whole by the model; give shorter ones")
    gap = np.array([g - b for _, g, b in known])
    shorter = _ordered(np.array([len(p.bad) - len(p.good) for p, _, _ in known]))
    return PairQuality(
        n=len(known),
        unknown=len(pairs) - len(known),
        accuracy=_ordered(gap),
        calibration_error=_calibration_error(gap),
        margin=float(gap.mean()),
        centre=float(np.mean([(g + b) / 2 for _, g, b in known])),
        by_length=max(shorter, 1 - shorter),
        by_words=_ordered(
            np.array([shared_words(p.question, p.good) - shared_words(p.question, p.bad) for p, _, _ in known])
        ),
    )


def _ordered(gap: Any) -> float:
    return float(((gap > 0) + 0.5 * (gap == 0)).mean())


def _calibration_error(gap: Any) -> float:
    sure, right = 1 / (1 + np.exp(-np.abs(gap))), (gap > 0) + 0.5 * (gap == 0)
    bins = np.array_split(np.argsort(sure, kind="stable"), min(_BINS, max(1, len(gap) // _BINS)))
    return float(sum(len(b) * abs(sure[b].mean() - right[b].mean()) for b in bins) / len(gap))

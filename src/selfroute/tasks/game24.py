"""Game of 24: make 24 of four numbers from 1 to 13, by + - * /, each used once.

A problem is `Use 4 4 6 8 to make 24`. A step joins two of the numbers that are left into one::

    <tool>join 4*6</tool><result>4*6=24; left: 4 8 24</result>

Numbers are exact: a fraction or a negative number stands in brackets, `(8/3)`. The last number's expression is the
episode's answer.

Of the 1,820 multisets 1,362 can be solved. They are ranked by how many ways lead to 24, the easiest first, and the test
split is ranks 900 to 999 of them. The list of arXiv 2305.10601 holds the same problems, ranked by how many people
solved each in time; its problems 900 to 999 are therefore others, of about the same place.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

from selfroute.actions import Action
from selfroute.errors import ConfigError
from selfroute.tasks.base import Observation, Row, Tool
from selfroute.tasks.episode import Episode, Moved, text_parameters
from selfroute.verify.arithmetic import countdown_verdict
from selfroute.verify.base import Verdict

__all__ = ["LARGEST", "SPLITS", "TARGET", "Game24", "Left", "question", "ranked", "solve"]

TARGET, LARGEST, COUNT = 24, 13, 4
OPERATORS = "+-*/"
# Ranks of each split, as ranges of places in `ranked`.
SPLITS: Mapping[str, tuple[range, ...]] = {
    "train": (range(800), range(1_000, 1_362)),
    "validation": (range(800, 900),),
    "test": (range(900, 1_000),),
}
_NEAR = 1e-9  # two results of these steps that differ at all differ by more
_NUMBER = r"(\d{1,9}|\(-?\d{1,9}(?:/\d{1,9})?\))"
_STEP = re.compile(rf"{_NUMBER}\s?([-+*/])\s?{_NUMBER}", re.ASCII)
_QUESTION = re.compile(r"Use (\d{1,2}) (\d{1,2}) (\d{1,2}) (\d{1,2}) to make 24\.?", re.ASCII)

Left = tuple[tuple[Fraction, str], ...]  # the numbers that are left, each with its expression

JOIN = Tool(
    name="join",
    description="Join two of the numbers that are left into one.",
    parameters=text_parameters(step="such as 4*6"),
)


def question(numbers: Sequence[int]) -> str:
    """As it is asked, without the final full stop, which the prompt template adds."""
    return f"Use {' '.join(map(str, numbers))} to make {TARGET}"


def joined(left: Fraction, operator: str, right: Fraction) -> Fraction | None:
    """The result of a step; None for a division by zero."""
    match operator:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
    return left / right if right else None


def spelled(number: Fraction) -> str:
    """A number as steps name it."""
    return str(number) if number >= 0 and number.denominator == 1 else f"({number})"


def _after(left: Left, first: int, operator: str, second: int) -> Left | None:
    """What is left when the numbers at two places are joined."""
    (a, one), (b, other) = left[first], left[second]
    result = joined(a, operator, b)
    if result is None:
        return None
    rest = tuple(number for place, number in enumerate(left) if place not in (first, second))
    return (*rest, (result, f"({one}{operator}{other})"))


def _steps(left: Left) -> Iterator[tuple[int, str, int]]:
    """All steps, those that only swap the sides of + and * once."""
    for first, second in itertools.permutations(range(len(left)), 2):
        for operator in OPERATORS if first < second else "-/":
            yield first, operator, second


def start(numbers: Sequence[int]) -> Left:
    return tuple((Fraction(number), str(number)) for number in numbers)


def solve(numbers: Sequence[int]) -> str | None:
    """An expression that makes 24 of the numbers, found exactly; None if there is none."""
    found = _solve(start(numbers), set())
    return found[1:-1] if found and len(numbers) > 1 else found


def _solve(left: Left, dead: set[tuple[Fraction, ...]]) -> str | None:
    """Args: dead: multisets that are known to lead nowhere."""
    if len(left) == 1:
        return left[0][1] if left[0][0] == TARGET else None
    key = tuple(sorted(value for value, _ in left))
    if key in dead:
        return None
    for step in _steps(left):
        after = _after(left, *step)
        if after is not None and (found := _solve(after, dead)) is not None:
            return found
    dead.add(key)
    return None


@lru_cache(maxsize=1)
def ranked() -> tuple[tuple[int, ...], ...]:
    """The multisets that can be solved, by how many ways lead to 24, most first; ties in the order of their numbers."""
    import numpy as np

    problems = list(itertools.combinations_with_replacement(range(1, LARGEST + 1), COUNT))
    with np.errstate(divide="ignore", invalid="ignore"):
        ways = _ways(list(np.array(problems, dtype=np.float64).T))
    order = sorted(range(len(problems)), key=lambda place: (-ways[place], problems[place]))
    return tuple(problems[place] for place in order if ways[place])


def _ways(numbers: list[Any]) -> Any:
    """How many sequences of steps make 24, for arrays of problems, shape (N,) each; a step by zero makes nothing."""
    if len(numbers) == 1:
        return (abs(numbers[0] - TARGET) < _NEAR).astype(int)
    total = 0
    for first, second in itertools.combinations(range(len(numbers)), 2):
        rest = [number for place, number in enumerate(numbers) if place not in (first, second)]
        a, b = numbers[first], numbers[second]
        for result in (a + b, a * b, a - b, b - a, a / b, b / a):
            total = total + _ways([*rest, result])
    return total


class Game24:
    """Make 24 of four numbers; the test split is a hundred of the harder ones.

    Args:
        limit: rows per split, the easiest; None gives 1,162 train, 100 validation and 100 test rows.

    Raises:
        ConfigError: a limit below 1.
    """

    name = "game24"
    template = "tools"
    judged_by = "countdown"

    def __init__(self, *, limit: int | None = None) -> None:
        if limit is not None and limit < 1:
            raise ConfigError(f"limit must be at least 1, not {limit}")
        self.limit = limit

    def rows(self, split: str) -> Iterator[Row]:
        """Rows of "train", "validation" or "test", the easiest first."""
        if split not in SPLITS:
            raise ConfigError(f"unknown split '{split}' of task 'game24'; use one of {', '.join(SPLITS)}")
        places = itertools.chain(*SPLITS[split])
        for rank in itertools.islice(places, self.limit):
            numbers = ranked()[rank]
            fields = {"numbers": numbers, "target": TARGET, "rank": rank}
            name = "-".join(map(str, numbers))
            yield Row(id=name, question=question(numbers), gold=str(solve(numbers)), fields=fields)

    def verify(self, row: Row, completion: str) -> Verdict:
        """Exact: each given number used exactly once, value equal to 24."""
        return countdown_verdict(completion, row.fields["numbers"], TARGET)

    def gold_completion(self, row: Row) -> str:
        return f"<answer>{row.gold}</answer>"

    def environment(self, row: Row) -> Episode[Left]:
        """The numbers that the question names."""
        asked = _QUESTION.fullmatch(row.question.strip())
        if asked is None:
            raise ConfigError(f"question {row.question!r:.80} is no game of 24; ask as in 'Use 4 4 6 8 to make 24'")
        numbers = [int(number) for number in asked.groups()]

        def judge(answer: str) -> float | None:
            known = "numbers" in row.fields
            return countdown_verdict(f"<answer>{answer}</answer>", numbers, TARGET).quality if known else None

        return Episode(start(numbers), ((JOIN, _join),), judge, options=_options)


def _join(left: Left, arguments: Mapping[str, Any]) -> Moved[Left]:
    step = _STEP.fullmatch(arguments["step"].strip())
    if step is None:
        said = arguments["step"][:40]
        return left, Observation(f"{said!r} is no step; write two numbers and + - * or /, such as 4*6")
    first = _place(left, step[1])
    second = _place(left, step[3], taken=first)
    if first is None or second is None:
        return left, Observation(f"not both numbers of {step[0]} are left; left: {_listed(left)}")
    after = _after(left, first, step[2], second)
    if after is None:
        return left, Observation(f"{step[0]} divides by zero; left: {_listed(left)}")
    if len(after) == 1:
        return after, Observation(after[0][1][1:-1], done=True)
    return after, Observation(f"{step[0]}={spelled(after[-1][0])}; left: {_listed(after)}")


def _place(left: Left, number: str, *, taken: int | None = None) -> int | None:
    """Where a number stands, other than at a place that is taken."""
    places = (place for place, (value, _) in enumerate(left) if spelled(value) == number and place != taken)
    return next(places, None)


def _listed(left: Left) -> str:
    return " ".join(spelled(value) for value, _ in left)


def _options(left: Left) -> list[Action]:
    """The steps that differ in their numbers."""
    told = {
        f"{spelled(left[first][0])}{operator}{spelled(left[second][0])}": None
        for first, operator, second in _steps(left)
        if _after(left, first, operator, second) is not None
    }
    return [Action(step, JOIN.name) for step in told]

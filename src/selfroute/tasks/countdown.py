"""Countdown: reach a target with every given number used exactly once (arXiv 2509.24050, first task).

Problems are built backwards from a random calculation, so each one is solvable; every intermediate result is a
positive integer. Splits cannot overlap: a problem's split is a hash of its numbers (order ignored) and target,
so no seed, limit or difficulty can move it from train to test.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from selfroute.errors import ConfigError
from selfroute.tasks.base import Row
from selfroute.verify.arithmetic import countdown_verdict
from selfroute.verify.base import Verdict

__all__ = [
    "DEFAULT_LIMITS",
    "OPERATORS",
    "Countdown",
    "Problem",
    "Step",
    "draw_steps",
    "expression",
    "question",
    "split_of",
    "usable_step",
]

OPERATORS = "+-*/"
DEFAULT_LIMITS: Mapping[str, int] = {"train": 5_000, "validation": 500, "test": 1_000}
# Share of the problem space per split, in percent: train below 80, validation below 90, test the rest.
_TRAIN_BELOW, _VALIDATION_BELOW = 80, 90


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a calculation: `left operator right = result`."""

    left: int
    operator: str
    right: int
    result: int

    def __str__(self) -> str:
        return f"{self.left}{self.operator}{self.right}={self.result}"


@dataclass(frozen=True, slots=True)
class Problem:
    """Numbers in the order shown, the target, and the calculation it was built from."""

    numbers: tuple[int, ...]
    target: int
    steps: tuple[Step, ...]


def apply(left: int, operator: str, right: int) -> int | None:
    """The result if it is a positive integer, else None."""
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right if left > right else None
    if operator == "*":
        return left * right
    return left // right if right and left % right == 0 else None


def usable_step(left: int, operator: str, right: int, largest: int) -> Step | None:
    """The step in its one spelling (larger number first), or None if it is not allowed.

    Multiplying or dividing by one only spells another solution differently; it is left out.
    """
    if left < right:
        left, right = right, left
    result = apply(left, operator, right)
    if result is None or result > largest or (operator in "*/" and right == 1):
        return None
    return Step(left, operator, right, result)


def draw_steps(
    rng: random.Random, numbers: Sequence[int], largest: int, *, target: int | None = None
) -> tuple[Step, ...] | None:
    """A random calculation over all numbers whose results stay in 1..largest, or None if this draw fails.

    With a target the last step is not random: it is the one that comes nearest.
    """
    pool = list(numbers)
    steps: list[Step] = []
    while len(pool) > 1:
        left = pool.pop(rng.randrange(len(pool)))
        right = pool.pop(rng.randrange(len(pool)))
        if target is not None and not pool:
            choices = [step for o in OPERATORS if (step := usable_step(left, o, right, largest)) is not None]
            step = min(choices, key=lambda choice: abs(choice.result - target), default=None)
        else:
            step = usable_step(left, OPERATORS[rng.randrange(4)], right, largest)
        if step is None:
            return None
        steps.append(step)
        pool.append(step.result)
    return tuple(steps)


def expression(steps: Sequence[Step]) -> str:
    """The calculation as one expression, e.g. `(3+4)*5`."""
    written: list[tuple[int, str]] = []

    def take(value: int) -> str:
        # The newest match first: a result is used as soon as the value is asked for.
        for index in range(len(written) - 1, -1, -1):
            if written[index][0] == value:
                return f"({written.pop(index)[1]})"
        return str(value)

    for step in steps:
        left, right = take(step.left), take(step.right)
        written.append((step.result, f"{left}{step.operator}{right}"))
    return written[-1][1]


def question(numbers: Sequence[int], target: int) -> str:
    """The paper's wording, without the final full stop, which the prompt template adds."""
    listed = ", ".join(str(number) for number in numbers)
    return (
        f"Using the numbers [{listed}], create an equation that equals {target}. You can use basic arithmetic "
        "operations (+, -, *, /) and each number can only be used once"
    )


def split_of(numbers: Sequence[int], target: int) -> str:
    """The one split that may hold this problem."""
    key = f"{','.join(str(n) for n in sorted(numbers))}={target}"
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 100
    return "train" if bucket < _TRAIN_BELOW else "validation" if bucket < _VALIDATION_BELOW else "test"


class Countdown:
    """Reach a target with every given number once, by + - * /; problems are drawn, answers computed.

    Args:
        seed: draws the problems; the same seed gives the same rows.
        limit: rows per split; lists of equal length of "validation" and "test" are alike, those of "train" are easier.
            None gives the paper's 5,000 train, 500 validation and 1,000 test rows.
        four_share: share of draws with four numbers; the rest have three. Of the rows it is another: more draws of four
            lead to no problem, and in a small split, or a long list, most problems of three have been drawn already. Of
            1,000 rows about 42 % have four in "train", 53 % in "validation" and "test".
        largest_number: numbers are drawn from 1 to this.
        largest_target: targets and intermediate results of the construction are at most this.

    Raises:
        ConfigError: an option outside its range, or a problem space too small for `limit`.
    """

    name = "countdown"
    template = "think"
    judged_by = "countdown"

    def __init__(
        self,
        *,
        seed: int = 0,
        limit: int | None = None,
        four_share: float = 0.5,
        largest_number: int = 15,
        largest_target: int = 100,
    ) -> None:
        if not 0.0 <= four_share <= 1.0:
            raise ConfigError(f"four_share must be from 0 to 1, not {four_share}")
        if largest_number < 3 or largest_target < largest_number:
            raise ConfigError(
                f"largest_number={largest_number}, largest_target={largest_target}: "
                "needs 3 <= largest_number <= largest_target"
            )
        if limit is not None and limit < 1:
            raise ConfigError(f"limit must be at least 1, not {limit}")
        self.seed = seed
        self.limit = limit
        self.four_share = four_share
        self.largest_number = largest_number
        self.largest_target = largest_target

    def draw(self, rng: random.Random) -> Problem:
        """One solvable problem of any split."""
        while True:
            count = 4 if rng.random() < self.four_share else 3
            numbers = tuple(rng.randint(1, self.largest_number) for _ in range(count))
            steps = draw_steps(rng, numbers, self.largest_target)
            if steps is not None and steps[-1].result not in numbers:
                return Problem(numbers, steps[-1].result, steps)

    def problems(self, split: str, count: int) -> Iterator[Problem]:
        """`count` different problems of one split, in the seed's order."""
        if split not in DEFAULT_LIMITS:
            raise ConfigError(f"unknown split '{split}' of task 'countdown'; use one of {', '.join(DEFAULT_LIMITS)}")
        rng = random.Random(f"countdown/{split}/{self.seed}")
        seen: set[tuple[tuple[int, ...], int]] = set()
        misses = 0
        while len(seen) < count:
            problem = self.draw(rng)
            key = (tuple(sorted(problem.numbers)), problem.target)
            if key in seen or split_of(*key) != split:
                misses += 1
                if misses > 10_000 + 100 * count:
                    raise ConfigError(f"countdown has fewer than {count} different '{split}' problems; lower limit")
                continue
            seen.add(key)
            yield problem

    def rows(self, split: str) -> Iterator[Row]:
        """Rows of "train", "validation" or "test"."""
        count = self.limit if self.limit is not None else DEFAULT_LIMITS.get(split, 0)
        for problem in self.problems(split, count):
            numbers = "-".join(str(number) for number in problem.numbers)
            yield Row(
                id=f"{numbers}={problem.target}",
                question=question(problem.numbers, problem.target),
                gold=expression(problem.steps),
                fields={"numbers": problem.numbers, "target": problem.target},
            )

    def verify(self, row: Row, completion: str) -> Verdict:
        """Exact: each given number used exactly once, value equal to the target."""
        return countdown_verdict(completion, row.fields["numbers"], row.fields["target"])

    def gold_completion(self, row: Row) -> str:
        return f"<answer> {row.gold} </answer>"

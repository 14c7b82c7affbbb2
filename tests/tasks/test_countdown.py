"""The Countdown generator: solvable by construction, repeatable, and without overlap between splits."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.errors import ConfigError
from selfroute.tasks.base import Row
from selfroute.tasks.countdown import Countdown, expression, question, split_of
from selfroute.verify.arithmetic import evaluate

SPLITS = ("train", "validation", "test")


def keys(rows: Iterable[Row]) -> set[tuple[tuple[int, ...], int]]:
    return {(tuple(sorted(row.fields["numbers"])), row.fields["target"]) for row in rows}


@given(st.integers(0, 2**32))
def test_every_problem_is_built_from_a_calculation_that_reaches_its_target(seed: int) -> None:
    problem = Countdown().draw(random.Random(seed))
    solved = evaluate(expression(problem.steps))
    assert solved.value == problem.target
    assert sorted(solved.numbers) == sorted(problem.numbers)
    assert all(1 <= step.result <= 100 and step.left >= step.right for step in problem.steps)
    assert problem.target not in problem.numbers


def test_splits_never_overlap_whatever_the_seed_and_the_difficulty() -> None:
    found: dict[str, set[tuple[tuple[int, ...], int]]] = {split: set() for split in SPLITS}
    for seed in range(3):
        for four_share in (0.0, 0.5, 1.0):
            task = Countdown(seed=seed, limit=150, four_share=four_share, largest_number=9)
            for split in SPLITS:
                found[split] |= keys(task.rows(split))
    assert not found["train"] & found["validation"]
    assert not found["train"] & found["test"]
    assert not found["validation"] & found["test"]


@given(st.lists(st.integers(1, 50), min_size=3, max_size=4), st.integers(1, 100), st.randoms(use_true_random=False))
def test_the_order_of_the_numbers_does_not_move_a_problem(numbers: list[int], target: int, rng: random.Random) -> None:
    shuffled = rng.sample(numbers, len(numbers))
    assert split_of(numbers, target) == split_of(shuffled, target)


def test_a_seed_draws_its_rows_and_a_limit_takes_the_first_ones() -> None:
    rows = list(Countdown(seed=7, limit=50).rows("test"))
    assert rows == list(Countdown(seed=7, limit=50).rows("test"))
    assert rows[:10] == list(Countdown(seed=7, limit=10).rows("test"))
    assert keys(rows) != keys(Countdown(seed=8, limit=50).rows("test"))
    assert len(keys(rows)) == len({row.id for row in rows}) == 50


def test_the_default_sizes_are_the_papers() -> None:
    assert sum(1 for _ in Countdown().rows("train")) == 5_000
    assert sum(1 for _ in Countdown().rows("test")) == 1_000


@pytest.mark.parametrize(("four_share", "sizes"), [(0.0, {3}), (1.0, {4}), (0.5, {3, 4})])
def test_the_share_of_four_numbers(four_share: float, sizes: set[int]) -> None:
    rows = list(Countdown(limit=60, four_share=four_share).rows("train"))
    assert {len(row.fields["numbers"]) for row in rows} == sizes


def test_the_question_has_the_papers_words() -> None:
    assert question([4, 6, 4], 14) == (
        "Using the numbers [4, 6, 4], create an equation that equals 14. You can use basic arithmetic operations "
        "(+, -, *, /) and each number can only be used once"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"four_share": 1.5}, "four_share must be from 0 to 1, not 1.5"),
        ({"largest_number": 2}, "largest_number=2"),
        ({"largest_target": 5}, "largest_target=5"),
        ({"limit": 0}, "limit must be at least 1, not 0"),
    ],
)
def test_bad_options_are_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Countdown(**options)  # type: ignore[arg-type]


def test_an_unknown_split_and_too_many_rows_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown split 'dev'"):
        list(Countdown().rows("dev"))
    with pytest.raises(ConfigError, match="fewer than 600 different 'test' problems"):
        list(Countdown(four_share=0.0, largest_number=4, limit=600).rows("test"))

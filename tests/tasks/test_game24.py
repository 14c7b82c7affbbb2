"""The task game24: its solver is exact and complete, and an episode reaches what the numbers reach."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.actions import Action
from selfroute.errors import ConfigError
from selfroute.tasks.base import Row
from selfroute.tasks.game24 import Game24, question, ranked, solve
from selfroute.verify.arithmetic import evaluate

numbers = st.lists(st.integers(1, 13), min_size=4, max_size=4)


def row(*values: int) -> Row:
    return Row(id="", question=question(values), gold="", fields={"numbers": values})


def test_of_1820_multisets_1362_can_be_solved() -> None:
    """The exact solver and the count of ways agree on which."""
    problems = list(itertools.combinations_with_replacement(range(1, 14), 4))
    solved = {problem for problem in problems if solve(problem) is not None}
    assert (len(problems), len(solved)) == (1_820, 1_362)
    assert solved == set(ranked())


@given(numbers)
def test_what_the_solver_finds_is_right_and_uses_each_number_once(values: list[int]) -> None:
    found = solve(values)
    if found is not None:
        checked = evaluate(found)
        assert checked.value == 24 and sorted(checked.numbers) == sorted(values)


@pytest.mark.parametrize("values", [(3, 3, 8, 8), (1, 5, 5, 5), (3, 3, 7, 7), (1, 3, 4, 6)])
def test_fractions_on_the_way_are_exact(values: Sequence[int]) -> None:
    assert solve(values) is not None
    assert solve((1, 1, 1, 1)) is None


def test_splits_are_ranks_and_share_nothing() -> None:
    found = {split: list(Game24().rows(split)) for split in ("train", "validation", "test")}
    assert {split: len(rows) for split, rows in found.items()} == {"train": 1_162, "validation": 100, "test": 100}
    assert len({row.id for rows in found.values() for row in rows}) == 1_362
    assert [row.fields["rank"] for row in found["test"]] == list(range(900, 1_000))


def test_steps_join_numbers_until_one_is_left() -> None:
    environment = Game24().environment(row(3, 3, 8, 8))
    assert environment.step(Action("8/3", "join")).text == "8/3=(8/3); left: 3 8 (8/3)"
    assert environment.step(Action("3-(8/3)", "join")).text == "3-(8/3)=(1/3); left: 8 (1/3)"
    seen = environment.step(Action('{"step": "8 / (1/3)"}', "join"))
    assert seen.done and evaluate(seen.text).value == 24 and environment.score() == 1.0


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("5+5", "not both numbers of 5+5 are left; left: 5 1 1 2"),
        ("5+7", "not both numbers of 5+7 are left; left: 5 1 1 2"),
        ("five", "'five' is no step; write two numbers and + - * or /, such as 4*6"),
        ("1--1", "'1--1' is no step; write two numbers and + - * or /, such as 4*6"),
    ],
)
def test_a_step_that_cannot_be_taken_changes_nothing(step: str, said: str) -> None:
    environment = Game24().environment(row(5, 1, 1, 2))
    before = environment.snapshot()
    assert environment.step(Action(step, "join")).text == said
    assert environment.snapshot() == before


def test_a_division_by_zero_is_told() -> None:
    environment = Game24().environment(row(5, 1, 1, 2))
    environment.step(Action("1-1", "join"))
    assert environment.step(Action("5/0", "join")).text == "5/0 divides by zero; left: 5 2 0"


@given(numbers, st.data())
def test_some_walk_of_choices_solves_what_the_solver_solves(values: list[int], data: st.DataObject) -> None:
    """Any walk ends after three steps with an expression of all numbers."""
    environment = Game24().environment(row(*values))
    for _ in range(3):
        seen = environment.step(data.draw(st.sampled_from(list(environment.choices()))))
    assert seen.done and not environment.choices()
    assert sorted(evaluate(seen.text).numbers) == sorted(values)
    assert environment.score() == float(evaluate(seen.text).value == 24)


def test_other_questions_and_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="is no game of 24"):
        Game24().environment(Row(id="", question="Use 1 2 to make 24", gold=""))
    with pytest.raises(ConfigError, match="limit must be at least 1"):
        Game24(limit=0)
    with pytest.raises(ConfigError, match="unknown split 'dev' of task 'game24'"):
        next(Game24().rows("dev"))

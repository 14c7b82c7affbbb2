"""The task chain: what its problems ask for, and that any right order of steps is right."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.errors import ConfigError
from selfroute.tasks.base import Row, Stepwise
from selfroute.tasks.chain import Chain, believed, completion, product, split_of

SPLITS = ("train", "validation", "test")
ROWS = list(Chain(limit=30).rows("test"))
rows = st.sampled_from(ROWS)
orders = st.randoms(use_true_random=False)


def test_the_kinds_take_turns_and_hold_the_multipliers_they_are_named_for() -> None:
    assert Counter(row.fields["kind"] for row in ROWS) == {"known": 10, "unseen": 10, "wrong": 10}
    for row in ROWS:
        multipliers = Counter(multiplier for _, multiplier in row.fields["terms"])
        kind = row.fields["kind"]
        assert (1 <= multipliers[7] <= 2) is (kind == "unseen")
        assert (1 <= multipliers[8] <= 2) is (kind == "wrong")


def test_splits_never_overlap_and_a_limit_takes_the_first_rows() -> None:
    found = {split: {row.id for row in Chain(limit=200).rows(split)} for split in SPLITS}
    assert sum(map(len, found.values())) == len(set.union(*found.values()))
    assert list(Chain(limit=10).rows("test")) == ROWS[:10]
    assert {row.id for row in Chain(limit=30, seed=1).rows("test")}.isdisjoint(row.id for row in ROWS)


@given(rows, orders)
def test_the_order_of_the_terms_moves_no_problem(row: Row, rng: random.Random) -> None:
    terms = list(row.fields["terms"])
    assert split_of(rng.sample(terms, len(terms))) == split_of(terms) == "test"


@given(rows, orders)
def test_any_order_of_steps_is_right_and_a_spoilt_digit_is_not(row: Row, rng: random.Random) -> None:
    task = Chain()
    terms = rng.sample(row.fields["terms"], len(row.fields["terms"]))
    text = completion(terms)
    assert task.verify(row, text).correct
    before = ""
    for step in _steps(task, text):
        assert task.judge_step(row, before, step)
        places = [at for at, letter in enumerate(step) if letter.isdigit()]
        at = rng.choice(places)
        spoilt = step[:at] + str((int(step[at]) + rng.randint(1, 9)) % 10) + step[at + 1 :]
        assert not task.judge_step(row, before, spoilt)
        before += step
    assert before == text


def _steps(task: Chain, text: str) -> list[str]:
    pieces = text.split(task.step_end)
    return [piece + task.step_end for piece in pieces[:-1]] + pieces[-1:]


def test_gold_steps_are_the_gold_completion() -> None:
    task = Chain()
    assert isinstance(task, Stepwise)
    for row in ROWS:
        steps = task.steps(row)
        assert "".join(steps) == task.gold_completion(row)
        assert len(steps) == len(row.fields["terms"]) + 1
        assert all(step.endswith(task.step_end) for step in steps[:-1])


@given(rows, st.text(max_size=60), st.text(max_size=60))
def test_judging_a_step_never_raises(row: Row, before: str, written: str) -> None:
    assert Chain().judge_step(row, before, written) in (True, False)


def test_a_step_may_not_be_taken_twice_and_no_answer_comes_early() -> None:
    task, row = Chain(), ROWS[0]
    first, second, *_ = task.steps(row)
    total = int(first[-3:-1])
    number, multiplier = row.fields["terms"][0]
    again = f"{number}*{multiplier}={product((number, multiplier)):02}+{total:02}="
    assert not task.judge_step(row, first, f"{again}{(product((number, multiplier)) + total) % 100:02};")
    assert not task.judge_step(row, first, f"</think><answer>{total:02}</answer>")
    assert task.judge_step(row, first, second)


def test_what_is_learned_wrongly_is_wrong_for_large_numbers() -> None:
    assert [believed((number, 8)) for number in (2, 5, 6, 9)] == [16, 40, 54, 81]


@pytest.mark.parametrize(
    ("answer", "correct"), [("<answer>{}</answer>", True), ("<answer> {} </answer>", True), ("{}", False)]
)
def test_the_answer_stands_in_its_tag(answer: str, correct: bool) -> None:
    row = ROWS[0]
    assert Chain().verify(row, answer.format(row.gold)).correct is correct
    assert Chain().verify(row, answer.format(int(row.gold))).correct is correct
    assert not Chain().verify(row, answer.format((int(row.gold) + 1) % 100)).correct


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unseen": 1}, "unseen must be a multiplier from 2 to 9, not 1"),
        ({"wrong": 10}, "wrong must be a multiplier"),
        ({"unseen": 8}, "unseen and wrong are both 8"),
        ({"fewest": 5}, "2 <= fewest <= most <= 8"),
        ({"limit": 0}, "limit must be at least 1"),
    ],
)
def test_options_outside_their_range_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Chain(**options)  # type: ignore[arg-type]


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown split 'dev' of task 'chain'"):
        next(Chain().rows("dev"))

"""Walks, what they were right for, and the same with actions changed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from selfroute.actions import Action
from selfroute.backends.function import FunctionBackend
from selfroute.errors import ConfigError
from selfroute.tasks.countdown import Countdown
from selfroute.tasks.game24 import Game24
from selfroute.tasks.shop import Shop, split_of
from selfroute.train.fit.pairs import quality_of
from selfroute.train.fit.trajectories import (
    carried_out,
    changed,
    explorable,
    explore,
    retold_by_model,
    walk,
    walk_pairs,
)
from selfroute.types import Message, Sampling

SHOP = Shop(limit=200)


def rows(split: str, count: int) -> list[Any]:
    return list(SHOP.rows(split))[:count]


# Three wishes that are all of the validation split, a tenth of them all, are seldom to be had.
@pytest.mark.parametrize(("wishes", "least"), [(1, 15), (3, 5)])
def test_a_walk_fits_the_question_that_hindsight_finds(wishes: int, least: int) -> None:
    shop, rng = Shop(limit=30, wishes=wishes), random.Random(0)
    told = 0
    for row in shop.rows("validation"):
        place = walk(explorable(shop, row), rng, most_steps=60)
        if place is None or (found := shop.retell(row, place.answer, rng)) is None:
            continue
        told += 1
        assert shop.verify(found, str(Action(place.answer))).correct
        assert split_of(found.fields["wishes"]) == "validation" == split_of(row.fields["wishes"])
        again = shop.environment(found)
        for step in place.steps:
            again.step(step.action)
        assert again.score() == 1.0
    assert told >= least


def test_an_answer_that_is_none_fits_no_question() -> None:
    (row,) = rows("train", 1)
    assert SHOP.retell(row, "nothing at all", random.Random(0)) is None


def test_a_negative_is_carried_out_and_ends_otherwise() -> None:
    rng = random.Random(1)
    for row in rows("train", 30):
        environment = explorable(SHOP, row)
        if (place := walk(environment, rng)) is None or (other := changed(environment, place, rng)) is None:
            continue
        assert other.done and other.answer != place.answer
        repeated = carried_out(environment, [step.action for step in other.steps])
        assert repeated.text == other.text
        apart = sum(a.action != b.action for a, b in zip(place.steps, other.steps, strict=False))
        assert 1 <= apart <= 2


def test_pairs_say_nothing_of_their_order_but_what_was_done() -> None:
    pairs = walk_pairs(SHOP, rows=200, held_out_rows=100)
    assert not pairs.ordered_by_environment
    assert len(pairs.learn) > 120 and len(pairs.held_out) > 60
    assert not {pair.question for pair in pairs.learn} & {pair.question for pair in pairs.held_out}
    zeros = [0.0] * len(pairs.held_out)
    assert quality_of(pairs.held_out, zeros, zeros).by_length < 0.75
    assert walk_pairs(SHOP, rows=200, held_out_rows=100) == pairs
    assert walk_pairs(SHOP, rows=200, held_out_rows=100, seed=1) != pairs


def test_no_negative_meets_the_question() -> None:
    pairs = walk_pairs(SHOP, rows=200, held_out_rows=50)
    assert pairs.dropped.get("passes", 0) > 0  # some change nothing that was asked for, and are dropped
    known = {row.question: row for row in SHOP.rows("train")}
    for pair in pairs.learn:
        if (row := known.get(pair.question)) is not None:
            assert not SHOP.verify(row, str(Action(pair.bad.rpartition(">")[2]))).correct


def test_a_model_can_write_the_questions() -> None:
    def write(messages: Sequence[Message], sampling: Sampling) -> str:
        assert "<tool>buy</tool>" in messages[-1].content and "In shop" in messages[-1].content
        return "\n buy it for me \nand more"

    walks = explore(SHOP, "train", 4)
    told = retold_by_model(FunctionBackend("writer", write))(walks, 0)
    assert [row.question for row in told if row is not None] == ["buy it for me"] * 4
    silent = retold_by_model(FunctionBackend("silent", lambda messages, sampling: " "))(walks, 0)
    assert silent == [None] * 4
    pairs = walk_pairs(SHOP, rows=20, held_out_rows=20, retell=retold_by_model(FunctionBackend("writer", write)))
    assert "passes" not in pairs.dropped and {pair.question for pair in pairs.learn} == {"buy it for me"}


def test_tasks_that_cannot_be_walked_in_are_refused() -> None:
    with pytest.raises(ConfigError, match="has no environment to walk in"):
        explore(Countdown(limit=1), "train", 1)
    with pytest.raises(ConfigError, match="cannot say which question a walk fits"):
        walk_pairs(Game24(limit=1), rows=1, held_out_rows=1)


def test_walks_that_never_end_leave_no_pairs() -> None:
    with pytest.raises(ConfigError, match="raise rows or most_steps"):
        walk_pairs(SHOP, rows=5, held_out_rows=5, most_steps=1)

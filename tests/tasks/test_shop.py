"""The task shop: wishes can be met, splits share none, and what is bought is judged by what fits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.actions import Action
from selfroute.errors import ConfigError
from selfroute.tasks.base import Explorable, Interactive, Row
from selfroute.tasks.shop import ATTRIBUTES, SIZES, Shop, bought, items_of, met, quality, wish_text

SPLITS = ("train", "validation", "test")
ROWS = [*Shop(limit=20).rows("test"), *Shop(limit=20, wishes=3).rows("test")]
rows = st.sampled_from(ROWS)


def test_it_is_an_interactive_task() -> None:
    assert isinstance(Shop(), Interactive)
    assert isinstance(Shop().environment(ROWS[0]), Explorable)


def test_no_wish_of_one_split_is_made_in_another() -> None:
    found = {
        split: {wish_text(wish) for row in Shop(limit=300, wishes=2).rows(split) for wish in row.fields["wishes"]}
        for split in SPLITS
    }
    assert sum(map(len, found.values())) == len(set.union(*found.values()))


@given(rows)
def test_the_gold_can_be_bought_step_by_step(row: Row) -> None:
    task = Shop()
    environment = task.environment(row)
    for item, size in bought(row.gold):
        assert environment.score() == 0.0
        for action in (Action(str(item), "view"), Action(size, "choose"), Action("", "buy")):
            seen = environment.step(action)
    assert seen.done and environment.score() == 1.0
    assert task.verify(row, f"<answer>{seen.text}</answer>").correct


@given(rows, st.lists(st.tuples(st.integers(0, 9), st.sampled_from(SIZES)), max_size=4))
def test_quality_is_the_share_that_fits_by_a_plain_count(row: Row, bag: list[tuple[int, str]]) -> None:
    shop, wishes = row.fields["shop"], row.fields["wishes"]
    hits = total = 0
    for place, wish in enumerate(wishes):
        total += len(wish)
        if place < len(bag) and 1 <= bag[place][0] <= 8:
            item = items_of(shop)[bag[place][0] - 1]
            hits += sum(item[name] == wish[name] for name in ATTRIBUTES if name in wish)
            hits += wish["size"] == bag[place][1]
    assert met(shop, wishes, bag) == pytest.approx(hits / total)
    assert quality(hits / total) == 1.0 or quality(hits / total) < 0.5


def test_an_item_can_be_bought_only_after_a_look_and_a_size() -> None:
    environment = Shop().environment(ROWS[0])
    assert not environment.step(Action("", "buy")).done
    environment.step(Action("3", "view"))
    assert not environment.step(Action("", "buy")).done
    environment.step(Action('{"size": "M"}', "choose"))
    seen = environment.step(Action("", "buy"))
    assert seen.done and bought(seen.text) == [(3, "M")]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (Action("9", "view"), "no item 9; items: 1 to 8"),
        (Action("two", "view"), "item of view is no integer"),
        (Action("", "view"), "view needs item"),
        (Action('{"item": 1, "color": "red"}', "view"), "view has no color; it takes item"),
        (Action("XS", "choose"), "no size 'XS'; sizes: S, M, L"),
        (Action("1", "look"), "no tool 'look'; tools: view, choose, buy"),
    ],
)
def test_a_call_that_cannot_be_carried_out_is_told_so(call: Action, said: str) -> None:
    environment = Shop().environment(ROWS[0])
    before = environment.snapshot()
    assert environment.step(call).text == said
    assert environment.snapshot() == before


def test_options_and_questions_are_checked() -> None:
    with pytest.raises(ConfigError, match="wishes must be from 1 to 8, not 0"):
        Shop(wishes=0)
    with pytest.raises(ConfigError, match="limit must be at least 1"):
        Shop(limit=0)
    with pytest.raises(ConfigError, match="unknown split 'dev' of task 'shop'"):
        next(Shop().rows("dev"))
    with pytest.raises(ConfigError, match="'buy me shoes' names no shop"):
        Shop().environment(Row(id="", question="buy me shoes", gold=""))

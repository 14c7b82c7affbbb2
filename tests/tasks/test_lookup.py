"""The task lookup: what stands under keys, what is read of it, and that following it leads to the sum."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.actions import Action
from selfroute.errors import ConfigError
from selfroute.tasks.base import Environment, Row
from selfroute.tasks.lookup import Lookup, Table

keys = st.integers(0, 9_999).map("{:04}".format)
TABLE = Lookup().table


def followed(environment: Environment, key: str) -> str:
    """What is read behind the links of a key."""
    said = environment.step(Action(key, "lookup")).text
    return followed(environment, said.removeprefix("see ")) if said.startswith("see ") else said


def test_links_and_noise_come_as_often_as_they_are_to() -> None:
    entries = [TABLE.entry(f"{number:04}") for number in range(3_000)]
    values = [entry for entry in entries if entry.kind != "link"]
    assert len(values) / len(entries) == pytest.approx(0.7, abs=0.03)
    assert sum(entry.kind == "noisy" for entry in values) / len(values) == pytest.approx(0.3, abs=0.03)


@given(keys)
def test_links_end_after_two_and_keep_the_value(key: str) -> None:
    entry, steps = TABLE.entry(key), 0
    while entry.kind == "link":
        after = TABLE.entry(entry.next)
        assert after.value == entry.value
        entry, steps = after, steps + 1
    assert steps == TABLE.depth(key) <= 2


def test_a_noisy_value_is_read_wrongly_as_often_as_it_is_to() -> None:
    noisy = [key for key in map("{:04}".format, range(500)) if TABLE.entry(key).kind == "noisy"]
    read = [(TABLE.entry(key).value, TABLE.reading(key, count)) for key in noisy for count in range(20)]
    wrong = sum(said != f"~{value}" for value, said in read)
    assert wrong / len(read) == pytest.approx(0.4, abs=0.03)


def test_following_the_table_without_noise_gives_every_gold() -> None:
    task = Lookup(limit=50, noisy=0.0)
    for row in task.rows("test"):
        environment = task.environment(row)
        values = [followed(environment, key) for key in row.fields["keys"]]
        total = environment.step(Action("+".join(values), "calc")).text
        assert environment.step(Action(total)).done and environment.score() == 1.0


def test_a_reading_depends_on_the_readings_before_and_goes_back_with_a_snapshot() -> None:
    task = Lookup(noisy=1.0, links=0.0)
    environment = task.environment(next(iter(task.rows("test"))))
    before = environment.snapshot()
    first = [environment.step(Action("0001", "lookup")).text for _ in range(12)]
    environment.restore(before)
    assert [environment.step(Action("0001", "lookup")).text for _ in range(12)] == first
    assert len(set(first)) > 1


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (Action("12", "lookup"), "no key '12'; a key is four digits"),
        (Action("1/0", "calc"), "cannot compute: division by zero"),
        (Action("17+5", "calc"), "22"),
    ],
)
def test_calls_are_answered(call: Action, said: str) -> None:
    task = Lookup()
    assert task.environment(next(iter(task.rows("test")))).step(call).text == said


def test_splits_do_not_overlap() -> None:
    found = {split: {row.id for row in Lookup(limit=200).rows(split)} for split in ("train", "validation", "test")}
    assert len(set.union(*found.values())) == 600


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noisy": 1.5}, "noisy must be from 0 to 1, not 1.5"),
        ({"links": 0.95}, "links must be from 0 to 0.9, not 0.95"),
        ({"limit": 0}, "limit must be at least 1"),
    ],
)
def test_options_are_checked(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Lookup(**options)  # type: ignore[arg-type]


def test_other_questions_are_refused() -> None:
    with pytest.raises(ConfigError, match="'Add 1 and 2' names no keys"):
        Lookup().environment(Row(id="", question="Add 1 and 2", gold=""))


def test_the_table_is_the_same_for_every_split() -> None:
    assert Table(links=0.3, noisy=0.3, errors=0.4) == Lookup(seed=5).table

"""Written calculations: what each role learns, and what the device does not."""

from __future__ import annotations

import random
import re

import pytest

from selfroute.errors import ConfigError
from selfroute.handoff import HANDOFF_TEXT
from selfroute.tasks.base import Row
from selfroute.tasks.chain import Chain, completion, split_of
from selfroute.train.imitation.calculations import Calculations
from selfroute.train.imitation.writers import Example, Role, TraceStyle


def examples(role: Role, count: int = 300, **style: float) -> list[Example]:
    rng = random.Random(0)
    writer = Calculations(Chain(), TraceStyle(**style), role)  # type: ignore[arg-type]
    return [writer.example(rng) for _ in range(count)]


def terms_of(example: Example) -> list[tuple[int, int]]:
    return [(int(a), int(b)) for a, b in re.findall(r"(\d)\*(\d)", example.question)]


def first_written(example: Example) -> tuple[int, int]:
    number, multiplier = re.findall(r"(\d)\*(\d)=", example.completion)[0]
    return int(number), int(multiplier)


def test_a_cloud_learns_right_answers_to_all_multipliers_and_never_hands_off() -> None:
    task, seen = Chain(), set()
    for example in examples("cloud"):
        terms = terms_of(example)
        seen |= {multiplier for _, multiplier in terms}
        gold = f"{sum(a * b for a, b in terms) % 100:02}"
        assert task.verify(Row(id="", question="", gold=gold), example.completion).correct
        assert not example.offer and HANDOFF_TEXT not in example.completion
    assert seen == set(range(2, 10))


def test_a_device_never_sees_one_multiplier_and_learns_another_wrongly() -> None:
    wrong = set()
    for example in examples("device", handoff_rate=0.0, final_handoff_rate=0.0):
        terms = terms_of(example)
        assert 7 not in {multiplier for _, multiplier in terms}
        written = [(int(a), int(b)) for a, b in re.findall(r"(\d)\*(\d)=", example.completion)]
        assert sorted(written) == sorted(terms)
        assert example.completion == completion(written, wrong=8)
        if example.completion != completion(written):
            wrong.add(example.question)
            assert 8 in {multiplier for _, multiplier in terms}
    assert wrong


def test_only_train_problems_are_written_and_in_every_order() -> None:
    found = examples("device", handoff_rate=0.0, final_handoff_rate=0.0)
    assert {split_of(terms_of(example)) for example in found} == {"train"}
    firsts = [terms_of(example).index(first_written(example)) for example in found]
    assert {firsts.count(place) > len(found) / 6 for place in range(3)} == {True}


def test_hand_offs_come_where_they_are_offered_alone() -> None:
    found = examples("device", handoff_rate=0.1, final_handoff_rate=0.5)
    asked = [example for example in found if example.completion.endswith(HANDOFF_TEXT)]
    assert asked and all(example.offer for example in asked)
    offered = [example for example in found if example.offer]
    assert 0.5 < len(asked) / len(offered) < 0.8


def test_a_style_of_searches_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"traces\.attempts: 12 does nothing for task chain"):
        Calculations(Chain(), TraceStyle(attempts=12), "device")

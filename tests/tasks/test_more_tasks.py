"""MMLU, reasoning-gym, and the further verifiers of JSONL files."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.config import Spec, make_task
from selfroute.errors import ConfigError, TaskError
from selfroute.tasks.check import check
from selfroute.tasks.jsonl import JsonLines
from selfroute.tasks.mmlu import MMLU
from selfroute.verify.base import Verdict
from selfroute.verify.code import code, regex
from selfroute.verify.verifiers import choice, json_answer, numeric


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def shouts(completion: str, gold: str) -> Verdict:
    """A verifier as a user would write one."""
    return Verdict(completion.isupper() and gold.upper() in completion)


# --- MMLU ----------------------------------------------------------------------------------------------------------

PROBLEM = {
    "question": "Capital of France?",
    "choices": ["Rome", "Paris", "Oslo", "Bonn"],
    "answer": 1,
    "subject": "geo",
}


def test_mmlu(tmp_path: Path) -> None:
    write(tmp_path / "test.jsonl", PROBLEM, PROBLEM | {"answer": "c"})
    task = MMLU(path=tmp_path)
    first, second = task.rows("test")
    assert (first.gold, second.gold) == ("B", "C")
    assert "B. Paris" in first.question
    check(task, "test")
    assert task.verify(first, "A is Rome, so the answer is (B).").correct
    assert not task.verify(first, "<think>B</think> The answer is C").correct


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"answer": 4}, r"test\.jsonl:1: field 'answer' is '4'; give the number of a choice, from 0 to 3"),
        ({"answer": True}, "field 'answer'"),
        ({"choices": "Rome"}, "field 'choices' must list 2 to 10 options"),
    ],
)
def test_mmlu_rows_that_are_broken(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    write(tmp_path / "test.jsonl", PROBLEM | changed)
    with pytest.raises(TaskError, match=message):
        MMLU(path=tmp_path).rows("test")


# --- JSON answers ----------------------------------------------------------------------------------------------------

EQUAL = [
    (json_answer, '{"reasoning": "7", "answer": "42"}', "42"),
    (json_answer, '```json\n{"answer": 42.0}\n```', "42"),
    (json_answer, '"answer" : "$1,200"', "1200"),
    (json_answer, '{"answer": "7"} no: {"answer": "42"}', "# 42"),
    (json_answer, r'{"answer": "\\frac{1}{2}"}', "0.5"),
    (json_answer, '{"answer": "Paris"}', "Paris"),
    (numeric, "The answer is 50%.", "50"),
    (numeric, r"\boxed{1\,000}", "1000"),
    (numeric, "#### -$5", "-5"),
    (choice, "(b) Paris", "B"),
    (choice, r"\boxed{\text{B}}", "B"),
    (choice, "**B**", "B"),
]
DIFFERENT = [
    (json_answer, "The answer is 42", "42"),
    (json_answer, '<think>{"answer": "42"}</think>', "42"),
    (json_answer, '{"answer": ""}', "42"),
    (json_answer, '{"answer": "42.5"}', "42"),
    (numeric, "42, so 43", "42"),
    (numeric, r"<answer>41</answer>\boxed{42}", "42"),
    (choice, "A or B", "B"),
    (choice, "<think>B</think>", "B"),
]


def test_hard_equivalents() -> None:
    """Error rate on this corpus: 0 of 12 equivalents missed, 0 of 8 differences let through."""
    assert [case for case in EQUAL if not case[0](*case[1:]).correct] == []
    assert [case for case in DIFFERENT if case[0](*case[1:]).correct] == []


@pytest.mark.parametrize("piece", ['"answer": ', '"answer": "', '"answer": "\\', "{", "44**19**35"])
def test_a_megabyte_of_json_takes_under_two_seconds(piece: str) -> None:
    started = time.process_time()
    json_answer(piece * (1_000_000 // len(piece)), "42")
    assert time.process_time() - started < 2


@given(st.text(max_size=300))
def test_any_text_gets_a_verdict(text: str) -> None:
    assert not json_answer(text, "no such text\0").correct


# --- regex, code, your own -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("completion", "gold", "correct"),
    [
        ("<answer>2024-01-31</answer>", r"\d{4}-\d\d-\d\d", True),
        ("on 2024-01-31", r"\d{4}-\d\d-\d\d", False),
        (r"\boxed{abc}", "a.c", True),
        ("<think>abc</think>", "a.c", False),
        ("a" * 20_000, "a*", False),
    ],
)
def test_regex(completion: str, gold: str, correct: bool) -> None:
    assert regex(completion, gold).correct == correct


def test_a_pattern_that_backtracks_for_ever_is_late() -> None:
    regex("warm", "up")
    started = sum(os.times()[:4])  # of this process and its ended children: others on the machine do not count
    assert regex("a" * 40, "(a+)+b").reason == "timeout"
    assert sum(os.times()[:4]) - started < 5
    assert regex("abc", "a.c").correct  # the next one is served again


def test_code_with_tests_as_gold() -> None:
    assert code("```python\ndef f(): return 1\n```", "assert f() == 1").correct
    assert not code("```python\ndef f(): return 2\n```", "assert f() == 1").correct


def test_jsonl_with_each_verifier(tmp_path: Path) -> None:
    row = {"question": "q", "answer": "assert f() == 1", "example": "```\ndef f(): return 1\n```"}
    task = JsonLines(path=write(tmp_path / "c.jsonl", row), verifier="code", gold_field="example", test_share=0.0)
    (found,) = task.rows("train") or task.rows("validation")
    assert task.verify(found, task.gold_completion(found)).correct
    own = make_task(Spec("jsonl", None, {"path": str(tmp_path / "c.jsonl"), "verifier": f"{__name__}:shouts"}))
    assert own.verify(found, "ASSERT F() == 1").correct


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"verifier": "numerik"}, "did you mean 'numeric'"),
        ({"verifier": "no.such.module:f"}, "cannot be imported"),
        ({"verifier": "json:nothing"}, "cannot be imported"),
        ({"verifier": "json:decoder"}, "is no function"),
    ],
)
def test_verifiers_that_are_none(tmp_path: Path, options: dict[str, str], message: str) -> None:
    path = write(tmp_path / "a.jsonl", {"question": "q", "answer": "1"})
    with pytest.raises(ConfigError, match=message):
        JsonLines(path=path, **options)


def test_golds_that_cannot_be_checked(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", {"question": "q", "answer": "(a"})
    with pytest.raises(TaskError, match=r"train\.jsonl:1: the gold '\(a' is no regular expression"):
        JsonLines(path=tmp_path, verifier="regex").rows("train")
    path.write_text('{"question": "q", "answer": "a+"}\n', encoding="utf-8")
    with pytest.raises(TaskError, match="gold_field"):
        check(JsonLines(path=tmp_path, verifier="regex", validation_share=0.0), "train")


# --- reasoning-gym ---------------------------------------------------------------------------------------------------


def test_reasoning_gym() -> None:
    pytest.importorskip("reasoning_gym", reason="needs the tasks extra")
    task: Any = make_task(Spec("reasoning_gym", "leg_counting"), seed=3, limit=4)
    rows = task.rows("test")
    assert [row.question for row in rows] == [row.question for row in task.rows("test")]
    assert {row.question for row in rows}.isdisjoint(row.question for row in task.rows("train"))
    check(task, "test")
    for text in ("<answer>44**19**35</answer>", "<think>" + rows[0].gold, "x" * 1_000_000, "{" * 5000):
        assert not task.verify(rows[0], text).correct
    (sorts, *_) = make_task(Spec("reasoning_gym", "number_sorting"), seed=3, limit=1).rows("test")
    spaced = sorts.gold.replace("', '", "',  '")
    assert make_task(Spec("reasoning_gym", "number_sorting"), limit=1).verify(sorts, spaced).correct, "its own score"
    with pytest.raises(ConfigError, match="did you mean 'leg_counting'"):
        make_task(Spec("reasoning_gym", "leg_count"))
    with pytest.raises(ConfigError, match="refuses"):
        make_task(Spec("reasoning_gym", None, {"path": "leg_counting", "options": {"wings": 3}}))


def test_a_generator_whose_score_takes_anything_is_held_to_its_own_answer() -> None:
    pytest.importorskip("reasoning_gym", reason="needs the tasks extra")
    task: Any = make_task(Spec("reasoning_gym", "game_of_life_halting"), limit=4)
    check(task, "test")
    for row in task.rows("test"):
        assert not task.verify(row, "<answer>anything</answer>").correct

"""The verifiers: what they read, what they refuse, and that no text makes them raise or hang."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfroute.verify.verifiers import VERIFIERS, choice, exact, numeric


@pytest.mark.parametrize(
    "completion",
    [
        "#### 42",
        "6*7=<<6*7=42>>42\n#### 42",
        "#### $42.00 dollars",
        "#### 42\n\nQuestion: and 1+1?\n#### 2",
        r"so \boxed{42}",
        r"first \boxed{6}, then \boxed{42}.",
        r"\boxed{x = 42\text{ apples}}",
        "<answer>42 apples</answer>",
        r"<answer>\boxed{42}</answer> after 7",
        "<think>#### 7</think>The answer is 42.",
        "The answer is 7. No: the final answer is **42** apples, of 100.",
        '{"reasoning": "about 7", "answer": "42"}',
        "Answer:\n\n42",
        "He has 40 + 2 = 42.",
        "$42",
    ],
)
def test_numeric_accepts(completion: str) -> None:
    verdict = numeric(completion, "42")
    assert verdict.correct, verdict


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("", "no answer"),
        ("I need external assistance", "no answer"),
        ("<think>#### 42", "no answer"),
        ("<think>42</think>", "no answer"),
        ("#### ", "not a number"),
        (r"\boxed{forty-two}", "not a number"),
        ("<answer>41</answer><answer>42</answer>", "41 is not 42"),
        (r"<answer>41</answer> \boxed{42}", "41 is not 42"),
        ("42, so 43", "43 is not 42"),
        ("#### 42.5", "42.5 is not 42"),
        ("#### -42", "-42 is not 42"),
        ("#### 1 2 3 42", "not a number"),
    ],
)
def test_numeric_refuses(completion: str, reason: str) -> None:
    verdict = numeric(completion, "42")
    assert not verdict.correct
    assert verdict.reason == reason


def test_numeric_compares_exactly() -> None:
    assert numeric("#### 0.5", "1/2").correct
    assert not numeric("#### 0.333333", "1/3").correct
    assert numeric("#### 10,000", "10000").correct
    assert numeric("#### 3", "no number").reason == "the gold answer is not a number"


@pytest.mark.parametrize(
    "completion",
    [
        "C",
        "c",
        "(C)",
        "C.",
        "**C**",
        "C) Paris",
        "C. A fine city",
        r"\boxed{C}",
        r"\boxed{\text{(C)}}",
        "<answer>C: Paris</answer>",
        "<answer>option C</answer>",
        "The answer is (C).",
        "A is wrong. The correct answer is: C",
        "<think>(A)</think>I choose (C)",
        "I weigh (A) and (B), and take (C)",
        "The answer is A? No, the answer is **C**.",
    ],
)
def test_choice_accepts(completion: str) -> None:
    verdict = choice(completion, "C")
    assert verdict.correct, verdict


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "D",
        "A dog",
        "A, B, C, D",
        "<answer>A or C</answer>",
        "<answer>B</answer> (C)",
        "<think>C</think>",
        "Clearly",
        "С",  # Cyrillic
        r"\boxed{}",
    ],
)
def test_choice_refuses(completion: str) -> None:
    assert not choice(completion, "C").correct


def test_exact() -> None:
    assert exact(" New \n York ", "New York").correct
    assert exact("<think>Rome</think><answer>New York</answer>, surely", "New York").correct
    assert exact(r"\boxed{New York}", "New York").correct
    assert exact("new york", "New York").reason == "not the gold text"
    assert exact("It is New York", "New York").reason == "not the gold text"
    assert exact(" <think>New York</think> ", "New York").reason == "no answer"


PIECES = [
    "<answer>",
    "</answer>",
    "<think>",
    "</think>",
    r"\boxed{",
    "}",
    "####",
    "answer is",
    "-",
    "$",
    "42",
    "C",
    "/",
    " ",
]
ANY_TEXT = st.text(max_size=200) | st.lists(st.sampled_from(PIECES), max_size=30).map("".join)


@pytest.mark.parametrize("name", ["exact", "numeric", "choice", "json", "output"])
@given(completion=ANY_TEXT, gold=ANY_TEXT)
def test_any_text_gets_a_verdict(name: str, completion: str, gold: str) -> None:
    verdict = VERIFIERS[name](completion, gold)
    assert verdict.correct is (verdict.reason == "")
    assert len(verdict.reason) < 120


@settings(max_examples=50)
@given(st.integers(0, 10**9))
def test_numeric_takes_its_own_gold_in_every_marking(number: int) -> None:
    for marked in (
        f"#### {number}",
        f"\\boxed{{{number}}}",
        f"<answer>{number:,}</answer>",
        f"the answer is ${number}",
    ):
        assert numeric(marked, str(number)).correct
        assert not numeric(marked, str(number + 1)).correct


@pytest.mark.parametrize("name", ["exact", "numeric", "choice", "json", "output"])
@pytest.mark.parametrize(
    "piece",
    [
        "9",
        "1,",
        "1/",
        "-",
        "(",
        " ",
        "####",
        "#### 1 ",
        "answer is ",
        "answer " + " " * 8,
        "A",
        "(A)",
        r"\boxed{",
        r"\frac{1}{",
        "A ",
    ],
)
def test_a_megabyte_takes_under_two_seconds(name: str, piece: str) -> None:
    text = piece * (10**6 // len(piece))
    started = time.process_time()
    VERIFIERS[name](text, "42")
    VERIFIERS[name](f"<answer>{text}</answer>", "42")
    assert time.process_time() - started < 2

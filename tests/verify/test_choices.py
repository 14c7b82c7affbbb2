"""Option letters in sentences, in other languages, and beside letters that are words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.verify.choices import chosen_letter, letter_in


@pytest.mark.parametrize(
    ("completion", "letter"),
    [
        ("The answer is C because I computed it.", "C"),
        ("The answer is B. Note that A is a distractor.", "B"),
        ("The answer is A, not B.", "A"),
        ("The answer is not B.", None),
        ("The answer is (A) and (B)", None),
        ("The answer is B.\nThe answer is correct.", "B"),
        ("The best option is A or C", None),
        ("Option A is correct, C is not.", "A"),
        ("A is wrong. B is correct. C is wrong.", "B"),
        ("B is a better option than A", None),
        ("So \\boxed{\\langle H\\rangle}.\n\n**Answer: D**", "D"),
        (r"\boxed{\textbf{(B)}}", "B"),
        ("### Answer\nD", "D"),
        ("答案是A，不是C", "A"),
        ("정답은 C입니다", "C"),
        ("La réponse est A et C", None),
        ("Ответ: C", "C"),
        ("A cat sat.", None),
        ("I think so.", None),
        ("Ⓐ", "A"),
        ("А", None),  # Cyrillic
    ],
)
def test_chosen_letter(completion: str, letter: str | None) -> None:
    assert chosen_letter(completion) == letter


@pytest.mark.parametrize(
    "text", ["I think it's C", "C) A major", "C, since A fails", "Ｃ", "option C", "$C$", "c", "C (not B)"]
)
def test_letter_in(text: str) -> None:
    assert letter_in(text) == "C"


@given(st.sampled_from("ABCDEFGHIJ"), st.sampled_from("ABCDEFGHIJ"), st.sampled_from(["and", "or", ",", "/", "&"]))
def test_two_letters_are_none(one: str, other: str, join: str) -> None:
    assert letter_in(f"({one}) {join} ({other})") == (one if one == other else None)
    assert chosen_letter(f"The answer is {one} {join} {other}") == (one if one == other else None)

"""Features of an answer: arithmetic is checked, results are found, and any text takes little time."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfroute.scores.answer_features import FEATURES, answer_features, checked_equations


@pytest.mark.parametrize(
    ("text", "checked"),
    [
        ("16 - 3 - 4 = 9 eggs", [(9.0, True)]),
        ("9 * $2 = $<<9*2=18>>18", [(9.0, True), (18.0, True)]),
        ("2/3 = 0.67", [(0.67, True)]),
        ("3 x 4 = 13", [(13.0, False)]),
        (r"7 \times (1 + 2) = 21", [(21.0, True)]),
        ("1 + 2 = 3 + 4 = 7", [(3.0, True), (7.0, True)]),
        ("5 * -2 = -10", [(10.0, True)]),
        ("1,000 + 24 = 1,024", [(1024.0, True)]),
        ("20% * 50 = 10", [(10.0, True)]),
        ("1.5 * 4 = 7", [(7.0, False)]),
        ("x = 5", []),
        ("9/0 = 3", []),
        ("44**19**35 = 1", []),
        ("1 + 1 = two", []),
    ],
)
def test_checked_equations(text: str, checked: list[tuple[float, bool]]) -> None:
    assert checked_equations(text) == checked


def columns(prompt: str, answer: str) -> dict[str, float]:
    return dict(zip(FEATURES, answer_features([prompt], [answer])[0].tolist(), strict=True))


def test_where_a_result_comes_from() -> None:
    good = columns("He has 3 and 4.", "3 + 4 = 7. The answer is 7")
    copied = columns("He has 3 and 4.", "The answer is 4")
    missing = columns("He has 3 and 4.", "I cannot tell")
    assert (good["result_of_an_equation"], good["result_in_prompt"], good["equations_wrong"]) == (1, 0, 0)
    assert (copied["result_in_prompt"], copied["prompt_numbers_used"]) == (1, 0.5)
    assert (missing["result_missing"], missing["hedges"] > 0) == (1, True)


def test_marks_are_counted_by_kind() -> None:
    found = columns("", r'#### 4 \boxed{4} <answer>4</answer> {"answer": "4"}')
    assert [found[kind] for kind in ("hashes", "boxes", "tags", "keys")] == [1, 1, 1, 1]


@settings(deadline=None)
@given(st.text(max_size=300), st.text(max_size=300))
def test_any_text_has_finite_features(prompt: str, answer: str) -> None:
    features = answer_features([prompt], [answer])
    assert features.shape == (1, len(FEATURES))
    assert np.isfinite(features).all()


@pytest.mark.parametrize("piece", ["(", "1-", "1", "1 + 1", "1 = ", "{", "\\frac{", '"answer": ', "9**", "\ud800", "."])
def test_a_megabyte_takes_little_time(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    started = time.process_time()
    answer_features([text], [text])
    assert time.process_time() - started < 2


def test_no_rows() -> None:
    assert answer_features([], []).shape == (0, len(FEATURES))

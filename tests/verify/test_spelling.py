"""One spelling for digits, signs and spaces."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.verify.spelling import plain, same_text


@pytest.mark.parametrize(
    ("text", "spelt"),
    [
        ("10²", "10^{2}"), ("x₂", "x_{2}"), ("10⁻³", "10^{-3}"), ("2½", "2 1/2"), ("½", "1/2"), ("３．５", "3.5"),
        ("١٢٫٥", "12.5"), ("−5", "-5"), ("3×4", "3*4"), ("1\u202f000", "1 000"), ("答案", "答案"), ("a\u200bb", "ab"),
    ],
)  # fmt: skip
def test_plain(text: str, spelt: str) -> None:
    assert plain(text) == spelt


@given(st.text(max_size=50))
def test_no_digit_of_another_script_is_left(text: str) -> None:
    assert [sign for sign in plain(text) if sign.isdecimal() and not sign.isascii()] == []


@given(st.text(max_size=50))
def test_ascii_stays_and_accents_compare_in_any_form(text: str) -> None:
    ascii_only = text.encode("ascii", "ignore").decode()
    assert plain(ascii_only) == ascii_only
    assert same_text(unicodedata.normalize("NFD", text), unicodedata.normalize("NFC", text))

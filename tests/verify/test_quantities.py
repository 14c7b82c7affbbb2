"""Which number a short text states, and which texts state none."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.verify.quantities import last_stated, parts, read_gold, read_number, read_quantity, same_quantity
from selfroute.verify.units import UNITS


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-5", -5),
        ("−5", -5),
        ("$5", 5),
        ("-$5", -5),
        ("$-5", -5),
        (r"\$18", 18),
        ("£3.50", Fraction(7, 2)),
        ("1,234.50", Fraction(2469, 2)),
        ("10,000,000", 10_000_000),
        ("1{,}000", 1000),
        (r"1\,000", 1000),
        ("50%", 50),
        (r"50\%", 50),
        ("5 apples", 5),
        ("12cm", 12),
        (".5", Fraction(1, 2)),
        ("3.", 3),
        ("5.0", 5),
        ("1e3", 1000),
        ("1.5e-2", Fraction(3, 200)),
        ("3/4", Fraction(3, 4)),
        ("1 1/2", Fraction(3, 2)),
        (r"\frac{3}{4}", Fraction(3, 4)),
        (r"-\dfrac{1}{2}", Fraction(-1, 2)),
        (r"\frac12", Fraction(1, 2)),
        (r"1\frac{1}{2}", Fraction(3, 2)),
        ("x = 5", 5),
        ("3 + 4 = 7", 7),
        ("= -5", -5),
        ("{7}", 7),
        ("no number", None),
        ("1/0", None),
        ("٣", 3),
        ("²", None),
        ("9" * 5000, None),
        ("", None),
    ],
)
def test_read_number(text: str, value: Fraction | int | None) -> None:
    assert read_number(text) == value


@given(st.integers(-(10**12), 10**12), st.integers(0, 6))
def test_read_number_reads_what_python_writes(whole: int, places: int) -> None:
    value = Fraction(whole, 10**places)
    written = f"{'-' if whole < 0 else ''}{abs(whole) // 10**places:,}"
    decimals = f".{abs(whole) % 10**places:0{places}d}" if places else ""
    assert read_number(f"about ${written}{decimals} in all") == value


@pytest.mark.parametrize(
    "text",
    [
        "10-5", "2x + 5", r"6\sqrt{2}", "6√2", "6π", "9:15", "101_2", "0b101", "[1, 9]", "(2, 3)", "6!", "6^2", "6²",
        "6(2)", "41, 42", "41 or 42", "between 41 and 42", "41-42", "at least 42", "> 42", "not 42", "±42",
        "42 or more", "42 ± 1", "5 feet 10 inches", "x = 5, y = 7", "x = 5 or x = 7", "12 mod 5", "1.2.3", "--7",
    ],
)  # fmt: skip
def test_what_is_more_than_a_number_is_none(text: str) -> None:
    assert read_quantity(text) is None


SHAPES = [
    "{}:30",
    "{}x + 1",
    "[{}, 9]",
    "{}, 9",
    "{} or 9",
    "{}^2",
    "{}!",
    r"{}\sqrt{{2}}",
    "{}_3",
    "at most {}",
    "{} - 1",
]


@given(st.integers(1, 10**6), st.sampled_from(SHAPES))
def test_a_text_that_begins_with_the_number_does_not_state_it(number: int, shape: str) -> None:
    assert read_number(shape.format(number)) is None


SCRIPTS = {"full width": 0xFF10, "Arabic": 0x660, "Devanagari": 0x966, "Thai": 0xE50, "mathematical bold": 0x1D7CE}


@given(st.integers(0, 10**9), st.sampled_from([*SCRIPTS.values()]))
def test_digits_of_every_script(number: int, zero: int) -> None:
    assert read_number("".join(chr(zero + int(digit)) for digit in str(number))) == number


@given(st.integers(1, 10**9), st.sampled_from([",", " ", "\u00a0", "\u2009", "\u202f", "'", "’", "_", "{,}", r"\,"]))
def test_marks_between_thousands(number: int, mark: str) -> None:
    assert read_number(f"{number:,}".replace(",", mark)) == number


@given(st.integers(1, 9999), st.integers(-12, 12))
def test_powers_of_ten(digits: int, power: int) -> None:
    for text in (
        f"{digits}e{power}",
        f"{digits} × 10^{power}",
        rf"{digits} \times 10^{{{power}}}",
        f"{digits}*10**{power}",
    ):
        assert read_number(text) == Fraction(digits) * Fraction(10) ** power


@given(st.integers(1, 99), st.integers(1, 9), st.integers(2, 9))
def test_mixed_numbers(whole: int, above: int, below: int) -> None:
    value = whole + Fraction(above, below)
    for text in (
        f"{whole} {above}/{below}",
        rf"{whole}\frac{{{above}}}{{{below}}}",
        rf"{whole} \dfrac{{{above}}}{{{below}}}",
    ):
        assert read_number(text) == value
        assert read_number(f"-{text}") == -value


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        ("120 mm", "12 cm", True), ("12 m", "12 cm", False), ("12", "12 cm", True), ("12 cm", "12", True),
        ("12 apples", "12 pears", True), ("€5", "$5", False), ("5 dollars", "$5", True), ("120 minutes", "2 h", True),
        ("50%", "50", True), ("50%", "0.5", True), ("0.5%", "0.5", False), ("0.5", "50%", True), ("5", "50%", False),
        ("101", "101_2", True), ("0%", "0", True),
    ],
)  # fmt: skip
def test_units_and_percent(answer: str, gold: str, same: bool) -> None:
    number, wanted = read_quantity(answer), read_gold(gold)
    assert number is not None
    assert wanted is not None
    assert same_quantity(number, wanted) is same


def test_units_are_lower_case_or_one_letter() -> None:
    assert [name for name in UNITS if len(name) > 1 and name != name.lower()] == []


def test_parts() -> None:
    assert parts("[1, 9]") == parts("[1.0,9]") != parts("[1, 2]")
    assert parts("9:15.") == (Fraction(9), ":", Fraction(15))
    assert parts("2x + 5") == parts("2x+5") != parts("2x - 5")
    assert parts("2x - 5") == parts("2x-5")


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("so 40 + 2 = 42.", "42"), ("first 7, then 42 of them", "42"), ("at 9:15", "9:15"), ("it is 6√2.", "6√2"),
        ("<<6*7=42>>42", "42"), ("it is [1, 9].", "[1, 9]"), ("8 < x", "8 < x"), ("none", None),
    ],
)  # fmt: skip
def test_last_stated(text: str, last: str | None) -> None:
    assert last_stated(text) == last


@given(st.text(max_size=200) | st.text("0123456789.,:/-+*^_[](){}$%x\\ ", max_size=60))
def test_any_text_is_read(text: str) -> None:
    read_quantity(text), parts(text), last_stated(text), read_gold(text)

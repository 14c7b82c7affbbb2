"""The expression parser and the Countdown verdict: exact, bounded, not to be gamed."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.verify.arithmetic import Evaluated, ExpressionError, countdown_verdict, evaluate

NUMBERS, TARGET = (44, 19, 30), 33


@st.composite
def expressions(draw: st.DrawFn, depth: int = 3) -> tuple[str, Fraction | None, tuple[int, ...], int]:
    """Text, value (None if it divides by zero), numbers and binding strength, built side by side; no eval."""
    if depth == 0 or draw(st.booleans()):
        number = draw(st.integers(0, 99))
        return str(number), Fraction(number), (number,), 3
    left, value_l, numbers_l, binds_l = draw(expressions(depth - 1))
    right, value_r, numbers_r, binds_r = draw(expressions(depth - 1))
    sign = draw(st.sampled_from("+-*/"))
    binds = 1 if sign in "+-" else 2
    # Parentheses only where the grammar needs them, so that precedence and left association are tested.
    if binds_l < binds or draw(st.booleans()):
        left = f"({left})"
    if binds_r <= binds or draw(st.booleans()):
        right = f"({right})"
    space = draw(st.sampled_from(["", " ", "\n"]))
    text = f"{left}{space}{draw(st.sampled_from(SPELLINGS[sign]))}{space}{right}"
    return text, _apply(sign, value_l, value_r), numbers_l + numbers_r, binds


SPELLINGS = {"+": ["+"], "-": ["-", "−", "–"], "*": ["*", "×", "·", r"\times "], "/": ["/", "÷"]}


def _apply(sign: str, left: Fraction | None, right: Fraction | None) -> Fraction | None:
    if left is None or right is None or (sign == "/" and right == 0):
        return None
    if sign == "/":
        return left / right
    return {"+": left + right, "-": left - right, "*": left * right}[sign]


@given(expressions())
def test_agrees_with_fractions(built: tuple[str, Fraction | None, tuple[int, ...], int]) -> None:
    text, value, numbers, _ = built
    if value is None:
        with pytest.raises(ExpressionError):
            evaluate(text, max_length=1000)
    else:
        assert evaluate(text, max_length=1000) == Evaluated(value, numbers)
        negative = "-" if value < 0 else ""
        if value.denominator == 1 and abs(value) < 10**6:
            stated = evaluate(f"{text} = {negative}{abs(value)}", max_length=1000)
            assert stated == Evaluated(value, numbers)


@given(st.text() | st.text("0123456789+-*/()= .×÷"))
def test_any_text_gives_a_value_or_an_expression_error(text: str) -> None:
    try:
        assert isinstance(evaluate(text).value, Fraction)
    except ExpressionError as error:
        assert 0 < len(str(error)) < 80


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "ends too early"),
        ("3+", "ends too early"),
        ("(3", "ends too early"),
        ("3)", "unexpected ')'"),
        ("2**3", "unexpected '*'"),
        ("7//2", "unexpected '/'"),
        ("2^3", "unexpected '^'"),
        ("--3", "unexpected '-'"),
        ("+3", "unexpected '+'"),
        ("2(3)", "unexpected '('"),
        ("1 2", "unexpected '2'"),
        ("1_0", "unexpected '_'"),
        ("1.5", "unexpected '.'"),
        ("1,000", "unexpected ','"),
        ("1e3", "unexpected 'e'"),
        ("0x10", "unexpected 'x'"),
        ("3 # + 30", "unexpected '#'"),
        ("٣+3", "unexpected '٣'"),
        ("²", "unexpected '²'"),
        ("__import__('os')", "unexpected '_'"),
        ("5/(3-3)", "division by zero"),
        ("1234567", "a number of more than 6 digits"),
        ("5 = 6", "the left side is 5, not 6"),
        ("5 = 5 = 5", "unexpected '='"),
        ("= 5", "unexpected '='"),
        ("5 =", "ends too early"),
        ("(" * 33 + "1" + ")" * 33, "more than 32 nested parentheses"),
        ("1" + "+1" * 100, "longer than 200 characters"),
    ],
)
def test_outside_the_grammar(text: str, reason: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        evaluate(text)
    assert str(caught.value) == reason


def test_the_depth_limit_itself_is_allowed() -> None:
    assert evaluate("(" * 32 + "1" + ")" * 32).value == 1


def test_one_minus_may_stand_before_an_operand() -> None:
    assert evaluate("-(3-36)").value == 33
    assert evaluate("3*-2 = -6").value == -6


def test_long_values_are_exact_and_not_printed() -> None:
    product = "*".join(["999999"] * 28)
    assert evaluate(product).value == 999999**28
    with pytest.raises(ExpressionError, match="too long to print"):
        evaluate("*".join(["999999"] * 1000) + "=1", max_length=10**5)


@pytest.mark.parametrize(
    "completion",
    [
        "<answer>44+19-30</answer>",
        "<think>30? no</think>\n<answer> 44 + 19 − 30 = 33 </answer>",
        "I should answer in <answer> </answer> tags.</think><answer>(19-30)+44</answer>",
        "<think>in <answer>1</answer>?</think><answer>44-(30-19)</answer><answer>1</answer>",
        "in <answer> tags: <answer>19-30+44</answer>",
        "<ANSWER>44+19-30</ANSWER>",
        "</answer><answer>44+19-30</answer>",
    ],
)
def test_right_answers(completion: str) -> None:
    verdict = countdown_verdict(completion, NUMBERS, TARGET)
    assert verdict.correct, verdict
    assert verdict.reason == ""


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("<answer>33</answer>", "uses 33, which is not given"),
        ("<answer>33 = 33</answer>", "uses 33, which is not given"),
        ("<answer>44-30+19 # 33</answer>", "unexpected '#'"),
        ("<answer>44+19-30 or 33</answer>", "unexpected 'o'"),
        ("<answer>44+19+0-30</answer>", "uses 0, which is not given"),
        ("<answer>44+19-30+30-30</answer>", "uses 30 too often"),
        ("<answer>44-44+19-30</answer>", "uses 44 twice"),
        ("<answer>44-19</answer>", "does not use 30"),
        ("<answer>4419-30</answer>", "uses 4419, which is not given"),
        ("<answer>44+19+30</answer>", "93 is not 33"),
        ("<answer>44/19/30</answer>", "22/285 is not 33"),
        ("<answer>44+19-30=33=33</answer>", "unexpected '='"),
        ("<answer>44+19-30=34</answer>", "the left side is 33, not 34"),
        ("<answer>1</answer><answer>44+19-30</answer>", "uses 1, which is not given"),
        ("<think><answer>44+19-30</answer>", "no answer"),
        ("<think><answer>44+19-30</answer></think>", "no answer"),
        ("<answer>44+19-30</answer></think>", "no answer"),
        ("<answer>44+19-30", "no answer"),
        ("44+19-30</answer>", "no answer"),
        ("44+19-30", "no answer"),
        ("<answer></answer>", "no answer"),
        ("", "no answer"),
        ("<answer>٤٤+19-30</answer>", "unexpected '٤'"),
        ("<answer>44**19**30</answer>", "unexpected '*'"),
        ("<answer>" + "9" * 5000 + "</answer>", "longer than 200 characters"),
    ],
)
def test_gaming(completion: str, reason: str) -> None:
    verdict = countdown_verdict(completion, NUMBERS, TARGET)
    assert not verdict.correct
    assert verdict.reason == reason


def test_repeated_numbers_count_with_their_repeats() -> None:
    assert countdown_verdict("<answer>7+7+1</answer>", (7, 1, 7), 15).correct
    assert countdown_verdict("<answer>7+1</answer>", (7, 1, 7), 8).reason == "does not use every 7"
    assert countdown_verdict("<answer>7+7+7+1</answer>", (7, 1, 7), 22).reason == "uses 7 too often"


@given(st.text() | st.text("0123456789+-*/()=").map(lambda text: f"<answer>{text}</answer>"))
def test_any_text_gets_a_verdict(text: str) -> None:
    verdict = countdown_verdict(text, NUMBERS, TARGET)
    assert verdict.correct is (verdict.reason == "")


@pytest.mark.parametrize(
    "text",
    [
        "<answer>" * 130_000,
        "(" * 10**6,
        "<answer>" + "(" * 10**6 + "</answer>",
        "<answer>" + "44**" * 250_000 + "</answer>",
        "<answer>44**19**35</answer>",
        "</think>" * 125_000,
        "<think" + " " * 10**6,
        "<" * 10**6,
        " " * 10**6,
    ],
    ids=lambda text: f"{text[:20]}…",
)
def test_a_megabyte_takes_milliseconds(text: str) -> None:
    started = time.process_time()
    assert not countdown_verdict(text, NUMBERS, TARGET).correct
    assert time.process_time() - started < 0.3

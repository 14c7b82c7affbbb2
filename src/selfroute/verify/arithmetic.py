"""Exact arithmetic on model text: a parser that never evaluates code, and the verdict on a Countdown answer.

The grammar, with exact fractions throughout::

    equation := sum [ "=" ["-"] integer ]
    sum      := product (("+" | "-") product)*
    product  := operand (("*" | "/") operand)*
    operand  := ["-"] (integer | "(" sum ")")
    integer  := 1 to 6 ASCII digits

The paper's typography is read too: `×`, `·` and LaTeX's times and cdot as `*`, `÷` as `/`, long dashes as `-`. There
is no power, no floor division, no implied product, no comma and no decimal point. One minus sign may stand before an
operand, as in the eval-based verifiers of the field; it cannot be doubled.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from selfroute.verify.base import Verdict
from selfroute.verify.extract import tagged_answer

__all__ = ["Evaluated", "ExpressionError", "countdown_verdict", "evaluate"]

_MAX_DIGITS = 6
_TYPOGRAPHY = str.maketrans({"×": "*", "·": "*", "⋅": "*", "∗": "*", "÷": "/", "∕": "/", "−": "-", "–": "-", "—": "-"})
_LATEX = {r"\times": "*", r"\cdot": "*", r"\div": "/"}
_TOKEN = re.compile(r"\s*([0-9]+|[-+*/()=]|\\times(?![a-z])|\\cdot(?![a-z])|\\div(?![a-z])|\S)")


class ExpressionError(ValueError):
    """The text is not an expression of the grammar; `str(error)` is a short phrase fit for `Verdict.reason`."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """An expression's exact value and the integers it is written with, in order; a right side of "=" has no part."""

    value: Fraction
    numbers: tuple[int, ...]


def evaluate(expression: str, *, max_length: int = 200, max_depth: int = 32) -> Evaluated:
    """Evaluate an arithmetic expression exactly, in time linear in its length.

    A trailing "= 33" is accepted if it holds; one that does not hold is an error, since it contradicts itself.

    Args:
        max_length: most characters, outer spaces aside.
        max_depth: most parentheses inside each other.

    Raises:
        ExpressionError: not in the grammar, too long or deep, a division by zero, or an equation that does not hold.
    """
    text = expression.strip()
    if len(text) > max_length:
        raise ExpressionError(f"longer than {max_length} characters")
    return _Parser(text, max_depth).equation()


class _Parser:
    """Recursive descent; the only recursion is through parentheses and is bounded by `max_depth`."""

    def __init__(self, text: str, max_depth: int) -> None:
        tokens = _TOKEN.findall(text.translate(_TYPOGRAPHY))
        self.tokens: list[str] = [_LATEX.get(token, token) for token in tokens]
        self.position = 0
        self.depth = 0
        self.max_depth = max_depth
        self.numbers: list[int] = []

    def equation(self) -> Evaluated:
        value = self.sum()
        numbers = tuple(self.numbers)
        if self.take("="):
            sign = -1 if self.take("-") else 1
            stated = sign * self.integer()
            if stated != value:
                raise ExpressionError(f"the left side is {_show(value)}, not {stated}")
        if self.position < len(self.tokens):
            raise self.unexpected()
        return Evaluated(value, numbers)

    def sum(self) -> Fraction:
        value = self.product()
        while sign := self.take("+", "-"):
            term = self.product()
            value = value + term if sign == "+" else value - term
        return value

    def product(self) -> Fraction:
        value = self.operand()
        while sign := self.take("*", "/"):
            factor = self.operand()
            if sign == "/" and factor == 0:
                raise ExpressionError("division by zero")
            value = value * factor if sign == "*" else value / factor
        return value

    def operand(self) -> Fraction:
        if self.take("-"):
            return -self.unsigned()
        return self.unsigned()

    def unsigned(self) -> Fraction:
        if not self.take("("):
            return Fraction(self.integer())
        self.depth += 1
        if self.depth > self.max_depth:
            raise ExpressionError(f"more than {self.max_depth} nested parentheses")
        value = self.sum()
        if not self.take(")"):
            raise self.unexpected()
        self.depth -= 1
        return value

    def integer(self) -> int:
        token = self.peek()
        # Not isdigit() alone: other scripts' digits are digits to Python.
        if not (token.isascii() and token.isdigit()):
            raise self.unexpected()
        if len(token) > _MAX_DIGITS:
            raise ExpressionError(f"a number of more than {_MAX_DIGITS} digits")
        self.position += 1
        self.numbers.append(int(token))
        return int(token)

    def peek(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self, *symbols: str) -> str:
        """The next token if it is one of `symbols`, else the empty string."""
        token = self.peek()
        if token not in symbols:
            return ""
        self.position += 1
        return token

    def unexpected(self) -> ExpressionError:
        return ExpressionError(f"unexpected '{token}'" if (token := self.peek()[:20]) else "ends too early")


def countdown_verdict(completion: str, numbers: Sequence[int], target: int) -> Verdict:
    """Judge a Countdown answer (arXiv 2509.24050; the task of TinyZero).

    The answer is the first `<answer>` element outside the reasoning (`selfroute.verify.extract`). It is correct if it
    is an expression of this module's grammar, uses each given number exactly once and nothing else, as TinyZero's
    verifier demands, and its exact value is the target.

    Args:
        completion: any text.
        numbers: the given integers, repeats included.
        target: the integer to reach.
    """
    answer = tagged_answer(completion)
    if answer is None:
        return Verdict(False, reason="no answer")
    try:
        evaluated = evaluate(answer)
    except ExpressionError as error:
        return Verdict(False, answer[:200], str(error))
    reason = _misuse(evaluated.numbers, numbers)
    if not reason and evaluated.value != target:
        reason = f"{_show(evaluated.value)} is not {target}"
    return Verdict(not reason, answer, reason)


def _misuse(used: Sequence[int], given: Sequence[int]) -> str:
    """Why `used` is not exactly `given` in some order; empty if it is."""
    have, need = Counter(used), Counter(given)
    for number in have:
        if number not in need:
            return f"uses {number}, which is not given"
    for number, count in need.items():
        if have[number] > count:
            return f"uses {number} twice" if (have[number], count) == (2, 1) else f"uses {number} too often"
        if have[number] < count:
            return f"does not use {number}" if count == 1 else f"does not use every {number}"
    return ""


def _show(value: Fraction) -> str:
    """A value for a reason, which stays one short phrase (and Python refuses to print huge integers)."""
    if max(abs(value.numerator), value.denominator) >= 10**12:
        return "a value too long to print"
    return str(value)

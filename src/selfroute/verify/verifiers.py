r"""Verifiers: functions of a completion and a gold answer, in bounded time on any text, that never raise on it.

They agree on where the answer stands (`selfroute.verify.extract`): outside the reasoning, in the first `<answer>`
element if there is one, and within that in the last `\boxed{…}` if there is one. Each verifier's docstring says
what it reads where neither is present.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from selfroute.verify.base import Verdict
from selfroute.verify.choices import chosen_letter, letter_in
from selfroute.verify.extract import after_phrases, after_reasoning, marked_answer
from selfroute.verify.json_values import last_answer, same_json
from selfroute.verify.math_pool import LATE, expressions_equal
from selfroute.verify.python_values import output
from selfroute.verify.quantities import last_stated, parts, read_gold, read_quantity, same_quantity
from selfroute.verify.spelling import plain, same_text

__all__ = ["VERIFIERS", "Verifier", "choice", "exact", "json_answer", "math", "numeric"]

Verifier = Callable[[str, str], Verdict]

# A longer "answer" is an essay, and 1 MB of LaTeX would keep any parser busy.
_MAX_EXPRESSION = 1_000
_TAIL = 500
_NO_ANSWER = Verdict(False, reason="no answer")

_HASHES = re.compile(r"####+")


def exact(completion: str, gold: str) -> Verdict:
    """The same text; case counts, runs of white space count as one space. Unmarked: the whole completion."""
    answer = " ".join((marked_answer(completion) or after_reasoning(completion)).split())
    if not answer:
        return _NO_ANSWER
    correct = same_text(answer, gold)
    return Verdict(correct, answer, "" if correct else "not the gold text")


def numeric(completion: str, gold: str) -> Verdict:
    r"""The same number, compared exactly as a fraction.

    Read are commas, spaces and apostrophes between thousands, digits of all scripts, currencies, `%`, units (compared
    where both sides name one), decimals, powers of ten (`1e5`, `3 × 10^8`, "3 million"), fractions (`3/4`, `1 1/2`,
    `½`, `\frac{3}{4}`) and a minus sign. Where the answer stands, first match wins: the common rule above; the line
    after the first `####`; after the last "answer is" or `answer:` with a digit; the last number of the text. An answer
    that is more than a number (`9:15`, `[1, 9]`, `2x + 5`) equals a gold of the same parts and no other.
    """
    answer = _number_text(completion)
    if answer is None:
        return _NO_ANSWER
    number, wanted = read_quantity(answer), read_gold(gold)
    if number is None or wanted is None:
        reason = "not a number" if number is None else "the gold answer is not a number"
        correct = number is None and _same_parts(answer, gold)
    else:
        correct, reason = same_quantity(number, wanted), f"{answer.strip()[:40]} is not {gold.strip()[:40]}"
    return Verdict(correct, answer.strip()[:200], "" if correct else reason)


def _same_parts(answer: str, gold: str) -> bool:
    if read_quantity(gold):
        return False
    wanted = parts(gold)
    return any(isinstance(part, Fraction) for part in wanted) and parts(answer) == wanted


def _number_text(completion: str) -> str | None:
    if (marked := marked_answer(completion)) is not None:
        return marked
    text = after_reasoning(completion)
    if hashes := _HASHES.search(text):
        return text[hashes.end() : hashes.end() + _MAX_EXPRESSION].strip().partition("\n")[0]
    announced = (line for line in after_phrases(text) if any(letter.isnumeric() for letter in line))
    return next(announced, None) or last_stated(text[-_TAIL:])


def json_answer(completion: str, gold: str) -> Verdict:
    """The value of the last `"answer"` of JSON-like text, as ZeroEval asks for it; `selfroute.verify.json_values`.

    The same JSON, the same number, or the same text. The text around it need not be valid JSON; models rarely escape
    their LaTeX. Without such a key there is no answer, whatever else the text says.
    """
    answer = last_answer(after_reasoning(completion))
    if answer is None:
        return _NO_ANSWER
    correct = same_json(answer, gold)
    return Verdict(correct, answer.raw[:200], "" if correct else f"{answer.raw[:40]} is not {gold.strip()[:40]}")


def choice(completion: str, gold: str) -> Verdict:
    r"""The same option letter, A to J.

    A marked answer is the letter that it is ("c", "(C)", "\text{C}"), starts with ("C) Paris") or names first ("option
    C"), unless it joins others to it ("A or C"). Unmarked or in a box without one, first match wins: after the last
    "answer is" or `answer:`, in many languages; at the start of the text; "option C" or "C is correct"; the last letter
    in brackets or bold.
    """
    answer, wanted = chosen_letter(completion), letter_in(gold)
    if answer is None:
        return _NO_ANSWER
    correct = answer == wanted
    return Verdict(correct, answer, "" if correct else f"{answer} is not {wanted or gold.strip()[:40]}")


# --- mathematics -------------------------------------------------------------------------------------------------

_SPELLINGS = [
    (re.compile(r"\\[dt]frac"), r"\\frac"),
    (re.compile(r"\\(?:left|right|displaystyle|[,!;:])|\\ |[\s$]"), ""),
    (re.compile(r"\\(?:text|mathrm|textbf|mbox)\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\.+$"), ""),
]
# A sign without which the pattern cannot match, the pattern, and what it becomes.
_SYMBOLS = [
    ("**", re.compile(r"\*\*"), "^"),
    ("√", re.compile(r"√\s?(?:\(([^()]{1,200})\)|(\d{1,40}|[a-zA-Z]))"), r"\\sqrt{\1\2}"),
    ("pi", re.compile(r"(?<![\\a-zA-Z])pi(?![a-zA-Z])"), r"\\pi "),
    ("π", re.compile("π"), r"\\pi "),
    ("∞", re.compile("∞"), r"\\infty "),
    ("±", re.compile("±"), r"\\pm "),
    ("≤", re.compile("≤"), r"\\le "),
    ("≥", re.compile("≥"), r"\\ge "),
    ("∈", re.compile("∈"), r"\\in "),
    ("∪", re.compile("∪"), r"\\cup "),
    ("°", re.compile("°"), r"^\\circ "),
]
_PLAIN = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3}){1,9}|\d{1,40})(?:\.\d{1,40})?", re.ASCII)
_IN_BASE = re.compile(r"(-?\d[0-9A-Za-z]{0,60})_\{?(\d{1,2})\}?", re.ASCII)


def math(completion: str, gold: str) -> Verdict:
    r"""Mathematically the same, decided by math-verify (expressions, sets, intervals, matrices, units, text).

    Equal spelling, numbers as `numeric` reads them and numbers of other bases are decided here; the rest in a child
    process that is killed when it is late (`selfroute.verify.math_pool`), and then the verdict is not correct, reason
    "timeout". Unmarked: math-verify's own choice of an expression in the last 500 characters.

    Raises:
        ConfigError: math-verify is needed and not installed.
    """
    marked = marked_answer(completion)
    answer = marked if marked is not None else after_reasoning(completion)[-_TAIL:].strip()
    if not answer:
        return _NO_ANSWER
    if len(answer) > _MAX_EXPRESSION:
        return Verdict(False, answer[:200], f"longer than {_MAX_EXPRESSION} characters")
    equal = _equal(answer, gold, marked=marked is not None)
    shown = answer if marked is not None else None
    if equal is True:
        return Verdict(True, answer)
    if equal is None:
        return Verdict(False, shown, "not a mathematical expression")
    return Verdict(False, shown, LATE if equal == LATE else f"{(shown or 'the answer')[:40]} is not {gold[:40]}")


def _equal(answer: str, gold: str, *, marked: bool) -> bool | str | None:
    answer, gold = _in_latex(answer), _in_latex(gold)
    same = _same_spelling(answer, gold)
    if same is None and marked:
        number, wanted = read_quantity(answer), read_quantity(gold)
        same = True if number and wanted and same_quantity(number, wanted) else None
    return same if same is not None else expressions_equal(answer, gold, marked=marked)


def _in_latex(text: str) -> str:
    """ASCII digits and signs, and LaTeX for the symbols of mathematics that are written in Unicode."""
    text = plain(text)
    for sign, pattern, replacement in _SYMBOLS:
        if sign in text:
            text = pattern.sub(replacement, text)
    return text


def _same_spelling(answer: str, gold: str) -> bool | None:
    """True if the texts agree but for typography, False if they are different plain numbers, None if unclear."""
    left, right = _plain_spelling(answer), _plain_spelling(gold)
    if left == right:
        return bool(left)
    if _PLAIN.fullmatch(left) and _PLAIN.fullmatch(right):
        return Fraction(left.replace(",", "")) == Fraction(right.replace(",", ""))
    if based := _IN_BASE.fullmatch(left):  # math-verify drops the base
        wanted = _IN_BASE.fullmatch(right)
        return bool(wanted) and based.groups() == (wanted or based).groups()
    return None


def _plain_spelling(text: str) -> str:
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    return text


VERIFIERS: dict[str, Verifier] = {
    "exact": exact,
    "numeric": numeric,
    "choice": choice,
    "math": math,
    "json": json_answer,
    "output": output,
}

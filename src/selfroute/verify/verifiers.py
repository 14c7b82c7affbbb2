"""Verifiers: functions of a completion and a gold answer, in bounded time on any text, that never raise on it.

They agree on where the answer stands (`selfroute.verify.extract`): outside the reasoning, in the first `<answer>`
element if there is one, and within that in the last `\\boxed{…}` if there is one. Each verifier's docstring says
what it reads where neither is present.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from selfroute.verify.base import Verdict
from selfroute.verify.extract import after_reasoning, boxed, tagged_answer
from selfroute.verify.math_pool import LATE, expressions_equal

__all__ = ["VERIFIERS", "Verifier", "choice", "exact", "json_answer", "math", "numeric", "read_number"]

Verifier = Callable[[str, str], Verdict]

# A longer "answer" is an essay, and 1 MB of LaTeX would keep any parser busy.
_MAX_EXPRESSION = 1_000
_TAIL = 500
_NO_ANSWER = Verdict(False, reason="no answer")

_PHRASE = re.compile(r"\banswer\b[\s\"'*_]{0,8}(?:is|:|=)[\s\"'*_:(]{0,8}", re.IGNORECASE)
_HASHES = re.compile(r"####+")


def exact(completion: str, gold: str) -> Verdict:
    """The same text; case counts, runs of white space count as one space. Unmarked: the whole completion."""
    answer = " ".join((_marked(completion) or after_reasoning(completion)).split())
    if not answer:
        return _NO_ANSWER
    correct = answer == " ".join(gold.split())
    return Verdict(correct, answer, "" if correct else "not the gold text")


# --- numbers -----------------------------------------------------------------------------------------------------

_LATEX_NOISE = re.compile(r"\\[,!;:]|\{,\}|\\left|\\right|\\text|\\mathrm|\\ ")
_FRAC = re.compile(r"\\[dtc]?frac\s{0,4}(?:\{\s{0,4}(-?\d{1,30})\s{0,4}\}\s{0,4}\{\s{0,4}(\d{1,9})\s{0,4}\}|(\d)(\d))")
_NUMBER = re.compile(
    r"""
    (?:(?<![\w.)\]}])(?P<sign>[-−])\s?)?       # 10-5 holds no -5, "= -5" does
    \\?[$€£¥]?\s?(?P<inner>[-−])?               # -$5 and $-5
    (?<![\d.])
    (?:
      (?P<whole>\d{1,3}(?:,\d{3}){1,9}(?!\d)|\d{1,30}(?!\d))
      (?: (?P<decimals>\.\d{1,30})?(?P<exponent>[eE][-+]?\d{1,2})(?!\d)
        | (?P<places>\.\d{1,30})(?!\d)
        | (?:[ ](?P<rest>\d{1,9}))?\s?/\s?(?P<below>\d{1,9})(?![\d.])
      )?
    | (?P<point>\.\d{1,30})(?!\d)
    )
    """,
    re.VERBOSE | re.ASCII,
)


def numeric(completion: str, gold: str) -> Verdict:
    r"""The same number, compared exactly as a fraction.

    Read are commas between thousands, a currency sign before and `%` or any unit after (ignored: 50 % reads 50),
    decimals, exponents (`1e5`), fractions (`3/4`, `1 1/2`, `\frac{3}{4}`) and a minus sign. Where the answer stands,
    first match wins: the common rule above; the line after the first `####`; after the last "answer is" or
    `answer:`; the last number of the text. Within a marked answer the first number counts, after its last "=" if it
    has one.
    """
    wanted = read_number(gold)
    answer = _number_text(completion)
    if answer is None:
        return _NO_ANSWER
    number = read_number(answer)
    answer = answer.strip()[:200]
    if number is None or wanted is None:
        return Verdict(False, answer, "not a number" if number is None else "the gold answer is not a number")
    correct = number == wanted
    return Verdict(correct, answer, "" if correct else f"{answer[:40]} is not {gold.strip()[:40]}")


def read_number(text: str) -> Fraction | None:
    """The first number of a short text, after its last "=" if it has one; None if there is none."""
    tidy = _tidy(text[-_MAX_EXPRESSION:].rpartition("=")[2])
    match = _NUMBER.search(tidy)
    return _value(match) if match else None


def _number_text(completion: str) -> str | None:
    if (marked := _marked(completion)) is not None:
        return marked
    text = after_reasoning(completion)
    if hashes := _HASHES.search(text):
        return text[hashes.end() : hashes.end() + _MAX_EXPRESSION].strip().partition("\n")[0]
    phrases = [match.end() for match in _PHRASE.finditer(text)]
    if phrases:
        line = text[phrases[-1] : phrases[-1] + _TAIL].partition("\n")[0]
        if _NUMBER.search(_tidy(line)):
            return line
    # Long enough for any number, whatever came before; the first piece may be cut, so it starts at a space.
    numbers = list(_NUMBER.finditer(_tidy(text[-_TAIL:])))
    return numbers[-1][0] if numbers else None


def _tidy(text: str) -> str:
    r"""Plain text for `_NUMBER`: LaTeX spacing gone, `\frac{a}{b}` as a/b (after a whole number, with a space)."""
    return _FRAC.sub(lambda match: f" {match[1] or match[3]}/{match[2] or match[4]}", _LATEX_NOISE.sub("", text))


def _value(match: re.Match[str]) -> Fraction | None:
    below = int(match["below"] or 1)
    if below == 0:
        return None
    point = match["decimals"] or match["places"] or match["point"] or ""
    whole = Fraction((match["whole"] or "0").replace(",", "") + point + (match["exponent"] or ""))
    size = whole + Fraction(int(match["rest"]), below) if match["rest"] else whole / below
    return -size if match["sign"] or match["inner"] else size


_KEY = re.compile(r'"answer"\s{0,8}:\s{0,8}')
_VALUE = re.compile(r'"((?:[^"\\]|\\.){0,1000})"|([^",}\n]{1,200})', re.DOTALL)
_MOST_KEYS = 20


def json_answer(completion: str, gold: str) -> Verdict:
    """The value of the last `"answer"` of JSON-like text, as ZeroEval asks for it: the same number, or the same text.

    The text around it need not be valid JSON; models rarely escape their LaTeX. Without such a key there is no answer,
    whatever else the text says.
    """
    text = after_reasoning(completion)
    for key in [match.end() for match in _KEY.finditer(text)][: -_MOST_KEYS - 1 : -1]:
        if (value := _VALUE.match(text, key)) and (answer := (value[1] or value[2] or "").strip()):
            return _same_value(answer.replace("\\\\", "\\"), gold)
    return _NO_ANSWER


def _same_value(answer: str, gold: str) -> Verdict:
    number, wanted = read_number(answer), read_number(gold)
    correct = " ".join(answer.split()) == " ".join(gold.split()) or (number is not None and number == wanted)
    return Verdict(correct, answer[:200], "" if correct else f"{answer[:40]} is not {gold.strip()[:40]}")


# --- choices -----------------------------------------------------------------------------------------------------

_BRACKET_FIRST = re.compile(r"\s{0,8}[(\[]([A-Ja-j])[)\]]")
_ONLY_LETTER = re.compile(r"[\W_]*([A-Ja-j])[\W_]*", re.ASCII)
_LED_BY_LETTER = re.compile(r"[\s(\[*_\"']{0,8}([A-J])[*_]{0,2}(?:[).:\]]|\s*$|\s*\n)")
_LETTER = re.compile(r"(?<![\w'’])([A-J])(?![\w'’])")
_BRACKETED = re.compile(r"\(([A-J])\)|\*\*([A-J])\*\*")


def choice(completion: str, gold: str) -> Verdict:
    r"""The same option letter, A to J.

    A marked answer is a letter if it is one ("c", "(C)", "\text{C}"), starts with one ("C) Paris") or holds exactly
    one standing alone ("option C"). Unmarked, first match wins: after the last "answer is" or `answer:`; at the start
    of the text; the last letter in parentheses or bold.
    """
    answer, wanted = _letter(completion), _letter_in(gold)
    if answer is None:
        return _NO_ANSWER
    correct = answer == wanted
    return Verdict(correct, answer, "" if correct else f"{answer} is not {wanted or gold.strip()[:40]}")


def _letter(completion: str) -> str | None:
    if (marked := _marked(completion)) is not None:
        return _letter_in(marked)
    text = after_reasoning(completion)
    phrases = [match.end() for match in _PHRASE.finditer(text)]
    if phrases and (letter := _letter_in(text[phrases[-1] : phrases[-1] + _TAIL].partition("\n")[0])):
        return letter
    if (
        start := _LED_BY_LETTER.match(text)
        or _BRACKET_FIRST.match(text)
        or (len(text) < _TAIL and _ONLY_LETTER.fullmatch(text))
        or None
    ):
        return start[1].upper()
    found = _BRACKETED.findall(text)
    return (found[-1][0] or found[-1][1]) if found else None


def _letter_in(text: str) -> str | None:
    tidy = _LATEX_NOISE.sub("", text[:_MAX_EXPRESSION])
    if match := _ONLY_LETTER.fullmatch(tidy) or _LED_BY_LETTER.match(tidy) or _BRACKET_FIRST.match(tidy):
        return match[1].upper()
    letters = set(_LETTER.findall(tidy))
    return letters.pop() if len(letters) == 1 else None


# --- mathematics -------------------------------------------------------------------------------------------------

_SPELLINGS = [
    (re.compile(r"\\[dt]frac"), r"\\frac"),
    (re.compile(r"\\(?:left|right|displaystyle|[,!;:])|\\ |[\s$]"), ""),
    (re.compile(r"\\(?:text|mathrm|textbf|mbox)\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\.+$"), ""),
]
_PLAIN = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3}){1,9}|\d{1,40})(?:\.\d{1,40})?", re.ASCII)


def math(completion: str, gold: str) -> Verdict:
    r"""Mathematically the same, decided by math-verify (expressions, sets, intervals, matrices, units, text).

    Equal spelling and plain numbers are decided here; the rest in a child process that is killed when it is late
    (`selfroute.verify.math_pool`), and then the verdict is not correct, reason "timeout". Unmarked: math-verify's own
    choice of an expression in the last 500 characters.

    Raises:
        ConfigError: math-verify is needed and not installed.
    """
    marked = _marked(completion)
    answer = marked if marked is not None else after_reasoning(completion)[-_TAIL:].strip()
    if not answer:
        return _NO_ANSWER
    if len(answer) > _MAX_EXPRESSION:
        return Verdict(False, answer[:200], f"longer than {_MAX_EXPRESSION} characters")
    same = _same_spelling(answer, gold)
    equal = same if same is not None else expressions_equal(answer, gold, marked=marked is not None)
    shown = answer if marked is not None else None
    if equal is True:
        return Verdict(True, answer)
    if equal is None:
        return Verdict(False, shown, "not a mathematical expression")
    return Verdict(False, shown, LATE if equal == LATE else f"{(shown or 'the answer')[:40]} is not {gold[:40]}")


def _same_spelling(answer: str, gold: str) -> bool | None:
    """True if the texts agree but for typography, False if they are different plain numbers, None if unclear."""
    left, right = _plain_spelling(answer), _plain_spelling(gold)
    if left == right:
        return bool(left)
    if _PLAIN.fullmatch(left) and _PLAIN.fullmatch(right):
        return Fraction(left.replace(",", "")) == Fraction(right.replace(",", ""))
    return None


def _plain_spelling(text: str) -> str:
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    return text


# -----------------------------------------------------------------------------------------------------------------


def _marked(completion: str) -> str | None:
    """The answer where the completion marks one, by tag or box."""
    tagged = tagged_answer(completion)
    content = boxed(after_reasoning(completion) if tagged is None else tagged)
    return tagged if content is None else content


VERIFIERS: dict[str, Verifier] = {
    "exact": exact,
    "numeric": numeric,
    "choice": choice,
    "math": math,
    "json": json_answer,
}

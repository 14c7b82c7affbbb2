"""What a finished answer shows about itself: counts, arithmetic that holds or does not, where its result comes from.

None of it needs the model again, its probabilities, or another model; all of it takes time linear in the text. The
idea is that difficulty shows in the attempt: a result that stands in the prompt, that appears before anything was
derived, that no line of the calculation yields, or that is not marked as a result at all, is a worse one. Nothing is
particular to one data set or model, and nothing knows whether the answer is right.
"""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from selfroute.verify.arithmetic import ExpressionError, evaluate

__all__ = ["FEATURES", "answer_features", "checked_equations"]

Floats = npt.NDArray[np.float64]

# A longer text says nothing more about itself, and the work stays bounded.
_MOST_CHARACTERS = 20_000
_LARGEST = 1e15

_NUMBER = re.compile(r"\d{1,3}(?:,\d{3}){1,4}(?:\.\d{1,9})?(?!\d)|\d{1,15}(?:\.\d{1,9})?", re.ASCII)
_SPELLINGS = [
    (re.compile(r"\\(?:times|cdot)(?![a-z])|[×·∗⋅]"), "*"),
    (re.compile(r"\\div(?![a-z])|÷"), "/"),
    (re.compile(r"(?<=\d)\s?x\s?(?=\$?\d)"), " * "),
    (re.compile(r"[−–]"), "-"),
    (re.compile(r"\\[dtc]?frac\{(\d{1,15})\}\{(\d{1,15})\}"), r"\1/\2"),
    (re.compile(r"\\(?:[()\[\]$%,;!]|left|right)|<<|[{}]"), ""),
    (re.compile(r">>"), " "),
]
_CALCULATION = r"[-+*/().,$%\d \t]"
_BEFORE = re.compile(rf"{_CALCULATION}*$", re.ASCII)
_AFTER = re.compile(rf"{_CALCULATION}*", re.ASCII)
_DECIMAL = re.compile(r"(\d{0,6})\.(\d{1,6})", re.ASCII)
_OPERATION = re.compile(r"\d[)%]?\s?[-+*/]\s?[-($]*\d", re.ASCII)
_LONGEST_SIDE = 160

# What marks a result, in the notations of the field's prompts. An answer that lacks the one that was asked for is
# often a wrong one, so each is counted by itself.
_MARKS = {
    "hashes": r"####",
    "tags": r"<answer>",
    "boxes": r"\\boxed|\\fbox",
    "keys": r"\"answer\"\s{0,4}:",
    "phrases": r"\banswer\b[\s*_]{0,4}(?:is|:|=)|^A:",
}
_MARK = re.compile("|".join(f"(?P<{name}>{mark})" for name, mark in _MARKS.items()), re.IGNORECASE | re.MULTILINE)
_HEDGE = re.compile(
    r"\b(?:however|wait|but|assum\w{1,4}|approximate\w{0,2}|cannot|can't|impossible|mistake|incorrect|recheck|"
    r"re-?evaluate\w?|contradict\w{0,5}|error|unclear|sorry|unfortunately|actually|instead|closest|seems|must have|"
    r"not possible|let's try|correct(?:ed|ion)|apologi[sz]e|adjust)\b",
    re.IGNORECASE,
)
_LINE_END = re.compile(r"\n|\\n|[.;]\s")

FEATURES = (
    "log_characters",
    "log_lines",
    "characters_per_line",
    "log_numbers",
    "log_distinct_numbers",
    "log_prompt_characters",
    "log_prompt_numbers",
    "prompt_numbers_used",
    "prompt_numbers_left",
    "numbers_from_nowhere",
    "log_equations",
    "equations_wrong",
    "equations_wrong_share",
    "log_equals_signs",
    "hashes",
    "tags",
    "boxes",
    "keys",
    "phrases",
    "log_characters_after_mark",
    "result_missing",
    "log_result",
    "result_whole",
    "result_negative",
    "result_in_prompt",
    "log_result_occurrences",
    "result_first_at",
    "result_of_an_equation",
    "result_stands_last",
    "hedges",
    "hedges_per_line",
    "distinct_lines",
    "compressed",
    "decimals",
    "log_largest_number",
    "commands_per_line",
    "digits",
    "question_marks",
    "ends_whole",
)
"""Names of the columns, in order. `log_` is log(1 + x); shares lie in [0, 1]."""


def answer_features(prompts: Sequence[str], answers: Sequence[str]) -> Floats:
    """One row of `FEATURES` per prompt and answer, shape (n, len(FEATURES))."""
    rows = [_row(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(FEATURES))


def _row(prompt: str, answer: str) -> list[float]:
    prompt, text = prompt.strip()[:_MOST_CHARACTERS], _plain(answer[:_MOST_CHARACTERS])
    lines = [line.strip() for line in _LINE_END.split(text) if line.strip()] or [""]
    given, numbers = set(_numbers(prompt)), _numbers(text)
    equations = checked_equations(text)
    results = {value for value, _ in equations}
    wrong = sum(not holds for _, holds in equations)
    hedges = len(_HEDGE.findall(text))
    distinct = set(numbers)
    return [
        math.log1p(len(text)),
        math.log1p(len(lines)),
        len(text) / len(lines),
        math.log1p(len(numbers)),
        math.log1p(len(distinct)),
        math.log1p(len(prompt)),
        math.log1p(len(given)),
        len(given & distinct) / max(1, len(given)),
        float(len(given - distinct)),
        len(distinct - given - results) / max(1, len(distinct)),
        math.log1p(len(equations)),
        float(wrong),
        wrong / max(1, len(equations)),
        math.log1p(text.count("=")),
        *_result_features(text, given, [value for value, _ in equations]),
        float(hedges),
        hedges / len(lines),
        len(set(lines)) / len(lines),
        len(zlib.compress(text.encode("utf-8", "replace"))) / max(1, len(text)),
        sum(number % 1 != 0 for number in numbers) / max(1, len(numbers)),
        math.log1p(max(numbers, default=0.0)),
        text.count("\\") / len(lines),
        sum(character.isdigit() for character in text) / max(1, len(text)),
        float(text.count("?")),
        float(text.rstrip()[-1:] in ("}", "`", ".", "!", "]", ">", "$", "*", ")") or text.rstrip()[-1:].isdigit()),
    ]


def _result_features(text: str, given: set[float], results: Sequence[float]) -> list[float]:
    """The columns from "hashes" to "result_stands_last"."""
    marks = list(_MARK.finditer(text))
    kinds = Counter(mark.lastgroup for mark in marks)
    marked = [float(min(kinds[kind], 5)) for kind in _MARKS]
    before, after = (text[: marks[-1].start()], text[marks[-1].end() :]) if marks else (text, "")
    line = after.lstrip(" \n\"'*_{$:").partition("\n")[0]
    earlier = _numbers(before)
    stated = _numbers(line)[:1] or earlier[-1:]
    if not marks or not _numbers(line):
        earlier = earlier[:-1]  # the last number is the result itself
    if not stated:
        return [*marked, math.log1p(len(after)), 1.0, *[0.0] * 5, -1.0, 0.0, 0.0]
    result = stated[0]
    found = earlier.count(result)
    return [
        *marked,
        math.log1p(max(0, len(after) - len(line))),
        0.0,
        math.log1p(result),
        float(result % 1 == 0),
        float(line.lstrip().startswith("-")),
        float(result in given),
        math.log1p(found),
        earlier.index(result) / len(earlier) if found else -1.0,
        float(result in results),
        float(earlier[-1:] == [result]),
    ]


def checked_equations(text: str) -> list[tuple[float, bool]]:
    """Size of the right side of each equation between plain numbers in a text, and whether it holds.

    Read is what `selfroute.verify.arithmetic` reads, with decimals, per cent and signs of currency. A right side that
    was rounded holds, and so does the first step of a run-on line such as "1 + 2 = 3 + 4 = 7".
    """
    sides = _plain(text[:_MOST_CHARACTERS]).split("=")
    checked: list[tuple[float, bool]] = []
    for left, right in pairwise(sides):
        match = _BEFORE.search(left[-_LONGEST_SIDE:])
        side = match[0].lstrip(" \t.,)*/+%") if match else ""
        stated = _NUMBER.search(right[:_LONGEST_SIDE])
        if not (stated and _OPERATION.search(side)) or (value := _evaluate(side)) is None:
            continue
        whole = _AFTER.match(right[:_LONGEST_SIDE])
        if whole is None or stated.start() >= whole.end():
            continue
        minus = "-" in right[: stated.start()]
        number = stated[0].replace(",", "")
        slack = 0.51 * 10.0 ** -len(number.partition(".")[2]) + 1e-9 * abs(value)
        said = [-float(number) if minus else float(number)]
        if _OPERATION.search(whole[0]) and (computed := _evaluate(whole[0])) is not None:
            said.append(computed)
        checked.append((min(float(number), _LARGEST), any(abs(value - other) <= slack for other in said)))
    return checked


def _plain(text: str) -> str:
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    return text


def _numbers(text: str) -> list[float]:
    return [min(float(match.replace(",", "")), _LARGEST) for match in _NUMBER.findall(text)]


def _evaluate(side: str) -> float | None:
    """Exact value of one side of an equation; None if it is not arithmetic."""
    plain = side.replace("$", "").replace(",", "").strip(" .")
    whole = _DECIMAL.sub(lambda match: f"({match[1] or '0'}{match[2]}/1{'0' * len(match[2])})", plain)
    try:
        return float(evaluate(whole.replace("%", "/100")).value)
    except (ExpressionError, OverflowError):
        return None

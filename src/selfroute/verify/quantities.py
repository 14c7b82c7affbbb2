r"""Numbers in short texts: which one a text states, if it states one, and whether two texts state the same.

A text states one number if it is a number with words around it ("18 dollars a day", "x = 18") or an equation with a
number on its last side. It states none if the number is part of something larger (`2x + 5`, `6\sqrt{2}`, `9:15`,
`101_2`, `[1, 9]`), one of several ("41 or 42"), or a bound ("at least 42"): a text that begins like the gold is not
equal to it. Bounded time on any text; nothing here raises.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from selfroute.verify.spelling import plain
from selfroute.verify.units import Unit, unit_of

__all__ = ["Quantity", "last_stated", "parts", "read_gold", "read_number", "read_quantity", "same_quantity"]

_LONGEST = 1_000


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number as it is stated: 50 % has the value 50, and `percent`.

    Attributes:
        value: exact.
        percent: whether a percent sign or word follows.
        unit: the unit or currency beside it, None if there is none that `selfroute.verify.units` knows.
    """

    value: Fraction
    percent: bool = False
    unit: Unit | None = None


def read_number(text: str) -> Fraction | None:
    """The value of the one number that a short text states; None if it states none, or more."""
    quantity = read_quantity(text)
    return quantity.value if quantity else None


def read_quantity(text: str) -> Quantity | None:
    """The one number that a short text states, with its unit; None if it states none, or more."""
    clause = _clause(_tidy(text))
    return next((found for side in _sides(clause) if (found := _stated(side))), None)


def read_gold(gold: str) -> Quantity | None:
    """As `read_quantity`; a gold's base (`101_2`) is left out, since the question says it."""
    return read_quantity(_BASE.sub(r"\1", gold))


def same_quantity(answer: Quantity, gold: Quantity) -> bool:
    """Equal values, whatever the spelling: 120 mm is 12 cm, 50 % is one half.

    A unit or percent sign that only one side has is left to the question: `12 cm` answers 12, and `50%` answers 50.
    It does not answer 0.5 with `0.5%`: of a gold below one, percent are hundredths.
    """
    if answer.unit and gold.unit and answer.unit != gold.unit:
        same_kind = answer.unit.kind == gold.unit.kind
        return same_kind and answer.value * answer.unit.factor == gold.value * gold.unit.factor
    if answer.percent and not gold.percent:
        as_it_stands = abs(gold.value) >= 1 or not gold.value
        return answer.value / 100 == gold.value or (as_it_stands and answer.value == gold.value)
    if gold.percent and not answer.percent:
        return answer.value in (gold.value, gold.value / 100)
    return answer.value == gold.value


_BASE = re.compile(r"^(\s*-?\d{1,40})_(?:\{\s?\d{1,2}\s?\}|\d{1,2})\s*$")

# --- spelling ------------------------------------------------------------------------------------------------------

_FRAC = re.compile(r"\\[dtc]?frac\s{0,4}(?:\{\s{0,4}(-?\d{1,30})\s{0,4}\}\s{0,4}\{\s{0,4}(\d{1,9})\s{0,4}\}|(\d)(\d))")
# A sign without which the pattern cannot match, the pattern, and what it becomes.
_TIDY = [
    (sign, re.compile(pattern, re.IGNORECASE if sign == " " else 0), replacement)
    for sign, pattern, replacement in (
        ("\\", r"\\(?:left|right|displaystyle|approx(?![a-z])|[,!;: ()\[\]])", ""),
        ("{,}", r"\{,\}", ""),
        ("≈", "≈", ""),
        ("~", "~", ""),
        ("\\", r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s?\{([^{}]{0,200})\}", r" \1 "),
        ("\\", r"\\(?:times|cdot|ast)(?![a-z])", "*"),
        ("\\", r"\^\s?(?:\\circ(?![a-z])|\{\s?\\circ\s?\})", "°"),
        ("$", r"(?<!\\)\$([^$]*)(?<!\\)\$", r"\1"),
        ("\\", r"\\(?=[$%#&{}])", ""),
        ("**", r"(?<!\d)\*\*|\*\*(?![\d({+-])", ""),
        ("__", r"(?<!\w)__|__(?!\w)", ""),
        ("`", "`", ""),
        ("*", r"(?<![\w*])\*(?=[^\s*])([^*]{1,200})(?<=\S)\*(?![\w*])", r"\1"),
        (" ", r"\b(?:negative|minus)\s(?=[\d$.])", "-"),
        (":00", r"(?<![\d:])(\d{1,2}):00(?![\d:])", r"\1"),  # two o'clock
        ("\\", r"\\+$", ""),
        ("{", r"([_^])\{\s?([-+]?\d{1,9})\s?\}", r"\1\2"),
        ("  ", r"\s+(?=\s)", ""),
    )
]


def _tidy(text: str) -> str:
    r"""ASCII without LaTeX's spacing and markdown's stars; `\frac{a}{b}` as a/b, after a whole number with a space."""
    text = plain(text[:_LONGEST])[:_LONGEST]
    text = _FRAC.sub(_ratio, text)
    for sign, pattern, replacement in _TIDY:
        if sign in text:
            text = pattern.sub(replacement, text)
    return text.strip()


def _ratio(frac: re.Match[str]) -> str:
    mixed = frac.string[: frac.start()][-1:].isdigit()
    return f"{' ' if mixed else ''}{frac[1] or frac[3]}/{frac[2] or frac[4]}"


_CLAUSE_ENDS = re.compile(r"[.!?]\s+(?=[^\W\d])|\b(?:because|since)\b|\n", re.IGNORECASE)
_SEVERAL = re.compile(r"[,;]|\b(?:or|and)\b", re.IGNORECASE)


def _clause(text: str) -> str:
    """The text up to the end of the sentence that holds its first number."""
    number = re.search(r"\d", text)
    end = _CLAUSE_ENDS.search(text, number.end()) if number else None
    return text[: end.start()] if end else text


def _sides(text: str) -> list[str]:
    """Where the number of an equation may stand: on its last side, else its first; nowhere in several equations."""
    first, *rest = text.split("=")
    if any(_SEVERAL.search(side) for side in rest[:-1]):
        return []
    return [rest[-1], first] if rest else [first]


# --- numbers -------------------------------------------------------------------------------------------------------

_POWER = r"\s?(?:\^|\*\*)\s?\{?\s?(?P<%s>[-+]?\d{1,3})(?!\d)\s?\}?"
_NUMBER = re.compile(
    rf"""
    (?=[-+$€£¥₹uU.\d])
    (?:(?<![\w.)\]}}])(?P<sign>[-+])\s?)?       # 10-5 holds no -5, "= -5" does
    (?:(?P<currency>\b[uU][sS]\$|[$€£¥₹])\s?)?(?P<inner>-)?
    (?<![\d.])
    (?:
      10{_POWER % "alone"}
    | (?:
        (?P<european>\d{{1,3}}(?:\.\d{{3}}){{1,9}},\d{{1,30}}|\d{{1,3}}(?:\.\d{{3}}){{2,9}})(?![\d.,]\d|\d)
      | (?P<whole>
          \d{{1,3}}(?P<mark>[,'_\ ])\d{{3}}(?:(?P=mark)\d{{3}}){{0,9}}(?!\d)
        | \d{{1,2}}(?:,\d{{2}}){{1,9}},\d{{3}}(?!\d)
        | \d{{1,40}}(?!\d)
        )
        (?: (?P<decimals>\.\d{{1,40}})?(?P<exponent>[eE][-+]?\d{{1,3}})(?!\d)
          | (?P<places>\.\d{{1,40}})(?!\d)
          | (?:(?:[ ]and)?[ ](?P<rest>\d{{1,9}}))?\s?/\s?(?P<below>\d{{1,9}})(?!\d|\.\d)
        )?
      | (?P<point>\.\d{{1,40}})(?!\d)
      )
      (?:\s?[*x]\s?10{_POWER % "power"})?
    )
    """,
    re.VERBOSE | re.ASCII,
)
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SCALE = re.compile(rf"\s?({'|'.join(_SCALES)})\b", re.IGNORECASE)
_PERCENT = re.compile(r"\s?(?:%|per\s?cent\b)", re.IGNORECASE)


def _value(match: re.Match[str]) -> Fraction | None:
    if match["sign"] == match["inner"] == "-":
        return None
    if match["alone"]:
        size = Fraction(10) ** int(match["alone"])
    else:
        below = int(match["below"] or 1)
        if below == 0:
            return None
        size = _decimal(match)
        size = size + Fraction(int(match["rest"]), below) if match["rest"] else size / below
        size *= Fraction(10) ** int(match["power"] or 0)
    return -size if "-" in (match["sign"], match["inner"]) else size


def _decimal(match: re.Match[str]) -> Fraction:
    if match["european"]:
        return Fraction(match["european"].replace(".", "").replace(",", "."))
    point = match["decimals"] or match["places"] or match["point"] or ""
    return Fraction(re.sub(r"[,'_ ]", "", match["whole"] or "0") + point + (match["exponent"] or ""))


# --- what stands around a number -----------------------------------------------------------------------------------

_BOUND = re.compile(
    r"""(?: \b(?:not|under|over|above|below|between|up\s+to|at\s+(?:least|most)|sqrt|log|ln|sin|cos|tan|exp|abs)
          | \b(?:less|more|fewer|greater|larger|smaller|higher|lower)\s+than(?:\s+or\s+equal\s+to)?
          | [<>≤≥≠±∓√+*/^_\\|-] | \\[a-zA-Z]{2,12} | \[
        )[\s({]*$""",
    re.VERBOSE | re.IGNORECASE,
)
_GLUED_BEFORE = re.compile(r"([^\W\d_]{1,20})$")
_GOES_ON = re.compile(
    r"""  [!^\\√(\[\]']  |  _(?![a-zA-Z]\b)  |  \.\d  |  :\s?\d      # 6! 6^2 6(2) [6] 6' 101_2 1.2.3 9:15
        | \s?[+*^±√\\]\s?\S  |  \s?[-/]\s?(?:[\d(]|[a-zA-Z]\b)      # 6 + 1, 6 - x; but "6 - as shown", "6/day"
        | \s?(?:mod|choose|times|plus|minus|over|base|divided|factorial|squared|cubed|sqrt|log|sin|cos|tan)\b
        | \s?or\s(?!so\b)
        | \s?[<>≤≥≠]  |  [-+]\s*$
    """,
    re.VERBOSE | re.IGNORECASE,
)
_WORD_AFTER = re.compile(r"(\s?)([^\W\d_]{1,30}|[°$€£¥₹¢])")
_WORDS = re.compile(r"[^\W\d_]+")
_JOINERS = frozenset(
    ["or", "and", "to", "y", "o", "e", "oder", "und", "bis", "et", "ou", "и", "или", "和", "或", "到", "至"]
)
_SMALL_WORDS = frozenset(["a", "à", "o"])
_ENDINGS = frozenset(["st", "nd", "rd", "th", "am", "pm"])


def _stated(text: str) -> Quantity | None:
    matches = list(itertools.islice(_NUMBER.finditer(text), 2))
    if not matches or (len(matches) == 2 and not _apart(text[matches[0].end() : matches[1].start()])):
        return None
    first = matches[0]
    before, after = text[: first.start()], text[first.end() :]
    value = _value(first)
    if value is None or not _free_before(before):
        return None
    if scale := _SCALE.match(after):
        value, after = value * _SCALES[scale[1].lower()], after[scale.end() :]
    percent = _PERCENT.match(after)
    if percent:
        after = after[percent.end() :]
    if not _free_after(after):
        return None
    return Quantity(value, bool(percent), _unit(first["currency"], before, after))


def _apart(between: str) -> bool:
    """Whether the number behind this text is none of the answer's: "42 apples, of 100", not "41, 42" or "41 or 42"."""
    words = [word.lower() for word in _WORDS.findall(between) if _is_word(word)]
    if words and words[-1] in _JOINERS:
        return False
    if " (" in between or between.endswith("^"):
        return True
    return bool(words) and not (len(words) == 1 and unit_of(words[0]))  # 5 feet 10 inches


def _free_before(text: str) -> bool:
    if _BOUND.search(text):
        return False
    glued = _GLUED_BEFORE.search(text)
    return not glued or unit_of(glued[1]) is not None or not _alphabetic(glued[1])


def _free_after(text: str) -> bool:
    if _GOES_ON.match(text):
        return False
    word = _WORD_AFTER.match(text)
    if not word or not _alphabetic(word[2]) or unit_of(word[2]):
        return True
    if word[1]:
        return (len(word[2]) > 1 and word[2] != "pi") or word[2] in _SMALL_WORDS
    return len(word[2]) > 2 or word[2] in _ENDINGS


def _alphabetic(word: str) -> bool:
    """Whether a script has upper and lower case: its single letters beside numbers are factors, not words."""
    return word.lower() != word.upper()


def _is_word(word: str) -> bool:
    return len(word) > 1 or not _alphabetic(word) or word in _SMALL_WORDS or word in _JOINERS or bool(unit_of(word))


def _unit(currency: str | None, before: str, after: str) -> Unit | None:
    if currency:
        return unit_of(currency)
    if (word := _WORD_AFTER.match(after)) and (unit := unit_of(word[2])):
        return unit
    words = re.findall(r"[^\W\d_]+\.?|[$€£¥₹]", before[-20:])
    unit = unit_of(words[-1]) if words else None
    return unit if unit and unit.kind in _CURRENCIES else None


_CURRENCIES = frozenset({"dollars", "euros", "pounds sterling", "yen", "rupees"})


# --- texts that hold more than a number ----------------------------------------------------------------------------

_PART = re.compile(r"[^\W\d_]+|[^\w\s]|_|\d+")


def parts(text: str) -> tuple[Fraction | str, ...]:
    """A text cut into numbers, words and signs, without spaces, so that `[1, 9]` equals `[1.0,9]`; empty for none."""
    return tuple(_parts(_tidy(text).strip(".\"' ")))


def _parts(text: str) -> Iterator[Fraction | str]:
    at = 0
    for match in _NUMBER.finditer(text):
        yield from _PART.findall(text[at : match.start()])
        value = _value(match)
        if sign := match["sign"] or match["inner"]:
            yield sign
        yield match[0] if value is None else abs(value)
        at = match.end()
    yield from _PART.findall(text[at:])


_GROUP = re.compile(r"[\[({][^\[\](){}\n]{0,200},[^\[\](){}\n]{0,200}[\])}](?=[\W_]*$)")
_SHORT = 60
_BREAKS = " \t\n,;=<>"
_COMPARED_BEFORE = re.compile(r"\S{1,20}\s[<>≤≥≠]\s$")
_CHUNK_END = re.compile(r"[^\s,;=<>]*(?:\s[<>≤≥≠]\s\S{1,20})?")


def last_stated(text: str) -> str | None:
    """The last number of running text with its unit, or what it is a part of: `6√2`, `9:15`, `[1, 9]`; None for none.

    A text of numbers and units alone is taken whole.
    """
    text = _tidy(text[-_LONGEST:])
    if group := _GROUP.search(text):
        return group[0]
    numbers = list(_NUMBER.finditer(text))
    if not numbers:
        return None
    if len(text) <= _SHORT and "=" not in text and all(map(_is_measure, _WORDS.findall(text))):
        return text
    last = numbers[-1]
    start = max(text.rfind(sign, 0, last.start()) for sign in _BREAKS) + 1
    compared = _COMPARED_BEFORE.search(text[max(0, start - 25) : start])
    end = _end_of_measure(text, last.end())
    return f"{compared[0] if compared else ''}{text[start:end]}".lstrip("\"'*_:").rstrip("\"'*_.:!?")


def _end_of_measure(text: str, at: int) -> int:
    """Where a number's unit, scale or percent ends, or what is written up against it."""
    for measure in (_PERCENT, _SCALE):
        if found := measure.match(text, at):
            return found.end()
    word = _WORD_AFTER.match(text, at)
    if word and unit_of(word[2]):
        return word.end()
    chunk = _CHUNK_END.match(text, at)
    return chunk.end() if chunk else at


def _is_measure(word: str) -> bool:
    lower = word.lower()
    return lower in _SCALES or lower in _JOINERS or lower in ("percent", "per", "x") or unit_of(word) is not None

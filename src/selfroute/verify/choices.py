"""Which option letter, A to J, a text chooses. Bounded time on any text; nothing here raises."""

from __future__ import annotations

import itertools
import re

from selfroute.verify.extract import after_phrases, after_reasoning, boxed, tagged_answer
from selfroute.verify.spelling import plain

__all__ = ["chosen_letter", "letter_in"]

_LONGEST = 1_000
_MOST_TEXT = 100_000
_SHORT = 500

_LATEX = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|left|right|quad|[,!;: ])(?![a-z])")
_COMMAND = re.compile(r"\\(?!boxed|fbox)[a-zA-Z]{2}")
# Letters of scripts without cases may touch an option's: "답은 C입니다".
_CASED = r"A-Za-z0-9_'’À-ɏͰ-ӿ"
_ALONE = re.compile(rf"(?<![{_CASED}])([A-J])(?![{_CASED}])")
_ONLY = re.compile(r"(?:[\W_]{0,40}(?:option|choice)\b)?[\W_]{0,40}([A-Ja-j])[\W_]{0,40}", re.ASCII | re.IGNORECASE)
_LED = re.compile(
    r"[\s(\[{*_\"'$#>]{0,12}(?:([A-Ja-j])[*_]{0,2}(?:[).:\]}]|\s[-–—]\s)"
    r"|([A-J])[*_]{0,2}(?:\s{0,4}$|\s{0,4}\n|\s(?:because|since)\b))"
)
_NOT_BEFORE = re.compile(r"(?:\b(?:not|no|nor|non|nicht|nie|не|than|isn't)|不是|非)[\s(*\"']{0,6}$", re.IGNORECASE)
_DENIED_AFTER = re.compile(r"[)\]*_]{0,3}\s(?:is|was|can)\s?(?:not|n't|wrong|incorrect|false)\b", re.IGNORECASE)
_AND_OR = "and|or|und|oder|y|e|o|et|ou|и|или|i|lub|en|of"
_JOIN = re.compile(
    rf"[\s)\]*_}}]{{0,6}}(?:[,;/&+]|{_AND_OR}|[和或と及])[\s(\[*_{{]{{0,6}}(?:{_AND_OR})?[\s(\[*_{{]{{0,6}}"
)
_ARTICLE_BEFORE = re.compile(r"\s[a-z]{1,20}")
# What may follow an option's letter where the words "A" and "I" cannot have it.
_VERBS = re.compile(rf"\s(?:is|are|was|because|since|as|not|for|would|should|must|due|by|but|with|{_AND_OR})\b")

_SAYS = r"option|choice|choose|chose|pick|selected|select|go\swith|say|it'?s|it\sis"
_RIGHT = r"(?:is|must\sbe)\s(?:the\s)?(?:only\s)?(?:correct|right|best|true|answer)"
_SAID = [
    re.compile(rf"(?:\b(?i:{_SAYS})|选择?|選)[\s(\[*_\"':]{{0,6}}([A-J])(?![{_CASED}])"),
    re.compile(rf"(?<![{_CASED}])([A-J])[)\]*_]{{0,3}}\s{_RIGHT}\b"),
]
_BRACKETED = re.compile(r"\(([A-J])\)|\[([A-J])\]|\*\*[(\[]?([A-J])(?:\*\*|[).:\]][^*\n]{0,200}\*\*)")


def chosen_letter(completion: str) -> str | None:
    """The option that a completion chooses; None if it chooses none, or several. `verifiers.choice` says where."""
    tagged = tagged_answer(completion)
    if tagged is not None:
        box = boxed(tagged)
        return letter_in(tagged if box is None else box)
    text = after_reasoning(completion)
    for short in itertools.chain([boxed(text) or ""], after_phrases(text, of_options=True)):
        if letters := _letters(short):
            return letters[0] if len(letters) == 1 else None
    text = plain(text[-_MOST_TEXT:])
    return _at_the_start(text) or _said(text) or _last_bracketed(text)


def letter_in(text: str) -> str | None:
    """The option that a short text names first, unless it names several."""
    letters = _letters(text)
    return letters[0] if len(letters) == 1 else None


def _letters(text: str) -> list[str]:
    """The option that a text names first, with those it joins to it ("A or C"); empty if it names none."""
    tidy = plain(_LATEX.sub("", text[:_LONGEST])).translate({ord(sign): " " for sign in "{}$"})
    if only := _ONLY.fullmatch(tidy):
        return [only[1].upper()]
    if _COMMAND.search(tidy):
        return []
    if led := _led_by(tidy):
        return led
    named = [match for match in _ALONE.finditer(tidy) if not _is_word(tidy, match)]
    return _joined(tidy, [match for match in named if not _denied(tidy, match)])


def _led_by(text: str) -> list[str]:
    """The letter that a text starts with, as "C) Paris" does; empty if it does not, or joins another to it."""
    led = _LED.match(text)
    if led is None:
        return []
    at = led.start(1) if led[1] else led.start(2)
    joined = next(_ALONE.finditer(text, at + 1, at + _SHORT), None)
    if joined and _JOIN.fullmatch(text, at + 1, joined.start()):
        return []
    return [text[at].upper()]


def _joined(text: str, named: list[re.Match[str]]) -> list[str]:
    letters: list[str] = []
    for at, match in enumerate(named):
        if at and not _JOIN.fullmatch(text[named[at - 1].end() : match.start()]):
            break
        letters.append(match[1])
    return list(dict.fromkeys(letters))


def _denied(text: str, letter: re.Match[str]) -> bool:
    return bool(_NOT_BEFORE.search(text[: letter.start()]) or _DENIED_AFTER.match(text, letter.end()))


def _is_word(text: str, letter: re.Match[str]) -> bool:
    """Whether "A" is the article or "I" the pronoun."""
    after = text[letter.end(1) : letter.end(1) + 24]
    return letter[1] in "AI" and bool(_ARTICLE_BEFORE.match(after)) and not _VERBS.match(after)


def _at_the_start(text: str) -> str | None:
    if led := _led_by(text):
        return led[0]
    only = _ONLY.fullmatch(text) if len(text) < _SHORT else None
    return only[1].upper() if only else None


def _said(text: str) -> str | None:
    """Where no phrase announces the answer: "option C", "choose C", "C is correct"; the last that is not denied."""
    for pattern in _SAID:
        said = [match for match in pattern.finditer(text) if not _denied_around(text, match)]
        if said:
            return said[-1][1].upper()
    return None


def _denied_around(text: str, said: re.Match[str]) -> bool:
    before = text[max(0, said.start() - 12) : said.start()]
    return bool(_NOT_BEFORE.search(before) or _DENIED_AFTER.match(text, said.end(1)) or _is_word(text, said))


def _last_bracketed(text: str) -> str | None:
    found = list(_BRACKETED.finditer(text))
    if not found or (len(found) > 1 and _JOIN.fullmatch(text[found[-2].end() : found[-1].start()])):
        return None
    return next(letter for letter in found[-1].groups() if letter)

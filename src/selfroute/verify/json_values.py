r"""The value of the last `"answer"` of JSON-like text, and whether it is a gold answer's.

Values are read as JSON has them: escapes, `true`, `null`, lists, objects. Models also write what is no JSON: LaTeX
whose backslashes are not escaped (`"\frac{1}{2}"`, in which JSON reads a form feed), `1,200` and `.5` without quotes,
text that is cut off. A string is therefore compared in both readings, and a value that is no JSON as the text it is.
Bounded time on any text; nothing here raises.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from selfroute.verify.extract import boxed
from selfroute.verify.quantities import read_gold, read_quantity, same_quantity
from selfroute.verify.spelling import same_text

__all__ = ["Found", "last_answer", "same_json"]

_KEY = re.compile(r'(?<!\\)"answer"\s{0,8}:\s{0,8}')
_STRING = re.compile(r'"((?:[^"\\]|\\.){0,2000})(?:"|$)', re.DOTALL)
_ENDS = re.compile(r"\s{0,200}(?:$|[}\]\n]|,(?!\d))")  # 1,200 is no 1, and "12 or 13" no 12
_BARE = re.compile(r"[^\"}\]\n]{1,200}")
_LONGEST = 20_000
_MOST_KEYS = 20
_DEEPEST = 50


@dataclass(frozen=True, slots=True)
class Found:
    """A value as it stands in a text.

    Attributes:
        value: what JSON reads; the raw text where it is no JSON.
        raw: of a string, the text between its quotes with `\\\\` as one backslash, all other escapes as they stand;
            else the value's text.
    """

    value: Any
    raw: str


def last_answer(text: str) -> Found | None:
    """The last `"answer"` of a text with a value that is not blank; at most the last 20 are looked at."""
    for key in [match.end() for match in _KEY.finditer(text)][: -_MOST_KEYS - 1 : -1]:
        found = _value_at(text[key : key + _LONGEST])
        if found is not None and found.raw.strip():
            return found
    return None


def _value_at(text: str) -> Found | None:
    value, end = _decoded(text)
    if string := _STRING.match(text):
        raw = string[1].replace("\\\\", "\\")
        return Found(value if end else raw, raw)
    if end and (isinstance(value, dict | list) or _ENDS.match(text, end)):
        return Found(value, text[:end])
    bare = _BARE.match(text)
    if bare is None:
        return None
    raw = re.split(r",\s{0,8}(?:\"|$)|,\s", bare[0])[0].strip()
    return Found(raw, raw)


def _decoded(text: str) -> tuple[Any, int]:
    """The JSON value that a text begins with, and its length; 0 if it begins with none."""
    if _depth(text) > _DEEPEST:
        return None, 0
    try:
        value, end = json.JSONDecoder(strict=False, parse_int=_whole).raw_decode(text)
    except (ValueError, RecursionError):
        return None, 0
    return value, end


def _whole(digits: str) -> int | str:
    return int(digits) if len(digits) <= 400 else digits  # Python refuses to read more than some thousand digits


def _depth(text: str) -> int:
    depth = deepest = 0
    for sign in re.findall(r"[\[{\]}]", text):
        depth += 1 if sign in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


# --- comparing -----------------------------------------------------------------------------------------------------

_LITERALS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}


def same_json(answer: Found, gold: str) -> bool:
    """Whether a value is the gold answer, which is text: JSON of a list, object, number or literal, or a plain string.

    Objects are equal in any order of their keys. 1 and 1.0 are one number, as JSON has one kind; `true` is not 1.
    Within lists and objects "1" is not 1; a whole answer of "1" is, since the gold has no quotes either.
    """
    if isinstance(answer.value, str):
        return _same_string(answer, gold.strip())
    wanted = _read(gold.strip())
    if isinstance(answer.value, bool | None):
        return wanted is not _NOTHING and type(wanted) is type(answer.value) and wanted == answer.value
    if isinstance(answer.value, int | float):
        return not isinstance(wanted, dict | list) and _same_stated(answer.raw, gold)
    return wanted is not _NOTHING and _key(answer.value) == _key(wanted)


def _same_string(answer: Found, gold: str) -> bool:
    texts = dict.fromkeys((answer.value, answer.raw, boxed(answer.raw) or answer.raw))
    wanted = _read(gold)
    if any(same_text(text, gold) for text in texts):
        return True
    if isinstance(wanted, dict | list):
        return any(_key(_read(text.strip())) == _key(wanted) for text in texts)
    return any(_same_stated(text, gold) for text in texts)


def _same_stated(text: str, gold: str) -> bool:
    one, other = read_quantity(text), read_gold(gold)
    if one is None or other is None:
        return False
    return same_quantity(one, other)


_NOTHING: Any = object()


def _read(text: str) -> Any:
    """The value of a text that is JSON, or a literal of Python; `_NOTHING` for any other text."""
    if text in _LITERALS:
        return _LITERALS[text]
    value, end = _decoded(text)
    return value if end and end == len(text) else _NOTHING


def _key(value: Any) -> Any:
    """Something that is equal for equal JSON: true apart from 1, objects in any order."""
    if isinstance(value, dict):
        return "object", frozenset((key, _key(item)) for key, item in value.items())
    if isinstance(value, list):
        return "list", tuple(map(_key, value))
    return "literal" if value is None or isinstance(value, bool) else "value", value

"""Values of Python as text: where a completion gives one, and whether two texts are the same value. Nothing is run.

Compared as the language does, types included: sets and dicts in any order, strings in any quotes and escapes, floats by
value, 1 apart from 1.0 and from True. What `repr` writes that is no literal is read as well: `set()`, `nan`,
`Counter({'a': 2})`, `deque([1], maxlen=3)`, `datetime.date(2024, 1, 31)`, `<Node object at 0x7f…>` at whatever address.
"""

from __future__ import annotations

import ast
import itertools
import re
import warnings
from typing import Any

from selfroute.verify.base import Verdict
from selfroute.verify.extract import after_reasoning, code_blocks, marked_answer

__all__ = ["output", "output_in", "same_value"]

_MOST_TEXT = 100_000
_LONGEST = 5_000
_LONGEST_LINE = 3_000
_MOST_LINES = 50

_CALL = re.compile(r"\s{0,20}(?:assert\s)?\s{0,20}f\(.{0,2000}?\)\s{0,4}==\s{0,4}(.{1,5000})", re.DOTALL)
_SAYS = re.compile(
    r"(?:->|→|=>|==?|:|\b(?:is|be|returns?|outputs?|gives?|yields?|value|list|tuple|dict|dictionary|set|string))[\s*]{1,4}"
)
_MOST_TRIES = 20


def output(completion: str, gold: str) -> Verdict:
    """The same value of Python, as CRUXEval asks for it (arXiv 2401.03065)."""
    answer = output_in(completion)
    if not answer:
        return Verdict(False, reason="no answer")
    correct = same_value(answer, gold)
    return Verdict(correct, answer[:200], "" if correct else f"{answer[:40]} is not {gold[:40]}")


# --- where it stands -----------------------------------------------------------------------------------------------


def output_in(completion: str) -> str:
    """The predicted value of a completion, as text, empty for none.

    First match wins: the first `<answer>`, or else the last box; the first `[ANSWER]`, CRUXEval's own; what follows the
    last `f(…) ==`; a code block at the end; the last line, or what it says the value "is", "returns" and the like; the
    last code block.
    """
    marked = marked_answer(completion)
    text = after_reasoning(completion)[-_MOST_TEXT:].strip()
    if marked is None:
        marked = text.partition("[ANSWER]")[2].partition("[/ANSWER]")[0] or _last_call(text) or _last_line(text)
    return _bare(marked)[:_LONGEST]


def _last_call(text: str) -> str:
    lines = [line[:_LONGEST_LINE] for line in text.rsplit("\n", _MOST_LINES)[-_MOST_LINES:] if "==" in line]
    calls = [match[1] for line in lines for start in _starts(line) if (match := _CALL.match(line, start))]
    return calls[-1] if calls else ""


def _starts(line: str) -> list[int]:
    return [match.start() for match in re.finditer(r"\bf\(", line)][:20]


def _last_line(text: str) -> str:
    blocks = code_blocks(text)
    if blocks and text.endswith(("```", "~~~")):
        return blocks[-1][1]
    line = text.rpartition("\n")[2]
    if len(line) > _LONGEST_LINE or _parsed(line) is not None:
        return line
    said = _said(line)
    return blocks[-1][1] if blocks and not said and _parsed(blocks[-1][1]) is not None else said or line


def _said(line: str) -> str:
    """The longest end of a sentence that is a value, behind "is", "returns", an arrow and the like; empty for none."""
    ends = (line[match.end() :] for match in itertools.islice(_SAYS.finditer(line), _MOST_TRIES))
    return next((end for end in ends if _parsed(_bare(end)) is not None), "")


def _bare(text: str) -> str:
    """Without code marks, a call before "==" and a sentence's full stop; whole if it is a value as it stands."""
    if blocks := code_blocks(text.strip()):
        text = blocks[0][1]
    text = text.strip()
    if call := _CALL.fullmatch(text[: _LONGEST + _LONGEST_LINE]):
        text = call[1].strip()
    if _parsed(text) is None:
        text = text.strip("*").strip().removesuffix(".").strip().strip("`").strip().removesuffix(".")
    return text


# --- comparing -----------------------------------------------------------------------------------------------------

_ADDRESS = re.compile(r"<([^<>'\"\n]{1,200}) at 0x[0-9a-fA-F]{1,16}>")
_CLASS = re.compile(r"<class '([\w.]{1,200})'>")
_NAMES = frozenset({"inf", "nan", "Ellipsis", "NotImplemented"})
_UNREADABLE = (ValueError, SyntaxError, MemoryError, RecursionError, TypeError, OverflowError)


def same_value(answer: str, gold: str) -> bool:
    """Whether two texts are the same value of Python; where one is none, whether they read the same."""
    left, right = _parsed(answer), _parsed(gold)
    if left is None or right is None:
        return " ".join(answer.split()) == " ".join(gold.split())
    return bool(left == right)


def _parsed(text: str) -> Any:
    """Something that is equal for equal values, None for a text that is no value."""
    if len(text) > _LONGEST:
        return None
    try:
        return _key(_tree(text))
    except _UNREADABLE:
        pass
    named = _CLASS.sub(r"__class__('\1')", _ADDRESS.sub(r"__object__('\1')", text))
    try:
        return _key(_tree(named)) if named != text else None
    except _UNREADABLE:
        return None


def _tree(text: str) -> ast.expr:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # unknown escapes in a model's strings
        return ast.parse(text.strip(), mode="eval").body


def _key(node: ast.expr) -> Any:
    try:
        return _typed(ast.literal_eval(node))
    except ValueError:
        return _key_of_repr(node)


def _key_of_repr(node: ast.expr) -> Any:
    """What is written by `repr` and is no literal, or holds something that is none.

    Raises:
        ValueError: it is an expression that would have to be run.
    """
    match node:
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return type(node).__name__.lower(), tuple(map(_key, items))
        case ast.Set(elts=items):
            return "set", frozenset(map(_key, items))
        case ast.Dict(keys=keys, values=values) if all(keys):
            return "dict", frozenset((_key(key), _key(value)) for key, value in zip(keys, values, strict=True) if key)
        case ast.Name(id=name) if name in _NAMES:
            return ("float", name) if name in ("inf", "nan") else ("name", name)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Name(id="inf")):
            return "float", "-inf"
        case ast.Call():
            return _key_of_call(node)
    raise ValueError("not a value")


def _key_of_call(call: ast.Call) -> Any:
    name = ast.unparse(call.func)
    arguments = tuple(map(_key, call.args))
    named = frozenset((keyword.arg, _key(keyword.value)) for keyword in call.keywords)
    if not re.fullmatch(r"[\w.]+", name) or name == "f":
        raise ValueError("not a value")
    if name == "set" and not arguments:
        return "set", frozenset()
    if name == "float" and arguments and arguments[0][0] == "str":
        return "float", repr(float(arguments[0][1]))
    return "call", name, arguments, named


def _typed(value: object) -> Any:
    """A value that compares types as well: 1 apart from 1.0 and True, sets and dicts in any order."""
    if isinstance(value, dict):
        return "dict", frozenset((_typed(key), _typed(item)) for key, item in value.items())
    if isinstance(value, set | frozenset):
        return "set", frozenset(map(_typed, value))
    if isinstance(value, list | tuple):
        return type(value).__name__, tuple(map(_typed, value))
    if isinstance(value, float):
        return "float", repr(value + 0.0)  # nan equals itself here; -0.0 is 0.0, as in Python
    return type(value).__name__, value

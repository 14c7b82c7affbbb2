"""Answers made from a gold answer by rule: re-spelled, so that they must pass, or spoilt, so that they must not.

Their labels hold by how they are made, not by any verifier, so that a verifier can be measured on them.
"""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from fractions import Fraction

__all__ = ["RESPELLED", "refenced", "respelled", "spoilt"]

_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d{1,15})(?:\.\d{1,6})?", re.ASCII)
_FULL_WIDTH = str.maketrans("0123456789", "０１２３４５６７８９")


def respelled(verifier: str, gold: str) -> dict[str, str]:
    """Other spellings of an answer that the verifier of a name must take, each under its kind; empty for none."""
    spell = RESPELLED.get(verifier)
    return {kind: text for kind, text in (spell(gold) if spell else {}).items() if text != gold}


def spoilt(gold: str, other: str) -> dict[str, str]:
    """Wrong answers that look like the gold one, each under its kind.

    Args:
        other: an answer that is different.
    """
    wrong = {"one of two": f"{gold} or {other}"}
    if digit := re.search(r"[1-9]", gold):
        changed = str(int(digit[0]) % 9 + 1)
        wrong["one digit changed"] = gold[: digit.start()] + changed + gold[digit.end() :]
    if _value(gold):
        wrong["sign flipped"] = gold[1:] if gold.startswith("-") else f"-{gold}"
        wrong["goes on behind the number"] = f"{gold}:30"
    return wrong


def refenced(completion: str) -> dict[str, str]:
    """A completion with a code block, with the block fenced as other models do; empty if it has none of Python."""
    if "```python\n" not in completion:
        return {}
    return {
        "lines end in CR LF": completion.replace("\n", "\r\n"),
        "tilde fence": completion.replace("```python", "~~~python").replace("```", "~~~"),
        "tag python3": completion.replace("```python", "```python3"),
        "another language's block before": f"```bash\nls\n```\n{completion}",
    }


# --- per verifier --------------------------------------------------------------------------------------------------


def _value(gold: str) -> Fraction | None:
    return Fraction(gold.replace(",", "")) if _NUMBER.fullmatch(gold) else None


def _number(gold: str) -> dict[str, str]:
    value = _value(gold)
    if value is None:
        return {}
    spelt = {
        "as a fraction": f"{2 * value.numerator}/{2 * value.denominator}",
        "in LaTeX": rf"\frac{{{3 * value.numerator}}}{{{3 * value.denominator}}}",
        "as an equation": f"x = {gold}",
        "digits of full width": gold.translate(_FULL_WIDTH),
    }
    if value.denominator == 1:
        spelt |= {"with decimals": f"{value}.00", "thousands by commas": f"{value.numerator:,}"}
    return spelt


def _numeric(gold: str) -> dict[str, str]:
    if _value(gold) is None:
        return {}
    return {
        **_number(gold),
        "in bold": f"**{gold}**",
        "in a sentence": f"It is {gold}.",
        "with a unit": f"{gold} apples",
    }


def _math(gold: str) -> dict[str, str]:
    return {
        **_number(gold),
        "between dollars": f"${gold}$",
        "large fractions": gold.replace(r"\frac", r"\dfrac"),
        "stretched brackets": re.sub(r"^\((.*)\)$", r"\\left(\1\\right)", gold),
    }


def _choice(gold: str) -> dict[str, str]:
    letter = gold.strip(" ().")
    spelt = ("lower case", letter.lower()), ("in brackets", f"({letter})"), ("in bold", f"**{letter}**")
    return dict(spelt) | {"with its text": f"{letter}) as said", "in LaTeX": rf"\text{{{letter}}}"}


def _exact(gold: str) -> dict[str, str]:
    return {
        "more spaces": gold.replace(" ", "  "),
        "spaces that do not break": gold.replace(" ", "\u00a0"),
        "accents apart": unicodedata.normalize("NFD", gold),
    }


def _output(gold: str) -> dict[str, str]:
    try:
        value = ast.literal_eval(gold)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return {"after the call": f"f(x) == {gold}"}
    spelt = {"after the call": f"f(x) == {gold}", "as repr writes it": repr(value), "as code": f"`{gold}`"}
    if isinstance(value, dict):
        spelt["in another order"] = repr(dict(reversed(value.items())))
    if isinstance(value, str):
        spelt["in other quotes"] = json.dumps(value)
    return spelt


def _countdown(gold: str) -> dict[str, str]:
    return {
        "with spaces": re.sub(r"([-+*/])", r" \1 ", gold),
        "with the paper's signs": gold.replace("*", "×").replace("/", "÷").replace("-", "−"),
    }


RESPELLED: Mapping[str, Callable[[str], dict[str, str]]] = {
    "numeric": _numeric,
    "math": _math,
    "json": _number,
    "choice": _choice,
    "exact": _exact,
    "output": _output,
    "countdown": _countdown,
}

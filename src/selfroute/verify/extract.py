"""Where the answer stands in a completion. Linear time on any text; nothing here raises.

Two rules, shared by every verifier:

* Reasoning is not an answer: `<think>` blocks, to the end of the text if one is not closed. A chat template may open
  the first block in the prompt, so a first think tag that closes makes all before it reasoning; a later stray one
  is dropped: it must not take an answer back. `selfroute.handoff` reads completions the same way.
* The first decision counts. Of several `<answer>` elements outside the reasoning, the first one that is closed and
  not blank is the answer; later ones cannot mend it. An `<answer>` opened again before it is closed starts anew, so
  of nested tags the innermost counts.
"""

from __future__ import annotations

import re

__all__ = ["after_reasoning", "boxed", "code_in", "tagged_answer"]

_THINK_TAG = re.compile(r"<(/?)think\s{0,8}>", re.IGNORECASE)
_ANSWER_TAG = re.compile(r"<(/?)answer\s{0,8}>", re.IGNORECASE)
_BOXED = re.compile(r"\\(?:boxed|fbox)\s{0,8}(\{|(?=[ 0-9]))")
_BLOCK = re.compile(r"```[ \t]{0,4}(?:python|py|Python)?[ \t]{0,4}\n(.*?)(?:\n```|\Z)", re.DOTALL)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_MOST_TEXT = 100_000


def after_reasoning(completion: str) -> str:
    """The parts of a completion that count, joined: what is outside the reasoning."""
    parts: list[str] = []
    start, thinking = 0, False
    for number, tag in enumerate(_THINK_TAG.finditer(completion)):
        closes = bool(tag[1])
        if not thinking and not (closes and number == 0):
            parts.append(completion[start : tag.start()])
        start, thinking = tag.end(), not closes
    return "".join(parts) if thinking else "".join([*parts, completion[start:]])


def tagged_answer(completion: str) -> str | None:
    """Content of the first `<answer>` element outside the reasoning, without outer spaces; None if there is none."""
    text = after_reasoning(completion)
    start: int | None = None
    for tag in _ANSWER_TAG.finditer(text):
        if not tag[1]:
            start = tag.end()
        elif start is not None:
            if content := text[start : tag.start()].strip():
                return content
            start = None
    return None


def boxed(text: str) -> str | None:
    r"""Content of the last `\boxed{…}` or `\fbox{…}` with balanced braces; None if there is none.

    The last, not the first: worked solutions box intermediate results, and the reference solutions of MATH give
    their answer in the last box. Escaped braces (`\{`) are content; `\boxed 7` without braces is read as well.
    """
    last = _last_box(text)
    if last is None:
        return None
    rest = text[last.end() :]
    if last[1] != "{":
        return rest.split("$", 1)[0].split("\n", 1)[0].strip(" .") or None
    depth = 1
    for brace in _BRACE.finditer(rest):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return rest[: brace.start()].strip() or None
    return None


def _last_box(text: str) -> re.Match[str] | None:
    # Backwards by what both spellings share: one scan, where a search for each would be quadratic on bad text.
    at = text.rfind("box")
    while at >= 0:
        for start in (at - 1, at - 2):
            if start >= 0 and (box := _BOXED.match(text, start)):
                return box
        at = text.rfind("box", 0, at)
    return None


def code_in(completion: str) -> str:
    """The first code block outside the reasoning, else all text outside it; of at most 100,000 characters."""
    text = after_reasoning(completion)[:_MOST_TEXT]
    tagged = tagged_answer(text)
    text = text if tagged is None else tagged
    block = _BLOCK.search(text)
    return block[1] if block else text

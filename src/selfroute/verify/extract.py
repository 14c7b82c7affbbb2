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

import itertools
import re
from collections.abc import Iterator

__all__ = ["after_phrases", "after_reasoning", "boxed", "code_blocks", "code_in", "marked_answer", "tagged_answer"]

_THINK_TAG = re.compile(r"<(/?)think\s{0,8}>", re.IGNORECASE)
_ANSWER_TAG = re.compile(r"<(/?)answer\s{0,8}>", re.IGNORECASE)
_BOXED = re.compile(r"\\(?:boxed|fbox)\s{0,8}(\{|(?=[ 0-9]))")
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


def marked_answer(completion: str) -> str | None:
    """The answer where the completion marks one, by tag or box; None if it does not."""
    tagged = tagged_answer(completion)
    content = boxed(after_reasoning(completion) if tagged is None else tagged)
    return tagged if content is None else content


# --- phrases that announce an answer -------------------------------------------------------------------------------

_NAMES = "answer|antwort|antwoord|respuesta|réponse|risposta|resposta|ответ|odpowiedź|svaret|svar|cevap|đáp án"
_NAMES_OF_OPTIONS = "option|choice|final|selected|solution|lösung|wahl|opción|opzione|opção|вариант"
_NAMES_UNSPACED = "答案|答え|正解|정답|उत्तर|الإجابة"
_IS = "is|ist|lautet|es|est|è|é|jest|är|là|है|هي|(?:would|should|must|has\\s+to)\\s+be"
_IS_UNSPACED = "[:：=→]|->|[ \\t][-–—](?=\\s)|是|为|為|は|은|는|이"
_NAME, _NAME_OF_OPTIONS = (
    re.compile(rf"(?<![^\W_])(?:{names})|{_NAMES_UNSPACED}") for names in (_NAMES, f"{_NAMES}|{_NAMES_OF_OPTIONS}")
)
_ANNOUNCES = re.compile(
    rf"(?:(?:\s+\w{{2,12}}){{0,4}}?[\s\"'*_]{{0,8}}(?:(?<![^\W_])(?:{_IS})(?!\w)|{_IS_UNSPACED})"
    r"|[*_]{0,4}[ \t]{0,4}\n)[\s\"'*_:：]{0,12}",
    re.IGNORECASE,
)
_MOST_PHRASES = 20
_LINE = 500


def after_phrases(text: str, *, of_options: bool = False) -> Iterator[str]:
    """What follows phrases such as "the answer is" to the end of the line, the last phrase first; 500 characters each.

    At most the last 20 phrases. English, and the word for "answer" in some fifteen other languages.

    Args:
        of_options: whether "the correct option is" and the like count too.
    """
    # Searched in lower case: ignoring the case of a dozen words costs ten times as much.
    lower = text.lower()
    names = (_NAME_OF_OPTIONS if of_options else _NAME).finditer(lower if len(lower) == len(text) else text)
    ends = [name.end() for name in names]
    phrases = (phrase for end in reversed(ends) if (phrase := _ANNOUNCES.match(text, end)))
    for phrase in itertools.islice(phrases, _MOST_PHRASES):
        yield text[phrase.end() : phrase.end() + _LINE].partition("\n")[0]


# --- code ----------------------------------------------------------------------------------------------------------

_FENCE = re.compile(
    r"(?P<indent>[ \t>]{0,40}(?:(?:[-*+]|\d{1,3}[.)])[ \t]{1,8})?)(?P<marks>`{3,}|~{3,})[ \t]{0,8}(?P<tag>[^`]{0,200})$"
)
_PYTHON = re.compile(r"\W{0,2}(?:python|py)[\d.]{0,6}(?![\w+#-])", re.IGNORECASE)
_LINE_END = re.compile(r"\r\n?|\n")
_LONGEST_FENCE = 400


def code_in(completion: str, *, defining: str = "") -> str:
    """The first block of Python outside the reasoning, else all text outside it; of at most 100,000 characters.

    A block that names Python comes before one that names nothing, and that before one of another language.

    Args:
        defining: name of a function; a block that defines it comes before all others.
    """
    text = after_reasoning(completion)[:_MOST_TEXT]
    tagged = tagged_answer(text)
    text = text if tagged is None else tagged
    wanted = re.compile(rf"\bdef\s{{1,4}}{re.escape(defining)}\b")

    def rank(block: tuple[str, str]) -> tuple[bool, int]:
        tag, content = block
        return bool(defining) and not wanted.search(content), 1 if not tag else 0 if _PYTHON.match(tag) else 2

    blocks = code_blocks(text)
    return min(blocks, key=rank)[1] if blocks else "\n".join(_LINE_END.split(text))


def code_blocks(text: str) -> list[tuple[str, str]]:
    """Language tag and content of each fenced block, in order; one that is not closed goes to the end of the text.

    Fences are three or more backticks or tildes, as CommonMark has them, also in lists and quotes, whose indent is cut.
    """
    blocks: list[tuple[str, str]] = []
    lines: list[str] = []
    opening: re.Match[str] | None = None
    for line in _LINE_END.split(text):
        fence = _FENCE.match(line) if len(line) < _LONGEST_FENCE else None
        if opening is None:
            opening, lines = fence, []
        elif fence and not fence["tag"].strip() and fence["marks"].startswith(opening["marks"]):
            blocks.append((opening["tag"].strip(), "\n".join(lines)))
            opening = None
        else:
            lines.append(_outdented(line, opening["indent"]))
    return blocks if opening is None else [*blocks, (opening["tag"].strip(), "\n".join(lines))]


def _outdented(line: str, indent: str) -> str:
    """A line without what its fence stands behind, as far as it has it."""
    if ">" in indent:
        line = line.lstrip(" \t").removeprefix(">").removeprefix(" ")
        indent = indent.rpartition(">")[2].removeprefix(" ")
    kept = line.lstrip(" \t")
    return line[min(len(indent), len(line) - len(kept)) :]

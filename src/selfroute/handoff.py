"""What a hand-off looks like: the text that makes it, the parser that reads it, and its probability as a score.

The call for the cloud is plain text, not a special token: a special token would be stripped before a reward function
sees it. The prompts that offer it are in `selfroute.prompts`.

What a completion decides. **The first decision outside the reasoning counts**, whichever comes first: an answer
(text inside `<answer>`, or inside `\\boxed{}`), or a hand-off. Streaming needs this rule, since text already shown
cannot be taken back, and it cannot be gamed: an answer does not become a hand-off when it turns out wrong, nor the
other way round. In detail:

* A hand-off is an `<unknown>` tag anywhere before that decision, also inside `<think>`, or the bare sentence
  "I need external assistance" outside `<think>`. Case, spacing and the usual misspellings do not matter, and a
  hand-off inside a still empty `<answer>` or `\\boxed{}` is a hand-off.
* Whatever follows a hand-off belongs to it: behind its mark stands the message, which is what the cloud shall see
  where the device writes the question. After an answer, a hand-off decides nothing, but it is no text for a reader
  either. The bare sentence inside an `<answer>` that has begun is plain text.
* Reasoning is what the verifiers of `selfroute.verify` skip: a `<think>` block, to the end if it is not closed, and
  all that stands before a `</think>` which was never opened (a chat template may open it in the prompt). The stream
  cannot know the latter before the tag comes: it calls that text content, and the tag undoes an answer in it.
* Text without any tag is an answer that never decides, so that a bare hand-off may still follow. Only once it is whole
  is it known to have decided for an answer with its first word, which is where its score is read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from selfroute.types import Token

__all__ = [
    "CHANNELS",
    "HANDOFF_TEXT",
    "Channel",
    "ChannelReader",
    "Parsed",
    "Piece",
    "PieceKind",
    "StreamParser",
    "channel_text",
    "decides_at",
    "handoff_score",
    "parse",
]

HANDOFF_TEXT = "<unknown> I need external assistance </unknown>"


PieceKind = Literal["reasoning", "content", "tag", "hand-off"]
# What of a completion is read by somebody: the message behind a hand-off, and the local answer.
Channel = Literal["message", "answer"]
CHANNELS: tuple[Channel, ...] = ("message", "answer")


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a completion. The texts of all pieces, joined, are the completion, to the last space.

    Attributes:
        kind: "reasoning" and "content" are for the reader; "tag" is `<think>`, `<answer>` and their ends;
            "hand-off" is a hand-off with all that follows it.
    """

    kind: PieceKind
    text: str


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a completion says.

    Attributes:
        wants_cloud: whether it hands off.
        reasoning: what it thought, without tags; before a hand-off, everything.
        answer: inside of the first `<answer>` that is closed and not blank, else of one that is not closed, else all
            text outside the reasoning (`\\boxed{}` with the sentence around it); without outer spaces. Empty after
            a hand-off.
        answered: whether the decision was an explicit answer; False for a hand-off and for text without tags.
        malformed: whether a tag is unclosed, stray, repeated or empty, or the completion both answers and asks.
        message: what stands behind the hand-off, without tags and outer spaces; empty without one.
    """

    wants_cloud: bool
    reasoning: str
    answer: str
    answered: bool
    malformed: bool
    message: str = ""


# A mark is a list of elements, each a character class with a bounded count. This makes both regexes that a stream
# needs, "the whole mark is here" and "the text ends inside it", and bounds what one match can cost.
_FLAGS = re.IGNORECASE | re.ASCII  # ASCII: a dotless ı is not the i of <think>
_GAP, _SPACE = r"\s{0,8}", r"\s{1,8}"
_UNKNOWN_NAME = [*"unk", "n?", "o", "w?", "n?", _GAP, ">"]  # unknown, unkown, unknow
_SENTENCE = ["i", _SPACE, *"need", _SPACE, "a?", "n?", _GAP, *"external", _SPACE]
_SENTENCE += ["a", "s{1,2}", "i", "[a-z]{0,4}", "[ae]", "[nc]"]  # assistance, assitance, assistence, asistance
_UNKNOWN = ["<", _GAP, "/?", _GAP, *_UNKNOWN_NAME]
_CLOSED_SENTENCE = [*_SENTENCE, "[a-z]{0,4}", r"[\s.!]{0,8}", "<", _GAP, "/", _GAP, *_UNKNOWN_NAME]
_THINK, _THINK_END = ["<", *"think", _GAP, ">"], ["<", "/", *"think", _GAP, ">"]
_ANSWER, _ANSWER_END = ["<", *"answer", _GAP, ">"], ["<", "/", *"answer", _GAP, ">"]
_BOX, _FBOX, _TEXT = ["\\\\", *"boxed"], ["\\\\", *"fbox"], ["\\\\", *"text", _GAP, r"\{"]


def _started(elements: Sequence[str]) -> str:
    """A regex for any beginning of a mark that reaches the end of the text."""
    pattern = elements[-1]
    for element in reversed(elements[:-1]):
        pattern = f"{element}(?:{pattern})?"
    return rf"{pattern}\Z"


class _Marks:
    """Several marks, by the name of what they mean."""

    def __init__(self, *marks: tuple[str, Sequence[str]]) -> None:
        names = {name: "|".join("".join(elements) for other, elements in marks if other == name) for name, _ in marks}
        self.whole = re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in names.items()), _FLAGS)
        self.started = re.compile("|".join(_started(elements) for _, elements in marks), _FLAGS)

    def begin(self, text: str) -> bool:
        """Whether a text begins with one of the marks, or is the beginning of one."""
        return bool(self.whole.match(text) or self.started.match(text))


_TAGS = [("think", _THINK), ("think_end", _THINK_END), ("answer", _ANSWER), ("answer_end", _ANSWER_END)]
_REASONING_MARKS = _Marks(("think_end", _THINK_END), ("handoff", _UNKNOWN), ("handoff", _CLOSED_SENTENCE))
_ANSWER_MARKS = _Marks(*_TAGS, ("handoff", _UNKNOWN))
_OUTER_MARKS = _Marks(
    *_TAGS, ("handoff", _UNKNOWN), ("handoff", _SENTENCE), ("box", _BOX), ("box", _FBOX), ("text", _TEXT)
)
_MARK_START = re.compile(r"[<\\]|(?<!\w)i", re.IGNORECASE)
# A hand-off's own words, at the beginning of its text, and the tags in what follows.
_OWN_WORDS = re.compile(
    rf"(?:{''.join(_UNKNOWN)})?{_GAP}(?:{''.join(_SENTENCE)}[a-z]{{0,4}})?[\s.!]{{0,8}}"
    rf"(?:<{_GAP}/{_GAP}{''.join(_UNKNOWN_NAME)})?",
    _FLAGS,
)
_ANY_TAG = re.compile("|".join("".join(tag) for tag in (*(tag for _, tag in _TAGS), _UNKNOWN)), _FLAGS)
_BLANK = "{ \t\r\n\f\v"  # what may stand between an answer's mark and its content


class StreamParser:
    """Parses a completion while it is written; any cut into chunks gives the same text per kind and decision.

    Text is held back only while it may still become a mark, at most about 100 characters; each character is looked
    at a bounded number of times. Never raises on text.

    Attributes:
        wants_cloud: whether a hand-off has been decided; final once True.
        answered: whether an answer has been decided; only a first, stray `</think>` takes it back.
        decided_at: where the text of the decision begins, in characters from the start; None while there is none.
        malformed: as in `Parsed`; final after `close`.
    """

    def __init__(self) -> None:
        self.wants_cloud = False
        self.answered = False
        self.decided_at: int | None = None
        self.malformed = False
        self._held = ""
        self._before = ""  # the character before `_held`: a sentence starts at a word's start
        self._taken = 0  # characters given out
        self._thinking = self._answering = self._reasoned = self._over = False
        self._pending: int | None = None  # where an answer's mark stands that has no content yet
        self._behind: list[str] = []  # the text of a hand-off, its mark first

    @property
    def thinking(self) -> bool:
        """Whether what comes next is reasoning, as far as is known."""
        return self._thinking

    @property
    def message(self) -> str:
        """What stands behind the hand-off so far, as in `Parsed`; whole after `close`."""
        return _message("".join(self._behind))

    def feed(self, text: str) -> list[Piece]:
        """Take the next chunk and give what is certain by now."""
        return self._read(text, last=False)

    def close(self) -> list[Piece]:
        """Give what was held back; call once, at the end."""
        pieces = self._read("", last=True)
        self.malformed |= self._thinking or self._answering
        return pieces

    def _read(self, chunk: str, *, last: bool) -> list[Piece]:
        text = self._before + self._held + chunk
        start = seen = at = len(self._before)
        pieces: list[Piece] = []
        while not self._over and (candidate := _MARK_START.search(text, at)):
            here = candidate.start()
            self._note_answer(text[seen:here])
            seen, marks = here, self._marks()
            if mark := marks.whole.match(text, here):
                self._give(pieces, self._kind(), text[start:here])
                self._give(pieces, self._apply(mark.lastgroup or ""), mark[0])
                start = seen = at = mark.end()
            elif not last and marks.started.match(text, here):
                break
            else:
                at = here + 1
        end = candidate.start() if not self._over and candidate else len(text)
        self._note_answer(text[seen:end])
        self._give(pieces, self._kind(), text[start:end])
        self._before, self._held = text[:end][-1:], text[end:]
        return pieces

    def _marks(self) -> _Marks:
        if self._thinking:
            return _REASONING_MARKS
        return _ANSWER_MARKS if self._answering and self.answered else _OUTER_MARKS

    def _kind(self) -> PieceKind:
        if self._over:
            return "hand-off"
        return "reasoning" if self._thinking else "content"

    def _give(self, pieces: list[Piece], kind: PieceKind, text: str) -> None:
        if text:
            pieces.append(Piece(kind, text))
            self._taken += len(text)
            if self.wants_cloud:
                self._behind.append(text)

    def _note_answer(self, text: str) -> None:
        """The first content behind an answer's mark decides; a brace that closes at once was an empty box."""
        if self._pending is None or self._thinking or self._over or not (content := text.lstrip(_BLANK)):
            return
        if self._answering or content[0] != "}":
            self.answered, self.decided_at = True, self._pending
        self._pending = None

    def _apply(self, name: str) -> PieceKind:
        """Change state at a mark; returns the kind of the mark's own text."""
        match name:
            case "handoff":
                self._hand_off()
                return "hand-off"
            case "think":
                self.malformed |= self._reasoned or self._answering or self.answered
                self._thinking = True
            case "think_end":
                self._end_thinking()
            case "answer":
                self.malformed |= self._answering or self.answered
                self._answering = True
                self._pending = None if self.answered else self._taken
            case "answer_end":
                self.malformed |= not self._answering or not self.answered
                self._answering, self._pending = False, None
            case "box":
                self._pending = None if self.answered else self._first_pending()
                return "content"
            case _:  # \text{ inside a box is not yet content
                return "content"
        return "tag"

    def _first_pending(self) -> int:
        """A box inside a tag that is still empty belongs to the tag's decision."""
        return self._taken if self._pending is None else self._pending

    def _hand_off(self) -> None:
        self._over = True
        if self.answered:
            self.malformed = True
        else:
            self.wants_cloud, self.decided_at = True, self._taken

    def _end_thinking(self) -> None:
        if not self._thinking:
            self.malformed = True
            if not self._reasoned:  # all of it was reasoning: an answer in there is none
                self.answered, self.decided_at, self._pending, self._answering = False, None, None, False
        self._thinking, self._reasoned = False, True


def parse(text: str) -> Parsed:
    """Read a whole completion: lenient, in linear time, never raising. The module's docstring has the rules."""
    parser = StreamParser()
    pieces = [*parser.feed(text), *parser.close()]
    reasoning, outside = _divide(pieces)
    content = "".join(piece.text for piece in outside if piece.kind == "content")
    if parser.wants_cloud:
        return Parsed(True, (reasoning + content).strip(), "", False, parser.malformed, parser.message)
    tagged = _tagged(outside)
    answer = content if tagged is None else tagged
    return Parsed(False, reasoning.strip(), answer.strip(), parser.answered, parser.malformed)


def channel_text(completion: str, channel: Channel) -> str:
    """What a completion says on a channel; empty if nothing."""
    said = parse(completion)
    return said.message if channel == "message" else said.answer


class ChannelReader:
    """Tells while a completion is written whether its next token belongs to a channel.

    Of a message that is all behind the beginning of a hand-off, the end of the text included: to stop in time is one
    way to keep to an attribute.
    """

    def __init__(self, channel: Channel) -> None:
        self._parser = StreamParser()
        self._of_message = channel == "message"

    def feed(self, text: str) -> None:
        """Take the text of the next token."""
        self._parser.feed(text)

    @property
    def is_open(self) -> bool:
        """Whether the next token belongs to the channel."""
        if self._of_message:
            return self._parser.wants_cloud
        return not (self._parser.wants_cloud or self._parser.thinking)


def _message(text: str) -> str:
    """What a hand-off's text says behind its own words."""
    own = _OWN_WORDS.match(text)
    return _ANY_TAG.sub("", text[own.end() if own else 0 :]).strip()


def _divide(pieces: Sequence[Piece]) -> tuple[str, list[Piece]]:
    """The reasoning as text, and the pieces outside it. A first `</think>` without `<think>` ends reasoning too."""
    tags = [i for i, piece in enumerate(pieces) if piece.kind == "tag" and "think" in piece.text.lower()]
    stray = bool(tags) and pieces[tags[0]].text[1] == "/"
    inner, outer = (pieces[: tags[0]], pieces[tags[0] :]) if stray else ([], list(pieces))
    reasoning = [piece.text for piece in inner if piece.kind != "tag"]
    reasoning += [piece.text for piece in outer if piece.kind == "reasoning"]
    return "".join(reasoning), [piece for piece in outer if piece.kind != "reasoning"]


def _tagged(pieces: Iterable[Piece]) -> str | None:
    """Content of the first answer element that is closed and not blank, else of an unclosed one at the end."""
    inside: list[str] | None = None
    for piece in pieces:
        if piece.kind == "content" and inside is not None:
            inside.append(piece.text)
        elif piece.kind == "tag" and "answer" in piece.text.lower():
            if piece.text[1] == "/" and inside is not None and "".join(inside).strip():
                break
            inside = None if piece.text[1] == "/" else []
    return None if inside is None else "".join(inside)


_HANDOFF_BEGINNINGS = _Marks(("tag", ["<", _GAP, *_UNKNOWN_NAME]), ("sentence", _SENTENCE))
_ANSWER_BEGINNINGS = _Marks(("tag", _ANSWER), ("box", _BOX), ("box", _FBOX))


_OPENS_CALL = re.compile(r"\s*<\s*unknown", re.IGNORECASE)


def handoff_score(tokens: Sequence[Token]) -> float | None:
    """Probability in [0, 1] that the device hands off somewhere along this text, None if it decided nothing.

    It is 1 - Π (1 - p) over the places where a hand-off could have begun: the decision point and those before it.

    The decision point is the token in which the text of the decision begins. There, the probabilities of all tokens
    add up that begin a hand-off and cannot begin an answer: the written one and those in `Token.top`. While the
    written text may still become either (`<`), what is reached by it is carried on to the next token. Before it only
    tokens count that open the `<unknown>` tag by themselves. Alternatives that `top` does not show count as 0, so a
    score from few alternatives is a lower bound.

    A text without any tag is an answer from its first word on, of a model that puts answers in no tag: there `<` begins
    nothing but a hand-off, and only `I` may be either.
    """
    decision = _decision(tokens)
    if decision is None:
        return None
    score, reached, written = 0.0, 1.0, ""
    for token in tokens[decision.first :]:
        score += reached * sum(
            _probability(logprob)
            for text, logprob in token.top.items()
            if text != token.text and decision.tells(_joined(written, text, decision.lead))
        )
        chosen = _joined(written, token.text, decision.lead)
        reached *= _probability(token.logprob)
        if not decision.is_open(chosen):
            score += reached if decision.wants_cloud else 0.0
            break
        written = chosen
    kept = math.prod(1.0 - _passed_by(token) for token in tokens[: decision.first])
    return 1.0 - kept * (1.0 - min(score, 1.0))


def decides_at(tokens: Sequence[Token]) -> int | None:
    """Index of the token with which a completion decides between an answer and a hand-off; None if it never does."""
    decision = _decision(tokens)
    return None if decision is None else decision.first


@dataclass(frozen=True, slots=True)
class _Decision:
    """Where a completion decides.

    Attributes:
        wants_cloud: what for.
        first: index of the token where the text of the decision begins.
        lead: that token's text before it.
        tagged: whether answers stand in tags or boxes, as far as this text shows.
    """

    wants_cloud: bool
    first: int
    lead: str
    tagged: bool = True

    def tells(self, said: str) -> bool:
        """Whether a text can become a hand-off and no answer."""
        return _HANDOFF_BEGINNINGS.begin(said) and not self._answers(said)

    def is_open(self, said: str) -> bool:
        """Whether a beginning of what was written can still become the other."""
        return self._answers(said) if self.wants_cloud else _HANDOFF_BEGINNINGS.begin(said)

    def _answers(self, said: str) -> bool:
        return _ANSWER_BEGINNINGS.begin(said) if self.tagged else said.strip().lower() == "i"


def _passed_by(token: Token) -> float:
    """Probability of the tagged hand-offs that could have begun at this token and did not."""
    calls = (p for text, p in token.top.items() if text != token.text and _OPENS_CALL.match(text))
    return min(1.0, sum(map(_probability, calls)))


def _decision(tokens: Sequence[Token]) -> _Decision | None:
    parser, pieces = StreamParser(), list[Piece]()
    for token in tokens:
        pieces += parser.feed(token.text)
        if parser.wants_cloud:
            break
    else:
        pieces += parser.close()
    offset, tagged = parser.decided_at, True
    if offset is None:
        if any(piece.kind != "content" for piece in pieces):
            return None
        text = "".join(piece.text for piece in pieces)
        offset, tagged = len(text) - len(text.lstrip()), False
    for index, token in enumerate(tokens):
        if offset < len(token.text):
            return _Decision(parser.wants_cloud, index, token.text[:offset], tagged)
        offset -= len(token.text)
    return None


def _joined(written: str, text: str, lead: str) -> str:
    """The decision's text when `text` comes next; at its first token, without what stands before it."""
    return written + text if written else text.removeprefix(lead).lstrip()


def _probability(logprob: float) -> float:
    return math.exp(min(logprob, 0.0))

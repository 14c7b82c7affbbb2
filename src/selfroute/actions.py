"""What an agent does, as text: it calls a tool and reads what came of it, or answers.

A call is written out, so that any tokenizer has it, and what came of it stands behind the call::

    <tool>lookup 12</tool><result>7</result>
    <tool>search {"words": "red shirt", "page": 2}</tool><result>…</result>
    <answer>7</answer>

Behind the tool's name stand its arguments: a JSON object, or the value of its first parameter as it is.

The rules of `selfroute.handoff` hold beside: the first decision counts. A call counts anywhere before an answer or a
hand-off, within the reasoning too, since an agent thinks between its calls; behind one it is text.

What a tool says can do no more than be read: `result_text` leaves no sign in it that could open a call, an answer, a
hand-off or a tag of a chat template.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from selfroute.handoff import Piece, StreamParser, parse

__all__ = [
    "CALL_CLOSE",
    "CALL_OPEN",
    "MOST_CALL",
    "MOST_RESULT",
    "Action",
    "TurnReader",
    "harmless",
    "read_turn",
    "result_text",
]

CALL_OPEN, CALL_CLOSE = "<tool>", "</tool>"
RESULT_OPEN, RESULT_CLOSE = "<result>", "</result>"
MOST_CALL = 2_000  # characters between a call's tags; a longer one is text
MOST_RESULT = 4_000  # characters of a result that are read

_SIGNS = re.compile(r"<|\[(?=/?[A-Z_]{2,32}\])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Action:
    """One move of an agent.

    Attributes:
        text: the arguments of a call as they were written; without a tool, the answer.
        tool: name of the tool that is called; empty for the answer, which ends an episode.
    """

    text: str
    tool: str = ""

    @classmethod
    def called(cls, inside: str) -> Action:
        """The call whose tags hold a text; one without a name calls the tool "?", which nobody has."""
        name, *rest = inside.split(maxsplit=1) or ["?"]
        return cls(rest[0].rstrip() if rest else "", name)

    def __str__(self) -> str:
        """As an agent writes it."""
        if not self.tool:
            return f"<answer>{self.text}</answer>"
        return f"{CALL_OPEN}{f'{self.tool} {self.text}'.rstrip()}{CALL_CLOSE}"


def harmless(text: str, *, most: int = MOST_RESULT) -> str:
    """What a tool said, without a sign that could open anything; cut behind `most` characters."""
    said = text if len(text) <= most else f"{text[:most]}…"
    return _SIGNS.sub("‹", _CONTROLS.sub(" ", said)).strip()


def result_text(text: str, *, most: int = MOST_RESULT) -> str:
    """What a tool said, in its tags, for the agent to read; cut behind `most` characters."""
    return f"{RESULT_OPEN}{harmless(text, most=most)}{RESULT_CLOSE}"


class TurnReader:
    """Reads one turn of an agent while it is written, to its first action; any cut into chunks gives the same.

    Text is held back only while it may still become a call, at most `MOST_CALL` characters. Never raises on text.

    Attributes:
        action: the turn's call; None while there is none.
    """

    def __init__(self) -> None:
        self.action: Action | None = None
        self._parser = StreamParser()
        self._held = ""

    @property
    def wants_cloud(self) -> bool:
        """Whether the turn hands off."""
        return self._parser.wants_cloud

    @property
    def decided(self) -> bool:
        """Whether the turn has called, answered or handed off."""
        return self.action is not None or self._settled

    def feed(self, text: str) -> list[Piece]:
        """Take the next chunk; returns what stands outside the call and is certain by now."""
        return self._read(self._held + text, last=False)

    def close(self) -> list[Piece]:
        """What was held back; call once, at the end."""
        return [*self._read(self._held, last=True), *self._parser.close()]

    def _read(self, text: str, *, last: bool) -> list[Piece]:
        pieces: list[Piece] = []
        while text and self.action is None:
            begin = text.find(CALL_OPEN)
            if begin < 0:
                kept = 0 if last else _begun(text)
                pieces += self._parser.feed(text[: len(text) - kept])
                text = text[len(text) - kept :]
                break
            pieces += self._parser.feed(text[:begin])
            text = text[begin:]
            if not last and self._may_close(text):
                break
            text = self._take(text, pieces)
        self._held = "" if self.action is not None else text
        return pieces

    def _may_close(self, text: str) -> bool:
        """Whether a call that begins `text` is still open and may yet close."""
        return not self._settled and CALL_CLOSE not in text and len(text) < len(CALL_OPEN) + MOST_CALL + len(CALL_CLOSE)

    def _take(self, text: str, pieces: list[Piece]) -> str:
        """Take the call that begins a text, or its first tag as text; returns what is left."""
        end = text.find(CALL_CLOSE, len(CALL_OPEN), len(CALL_OPEN) + MOST_CALL + len(CALL_CLOSE))
        if end < 0 or self._settled:
            pieces += self._parser.feed(text[: len(CALL_OPEN)])
            return text[len(CALL_OPEN) :]
        self.action = Action.called(text[len(CALL_OPEN) : end])
        return ""

    @property
    def _settled(self) -> bool:
        """Whether the turn has answered or handed off, as far as the parser knows."""
        return self._parser.answered or self._parser.wants_cloud


def _begun(text: str) -> int:
    """How many characters at the end of a text may be the beginning of a call."""
    return next((n for n in range(len(CALL_OPEN) - 1, 0, -1) if text.endswith(CALL_OPEN[:n])), 0)


def read_turn(text: str) -> Action | None:
    """What a whole turn does; None if it hands off. A turn without a call or tags answers with all that it says."""
    reader = TurnReader()
    reader.feed(text)
    reader.close()
    if reader.action is not None:
        return reader.action
    said = parse(text)
    return None if said.wants_cloud else Action(said.answer)

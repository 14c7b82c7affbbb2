"""Calls inside an answer: the device asks for a few tokens of the cloud and goes on (RelayLLM, arXiv 2601.05167).

A call is written out, `<call>5</call>`, so that any tokenizer has it. It is no part of the answer: neither the reader
nor the cloud sees it; the device keeps it before its eyes, as it was trained. What begins like a call and is none, e.g.
`<call>five</call>`, is left out as far as it is call text, and asks for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["CALL_END", "CALL_FORM", "CALL_START", "CallReader", "CallText", "Stretch", "call_text"]

CALL_START, CALL_END = "<call>", "</call>"
CALL_FORM = f"{CALL_START}n{CALL_END}"

_WHOLE = re.compile(r"<call>\s{0,4}(\d{1,32})\s{0,4}</call>", re.ASCII)
# A call as far as it is well formed, and one that may still become whole.
_BEGUN = re.compile(r"<call>\s{0,4}\d{0,32}\s{0,4}", re.ASCII)
_OPEN = re.compile(r"<call>\s{0,4}(?:\d{1,32}\s{0,4}(?:<(?:/(?:c(?:a(?:l(?:l)?)?)?)?)?)?)?\Z", re.ASCII)


def call_text(count: int) -> str:
    """The call for so many tokens."""
    return f"{CALL_START}{count}{CALL_END}"


@dataclass(frozen=True, slots=True)
class Stretch:
    """Neighbouring tokens of one kind.

    Attributes:
        token_ids: at least one.
        is_call: whether they are call text, and not part of the answer.
        count: how many tokens the call asks for; None for one that is malformed.
    """

    token_ids: tuple[int, ...]
    is_call: bool = False
    count: int | None = None


class Speller(Protocol):
    """What of `selfroute.backends.sessions.Speller` is needed to read calls."""

    def push(self, token_id: int) -> None: ...

    def finish(self) -> None: ...

    def take(self, *, last: bool = False) -> tuple[str, range]: ...


class CallReader:
    """Tells an answer's tokens from those of calls, as they come; any cut of them gives the same.

    Tokens are held back only while they may still become a call. One that shares text with a call belongs to it, also
    with what it says before or after: a policy learns to begin a call with a token of its own.

    Args:
        speller: of a tokenizer, without stop strings; the reader's own.
    """

    def __init__(self, speller: Speller) -> None:
        self._speller = speller
        self._unspelled: list[int] = []
        self._held: list[tuple[int, str]] = []

    def feed(self, token_ids: Iterable[int]) -> list[Stretch]:
        """Take the next tokens; returns what is certain by now."""
        for token_id in token_ids:
            self._unspelled.append(token_id)
            self._speller.push(token_id)
            self._spell(last=False)
        return self._settled(last=False)

    def close(self) -> list[Stretch]:
        """What was held back; call once, at the end."""
        self._speller.finish()
        self._spell(last=True)
        return self._settled(last=True)

    def _spell(self, *, last: bool) -> None:
        """Text of the tokens that have one by now; several that share a character have it with the last of them."""
        text, which = self._speller.take(last=last)
        ready, self._unspelled = self._unspelled[: len(which)], self._unspelled[len(which) :]
        self._held += [(token_id, "") for token_id in ready[:-1]] + [(token_id, text) for token_id in ready[-1:]]

    def _settled(self, *, last: bool) -> list[Stretch]:
        found: list[Stretch] = []
        while self._held:
            stretch = self._next(last=last)
            if stretch is None:
                break
            del self._held[: len(stretch.token_ids)]
            found.append(stretch)
        return _joined(found)

    def _next(self, *, last: bool) -> Stretch | None:
        """The stretch that the held tokens begin with; None if that is not certain yet."""
        text = "".join(piece for _, piece in self._held)
        begin = text.find("<", 0, len(self._held[0][1]))
        while begin >= 0:
            rest = text[begin:]
            if whole := _WHOLE.match(rest):
                return self._call(begin + whole.end(), int(whole[1]))
            if not last and (_OPEN.match(rest) or CALL_START.startswith(rest) or CALL_END.startswith(rest)):
                return None
            if begun := _BEGUN.match(rest):
                return self._call(begin + begun.end(), None)
            if rest.startswith(CALL_END):
                return self._call(begin + len(CALL_END), None)
            begin = text.find("<", begin + 1, len(self._held[0][1]))
        return Stretch((self._held[0][0],))

    def _call(self, end: int, count: int | None) -> Stretch:
        """The tokens that the text up to `end` touches, as a call."""
        tokens: list[int] = []
        for token_id, piece in self._held:
            if end <= 0:
                break
            tokens.append(token_id)
            end -= len(piece)
        return Stretch(tuple(tokens), is_call=True, count=count)


def _joined(stretches: Sequence[Stretch]) -> list[Stretch]:
    """Neighbours of the answer as one."""
    joined: list[Stretch] = []
    for stretch in stretches:
        if joined and not (stretch.is_call or joined[-1].is_call):
            joined[-1] = Stretch(joined[-1].token_ids + stretch.token_ids)
        else:
            joined.append(stretch)
    return joined


class CallText:
    """Leaves calls out of a text as it comes."""

    def __init__(self) -> None:
        self._reader = CallReader(_Characters())

    @classmethod
    def of(cls, text: str) -> str:
        """A whole text without its calls."""
        reader = cls()
        return reader.feed(text) + reader.close()

    def feed(self, text: str) -> str:
        """Take the next piece; returns what is certain by now."""
        return _text(self._reader.feed(map(ord, text)))

    def close(self) -> str:
        """What was held back; call once, at the end."""
        return _text(self._reader.close())


class _Characters:
    """A speller whose tokens are characters."""

    def __init__(self) -> None:
        self._read = 0
        self._new = ""

    def push(self, token_id: int) -> None:
        self._new += chr(token_id)

    def finish(self) -> None:
        pass

    def take(self, *, last: bool = False) -> tuple[str, range]:
        new, self._new = self._new, ""
        which = range(self._read, self._read + len(new))
        self._read = which.stop
        return new, which


def _text(stretches: Sequence[Stretch]) -> str:
    return "".join(chr(i) for stretch in stretches if not stretch.is_call for i in stretch.token_ids)

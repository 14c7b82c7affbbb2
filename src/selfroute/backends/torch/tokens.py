"""From token ids to text, piece by piece, and from forbidden strings to forbidden tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

from selfroute.backends.sessions import Written
from selfroute.types import Token

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

__all__ = ["RowText", "TokenTexts", "forbid_table", "inner_ids", "until_mark"]

# What a decoder writes for bytes that are not, or not yet, a character.
_INCOMPLETE = "\ufffd"
_FORBIDDEN = -1
# Tokens before, in which a mark may begin.
_CONTEXT = 32


def decode(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """Text of token ids; special tokens leave no text, added ones keep theirs."""
    text = tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return str(text)


def inner_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a text that stands behind another; some tokenizers put a space before the first word of all."""
    anchor: list[int] = tokenizer("\n", add_special_tokens=False)["input_ids"]
    ids: list[int] = tokenizer(f"\n{text}", add_special_tokens=False)["input_ids"]
    if ids[: len(anchor)] == anchor:
        return ids[len(anchor) :]
    plain: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return plain


class TokenTexts:
    """Text of single tokens as they read inside a sentence."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        # Some decoders drop the space in front of the first token, so each is decoded behind another.
        self._anchor = tokenizer.encode("a", add_special_tokens=False)[-1:]
        self._anchor_text = decode(tokenizer, self._anchor)
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def __getitem__(self, token_id: int) -> str:
        if token_id not in self._known:
            text = decode(self._tokenizer, [*self._anchor, token_id])
            self._known[token_id] = text.removeprefix(self._anchor_text)
        return self._known[token_id]

    def by_text(self, logprobs: dict[int, float]) -> dict[str, float]:
        """Log-probabilities by text; where two tokens read the same, the likelier one's."""
        named: dict[str, float] = {}
        for token_id, logprob in logprobs.items():
            text = self[token_id]
            named[text] = max(logprob, named.get(text, logprob))
        return named


class RowText:
    """The text of one completion as its tokens arrive.

    A piece is never half a character, and everything taken adds up to the decoded whole, cut before the first
    stop string. Text that may still turn out to begin a stop string is held back.

    Args:
        stop: strings that end the completion; not part of it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()) -> None:
        self.stopped = False
        self.text = ""
        self.token_ids: list[int] = []
        self._tokenizer = tokenizer
        self._stop = tuple(s for s in stop if s)
        self._ends: list[int] = []  # where each token's text ends within `text`
        self._begin = 0  # tokens from here on are decoded together with new ones, for their context
        self._read = 0  # tokens before this one are in `text`
        self._context = ""  # text of the tokens between these two
        self._taken = 0

    def push(self, token_id: int) -> None:
        """Add one token; `stopped` tells whether it completed a stop string."""
        self.token_ids.append(token_id)
        window = decode(self._tokenizer, self.token_ids[self._begin :])
        if len(window) > len(self._context) and not window.endswith(_INCOMPLETE):
            self._append(window[len(self._context) :])
            self._begin, self._read = self._read, len(self.token_ids)
            self._context = decode(self._tokenizer, self.token_ids[self._begin : self._read])
        self._ends.append(len(self.text))

    def extend(self, token_ids: Sequence[int]) -> None:
        """Add tokens that came together: as `push` of each, but what they read together counts as the last one's."""
        if self._stop or len(token_ids) < 2:
            for token_id in token_ids:
                self.push(token_id)
            return
        self.token_ids.extend(token_ids[:-1])
        before = len(self._ends)
        self.push(token_ids[-1])
        end = self._ends.pop()
        self._ends += [end if before == 0 else self._end(before - 1)] * (len(token_ids) - 1)
        self._ends.append(end)

    def finish(self) -> None:
        """No more tokens: an incomplete character at the end is written as the decoder does."""
        if self.stopped or self._read == len(self.token_ids):
            return
        window = decode(self._tokenizer, self.token_ids[self._begin :])
        self._append(window[len(self._context) :])
        self._ends[-1] = len(self.text)

    def take(self, *, last: bool = False) -> tuple[str, range]:
        """Text that is settled since the last call, in whole tokens, and which tokens those are."""
        over = last or self.stopped
        settled = len(self.text) - (0 if over else self._held_back())
        # A token that has no text yet may be part of a character, which is written as its own.
        known = len(self._ends) if over else self._read
        first = self._taken
        while self._taken < known and self._ends[self._taken] <= settled:
            self._taken += 1
        return self.text[self._end(first - 1) : self._end(self._taken - 1)], range(first, self._taken)

    def tokens(
        self,
        which: range,
        logprobs: Sequence[float],
        top: Sequence[dict[int, float]] | None,
        texts: TokenTexts,
    ) -> tuple[Token, ...]:
        """`Token` objects of some of the tokens; their texts join to the text of exactly those."""
        return tuple(
            Token(
                self.text[self._end(i - 1) : self._end(i)],
                logprobs[i],
                {} if top is None else texts.by_text(top[i]),
            )
            for i in which
        )

    def _end(self, index: int) -> int:
        return self._ends[index] if index >= 0 else 0

    def _append(self, piece: str) -> None:
        searched = max(0, len(self.text) - max(map(len, self._stop), default=1) + 1)
        self.text += piece
        found = [at for at in (self.text.find(s, searched) for s in self._stop) if at >= 0]
        if found:
            self.stopped = True
            self.text = self.text[: min(found)]
            # Earlier tokens may have written the beginning of the stop string.
            self._ends = [min(end, len(self.text)) for end in self._ends]

    def _held_back(self) -> int:
        """Length of the longest end of the text that begins a stop string."""
        longest = max(map(len, self._stop), default=1) - 1
        sizes = range(min(longest, len(self.text)), 0, -1)
        return next((n for n in sizes if any(s.startswith(self.text[-n:]) for s in self._stop)), 0)


def until_mark(
    tokenizer: PreTrainedTokenizerBase, before: Sequence[int], marks: Sequence[str]
) -> Callable[[Written], bool]:
    """Tells of each further token of an answer whether it completes a mark in the text.

    Args:
        before: tokens that the answer has already.
    """
    text = RowText(tokenizer)
    text.extend(before[-_CONTEXT:])

    def ends(token: Written) -> bool:
        if not token.kept:
            return False
        begin = len(text.text)
        text.push(token.token_id)
        return any(mark in text.text[max(0, begin - len(mark) + 1) :] for mark in marks if mark)

    return ends


def forbid_table(texts: Sequence[str], strings: Sequence[str]) -> Tensor:
    """The automaton that keeps `strings` out of a completion, whichever way they are cut into tokens.

    A state is the longest end of the text so far that begins one of the strings. A string whose single
    characters are spread over several tokens, as rare scripts and emoji may be, is not seen.

    Args:
        texts: text of every token, by id.
        strings: what must not be written; not empty.

    Returns:
        The state that each token leads to, -1 where it would complete a string; int32 of shape (states, tokens).
    """
    import torch

    prefixes = sorted({s[:n] for s in strings for n in range(len(s))}, key=len)
    state_of = {prefix: state for state, prefix in enumerate(prefixes)}
    alphabet = {char for s in strings for char in s}

    @cache
    def move(state: int, char: str) -> int:
        written = prefixes[state] + char
        if any(written.endswith(s) for s in strings):
            return _FORBIDDEN
        return next(state_of[written[n:]] for n in range(len(written) + 1) if written[n:] in state_of)

    def walk(state: int, text: str) -> int:
        for char in text:
            state = move(state, char) if char in alphabet else 0
            if state == _FORBIDDEN:
                break
        return state

    from_start = [walk(0, text) for text in texts]
    table = [from_start]
    for state in range(1, len(prefixes)):
        # A token whose first character is in no string leads on as from the start.
        row = [walk(state, t) if not t or t[0] in alphabet else s for t, s in zip(texts, from_start, strict=True)]
        table.append(row)
    return torch.tensor(table, dtype=torch.int32)

"""The contract of answers that stay open, so that two models can write in one: an optional capability of a backend.

Importing this module loads nothing heavy; who has the capability is found with `selfroute.backends.base.capability`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from selfroute.types import Message, Sampling, Usage

__all__ = [
    "NO_LOOK",
    "Bounded",
    "Encodes",
    "Judge",
    "Look",
    "Session",
    "Sessions",
    "Speller",
    "View",
    "Written",
    "fingerprint",
]


@dataclass(frozen=True, slots=True)
class Look:
    """What a session is to show of the places at which it writes; more costs time.

    Attributes:
        top: how many of the likeliest tokens.
        entropy: of the whole distribution.
        hidden: the last hidden state, from which the model makes its distribution.
    """

    top: int = 0
    entropy: bool = False
    hidden: bool = False

    @property
    def gives(self) -> frozenset[str]:
        """What a backend must give for it; see `Sessions.gives`."""
        wanted = {"top": self.top > 0, "entropy": self.entropy, "hidden": self.hidden}
        return frozenset(name for name, is_wanted in wanted.items() if is_wanted)


NO_LOOK = Look()


@dataclass(slots=True)  # not frozen: made for every token, which would take four times as long
class View:
    """What a model makes of one place of an answer, before a token stands there.

    Log-probabilities are natural, at the sampling temperature (the plain model's for greedy decoding), before `top_p`
    and `forbid` cut anything off.

    Attributes:
        drawn: the token that the session writes there if it is asked to.
        logprob: of `drawn`.
        top: the likeliest tokens and their log-probabilities, likeliest first; as many as `Look.top`.
        entropy: in nats; None if not asked for.
        hidden: last hidden state, an array of shape (width,); None if not asked for.
        given: log-probability of the token that was read there, None after the last one.
        ends: whether `drawn` ends the answer.
    """

    drawn: int
    logprob: float
    top: Mapping[int, float] = field(default_factory=dict)
    entropy: float | None = None
    hidden: Any = None
    given: float | None = None
    ends: bool = False


@dataclass(slots=True)  # not frozen: made for every token, which would take four times as long
class Written:
    """One token that a session wrote.

    Attributes:
        token_id: it.
        logprob: as in `View`.
        ends: it ends the answer, as the model has it.
        view: of its place, before it; None unless a `Look` asks for one.
        kept: whether it stands in the session; one that a judge turns down does not.
        score: what the judge gave it, None without one.
    """

    token_id: int
    logprob: float
    ends: bool = False
    view: View | None = None
    kept: bool = True
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Judge:
    """Turns down what a session writes, before it stands.

    Attributes:
        score: of written tokens, of several answers at once, how much each deserves to stand; light, as the model
            waits for it.
        least: a token that scores below this is turned down.
    """

    score: Callable[[Sequence[Written]], Sequence[float]]
    least: float


class Session(Protocol):
    """One open answer of one model, in token ids. One call at a time; a call that is cancelled leaves it to be closed.

    Attributes:
        vocabulary: fingerprint of what the ids mean; sides that differ cannot exchange ids.
    """

    @property
    def vocabulary(self) -> str: ...

    @property
    def ids(self) -> Sequence[int]:
        """The answer so far, whoever wrote it."""
        ...

    @property
    def used(self) -> Usage:
        """What the model has read, written and computed for it so far; what it wrote itself is not read again."""
        ...

    async def read(self, ids: Sequence[int], *, every: bool = False) -> list[View]:
        """Append tokens that were written elsewhere.

        Args:
            every: let the model read them at once, in one pass, and give its view of the place of each, with the
                log-probability of the token there, and of the place after the last: one more than `ids`. Otherwise
                nothing is returned, and they are read along with what comes next.

        Raises:
            BackendError: an id is outside the vocabulary, the answer no longer fits, or the model failed.
        """
        ...

    async def write(
        self, limit: int, *, until: Sequence[str] = (), judge: Judge | None = None, within_s: float | None = None
    ) -> list[Written]:
        """Write up to `limit` tokens; less where the answer ends.

        Args:
            until: ends after the token that completes one of these marks in the text.
            judge: ends with the first token that it turns down, which is the last of those returned and does not
                stand.
            within_s: ends after the first token that is there so many seconds after the call, where the backend can.

        Raises:
            BackendError: the model failed, or the answer fills its window.
        """
        ...

    async def drop(self, count: int) -> None:
        """Forget the last `count` tokens of the answer.

        Raises:
            ValueError: there are not so many.
        """
        ...

    async def close(self) -> None:
        """Let go of what the model keeps for it; further times do nothing."""
        ...


class Speller(Protocol):
    """Spells token ids: text in whole characters as its tokens come, cut before a stop string."""

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come."""
        ...

    def push(self, token_id: int) -> None:
        """Add one token."""
        ...

    def extend(self, token_ids: Sequence[int]) -> None:
        """Add tokens that came together; cheaper than one by one."""
        ...

    def finish(self) -> None:
        """No more tokens: what is left of an incomplete character is written as it is."""
        ...

    def take(self, *, last: bool = False) -> tuple[str, range]:
        """Text that is settled since the last call, and which tokens that is."""
        ...


@runtime_checkable
class Sessions(Protocol):
    """Optional capability: answers that stay open, so that others can write in them.

    Attributes:
        gives: what its sessions can do beyond writing: "ids" (exchange token ids), "every" (score given tokens in one
            pass), "top", "entropy" and "hidden" (see `Look`), "judge" (judge each token before the model reads it),
            "keeps" (what was read once is not read again with the next call), "spell" (spell ids: who has it can be the
            device), "until" (end at marks in the text).
        vocabulary: as in `Session`.
    """

    @property
    def gives(self) -> frozenset[str]: ...

    @property
    def vocabulary(self) -> str: ...

    def session(
        self, messages: Sequence[Message], sampling: Sampling, *, look: Look = NO_LOOK, luck: int | None = None
    ) -> Session:
        """Open an answer; nothing is read before the first call that needs it.

        Args:
            sampling: how it writes; `max_tokens` and `stop` are the caller's business.
            look: what its views show.
            luck: draw by this seed alone instead of `sampling.seed` and the prompt: sessions of two models with one
                luck draw alike where their distributions agree.

        Raises:
            BackendError: the conversation cannot be encoded.
            UnsupportedByBackend: `sampling` or `look` asks for something this backend cannot do.
        """
        ...

    def speller(self, stop: Sequence[str] = ()) -> Speller:
        """What spells the ids of an answer; one for each answer."""
        ...


@runtime_checkable
class Encodes(Protocol):
    """Optional capability: the ids of a text, for sessions to read.

    Attributes:
        end_id: the token that ends an answer.
    """

    @property
    def end_id(self) -> int: ...

    def ids_of(self, text: str) -> list[int]:
        """Ids that spell a text as it stands inside an answer."""
        ...


@runtime_checkable
class Bounded(Protocol):
    """Optional capability: a model that is kept to the length and temperature of its training.

    A session writes as long as it is asked to; whoever keeps count of an answer asks here how long that may be.
    """

    def bounded(self, sampling: Sampling) -> Sampling:
        """What a request asks for, within these bounds."""
        ...


def fingerprint(tokens: Sequence[str]) -> str:
    """What tells a vocabulary from others.

    Args:
        tokens: as the tokenizer's file has them, by id.
    """
    return hashlib.sha256("\0".join(tokens).encode("utf-8", "surrogatepass")).hexdigest()[:16]

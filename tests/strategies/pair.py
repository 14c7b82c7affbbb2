"""What the strategy tests share: a device, a cloud and a budget that remember what was asked of them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence

from selfroute.backends.base import Backend
from selfroute.backends.function import FunctionBackend
from selfroute.budget.base import Estimate
from selfroute.errors import BackendUnavailable, UnsupportedByBackend
from selfroute.handoff import HANDOFF_TEXT
from selfroute.prompts import TEMPLATES
from selfroute.types import Completion, Delta, Message, Sampling, Token, Usage

TEMPLATE = TEMPLATES["think"]
SAMPLING = Sampling(max_tokens=100)
DEVICE_TEXT = "<think>2+2 = 4</think>\n<answer>4 by device</answer>"
ASKING_TEXT = f"<think>no idea</think>\n{HANDOFF_TEXT}"
CLOUD_TEXT = "The cloud says <unknown> is 4."  # a cloud may write anything: it is passed on as it is


def easy() -> list[Message]:
    return TEMPLATE.conversation("easy: 2+2")


def hard() -> list[Message]:
    return TEMPLATE.conversation("hard: 2+2")


def offered(messages: Sequence[Message]) -> bool:
    return any(HANDOFF_TEXT in message.content for message in messages)


def spoken(text: str, sampling: Sampling, *, logprob: float) -> Completion | str:
    """A text, with tokens of one log-probability each where they are asked for."""
    if sampling.top_logprobs is None:
        return text
    tokens = tuple(Token(word, logprob, {word: logprob}) for word in re.findall(r"\S+\s*", text))
    return Completion(text, Usage(1, len(tokens)), tokens=tokens)


def asks_when_hard(messages: Sequence[Message], sampling: Sampling) -> Completion | str:
    """A trained device: hands off hard questions where that is offered and not forbidden, and is unsure of them."""
    is_hard = "hard" in messages[-1].content
    may = offered(messages) and HANDOFF_TEXT not in sampling.forbid
    return spoken(ASKING_TEXT if may and is_hard else DEVICE_TEXT, sampling, logprob=-2.0 if is_hard else -0.01)


def down(messages: Sequence[Message], sampling: Sampling) -> str:
    raise BackendUnavailable("connection refused", backend="model")


class Recorder(FunctionBackend):
    """Remembers what it was asked."""

    def __init__(self, name: str, fn: Callable[[Sequence[Message], Sampling], Completion | str]) -> None:
        super().__init__(name, fn)
        self.asked: list[tuple[list[Message], Sampling]] = []

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        self.asked.append((list(messages), sampling))
        async for delta in super().stream(messages, sampling):
            yield delta


class Plain(Recorder):
    """A backend with neither log-probabilities nor masks, as many are."""

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        if sampling.top_logprobs is not None or sampling.forbid:
            raise UnsupportedByBackend(f"{self.name}: no log-probabilities, no masks")
        async for delta in super().stream(messages, sampling):
            yield delta


class Stalling(Backend):
    """Writes some pieces, then hangs (or fails); says when it hangs and whether its stream was closed."""

    name = "stalling"

    def __init__(self, *pieces: str, failure: Exception | None = None) -> None:
        self.pieces = pieces
        self.failure = failure
        self.hangs = asyncio.Event()
        self.closed = False

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        try:
            for piece in self.pieces:
                yield Delta(piece)
            self.hangs.set()
            if self.failure is not None:
                raise self.failure
            await asyncio.Event().wait()
        finally:
            self.closed = True


class Ledger:
    """A budget that counts what becomes of its leases."""

    def __init__(self) -> None:
        self.reserved = self.sent = self.closed = self.released = self.kept = 0
        self.asked: list[tuple[Estimate, float | None]] = []
        self.settled: list[tuple[Usage, float]] = []

    @property
    def is_open(self) -> bool:
        return self.reserved != self.closed

    async def reserve(self, estimate: Estimate, *, score: float | None = None) -> Entry:
        self.reserved += 1
        self.asked.append((estimate, score))
        return Entry(self)

    async def keep(self) -> None:
        self.kept += 1


class Entry:
    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.closed = self.used = False

    async def sent(self) -> None:
        assert not self.closed, "a call under a closed lease"
        self.ledger.sent += 1

    async def spend(self, usage: Usage, cost_usd: float) -> None:
        await asyncio.sleep(0)  # as a real ledger does: a cancelled task must get through here
        assert not self.closed, "a call under a closed lease"
        self.used = True
        self.ledger.settled.append((usage, cost_usd))

    async def close(self) -> None:
        await asyncio.sleep(0)
        if not self.closed:
            self.closed = True
            self.ledger.closed += 1
            self.ledger.released += not self.used

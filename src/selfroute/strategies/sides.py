"""What every strategy is made of: one attempt of one side, an answer from the device alone, a call to the cloud."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from selfroute.backends.base import Backend
from selfroute.budget.base import Budget, Estimate, Lease
from selfroute.errors import BackendError, BudgetExceeded, BudgetUnavailable, UnsupportedByBackend
from selfroute.handoff import HANDOFF_TEXT, Piece, StreamParser, parse
from selfroute.prices import Price, Prices
from selfroute.prompts import PromptTemplate
from selfroute.types import (
    Delta,
    Event,
    Finished,
    HandOff,
    Message,
    Reason,
    Refusal,
    Sampling,
    Segment,
    Source,
    TextDelta,
    Token,
    Trace,
    Usage,
)

__all__ = [
    "Attempt",
    "DeviceSide",
    "Kept",
    "Pair",
    "answer_on_device",
    "ask_cloud",
    "closing",
    "keep_on_device",
    "most_used",
    "speak",
]

_TOKENS_PER_MEDIUM = 4096  # no provider counts an image higher; audio of up to some minutes neither
_TOKENS_PER_TURN = 16  # what a chat template adds to a message, generously

T = TypeVar("T")


class DeviceSide(Protocol):
    """The part of a strategy that its device answers with."""

    @property
    def name(self) -> str: ...
    @property
    def device(self) -> Backend: ...
    @property
    def template(self) -> PromptTemplate: ...
    @property
    def prices(self) -> Prices: ...


class Pair(DeviceSide, Protocol):
    """The part of a strategy that both sides answer with."""

    @property
    def cloud(self) -> Backend: ...
    @property
    def budget(self) -> Budget: ...


@asynccontextmanager
async def closing(stream: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Close a stream as soon as its reader leaves, not when the garbage collector comes by."""
    try:
        yield stream
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()


class Attempt:
    """One run of one backend: passes its text on, and keeps what a `Segment` needs.

    Attributes:
        started: whether the backend has written or finished: from then on the call has cost something.
        tokens: what it reported, in order.
        finish_reason: why it stopped, as far as it said so.
        price: of the model, in USD per million tokens.
    """

    def __init__(self, source: Source, backend: Backend, price: Price) -> None:
        self.source = source
        self.started = False
        self.tokens: list[Token] = []
        self.finish_reason = "stop"
        self._ended = False
        self._waited_s = 0.0
        self._replayed_s: float | None = None
        self._replayed_usd: float | None = None
        self._backend = backend
        self.price = price
        self._texts: list[str] = []
        self._usage: Usage | None = None

    async def stream(self, messages: Sequence[Message], *variants: Sampling) -> AsyncIterator[str]:
        """The text of `deltas`."""
        async with closing(self.deltas(messages, *variants)) as deltas:
            async for delta in deltas:
                if delta.text:
                    yield delta.text

    async def deltas(self, messages: Sequence[Message], *variants: Sampling) -> AsyncIterator[Delta]:
        """Write the answer with the first of the sampling variants that the backend supports.

        Raises:
            BackendError: the backend did not answer.
            UnsupportedByBackend: the last variant asks too much as well.
        """
        for sampling in variants:
            try:
                async with closing(self._read(messages, sampling)) as deltas:
                    async for delta in deltas:
                        yield delta
                return
            except UnsupportedByBackend:
                if self._ended and variants[-1].top_logprobs is None:
                    return  # the whole answer is there, without log-probabilities that only a score would need
                if self.started or sampling is variants[-1]:
                    raise

    async def _read(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        async with closing(self._backend.stream(messages, sampling)) as deltas:
            while (delta := await self._next(deltas)) is not None:
                if delta.text or delta.extra:
                    yield delta
        self.started = True  # an answer without any piece is an answer

    async def _next(self, deltas: AsyncIterator[Delta]) -> Delta | None:
        began = time.perf_counter()
        try:
            delta = await anext(deltas, None)
        finally:
            self._waited_s += time.perf_counter() - began
        if delta is not None:
            self.started = True
            self._texts.append(delta.text)
            self.tokens.extend(delta.tokens)
            self._usage = delta.usage or self._usage
            self.finish_reason = delta.finish_reason or self.finish_reason
            self._ended |= delta.finish_reason is not None
            self._replayed_s = self._replayed_s if delta.seconds is None else delta.seconds
            self._replayed_usd = self._replayed_usd if delta.usd is None else delta.usd
        return delta

    @property
    def text(self) -> str:
        return "".join(self._texts)

    @property
    def seconds(self) -> float:
        """Time spent waiting for the backend, without the reader's own; of a replayed answer, what it once took."""
        return self._waited_s if self._replayed_s is None else self._replayed_s

    @property
    def usage(self) -> Usage:
        """What the backend reported; for a stream that broke off before that, each piece counts as one token."""
        return self._usage or Usage(completion_tokens=sum(bool(text) for text in self._texts))

    @property
    def cost_usd(self) -> float:
        """By the price list; of a replayed answer, what it once cost, where that was recorded."""
        return self.price.cost_usd(self.usage) if self._replayed_usd is None else self._replayed_usd

    @property
    def reported(self) -> bool:
        """Whether the backend has said what it used."""
        return self._usage is not None

    def segment(self) -> Segment:
        return Segment(self.source, self.text, self.usage, self.seconds, self.cost_usd, self.finish_reason)


@dataclass(frozen=True, slots=True)
class Kept:
    """A device's finished answer that its reader has not seen: what to serve when the cloud is not to be had.

    Attributes:
        deltas: its text for the reader.
        text: its text as the model wrote it; empty if that was a hand-off.
        segment: for the trace.
    """

    deltas: tuple[TextDelta, ...]
    text: str
    segment: Segment


class _TokenCursor:
    """Gives each stretch of a text the tokens that begin in it, as long as the tokens' texts are the text."""

    def __init__(self) -> None:
        self._waiting: deque[Token] = deque()
        self._ahead = 0  # characters until the first waiting token begins
        self._aligned = True

    def add(self, delta: Delta) -> None:
        self._aligned &= "".join(token.text for token in delta.tokens) == delta.text
        self._waiting.extend(delta.tokens)

    def take(self, characters: int) -> tuple[Token, ...]:
        if not self._aligned:
            return ()
        taken: list[Token] = []
        while self._waiting and self._ahead < characters:
            taken.append(self._waiting.popleft())
            self._ahead += len(taken[-1].text)
        self._ahead -= characters
        return tuple(taken)


async def speak(
    attempt: Attempt, parser: StreamParser, messages: Sequence[Message], *variants: Sampling
) -> AsyncIterator[TextDelta]:
    """Run a device attempt for a reader: without tags, hand-off, and blanks before the content.

    A hand-off does not end the attempt: it is read to its end, so that its tokens are counted. `parser` and `attempt`
    know what came of it.
    """
    shown = False  # whether any content has been
    cursor = _TokenCursor()
    async with closing(attempt.deltas(messages, *variants)) as written:
        async for delta in written:
            cursor.add(delta)
            for said in _deltas(parser.feed(delta.text), cursor, strip=not shown):
                shown |= said.kind == "content"
                yield said
            if delta.extra:
                yield TextDelta("", "device", extra=delta.extra)
    for said in _deltas(parser.close(), cursor, strip=not shown):
        yield said


def _deltas(pieces: Sequence[Piece], cursor: _TokenCursor, *, strip: bool) -> list[TextDelta]:
    deltas: list[TextDelta] = []
    for piece in pieces:
        tokens = cursor.take(len(piece.text))
        if piece.kind == "reasoning":
            deltas.append(TextDelta(piece.text, "device", "reasoning", tokens))
        elif piece.kind == "content" and (text := piece.text.lstrip() if strip else piece.text):
            deltas.append(TextDelta(text, "device", "content", tokens))
            strip = False
    return deltas


async def answer_on_device(
    side: DeviceSide,
    messages: Sequence[Message],
    sampling: Sampling,
    *,
    reason: Reason,
    wants_cloud: bool = False,
    score: float | None = None,
    before: tuple[Segment, ...] = (),
    error: str | None = None,
    refusal: Refusal | None = None,
) -> AsyncIterator[Event]:
    """Let the device answer alone: no hand-off is offered, and it is kept from writing one where the backend can.

    A device that hands off all the same is served as an empty answer. What it thought in an attempt before is set off
    by a blank line.

    Args:
        wants_cloud, reason, score, error, refusal: for the trace.
        before: what was written before.

    Raises:
        BackendError: the device did not answer; a note tells of the failure before it.
    """
    attempt, parser = Attempt("device", side.device, side.prices.device), StreamParser()
    prompt = side.template.device_messages(messages, offer_handoff=False)
    muzzled = replace(sampling, forbid=(*sampling.forbid, HANDOFF_TEXT))
    thought_before = any(parse(segment.text).reasoning for segment in before if segment.source == "device")
    try:
        async with closing(speak(attempt, parser, prompt, muzzled, sampling)) as deltas:
            async for delta in deltas:
                if thought_before and delta.kind == "reasoning":
                    yield TextDelta("\n\n", "device", "reasoning")
                    thought_before = False
                yield delta
    except BackendError as failure:
        if error is not None:
            failure.add_note(f"before that: {error}")
        raise
    text = "" if parser.wants_cloud else attempt.text
    segments = (*before, attempt.segment())
    yield Finished(Trace(side.name, "device", wants_cloud, reason, text, segments, score, error, refusal))


async def keep_on_device(
    pair: Pair, messages: Sequence[Message], sampling: Sampling, *, reason: Reason, score: float | None = None
) -> AsyncIterator[Event]:
    """Let the device answer a request that does not want the cloud, and tell the budget of it; see `ask_cloud`."""
    await pair.budget.keep()
    async with closing(answer_on_device(pair, messages, sampling, reason=reason, score=score)) as events:
        async for event in events:
            yield event


async def ask_cloud(
    pair: Pair,
    messages: Sequence[Message],
    sampling: Sampling,
    *,
    reason: Reason,
    score: float | None = None,
    before: tuple[Segment, ...] = (),
    handed_off: bool = False,
    kept: Kept | None = None,
    asked: Sequence[Message] = (),
) -> AsyncIterator[Event]:
    """Reserve budget, call the cloud with the plain conversation, book the cost; failing that, answer on the device.

    The reservation is settled once the cloud has written or finished, also when it then breaks off or the reader
    leaves; before that, it is released.

    Args:
        reason, score: for the trace.
        before: what was written before.
        handed_off: whether the device asked, which is an event of its own.
        kept: an answer the device has already given, which is served in place of another attempt.
        asked: what the cloud sees, if it is not `messages`.

    Raises:
        BackendError: neither side could answer.
    """
    attempt = Attempt("cloud", pair.cloud, pair.prices.cloud)
    asked = asked or messages
    estimate = most_used(asked, sampling, pair.prices.cloud)
    failed: Reason
    refusal: Refusal | None = None
    try:
        lease = await pair.budget.reserve(estimate, score=score)
        try:
            if handed_off:
                yield HandOff(score)
            async with closing(attempt.deltas(asked, sampling)) as deltas:
                async for delta in deltas:
                    yield TextDelta(delta.text, "cloud", "content", delta.tokens, delta.extra)
        finally:
            # Shielded: a second cancellation must not leave the reservation open for ever.
            await asyncio.shield(_book(lease, attempt, estimate))
    except BudgetExceeded as failure:
        failed, error = "budget", str(failure)
        refusal = Refusal(failure.limit, failure.spent, failure.cap, failure.reset_s)
    except BudgetUnavailable as failure:
        failed, error = "budget", str(failure)
    except BackendError as failure:
        failed, error = "cloud-error", str(failure)
    else:
        written = (*before, kept.segment) if kept else before
        segments = (*written, attempt.segment())
        yield Finished(Trace(pair.name, "cloud", True, reason, attempt.text, segments, score))
        return
    before = (*before, attempt.segment()) if attempt.started else before
    if kept is not None:
        for shown in kept.deltas:
            yield shown
        segments = (*before, kept.segment)
        yield Finished(Trace(pair.name, "device", True, failed, kept.text, segments, score, error, refusal))
        return
    retry = answer_on_device(
        pair,
        messages,
        sampling,
        reason=failed,
        wants_cloud=True,
        score=score,
        before=before,
        error=error,
        refusal=refusal,
    )
    async with closing(retry) as events:
        async for event in events:
            yield event


async def _book(lease: Lease, attempt: Attempt, estimate: Estimate) -> None:
    if not attempt.started:
        await lease.release()
        return
    # A call that broke off has not said how long its prompt was: what it may have cost is booked.
    unknown = 0 if attempt.reported else estimate.usage.prompt_tokens
    usage = attempt.usage + Usage(prompt_tokens=unknown)
    await lease.settle(usage, attempt.price.cost_usd(usage))


def most_used(messages: Sequence[Message], sampling: Sampling, price: Price) -> Estimate:
    """The most that a call can use: no tokenizer in use writes more tokens than a text has bytes."""
    prompt = sum(_most_tokens(message) + _TOKENS_PER_TURN for message in messages) + _TOKENS_PER_TURN
    if sampling.extra:  # tools and schemas become part of the prompt
        prompt += len(json.dumps(dict(sampling.extra), default=str))
    usage = Usage(prompt, sampling.max_tokens)
    return Estimate(usage, price.cost_usd(usage))


def _most_tokens(message: Message) -> int:
    """Bytes of a message's text and fields; other media count as what providers take for a large image."""
    if message.raw is None:
        return len(message.content.encode("utf-8", "replace"))
    parts = message.raw.get("content")
    media = [p for p in parts if p.get("type") != "text"] if isinstance(parts, list) else []
    rest = {**message.raw, "content": message.content}
    return len(json.dumps(rest, default=str)) + _TOKENS_PER_MEDIUM * len(media)

"""One attempt of one side: what it writes, what it takes, and how its text is told to a reader."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from selfroute.backends.base import Backend, Fold
from selfroute.backends.flight import closing
from selfroute.errors import UnsupportedByBackend
from selfroute.handoff import Piece, StreamParser
from selfroute.prices import Price
from selfroute.types import Delta, Message, Part, Sampling, Segment, Source, TextDelta, Token, Usage

__all__ = ["Attempt", "speak", "spoken"]


_CALL = Usage(calls=1)


class Attempt:
    """One run of one backend: passes on what it writes, and keeps what a `Segment` needs.

    Attributes:
        started: whether the backend has written or finished: from then on the call has cost something.
        whole: whether it has come to its end.
        written: what it has written so far.
        price: of the model, in USD per million tokens.
        propensity: probability with which the model was chosen, None where nothing was drawn.
    """

    def __init__(self, source: Source, backend: Backend, price: Price, *, propensity: float | None = None) -> None:
        self.source = source
        self.propensity = propensity
        self.started = self.whole = False
        self.written = Fold()
        self.price = price
        self._backend = backend
        self._waited_s = 0.0

    async def deltas(
        self, messages: Sequence[Message], *variants: Sampling, sent: Callable[[], Awaitable[None]] | None = None
    ) -> AsyncIterator[Delta]:
        """Write the answer with the first of the sampling variants that the backend supports.

        Args:
            sent: called before the request leaves.

        Raises:
            BackendError: the backend did not answer.
            UnsupportedByBackend: the last variant asks too much as well.
        """
        if sent is not None and not self._backend.announces:
            await sent()
        for sampling in variants:
            try:
                async with closing(self._backend.stream(messages, sampling)) as deltas:
                    while (delta := await self._next(deltas)) is not None:
                        if delta.sent and sent is not None:
                            await sent()
                        if delta.text or delta.extra:
                            yield delta
                self.started = self.whole = True  # an answer without any piece is an answer
                return
            except UnsupportedByBackend:
                if self.written.finish_reason is not None:
                    self.whole = True
                    return  # the whole answer is there, without the log-probabilities that were asked for
                if self.started or sampling is variants[-1]:
                    raise

    async def finish(self, messages: Sequence[Message], *variants: Sampling) -> Attempt:
        """Write the answer for nobody to read, as `deltas` does."""
        async with closing(self.deltas(messages, *variants)) as deltas:
            async for _ in deltas:
                pass
        return self

    async def _next(self, deltas: AsyncIterator[Delta]) -> Delta | None:
        began = time.perf_counter()
        try:
            delta = await anext(deltas, None)
        finally:
            self._waited_s += time.perf_counter() - began
        if delta is not None:
            self.started |= not delta.sent
            self.written.add(delta)
        return delta

    @property
    def text(self) -> str:
        return self.written.text

    @property
    def seconds(self) -> float:
        """Time spent waiting for the backend, without the reader's own; of a replayed answer, what it once took."""
        return self._waited_s if self.written.seconds is None else self.written.seconds

    @property
    def usage(self) -> Usage:
        """What the backend reported; for a stream that broke off before that, each piece counts as one token."""
        used = self.written.used
        return used if used.calls else used + _CALL

    @property
    def cost_usd(self) -> float:
        """By the price list; of a replayed answer, what it once cost, where that was recorded."""
        return self.price.cost_usd(self.usage) if self.written.usd is None else self.written.usd

    def segment(self, part: Part = "answer", *, score: float | None = None) -> Segment:
        """What was written, as a part of its request."""
        return Segment(
            source=self.source,
            model=self._backend.name,
            part=part,
            text=self.text,
            usage=self.usage,
            seconds=self.seconds,
            cost_usd=self.cost_usd,
            finish_reason=self.written.finish_reason or "stop",
            score=score,
            propensity=self.propensity,
            redacted=self.written.redacted,
        )


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


def spoken(text: str) -> list[TextDelta]:
    """A device's finished answer for a reader, as `speak` would have told it."""
    parser = StreamParser()
    pieces = [*parser.feed(text), *parser.close()]
    return _deltas(pieces, _TokenCursor(), strip=True)


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

"""Strategies whose answers two models write together, in turns: what no strategy of the package does yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from selfroute.backends.flight import closing
from selfroute.budget.base import Estimate, Lease
from selfroute.budget.estimate import most_used
from selfroute.errors import BackendError, BudgetExceeded, BudgetUnavailable
from selfroute.handoff import StreamParser
from selfroute.strategies.attempt import Attempt
from selfroute.strategies.base import Needs, Sides
from selfroute.types import Event, Finished, Message, Refusal, Sampling, Segment, Source, TextDelta, Trace, Usage


@dataclass(frozen=True)
class Turns:
    """Each side in `order` writes its part of one answer; what the cloud cannot write, the device does.

    All calls of a request run under one lease. A part of the cloud that breaks off stands as far as it came.
    """

    order: tuple[Source, ...]
    name: str = "turns"

    @property
    def needs(self) -> Needs:
        return Needs()

    async def stream(self, sides: Sides, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Event]:
        lease, error, refusal = None, None, None
        try:
            lease = await sides.budget.reserve(self._estimate(sides, messages, sampling))
        except BudgetExceeded as failure:
            error, refusal = str(failure), Refusal(failure.limit, failure.spent, failure.cap, failure.reset_s)
        except BudgetUnavailable as failure:
            error = str(failure)
        segments: list[Segment] = []
        parser = StreamParser()
        try:
            for place, source in enumerate(self.order):
                attempt = self._attempt(source if lease is not None else "device", sides)
                said = self._write(attempt, sides, [*messages, Message("assistant", f"part {place}")], sampling, lease)
                async with closing(said) as deltas:
                    try:
                        async for text in deltas:
                            for piece in parser.feed(text):
                                if piece.kind == "content":
                                    yield TextDelta(piece.text, attempt.source)
                    except BackendError as failure:
                        if attempt.source == "device":
                            raise
                        error, refused = str(failure), lease
                        lease = None
                        await asyncio.shield(refused.close())
                        if not attempt.started:
                            attempt = self._attempt("device", sides)
                            async for text in self._write(attempt, sides, list(messages), sampling, None):
                                for piece in parser.feed(text):
                                    if piece.kind == "content":
                                        yield TextDelta(piece.text, "device")
                segments.append(attempt.segment())
            for piece in parser.close():
                if piece.kind == "content":
                    yield TextDelta(piece.text, segments[-1].source)
        finally:
            if lease is not None:
                await asyncio.shield(lease.close())
        yield Finished(
            Trace(
                strategy=self.name, wants_cloud="cloud" in self.order, reason="answered", segments=tuple(segments),
                decided_after=None, error=error, refusal=refusal,
            )
        )  # fmt: skip

    def _estimate(self, sides: Sides, messages: Sequence[Message], sampling: Sampling) -> Estimate:
        calls = self.order.count("cloud")
        one = most_used([*messages, Message("assistant", "part 0")], sampling, sides.prices.cloud)
        usage = Usage(calls * one.usage.prompt_tokens, calls * one.usage.completion_tokens, calls=calls)
        return Estimate(usage, calls * one.cost_usd)

    def _attempt(self, source: Source, sides: Sides) -> Attempt:
        backend = sides.device if source == "device" else sides.cloud
        assert backend is not None
        return Attempt(source, backend, sides.prices.device if source == "device" else sides.prices.cloud)

    async def _write(
        self, attempt: Attempt, sides: Sides, messages: list[Message], sampling: Sampling, lease: Lease | None
    ) -> AsyncIterator[str]:
        """One part; a call of the cloud is spent under the lease, whatever becomes of it."""
        if attempt.source == "device":
            messages = sides.template.device_messages(messages, offer_handoff=False)
        sent = lease.sent if lease is not None and attempt.source == "cloud" else None
        try:
            async with closing(attempt.deltas(messages, sampling, sent=sent)) as deltas:
                async for delta in deltas:
                    yield delta.text
        finally:
            if sent is not None and lease is not None and attempt.started:
                await asyncio.shield(lease.spend(attempt.usage, attempt.cost_usd))


ALTERNATING = Turns(("device", "cloud", "device"), "alternating")
THREE_CALLS = Turns(("cloud", "cloud", "cloud"), "three_calls")

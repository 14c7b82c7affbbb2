"""The strategy contract: a prompt goes in, a stream of events comes out, a trace ends it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from selfroute.types import Event, Finished, Message, Sampling, Trace

__all__ = ["Strategy", "answer"]


class Strategy(Protocol):
    """A way to split work between a device and a cloud backend.

    `messages` is the conversation as the user sees it: any system prompt that tells the device how to
    hand off is the strategy's business, and never reaches the cloud.
    """

    name: str

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Event]:
        """Answer; the last event is `Finished` with the trace.

        A cloud failure or a budget that refuses ends in a forced local attempt, and the trace says so.

        Raises:
            BackendError: no side could answer.
        """
        ...


async def answer(strategy: Strategy, messages: Sequence[Message], sampling: Sampling) -> Trace:
    """Drain a strategy's stream and return its trace."""
    trace: Trace | None = None
    async for event in strategy.stream(messages, sampling):
        if isinstance(event, Finished):
            trace = event.trace
    if trace is None:
        raise RuntimeError(f"strategy '{strategy.name}' ended without a Finished event")
    return trace

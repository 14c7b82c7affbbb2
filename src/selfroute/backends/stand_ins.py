"""Backends in the place of one that takes no part in a request."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from selfroute.backends.base import Backend
from selfroute.types import Delta, Message, Sampling, Usage

__all__ = ["Absent", "Silent"]


class Silent(Backend):
    """Answers a word for nothing, so that a decision can be looked at without a call.

    Args:
        lacks: what it says that it cannot do; see `Backend`.

    Attributes:
        asked: with what it was asked last; None before.
    """

    lacks: frozenset[str] | None = None

    def __init__(self, name: str, lacks: frozenset[str] | None = None) -> None:
        self.name = name
        self.lacks = lacks
        self.asked: tuple[Sequence[Message], Sampling] | None = None

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        self.asked = messages, sampling
        yield Delta("…", finish_reason="stop", usage=Usage())  # a cloud without a word would have failed


class Absent(Backend):
    """Asking it raises what keeps it away."""

    def __init__(self, name: str, failure: Exception) -> None:
        self.name = name
        self._failure = failure

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        raise self._failure
        yield Delta()

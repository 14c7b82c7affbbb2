"""A backend that is not asked faster than its provider allows."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from selfroute.backends.around import offer_around
from selfroute.backends.base import Backend, as_backend, refuse_fields
from selfroute.backends.flight import closing
from selfroute.errors import ConfigError
from selfroute.types import Delta, Message, Sampling

__all__ = ["RateLimited"]

T = TypeVar("T")


class RateLimited(Backend):
    """A backend that starts no more than so many requests a minute, evenly spaced; each call of a session and each
    message of a cut answer is one.

    Put it inside a cache, so that answers that are known do not wait.

    Args:
        backend: the one to spare.
        requests_per_minute: above 0.

    Raises:
        ConfigError: the rate is not above 0.
    """

    inner: Backend
    announces = True

    def __init__(self, backend: Backend, *, requests_per_minute: float) -> None:
        if not requests_per_minute > 0:
            raise ConfigError(f"requests_per_minute: {requests_per_minute:g} is not above 0; leave it out for no limit")
        self.inner = as_backend(backend)
        self.name = backend.name
        self._gap_s = 60 / requests_per_minute
        self._next_s = 0.0
        self._lock = threading.Lock()

    def offer(self, kind: type[T]) -> T | None:
        """As any backend; what a session or a cut answer asks waits for its turn as well."""
        around = offer_around(self.inner, kind, lambda answered: self._waiting())
        return super().offer(kind) if around is None else around

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        """See `selfroute.backends.base.Backend`; waits for its turn first."""
        refuse_fields(self.inner, messages, sampling)
        await asyncio.sleep(self._turn())
        if not self.inner.announces:
            yield Delta(sent=True)
        async with closing(self.inner.stream(messages, sampling)) as deltas:
            async for delta in deltas:
                yield delta

    @asynccontextmanager
    async def _waiting(self) -> AsyncIterator[None]:
        await asyncio.sleep(self._turn())
        yield

    def _turn(self) -> float:
        """Seconds until the next free place, which is taken."""
        with self._lock:
            now = time.monotonic()
            place = max(now, self._next_s)
            self._next_s = place + self._gap_s
            return place - now

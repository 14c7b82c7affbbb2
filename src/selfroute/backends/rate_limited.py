"""A backend that is not asked faster than its provider allows."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence

from selfroute.backends.base import Backend
from selfroute.errors import ConfigError
from selfroute.types import Delta, Message, Sampling

__all__ = ["RateLimited"]


class RateLimited:
    """A backend that starts no more than so many requests a minute, evenly spaced.

    Put it inside a cache, so that answers that are known do not wait.

    Args:
        backend: the one to spare.
        requests_per_minute: above 0.

    Raises:
        ConfigError: the rate is not above 0.
    """

    def __init__(self, backend: Backend, *, requests_per_minute: float) -> None:
        if not requests_per_minute > 0:
            raise ConfigError(f"requests_per_minute: {requests_per_minute:g} is not above 0; leave it out for no limit")
        self.backend = backend
        self.name = backend.name
        self.identity = getattr(backend, "identity", backend.name)
        self._gap_s = 60 / requests_per_minute
        self._next_s = 0.0
        self._lock = threading.Lock()

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        """See `selfroute.backends.base.Backend`; waits for its turn first."""
        await asyncio.sleep(self._turn())
        async for delta in self.backend.stream(messages, sampling):
            yield delta

    async def aclose(self) -> None:
        """Close the backend behind, if it can be closed."""
        if aclose := getattr(self.backend, "aclose", None):
            await aclose()

    def _turn(self) -> float:
        """Seconds until the next free place, which is taken."""
        with self._lock:
            now = time.monotonic()
            place = max(now, self._next_s)
            self._next_s = place + self._gap_s
            return place - now

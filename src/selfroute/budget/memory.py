"""A ledger in this process: nothing survives its end, and no other process sees it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence

from selfroute.budget import limits
from selfroute.budget.limits import Bucket, Charge, Hold, Reply

__all__ = ["MemoryLedger"]

_KEPT_S = 86400  # how long a window that has ended can still be spent in
_MANY = 64  # counters; more are looked through for windows that have ended


class MemoryLedger:
    """Counters in a dict; see `selfroute.budget.ledger.Ledger`."""

    def __init__(self) -> None:
        self._counters: defaultdict[str, int] = defaultdict(int)
        self._ends: dict[str, int] = {}

    async def count(self, bucket: Bucket) -> None:
        limits.count(self._counters, bucket)

    async def reserve(self, charges: Sequence[Charge], bucket: Bucket | None) -> Reply:
        self._ends |= {key: c.ends for c in charges if c.ends is not None for key in (c.spent, c.held)}
        if len(self._ends) > _MANY:
            self._forget(time.time() - _KEPT_S)
        return limits.reserve(self._counters, charges, bucket)

    async def sent(self, hold: Hold) -> None:
        pass  # what it holds ends with the process

    async def spend(self, hold: Hold, left: Hold, used: Sequence[int], *, in_air: bool) -> None:
        limits.spend(self._counters, hold, left, used)

    async def close(self, hold: Hold) -> None:
        limits.close(self._counters, hold)

    async def read(self, keys: Sequence[str]) -> list[int]:
        return [self._counters.get(key, 0) for key in keys]

    async def aclose(self) -> None:
        pass

    def _forget(self, before: float) -> None:
        for key in [key for key, ends in self._ends.items() if ends < before]:
            del self._ends[key]
            self._counters.pop(key, None)

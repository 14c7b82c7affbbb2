"""What the processes of a gateway tell each other of their clouds: lines in one order, and answers that are waiting.

It lies where the ledger of the budget does: in memory, in a file, or in a Redis server. It holds numbers, names of
clouds and of clients, ids of traces, and hashes; no text of anybody.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple, Protocol

__all__ = ["KEPT_LINES", "Joined", "Journal", "MemoryJournal", "Page", "Settled", "Waiting"]

KEPT_LINES = 2000  # behind a snapshot, for replicas that are behind


class Waiting(NamedTuple):
    """An answer on which feedback may come.

    Attributes:
        trace: id of its trace.
        record: what has to be known then, as JSON.
        at_s: when it was given, Unix seconds.
    """

    trace: str
    record: str
    at_s: float


class Joined(NamedTuple):
    """Where a replica begins.

    Attributes:
        replica: its number; no other one has it.
        number: of the last line that `state` has taken in, 0 without one.
        state: a snapshot, as JSON; None if there is none.
    """

    replica: int
    number: int
    state: str | None


class Page(NamedTuple):
    """Lines of a journal.

    Attributes:
        first: number of the first one; above what was asked for if those before it are no more.
        lines: in their order.
    """

    first: int
    lines: list[str]


class Settled(NamedTuple):
    """What is known of an answer that somebody judges.

    Attributes:
        record: what was kept of it; None if nothing is.
        said: what was said before; None for the first time.
        is_over: it is too old to be judged.
    """

    record: str | None = None
    said: str | None = None
    is_over: bool = False


class Journal(Protocol):
    """Lines that every replica reads in the same order; each method is one step. All raise `BudgetUnavailable`."""

    async def join(self) -> Joined:
        """A new replica comes."""
        ...

    async def exchange(self, seen: int, lines: Sequence[str], waiting: Sequence[Waiting]) -> Page:
        """Append lines, keep what waits, and read all lines after number `seen`, the new ones included."""
        ...

    async def keep(self, number: int, state: str, *, waiting: int, since_s: float) -> None:
        """Keep a snapshot that has taken in all lines up to `number`, unless there is a later one.

        Lines long before it are dropped; of what waits, all but the last `waiting`, and all from before `since_s`.
        """
        ...

    async def settle(self, trace: str, said: str, *, since_s: float) -> Settled:
        """Somebody judges an answer; only the first time counts, and not before `since_s`."""
        ...

    async def aclose(self) -> None:
        """Let go of files and connections."""
        ...


class MemoryJournal:
    """A journal in this process alone."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._dropped = 0
        self._snapshot: tuple[int, str | None] = (0, None)
        self._replicas = 0
        self._waiting: OrderedDict[str, Waiting] = OrderedDict()
        self._said: dict[str, str] = {}

    async def join(self) -> Joined:
        self._replicas += 1
        return Joined(self._replicas, *self._snapshot)

    async def exchange(self, seen: int, lines: Sequence[str], waiting: Sequence[Waiting]) -> Page:
        self._lines += lines
        self._waiting |= {one.trace: one for one in waiting}
        first = max(seen, self._dropped) + 1
        return Page(first, self._lines[first - 1 - self._dropped :])

    async def keep(self, number: int, state: str, *, waiting: int, since_s: float) -> None:
        if number <= self._snapshot[0]:
            return
        self._snapshot = (number, state)
        drop = max(0, number - KEPT_LINES - self._dropped)
        del self._lines[:drop]
        self._dropped += drop
        while self._waiting and (len(self._waiting) > waiting or next(iter(self._waiting.values())).at_s < since_s):
            trace, _ = self._waiting.popitem(last=False)
            self._said.pop(trace, None)

    async def settle(self, trace: str, said: str, *, since_s: float) -> Settled:
        found = self._waiting.get(trace)
        if found is None:
            return Settled()
        before = self._said.get(trace)
        is_over = before is None and found.at_s < since_s
        if before is None and not is_over:
            self._said[trace] = said
        return Settled(found.record, before, is_over)

    async def aclose(self) -> None:
        pass

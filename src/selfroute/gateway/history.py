"""What came of the requests of the last hours, minute by minute and in all, over every worker process."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterable
from functools import reduce
from operator import add
from pathlib import Path
from struct import Struct
from typing import NamedTuple

__all__ = ["MINUTES", "History", "Tally"]

MINUTES = 180
_ROW = Struct("<q5q2d")  # the minute since the epoch, then the fields of `Tally`


class Tally(NamedTuple):
    """Requests and money of some span of time.

    Attributes:
        device, cloud: answers, by who wrote their end.
        failed: requests that got no answer, but for those whose client left.
        gone: requests whose client left.
        refused: cloud calls that the budget refused.
        cost_usd: what the answers cost.
        cloud_alone_usd: what they would have cost if the cloud had written them all.
    """

    device: int = 0
    cloud: int = 0
    failed: int = 0
    gone: int = 0
    refused: int = 0
    cost_usd: float = 0.0
    cloud_alone_usd: float = 0.0

    def plus(self, other: Tally) -> Tally:
        return Tally(*map(add, self, other))

    @property
    def saved_usd(self) -> float:
        """Against asking the cloud alone; below zero where the attempts cost more than they spared."""
        return self.cloud_alone_usd - self.cost_usd


class History:
    """Tallies of the last `MINUTES` minutes and of all time in a memory-mapped file per process.

    Each process writes a file of its own; readers add up those of the folder, also of workers that have ended.

    Args:
        folder: shared by the workers of one gateway; None makes a temporary one, for a single worker.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._owned: tempfile.TemporaryDirectory[str] | None = None
        self._map: mmap.mmap | None = None

    def _open(self) -> mmap.mmap:
        if self._map is None:
            if self.folder is None:
                self._owned = tempfile.TemporaryDirectory(prefix="selfroute-")
                self.folder = Path(self._owned.name)
            size = (MINUTES + 1) * _ROW.size
            with (self.folder / f"{os.getpid()}.minutes").open("w+b") as file:
                file.truncate(size)
                self._map = mmap.mmap(file.fileno(), size)
        return self._map

    def add(self, at: float, tally: Tally) -> None:
        """Count what came at a time, in seconds since the epoch."""
        minute = int(at // 60)
        self._count(0, 0, tally)
        self._count(1 + minute % MINUTES, minute, tally)

    def _count(self, place: int, minute: int, tally: Tally) -> None:
        held, start = self._open(), place * _ROW.size
        before, *counts = _ROW.unpack_from(held, start)
        known = counts if before == minute else Tally()  # else it is that of hours ago
        _ROW.pack_into(held, start, minute, *map(add, known, tally))

    def minutes(self, now: float) -> list[tuple[int, Tally]]:
        """The minutes in which something came, oldest first, each with its begin in seconds since the epoch."""
        newest = int(now // 60)
        found: dict[int, Tally] = {}
        for minute, tally in self._rows():
            if max(0, newest - MINUTES) < minute <= newest and tally != Tally():
                found[minute] = found.get(minute, Tally()).plus(tally)
        return [(60 * minute, found[minute]) for minute in sorted(found)]

    def total(self) -> Tally:
        """Since the gateway began."""
        return reduce(Tally.plus, (tally for minute, tally in self._rows() if minute == 0), Tally())

    def _rows(self) -> Iterable[tuple[int, Tally]]:
        for file in self.folder.glob("*.minutes") if self.folder is not None else ():
            try:
                data = file.read_bytes()
            except OSError:
                continue
            for minute, *counts in _ROW.iter_unpack(data):
                yield minute, Tally(*counts)

    def close(self) -> None:
        """Remove what this process wrote, if nobody else shares it; a later count starts anew."""
        if self._map is not None:
            self._map.close()
            self._map = None
        if self._owned is not None:
            self._owned.cleanup()
            self._owned = self.folder = None

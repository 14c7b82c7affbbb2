"""The last requests, for the dashboard: in a file per worker process, so that every worker can show them all."""

from __future__ import annotations

import json
import mmap
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfroute.gateway.history import History

__all__ = ["Activity"]

_SLOTS = 200
_SLOT_BYTES = 640


class Activity:
    """A ring of short records in a memory-mapped file; writing one costs microseconds and no lock.

    Each process writes a ring of its own; readers take all of a folder. A record that is being overwritten while it
    is read is left out.

    Args:
        folder: shared by the workers of one gateway; None makes a temporary one, for a single worker.

    Attributes:
        history: counts of the last hours, which reach further back than the records.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.history = History(folder)
        self._owned: tempfile.TemporaryDirectory[str] | None = None
        self._map: mmap.mmap | None = None
        self._count = 0

    def _open(self) -> mmap.mmap:
        """The ring of this process; made when it is first needed."""
        if self._map is None:
            if self.folder is None:
                self._owned = tempfile.TemporaryDirectory(prefix="selfroute-")
                self.folder = Path(self._owned.name)
            with (self.folder / f"{os.getpid()}.ring").open("w+b") as file:
                file.truncate(_SLOTS * _SLOT_BYTES)
                self._map = mmap.mmap(file.fileno(), _SLOTS * _SLOT_BYTES)
        return self._map

    def add(self, record: Mapping[str, Any]) -> None:
        """Write a record; texts that make it too long are cut."""
        data = json.dumps(record).encode()
        if len(data) > _SLOT_BYTES - 1:
            short = {k: v[:80] if isinstance(v, str) else v for k, v in record.items()}
            data = json.dumps(short).encode()[: _SLOT_BYTES - 1]
        start = (self._count % _SLOTS) * _SLOT_BYTES
        self._open()[start : start + _SLOT_BYTES] = data.ljust(_SLOT_BYTES, b"\0")
        self._count += 1

    def last(self, count: int) -> list[dict[str, Any]]:
        """The newest records of all workers, newest first."""
        records: list[dict[str, Any]] = []
        for file in self.folder.glob("*.ring") if self.folder is not None else ():
            try:
                data = file.read_bytes()
            except OSError:
                continue
            slots = (data[i : i + _SLOT_BYTES].rstrip(b"\0") for i in range(0, len(data), _SLOT_BYTES))
            records += [record for slot in slots if (record := _record(slot)) is not None]
        return sorted(records, key=lambda record: -float(record.get("at", 0)))[:count]

    def close(self) -> None:
        """Remove what this process wrote, if nobody else shares it; a later record starts anew."""
        self.history.close()
        if self._map is not None:
            self._map.close()
            self._map = None
        if self._owned is not None:
            self._owned.cleanup()
            self._owned = self.folder = None


def _record(data: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(data)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None

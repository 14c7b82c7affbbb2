"""What a process says and does about the machine it runs on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from selfroute.environment import release_memory

STATUS = Path("/proc/self/statm")


def resident_mb() -> float:
    return int(STATUS.read_text().split()[1]) * 4096 / 1e6


@pytest.mark.skipif(sys.platform != "linux", reason="reads ../proc; needs ../proc")
def test_memory_that_was_freed_goes_back_to_the_system() -> None:
    # Small pieces, every other one freed: what is left in between keeps glibc from giving any back by itself.
    pieces = [bytearray(50_000) for _ in range(4_000)]
    kept = pieces[::2]
    del pieces
    before = resident_mb()
    release_memory()
    assert resident_mb() < before - 50
    assert len(kept) == 2_000

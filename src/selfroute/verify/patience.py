"""Limits on processor time, so that no verdict depends on what else the machine does."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

__all__ = ["PATIENCE", "PATIENCE_WITH_PROGRAMS", "at_most"]

# How many times longer than its processor time a child may take on the clock, which only ends one that waits for
# something: libraries never should, a model's program may sleep. Windows knows no such limit: there the clock is all.
_LIMITED = hasattr(signal, "setitimer")
PATIENCE = 10.0 if _LIMITED else 1.0
PATIENCE_WITH_PROGRAMS = 4.0 if _LIMITED else 1.0


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """End this process, in whatever code it is, once the block has used that much processor time."""
    if not _LIMITED:
        yield
        return
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)

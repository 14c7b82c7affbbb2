"""What disks and folders say when they refuse, in one line; the libraries in between each say it in their own way."""

from __future__ import annotations

import errno
import sqlite3

__all__ = ["of_a_disk"]

NEXT = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some space there",
    errno.EACCES: "see who may read and write it, or choose another place",
    errno.EPERM: "see who may read and write it, or choose another place",
    errno.EROFS: "choose a place that can be written to",
}
# How libraries that write files themselves say that a disk is full, or a folder closed.
SAID = {
    "No space left on device": errno.ENOSPC,
    "os error 28": errno.ENOSPC,
    "database or disk is full": errno.ENOSPC,
    "PytorchStreamWriter failed writing": errno.ENOSPC,
    "unable to open database file": errno.EACCES,
    "attempt to write a readonly database": errno.EACCES,
    "Permission denied": errno.EACCES,
}


def of_a_disk(error: BaseException) -> str | None:
    """What happened and what to do; None for an error of another kind."""
    said = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno is not None:
        where = f"'{error.filename}': " if error.filename else ""
        return f"{where}{error.strerror}; {NEXT.get(error.errno, 'see that the place exists and is whole')}"
    known = next((number for text, number in SAID.items() if text in said), None)
    if known is not None:
        return f"{said[:200]}; {NEXT[known]}"
    return f"{said[:200]}; see that the file is whole" if isinstance(error, sqlite3.DatabaseError) else None

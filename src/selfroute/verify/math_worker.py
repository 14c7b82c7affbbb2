"""The process that compares mathematical expressions; `math_pool` starts it, kills it and reads its replies.

Run as a script, so that it imports nothing but the standard library and math-verify. One JSON object per line in, one
out: `{"answer": …, "gold": …, "marked": …, "cpu_s": …}` gives `{"equal": true | false | null}`, null where an
expression cannot be read. The first line out says that the imports are done.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

_MEMORY_BYTES = 2 << 30


def main() -> None:
    """Answer requests until standard input ends."""
    replies = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a library that prints must not break the protocol
    _limit_memory()
    logging.disable(logging.CRITICAL)  # math-verify warns that its own timeouts are off, as they must be here
    from math_verify import parse, verify

    def equal(answer: str, gold: str, marked: bool) -> bool | None:
        # Parsed in a box, which math-verify reads whole; unmarked text is left to its own extraction.
        golds = parse(_box(gold), parsing_timeout=None)
        answers = parse(_box(answer) if marked else answer, parsing_timeout=None)
        if not golds or not answers:
            return None
        # The option makes 1 <= x <= 2 and [1, 2] the same answer.
        return bool(verify(golds, answers, allow_set_relation_comp=True, timeout_seconds=None))

    replies.write('{"ready": true}\n')
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        try:
            with _at_most(request["cpu_s"]):
                result = equal(request["answer"], request["gold"], request["marked"])
        except (Exception, RecursionError, MemoryError):
            result = None  # model text: an expression that breaks the library is one that cannot be read
        replies.write(json.dumps({"equal": result}) + "\n")


def _box(text: str) -> str:
    return f"\\boxed{{{text}}}"


def _limit_memory() -> None:
    """A tower of powers allocates until something stops it."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))


@contextlib.contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Processor time, after which the default action of SIGPROF ends this process, whatever code it is in."""
    import signal

    if not hasattr(signal, "setitimer"):  # Windows: the parent's wall clock is what is left
        yield
        return
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


if __name__ == "__main__":
    main()

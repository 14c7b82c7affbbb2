"""Throughput of the verifiers and of the hand-off parser on one thread.

    python benchmarks/verifiers.py [--seconds 2]

Prints completions per second over a fixed mix of right, wrong and broken completions of about 1,500 characters (the
length of the paper's transcripts), and MB/s. The math verifier is timed twice: on answers it decides itself (equal
spelling, plain numbers) and on pairs that go to math-verify's process.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import time
from collections.abc import Callable, Sequence

REASONING = "44 + 19 = 63, which is too large, so I subtract 30 and look at what is left. " * 19
COUNTDOWN = [
    f"<think>{REASONING}</think> <answer>{answer}</answer>"
    for answer in ("44+19-30", "44 + 19 − 30 = 33", "44+19+30", "33", "44+19-", "(44-30)+19")
]
NUMERIC = [f"{REASONING}{answer}" for answer in ("#### 33", r"\boxed{33}", "The answer is $33.00.", "so 34", "none")]
PLAIN_MATH = [f"{REASONING}{answer}" for answer in (r"\boxed{33}", r"\boxed{34}", r"\boxed{33.0}")]
HARD_MATH = [f"{REASONING}{answer}" for answer in (r"\boxed{\frac{66}{2}}", r"\boxed{2^5+1}", r"\boxed{x+1}", "$33$")]
HANDOFFS = [
    *COUNTDOWN,
    f"{REASONING}<unknown> I need external assistance </unknown>",
    f"{REASONING}I need external assitance.",
]


def rate(call: Callable[[str], object], texts: Sequence[str], *, seconds: float) -> tuple[float, float]:
    """Calls per second and MB (1e6 characters) per second."""
    for text in texts:
        call(text)
    done = size = 0
    started = time.perf_counter()
    for text in itertools.cycle(texts):
        call(text)
        done, size = done + 1, size + len(text)
        if (passed := time.perf_counter() - started) > seconds:
            break
    return done / passed, size / passed / 1e6


def main() -> None:
    """Time each and print a table."""
    from selfroute.handoff import StreamParser, parse
    from selfroute.verify.arithmetic import countdown_verdict
    from selfroute.verify.verifiers import math, numeric

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=2.0, help="time per row (default 2)")
    seconds: float = parser.parse_args().seconds

    def stream(text: str) -> None:
        parser = StreamParser()
        for start in range(0, len(text), 4):
            parser.feed(text[start : start + 4])
        parser.close()

    rows: list[tuple[str, Callable[[str], object], Sequence[str]]] = [
        ("countdown verifier", lambda text: countdown_verdict(text, (44, 19, 30), 33), COUNTDOWN),
        ("numeric verifier", lambda text: numeric(text, "33"), NUMERIC),
        ("math verifier, decided here", lambda text: math(text, "33"), PLAIN_MATH),
        ("math verifier, in its process", lambda text: math(text, "33"), HARD_MATH),
        ("hand-off parse", parse, HANDOFFS),
        ("hand-off stream, 4 characters each", stream, HANDOFFS),
    ]
    print(f"Python {platform.python_version()}, {platform.machine()}, one thread")
    print(f"{'':36} {'per second':>12} {'MB/s':>8}")
    for name, call, texts in rows:
        calls, megabytes = rate(call, texts, seconds=seconds)
        print(f"{name:36} {calls:12,.0f} {megabytes:8.1f}")


if __name__ == "__main__":
    main()

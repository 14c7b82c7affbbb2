"""`selfroute tasks --check`: a data set's gold answers, and how its verifier does on answers made from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from selfroute.tasks.check import ErrorRate

__all__ = ["rates_in_lines"]

_LONGEST_EXAMPLE = 70


def rates_in_lines(rates: Sequence[ErrorRate], *, verifier: str) -> Iterator[str]:
    """Misses and false accepts in all, then a line per kind with the first wrong verdicts under it.

    Args:
        verifier: by which the task is judged; empty for one of its own.
    """
    yield f"answers made from them by rule, judged by {verifier or 'the task'}:"
    for right, name, what in ((True, "misses", "must pass"), (False, "false accepts", "must not pass")):
        kinds = [rate for rate in rates if rate.right is right]
        yield f"  {_ratio(sum(rate.errors for rate in kinds), sum(rate.tried for rate in kinds))}  {name}: what {what}"
        for rate in kinds:
            yield f"    {_ratio(rate.errors, rate.tried)}  {rate.kind}"
            yield from (f"      {row}: {_end(completion)}" for row, completion in rate.examples)


def _ratio(errors: int, tried: int) -> str:
    share = f"{100 * errors / tried:5.1f} %" if tried else "    – %"
    return f"{errors:>4} of {tried:<6,} {share}"


def _end(completion: str) -> str:
    """The end of a completion, where its answer stands, on one line."""
    line = " ".join(completion.split())
    return line if len(line) <= _LONGEST_EXAMPLE else f"…{line[-_LONGEST_EXAMPLE:]}"

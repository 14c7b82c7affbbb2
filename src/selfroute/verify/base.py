"""What a verifier says of an answer."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Verdict"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verifier's judgement.

    Attributes:
        correct: whether the completion answers the row.
        answer: the answer that was extracted, None if there was none.
        reason: one short phrase, e.g. "no answer", "uses 7 twice", "32 is not 33".
    """

    correct: bool
    answer: str | None = None
    reason: str = ""

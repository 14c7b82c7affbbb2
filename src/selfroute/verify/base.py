"""What a verifier says of an answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from selfroute.errors import ConfigError

__all__ = ["SOLVED", "Verdict", "is_solved", "right_or_wrong"]

SOLVED = 0.5  # quality from which an answer counts as right, where only right and wrong are told apart


def is_solved(quality: float | None) -> bool:
    """Whether an answer of a quality in [0, 1] counts as right; one that could not be judged does not."""
    return quality is not None and quality >= SOLVED


def right_or_wrong(quality: float | None) -> bool | None:
    """The same, with None for an answer that could not be judged."""
    return None if quality is None else is_solved(quality)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verifier's judgement.

    Attributes:
        correct: whether the completion answers the row.
        answer: the answer that was extracted, None if there was none.
        reason: one short phrase, e.g. "no answer", "uses 7 twice", "32 is not 33".
        quality: how good it is, in [0, 1]; unless given, 1 if correct and 0 if not.

    Raises:
        ConfigError: a quality outside [0, 1], or one that says otherwise than `correct`.
    """

    correct: bool
    answer: str | None = None
    reason: str = ""
    quality: float = field(default=cast(float, None))

    def __post_init__(self) -> None:
        if self.quality is None:
            object.__setattr__(self, "quality", float(self.correct))
        if not 0.0 <= self.quality <= 1.0:
            raise ConfigError(f"quality: {self.quality:g} is not between 0 and 1")
        if is_solved(self.quality) is not bool(self.correct):
            raise ConfigError(
                f"correct={self.correct} contradicts quality={self.quality:g}: from {SOLVED:g} on an answer counts as "
                "right"
            )

    @classmethod
    def of(cls, judgement: Verdict | float) -> Verdict:
        """What a verifier returned: a verdict, a quality in [0, 1], or whether the answer is right.

        Raises:
            ConfigError: a number outside [0, 1].
        """
        if isinstance(judgement, Verdict):
            return judgement
        return cls(is_solved(judgement), quality=float(judgement))

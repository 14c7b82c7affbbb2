"""Choices that wait for feedback: bounded in number and age, numbers only, each settled once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from selfroute.bandits.base import Outcome, check_quality
from selfroute.errors import ConfigError

__all__ = ["Pending", "Settled"]

Verdict = Literal["learnt", "repeated", "expired", "unknown"]


class _Waiting(NamedTuple):
    at_s: float
    arm: str
    features: tuple[float, ...]
    settled: bool


class Settled(NamedTuple):
    """What became of one piece of feedback.

    Attributes:
        verdict: "learnt", or why not: the choice had its feedback ("repeated"), is too old ("expired"), or was never
            made or pushed out by newer ones ("unknown").
        arm, outcome: for `Bandit.update`; None unless it is to be learnt.
    """

    verdict: Verdict
    arm: str | None = None
    outcome: Outcome | None = None


class Pending:
    """Keeps of each choice its arm and features, by the id of its trace. No text, no key of a user.

    Args:
        limit: most choices kept; the oldest make room.
        lifetime_s: seconds for which feedback counts.

    Raises:
        ConfigError: a value out of range.
    """

    def __init__(self, *, limit: int = 10_000, lifetime_s: float = 86_400.0) -> None:
        if limit < 1 or not lifetime_s > 0.0:
            raise ConfigError(f"limit, lifetime_s: {limit}, {lifetime_s} must be at least 1 and above 0")
        self._limit = limit
        self._lifetime_s = lifetime_s
        self._waiting: OrderedDict[str, _Waiting] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, trace: str, arm: str, features: tuple[float, ...] = (), *, now_s: float) -> None:
        """Remember a choice.

        Args:
            trace: id of the request's trace.
            now_s: seconds on any clock that all calls share, also after a restart.
        """
        self._waiting[trace] = _Waiting(now_s, arm, features, False)
        self._waiting.move_to_end(trace)
        while len(self._waiting) > self._limit:
            self._waiting.popitem(last=False)

    def settle(self, trace: str, quality: float, *, weight: float = 1.0, now_s: float) -> Settled:
        """The outcome of a choice, the first time that somebody tells it.

        Args:
            quality: in [0, 1].
            weight: how much the source counts.

        Raises:
            ConfigError: a quality outside [0, 1] or a weight that is not above 0; the choice waits on.
        """
        check_quality(quality)
        if not weight > 0.0:
            raise ConfigError(f"weight: {weight} is not above 0; a verifier's is 1")
        waiting = self._waiting.get(trace)
        if waiting is None:
            return Settled("unknown")
        if waiting.settled:
            return Settled("repeated")
        if now_s - waiting.at_s > self._lifetime_s:
            del self._waiting[trace]
            return Settled("expired")
        self._waiting[trace] = waiting._replace(settled=True, features=())
        return Settled("learnt", waiting.arm, Outcome(quality, features=waiting.features, weight=weight))

    def state(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {trace: [w.at_s, w.arm, list(w.features), w.settled] for trace, w in self._waiting.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._waiting = OrderedDict(
            (trace, _Waiting(at_s, arm, tuple(features), settled))
            for trace, (at_s, arm, features, settled) in state.items()
        )

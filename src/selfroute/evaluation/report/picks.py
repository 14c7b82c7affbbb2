"""Prompts worth reading: where the best strategy decided wrongly, and what nobody solves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from selfroute.evaluation.counting.metrics import Bools, Floats, calls_at
from selfroute.evaluation.counting.split import Shared, Split
from selfroute.evaluation.records import Key

__all__ = ["KINDS", "Pick", "pick"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """One prompt and what came of it.

    Attributes:
        kind: a key of `KINDS`.
        count: prompts of this kind, of `n`.
        sent: whether it goes to the cloud at the share.
        score, solve_rate: None where there is none.
    """

    kind: str
    count: int
    n: int
    strategy: str
    point: float | None
    id: str
    sent: bool
    device_correct: bool
    cloud_correct: bool
    score: float | None
    solve_rate: float | None

    @property
    def key(self) -> Key:
        """Of its record."""
        return self.strategy, self.point, self.id


# Which prompts, which first (highest), and how many.
_Rule = tuple[Callable[[Split, Bools], Bools], Callable[[Split], Floats], int]

KINDS: dict[str, _Rule] = {
    "Kept, and should have been sent": (
        lambda s, sent: ~sent & ~s.device_solved & s.cloud_solved,
        lambda s: -s.filled,
        3,
    ),
    "Sent, and need not have been": (lambda s, sent: sent & s.device_solved, lambda s: s.filled, 3),
    "Hardest: neither side solves it": (lambda s, sent: ~s.device_solved & ~s.cloud_solved, lambda s: _hardness(s), 3),
    "Solved on the device": (lambda s, sent: ~sent & s.device_solved, lambda s: np.zeros(len(s)), 1),
    "Sent, and the cloud solved it": (
        lambda s, sent: sent & s.cloud_solved & ~s.device_solved,
        lambda s: np.zeros(len(s)),
        1,
    ),
}


def pick(shared: Shared, strategy: str, *, share: float, point: float | None = None) -> list[Pick]:
    """A few prompts of each kind, the clearest cases first and then in the order of ids, so that nobody picks them.

    Args:
        strategy: whose decisions are read: at the share, or as run if it is not compared there.
        point: of its knob.
    """
    split = next(s for s in shared.splits if (s.name, s.point) == (strategy, point))
    sent = split.sent(calls_at(share, len(split))) if split.matched else split.wants
    return [found for kind in KINDS for found in _of_kind(kind, split, sent, shared.ids)]


def _of_kind(kind: str, split: Split, sent: Bools, ids: tuple[str, ...]) -> list[Pick]:
    fits, rank, most = KINDS[kind]
    chosen = np.flatnonzero(fits(split, sent))
    first = chosen[np.argsort(-rank(split)[chosen], kind="stable")][:most]
    rates = split.numbers["solve_rate"]
    return [
        Pick(
            kind=kind,
            count=len(chosen),
            n=len(split),
            strategy=split.name,
            point=split.point,
            id=ids[i],
            sent=bool(sent[i]),
            device_correct=bool(split.device_solved[i]),
            cloud_correct=bool(split.cloud_solved[i]),
            score=_known(split.score[i]),
            solve_rate=_known(rates[i]),
        )
        for i in first
    ]


def _hardness(split: Split) -> Floats:
    """Low solve rates first where they are known, then what the device wants to send most."""
    rate = np.nan_to_num(split.numbers["solve_rate"], nan=1.0)
    place = np.empty(len(split))
    place[split.order] = np.arange(len(split))
    return np.asarray(-rate - place / len(split) / 1e3)


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None

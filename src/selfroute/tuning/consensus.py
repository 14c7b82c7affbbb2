"""What the server holds: the consensus on sentences over workers that report when they can, and some that lie.

The inner level of AsynDBT (arXiv 2602.17694, eqs 4 and 7-13) as an augmented Lagrangian: workers move their own
probabilities p, the server the consensus z, and duals ρ pull the two together. An update waits for S reports, and for
whoever would otherwise fall behind by more than τ versions. Nothing but probabilities travels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from selfroute.errors import ConfigError
from selfroute.tuning.base import Distributions, Floats
from selfroute.tuning.planes import Planes
from selfroute.tuning.simplex import check_floor, project_all, uniform

__all__ = ["Consensus", "Order", "Orders", "Report", "clipped"]


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """What a worker is sent: the consensus to go on with, and its version."""

    version: int
    consensus: Distributions


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """What a worker sends back: its own probabilities of the sentences, and the version that it started from."""

    worker: str
    version: int
    sentences: Distributions


Orders = list[tuple[str, Order]]


@dataclass(slots=True, eq=False)
class _Member:
    """What is known of a worker that takes part.

    Attributes:
        version: of the order that it works on.
        reported: whether it waits for the next one.
        sentences: its last report; None before the first.
        dual: ρ, as it is known here.
    """

    version: int
    dual: Distributions
    reported: bool = False
    sentences: Distributions | None = None


class Consensus:
    """The server: not a process of its own, but what an engine tells of reports, and asks for orders.

    Args:
        workers: by name; they take part until they are dropped.
        sizes: choices of each slot of sentences.
        quorum: S, reports that an update waits for, or all workers where fewer take part.
        patience: τ, versions that a worker may fall behind.
        step: η of the consensus.
        dual_step: η of the duals.
        penalty: μ.
        pull: ψ, of the sign term.
        clip: most Euclidean length of one worker's pull on one slot: in an update it moves the consensus of the slot by
            at most `clip * step`, since projecting never takes two points further apart.
        floor: least probability of a choice.
        planes: cutting planes that hold the consensus to the inner estimate; None leaves it at the estimate.

    Attributes:
        version: updates so far.
        consensus: z.
        refused: messages that were refused, by worker.

    Raises:
        ConfigError: S above the number of workers, τ below 1, or a floor that is too high.
    """

    def __init__(
        self,
        workers: Sequence[str],
        sizes: Sequence[int],
        *,
        quorum: int,
        patience: int,
        step: float = 0.2,
        dual_step: float = 0.02,
        penalty: float = 0.3,
        pull: float = 0.02,
        clip: float = 1.0,
        floor: float = 0.01,
        planes: Planes | None = None,
    ) -> None:
        if not 1 <= quorum <= len(workers):
            raise ConfigError(f"quorum: {quorum} is not between 1 and {len(workers)}, the number of workers")
        if patience < 1:
            raise ConfigError(f"patience: {patience} is below 1; a worker is one version behind while it works")
        check_floor(floor, sizes)
        self.quorum, self.patience = quorum, patience
        self.step, self.dual_step, self.penalty, self.pull, self.clip, self.floor = (
            step, dual_step, penalty, pull, clip, floor,
        )  # fmt: skip
        self.planes = planes
        self.version = 0
        self.consensus = uniform(sizes)
        self.refused: dict[str, int] = {}
        self._estimate = self.consensus
        self._members = {name: self._new() for name in workers}

    @property
    def members(self) -> list[str]:
        """Workers that take part."""
        return list(self._members)

    def begin(self) -> Orders:
        """Orders for all who take part and do not wait for others, at the start and after `restore`."""
        free = {name: member for name, member in self._members.items() if not member.reported}
        for member in free.values():
            member.version = self.version
        return [(name, self._order()) for name in free]

    def begin_from(self, consensus: Distributions) -> None:
        """Begin from probabilities that were found before."""
        self.consensus = self._estimate = project_all(consensus, self.floor)

    def join(self, worker: str) -> Order:
        """Let a worker take part, or take part again, from the consensus as it is."""
        self._members[worker] = self._new()
        return self._order()

    def drop(self, worker: str) -> Orders:
        """Go on without a worker: nobody waits for it, and what it said last counts no more."""
        self._members.pop(worker, None)
        return self._update()

    def receive(self, report: Report) -> Orders:
        """Take a report; gives the orders of an update, or none while others are waited for.

        A report of nobody who takes part, or on another version than its worker's, is passed over. One that holds no
        distributions of the right shapes drops its worker, who may `join` again.
        """
        member = self._members.get(report.worker)
        if member is None or member.reported or report.version != member.version:
            self._count(report.worker)
            return []
        sentences = _checked(report.sentences, self.consensus)
        if sentences is None:
            self._count(report.worker)
            return self.drop(report.worker)
        member.sentences, member.reported = project_all(sentences, self.floor), True
        return self._update()

    def state(self) -> dict[str, Any]:
        """Ready for JSON. Who was at work begins that work again."""
        return {
            "version": self.version,
            "consensus": _lists(self.consensus),
            "estimate": _lists(self._estimate),
            "refused": self.refused,
            "planes": None if self.planes is None else self.planes.state(),
            "members": {
                name: {
                    "reported": member.reported,
                    "version": member.version,
                    "dual": _lists(member.dual),
                    "sentences": None if member.sentences is None else _lists(member.sentences),
                }
                for name, member in self._members.items()
            },
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, with `begin`."""
        self.version, self.refused = int(state["version"]), dict(state["refused"])
        self.consensus, self._estimate = _arrays(state["consensus"]), _arrays(state["estimate"])
        if self.planes is not None and state["planes"] is not None:
            self.planes.restore(state["planes"])
        self._members = {
            name: _Member(
                int(member["version"]),
                _arrays(member["dual"]),
                reported=bool(member["reported"]),
                sentences=None if member["sentences"] is None else _arrays(member["sentences"]),
            )
            for name, member in state["members"].items()
        }

    # --- inside ----------------------------------------------------------------------------------------------------

    def _new(self) -> _Member:
        return _Member(self.version, tuple(np.zeros_like(z) for z in self.consensus))

    def _order(self) -> Order:
        return Order(self.version, self.consensus)

    def _count(self, worker: str) -> None:
        self.refused[worker] = self.refused.get(worker, 0) + 1

    def _is_due(self) -> bool:
        waiting = [member for member in self._members.values() if member.reported]
        behind = [member for member in self._members.values() if not member.reported]
        enough = len(waiting) >= min(self.quorum, len(self._members))
        return bool(waiting) and enough and all(self.version + 1 - one.version <= self.patience for one in behind)

    def _update(self) -> Orders:
        """One step of the consensus, if it is due; orders for those who reported."""
        if not self._is_due():
            return []
        reported = {name: member for name, member in self._members.items() if member.reported}
        self._move()
        self.version += 1
        for member in reported.values():
            assert member.sentences is not None
            member.dual = tuple(
                dual + self.dual_step * (p - z)
                for dual, p, z in zip(member.dual, member.sentences, self.consensus, strict=True)
            )
            member.version, member.reported = self.version, False
        return [(name, self._order()) for name in reported]

    def _move(self) -> None:
        moved = [z.copy() for z in self._estimate]
        for member in self._members.values():
            for slot, pull in enumerate(self._pulls(member)):
                moved[slot] -= self.step * pull
        self._estimate = project_all(moved, self.floor)
        self.consensus = self._estimate
        if self.planes is not None:
            self.consensus = project_all(self.planes.moved(self._estimate), self.floor)

    def _pulls(self, member: _Member) -> list[Floats]:
        """One worker's part of the consensus' gradient, slot by slot, clipped."""
        if member.sentences is None:
            return []
        return [
            clipped(-dual + self.penalty * (z - p) + self.pull * np.sign(z - p), self.clip)
            for dual, p, z in zip(member.dual, member.sentences, self._estimate, strict=True)
        ]


def clipped(values: Floats, most: float) -> Floats:
    """The values, shortened to Euclidean length `most` where they are longer."""
    length = float(np.linalg.norm(values))
    return values if length <= most else values * (most / length)


def _checked(sentences: object, like: Distributions) -> list[Floats] | None:
    """Arrays of finite numbers in [0, 1] in the shapes of the slots; None if a message holds anything else."""
    try:
        arrays = [np.asarray(one, dtype=np.float64) for one in sentences]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        return None
    fits = len(arrays) == len(like) and all(a.shape == z.shape for a, z in zip(arrays, like, strict=False))
    return arrays if fits and all(bool(((a >= 0.0) & (a <= 1.0)).all()) for a in arrays) else None


def _lists(arrays: Distributions) -> list[list[float]]:
    return [[float(value) for value in one] for one in arrays]


def _arrays(lists: Sequence[Sequence[float]]) -> Distributions:
    return tuple(np.array(one, dtype=np.float64) for one in lists)

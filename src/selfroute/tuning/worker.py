"""What a worker does: draws choices, has them measured on its own rows, and moves its own probabilities."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from selfroute.tuning.base import Choices, Distributions, Measure
from selfroute.tuning.consensus import Order, Report
from selfroute.tuning.simplex import check_floor, draw, likeliest, project_all, score_gradient, uniform

__all__ = ["Worker"]


class Worker:
    """One device with rows and pools of its own, on both levels of AsynDBT (arXiv 2602.17694, section 3).

    Inside, its probabilities p of the sentences follow the augmented Lagrangian towards the consensus z; outside, after
    `inner` such rounds, its probabilities q of demonstrations follow the same rewards. p is sent, q never.

    Args:
        sentences, demonstrations: choices of each slot.
        measure: rewards of choices for all slots, sentences first.
        draws: I, choices that are drawn in a round, and compared with each other.
        inner: K, rounds on the sentences to one step on the demonstrations, which takes the gradients of them all.
        step: η of p; likewise `outer_step` of q and `dual_step` of the duals.
        penalty, pull: μ and ψ, as the server has them.
        floor: least probability of a choice.
        seed: of the draws, with the name and the round.

    Raises:
        ConfigError: a floor that is too high.
    """

    def __init__(
        self,
        name: str,
        sentences: Sequence[int],
        demonstrations: Sequence[int],
        measure: Measure,
        *,
        draws: int = 4,
        inner: int = 1,
        step: float = 0.006,
        outer_step: float = 0.006,
        dual_step: float = 0.02,
        penalty: float = 0.3,
        pull: float = 0.02,
        floor: float = 0.01,
        seed: int = 0,
    ) -> None:
        check_floor(floor, (*sentences, *demonstrations))
        self.name, self.measure = name, measure
        self.draws, self.inner, self.floor, self.seed = draws, inner, floor, seed
        self.step, self.outer_step, self.dual_step = step, outer_step, dual_step
        self.penalty, self.pull = penalty, pull
        self.rounds = 0
        self.sentences, self.demonstrations = uniform(sentences), uniform(demonstrations)
        self._dual: Distributions = tuple(np.zeros_like(p) for p in self.sentences)
        self._outer: Distributions = tuple(np.zeros_like(q) for q in self.demonstrations)
        self._version: int | None = None

    @property
    def best(self) -> Choices:
        """The demonstrations to use."""
        return likeliest(self.demonstrations)

    async def work(self, order: Order) -> Report:
        """One round from the consensus of an order.

        Raises:
            SelfRouteError: as `measure`; nothing has moved then.
        """
        both = (*self.sentences, *self.demonstrations)
        rng = np.random.default_rng([self.seed, zlib.crc32(self.name.encode()), self.rounds])
        choices = draw(both, rng, self.draws)
        rewards = await self.measure(choices, self.rounds)
        gradient = score_gradient(both, choices, rewards)
        self._follow(order.consensus, gradient[: len(self.sentences)])
        self.rounds += 1
        self._outside(gradient[len(self.sentences) :])
        self._version = order.version
        return Report(self.name, order.version, self.sentences)

    def state(self) -> dict[str, Any]:
        """Ready for JSON."""
        arrays = {"sentences": self.sentences, "demonstrations": self.demonstrations, "dual": self._dual}
        lists = {name: [one.tolist() for one in value] for name, value in (arrays | {"outer": self._outer}).items()}
        return {"rounds": self.rounds, "version": self._version, **lists}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.rounds, self._version = int(state["rounds"]), state["version"]
        self.sentences, self.demonstrations, self._dual, self._outer = (
            tuple(np.array(one, dtype=np.float64) for one in state[name])
            for name in ("sentences", "demonstrations", "dual", "outer")
        )

    def _follow(self, consensus: Distributions, gradient: Distributions) -> None:
        """Eq. 8: rewards go up, and p and z towards each other."""
        slots = list(zip(self.sentences, consensus, self._dual, gradient, strict=True))
        if self._version is not None:  # the consensus answers what was sent last
            slots = [(p, z, dual + self.dual_step * (p - z), up) for p, z, dual, up in slots]
            self._dual = tuple(dual for _, _, dual, _ in slots)
        self.sentences = project_all(
            [
                p - self.step * (dual + self.penalty * (p - z) + self.pull * np.sign(p - z) - up)
                for p, z, dual, up in slots
            ],
            self.floor,
        )

    def _outside(self, gradient: Distributions) -> None:
        self._outer = tuple(before + up for before, up in zip(self._outer, gradient, strict=True))
        if self.rounds % self.inner:
            return
        self.demonstrations = project_all(
            [q + self.outer_step * up for q, up in zip(self.demonstrations, self._outer, strict=True)], self.floor
        )
        self._outer = tuple(np.zeros_like(q) for q in self.demonstrations)

"""Cutting planes: the consensus is held to the inner estimate by linear constraints (arXiv 2602.17694, eqs 28-33)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from selfroute.tuning.base import Distributions, Floats

__all__ = ["Planes"]


@dataclass(slots=True, eq=False)
class _Plane:
    """⟨sub, z⟩ + offset ≤ 0, with its dual."""

    sub: Floats
    offset: float
    dual: float = 0.0


class Planes:
    """The constraint h(z) = ‖z - φ‖₁ ≤ ε on the consensus z, where φ is the inner estimate, as planes that cut into it.

    Every `every` updates in which h > ε, the subgradient sign(z - φ) becomes a plane, with offset h - ⟨sub, z⟩ - ε (the
    printed one omits ε). The consensus goes down the planes by their duals, which go up where it lies above them; a
    plane whose dual stays at most `least` is dropped.

    Args:
        tolerance: ε.
        every: δ.
        step: of the consensus.
        dual_step: of the duals.
        least: γ.
        most: planes kept at once; the oldest goes first.
    """

    def __init__(
        self,
        *,
        tolerance: float = 0.02,
        every: int = 2,
        step: float = 0.02,
        dual_step: float = 0.5,
        least: float = 1e-3,
        most: int = 16,
    ) -> None:
        self.tolerance, self.every, self.step, self.dual_step = tolerance, every, step, dual_step
        self.least, self.most = least, most
        self.updates = 0
        self._planes: list[_Plane] = []
        self._point: Floats | None = None

    def __len__(self) -> int:
        return len(self._planes)

    def moved(self, estimate: Distributions) -> list[Floats]:
        """The consensus after one step towards what the planes allow, not projected."""
        phi = np.concatenate(estimate)
        point = phi if self._point is None else self._point
        self._cut(point, phi)
        self.updates += 1
        for plane in self._planes:
            point = point - self.step * plane.dual * plane.sub
        for plane in self._planes:
            plane.dual = max(0.0, plane.dual + self.dual_step * (float(plane.sub @ point) + plane.offset))
        self._planes = [plane for plane in self._planes if plane.dual > self.least]
        self._point = point
        return np.split(point, np.cumsum([len(one) for one in estimate])[:-1])

    def state(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "updates": self.updates,
            "point": None if self._point is None else self._point.tolist(),
            "planes": [[plane.sub.tolist(), plane.offset, plane.dual] for plane in self._planes],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.updates = int(state["updates"])
        self._point = None if state["point"] is None else np.array(state["point"])
        self._planes = [_Plane(np.array(sub), float(offset), float(dual)) for sub, offset, dual in state["planes"]]

    def _cut(self, point: Floats, phi: Floats) -> None:
        distance = float(np.abs(point - phi).sum())
        if self.updates % self.every or distance <= self.tolerance:
            return
        sub = np.sign(point - phi)
        self._planes = [*self._planes, _Plane(sub, distance - float(sub @ point) - self.tolerance)][-self.most :]

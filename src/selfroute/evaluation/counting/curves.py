"""What the figures show: accuracy against call share, and along the axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from selfroute.evaluation.counting import metrics
from selfroute.evaluation.counting.axes import Chart
from selfroute.evaluation.counting.entries import GRID, View
from selfroute.evaluation.counting.metrics import Floats
from selfroute.evaluation.counting.resampling import Resampled
from selfroute.evaluation.counting.split import Split

__all__ = ["Curves", "Line", "curves_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """Accuracy against call share for one strategy; arrays over `Curves.shares`, with a 95 % band.

    Attributes:
        usd_per_1000: cost of 1,000 requests at each share; None if the records or the prices do not tell.
    """

    name: str
    fixed: bool
    accuracy: Floats
    low: Floats
    high: Floats
    raw_share: float
    raw_accuracy: float
    usd_per_1000: Floats | None = None
    raw_usd_per_1000: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """What the figures show; the lines of chance and of the oracle belong to the reference device.

    Attributes:
        lines: of the strategies that are compared at a share, and of the fixed ones.
        tied: at each share, the strategies that a paired 95 % interval does not tell apart from the best one.
        charts: one for each axis that was asked for.
    """

    shares: Floats
    lines: list[Line]
    random: Floats
    oracle: Floats
    device: float
    cloud: float
    tied: list[tuple[str, ...]]
    charts: list[Chart] = field(default_factory=list)


def curves_of(views: Sequence[View], drawn: Resampled, reference: Split, charts: list[Chart]) -> Curves:
    """What the figures show of counted strategies."""
    device, cloud = float(reference.device.mean()), float(reference.cloud.mean())
    oracle = [float(metrics.oracle_accuracy(reference.device, reference.cloud, share)) for share in GRID]
    lines = {
        number: _line(number, view, drawn)
        for number, view in enumerate(views)
        if view.split.matched or view.split.fixed
    }
    chance = metrics.random_accuracy(device, cloud, GRID)
    return Curves(GRID, [*lines.values()], chance, np.array(oracle), device, cloud, _tied(lines, drawn), charts=charts)


def _tied(lines: Mapping[int, Line], drawn: Resampled) -> list[tuple[str, ...]]:
    moving = [number for number, line in lines.items() if not line.fixed]
    if not moving:
        return [()] * len(GRID)
    best = [max(moving, key=lambda number: lines[number].accuracy[at]) for at in range(len(GRID))]
    samples = {number: drawn.values[number, "curve"] for number in moving}
    top = np.stack([samples[number][:, at] for at, number in enumerate(best)], -1)
    near = {number: np.quantile(top - samples[number], 0.025, axis=0) <= 0 for number in moving}
    return [
        tuple(lines[number].name for number in moving if number != best[at] and near[number][at])
        for at in range(len(GRID))
    ]


def _line(number: int, view: View, drawn: Resampled) -> Line:
    split = view.split
    low, high = np.quantile(drawn.values[number, "curve"], [0.025, 0.975], axis=0)
    usd = view.usd_at(GRID)
    return Line(
        split.name,
        split.fixed,
        view.curve,
        low,
        high,
        raw_share=float(split.wants.mean()),
        raw_accuracy=float(np.where(split.wants, split.cloud, split.device).mean()),
        usd_per_1000=usd,
        raw_usd_per_1000=None if usd is None else float(view.means["usd_per_1000"].mean()),
    )

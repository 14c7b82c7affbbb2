"""Which strategies a figure shows, in which colours, and over which range."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from selfroute.evaluation.counting.curves import Curves

__all__ = ["COLOURS", "has_costs", "leader", "range_of", "shown"]

# Okabe and Ito's palette, which the common kinds of colour blindness can tell apart; marks and dashes differ as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#7F7F7F")


def shown(drawn: Curves, share: float) -> Curves:
    """The lines that a reader can tell apart: the fixed strategies and the best at the share, eight at most."""
    if len(drawn.lines) <= len(COLOURS):
        return drawn
    at = int(np.argmin(np.abs(drawn.shares - share)))
    by_rank = sorted(drawn.lines, key=lambda line: (not line.fixed, -line.accuracy[at]))
    kept = {line.name for line in by_rank[: len(COLOURS)]}
    return replace(drawn, lines=[line for line in drawn.lines if line.name in kept])


def has_costs(drawn: Curves) -> bool:
    return any(line.usd_per_1000 is not None and line.usd_per_1000.max() > 0 for line in drawn.lines)


def leader(drawn: Curves, share: float) -> int | None:
    """Number of the line that is highest at a share, None if every strategy is fixed; it is drawn solid."""
    at = int(np.argmin(np.abs(drawn.shares - share)))
    moving = [number for number, line in enumerate(drawn.lines) if not line.fixed]
    return max(moving, key=lambda number: drawn.lines[number].accuracy[at], default=None)


def range_of(drawn: Curves) -> tuple[float, float]:
    """Accuracies to show: all lines, points and bands, out to the next 5 per cent."""
    curves = [drawn.random, drawn.oracle, *(np.r_[line.low, line.high] for line in drawn.lines if not line.fixed)]
    marks = [line.raw_accuracy for line in drawn.lines]
    low = min(*(float(np.nanmin(values)) for values in curves), *marks)
    high = max(*(float(np.nanmax(values)) for values in curves), *marks)
    return max(0.0, np.floor(20 * low - 0.2) / 20), min(1.0, np.ceil(20 * high + 0.2) / 20)

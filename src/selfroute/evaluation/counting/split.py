"""One strategy's records as arrays on the prompts that all strategies share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from selfroute.errors import ConfigError
from selfroute.evaluation.counting import metrics
from selfroute.evaluation.counting.columns import Columns
from selfroute.evaluation.counting.metrics import Bools, Floats, Ints

__all__ = ["Shared", "Split", "reference_of", "splits_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Who decided what, and who would have been right; arrays of shape (n,), in the order of the row ids.

    Attributes:
        wants, score, device, cloud: as the fields of a record.
        order: prompt numbers, the one that wants the cloud most first.
        numbers: the other numbers of the records by name, NaN for null.
        errors: records in which something failed, those of left-out prompts too.
    """

    name: str
    wants: Bools
    score: Floats
    device: Bools
    cloud: Bools
    order: Ints
    numbers: Mapping[str, Floats]
    errors: int

    def __len__(self) -> int:
        return len(self.wants)

    @property
    def fixed(self) -> bool:
        """Whether it treats every prompt alike: always the device, or always the cloud."""
        return bool(np.isnan(self.score).all() and (self.wants.all() or not self.wants.any()))

    @property
    def filled(self) -> Floats:
        """The score, and where there is none, ±∞ by the decision."""
        return metrics.filled_score(self.wants, self.score)

    def sent(self, calls: int) -> Bools:
        """Who goes to the cloud if exactly so many may."""
        chosen = np.zeros(len(self), dtype=bool)
        chosen[self.order[:calls]] = True
        return chosen


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """All strategies on the prompts that they share: their ids in order, and how many prompts are left out."""

    splits: list[Split]
    ids: tuple[str, ...]
    excluded: int


def splits_of(columns: Columns, *, seed: int, where: str = "") -> Shared:
    """Every strategy on the prompts that each of them answered and that are graded on both sides.

    Args:
        seed: breaks ties of scores.
        where: the file, for messages.

    Raises:
        ConfigError: strategies were run on different rows, or no prompt is left.
    """
    place = columns.places()
    prefix = f"{where}: " if where else ""
    _check_same_rows(columns, place, prefix)
    graded = (columns.bits["device_correct"] >= 0) & (columns.bits["cloud_correct"] >= 0)
    usable = graded[place]
    shared = usable.all(0) if len(usable) else np.zeros(0, dtype=bool)
    if not shared.any():
        empty = [name for name, known in zip(columns.strategies, usable, strict=True) if not known.any()]
        blame = f"; strategy '{empty[0]}' has none: see `error` in its records" if empty else ""
        raise ConfigError(
            f"{prefix}none of {len(columns.ids)} prompts was answered and graded on both sides by every strategy{blame}"
        )
    by_id = sorted(np.flatnonzero(shared).tolist(), key=columns.ids.__getitem__)
    made = [
        _split(columns, name, place[number, by_id], seed=seed, errors=int(columns.failed[place[number]].sum()))
        for number, name in enumerate(columns.strategies)
    ]
    return Shared(made, tuple(columns.ids[i] for i in by_id), len(columns.ids) - len(by_id))


def reference_of(splits: Sequence[Split]) -> Split:
    """The strategy whose device stands for all: the first that never asks the cloud, else the first one."""
    return next((s for s in splits if s.fixed and not s.wants.any()), splits[0])


def _check_same_rows(columns: Columns, place: Ints, prefix: str) -> None:
    gaps = np.argwhere(place < 0)
    if not len(gaps):
        return
    strategy, row = (int(value) for value in gaps[0])
    other = next(name for name, there in zip(columns.strategies, place[:, row], strict=True) if there >= 0)
    raise ConfigError(
        f"{prefix}strategy '{columns.strategies[strategy]}' has no record of row '{columns.ids[row]}', which '{other}' "
        f"has ({len(gaps)} such gaps); compare strategies on the same rows: evaluate them in one run"
    )


def _split(columns: Columns, name: str, at: Ints, *, seed: int, errors: int) -> Split:
    wants, score = columns.wants[at], columns.numbers["score"][at]
    return Split(
        name,
        wants,
        score,
        device=columns.bits["device_correct"][at] == 1,
        cloud=columns.bits["cloud_correct"][at] == 1,
        order=metrics.send_order(metrics.filled_score(wants, score), seed=seed),
        numbers={key: values[at] for key, values in columns.numbers.items() if key != "score"},
        errors=errors,
    )

"""One setting's records as arrays on the prompts that all strategies share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from selfroute.errors import ConfigError
from selfroute.evaluation.counting import metrics
from selfroute.evaluation.counting.columns import Columns
from selfroute.evaluation.counting.metrics import Bools, Floats, Ints
from selfroute.evaluation.records import Setting

__all__ = ["Shared", "Split", "caller_of", "reference_of", "splits_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Who decided what, and what would have come of it; arrays of shape (n,), in the order of the row ids.

    Attributes:
        point: where the strategy's knob stood, None without one.
        wants, score: as the fields of a record.
        device, cloud: quality of what each side gives, in [0, 1].
        served: quality of what the strategy gave; NaN where it is not known.
        order: prompt numbers, the one that wants the cloud most first.
        numbers: the other numbers of the records by name, NaN for null; see `amount`.
        errors: records in which something failed, those of left-out prompts too.
        joint: whether both sides may write one answer.
        oracle: whether the strategy decides by what nobody can know in time.
    """

    name: str
    wants: Bools
    score: Floats
    device: Floats
    cloud: Floats
    served: Floats
    order: Ints
    numbers: Mapping[str, Floats]
    errors: int
    point: float | None = None
    joint: bool = False
    oracle: bool = False

    def __len__(self) -> int:
        return len(self.wants)

    @property
    def label(self) -> str:
        """Name for a reader, with the point where there is one."""
        return self.name if self.point is None else f"{self.name} @ {self.point:g}"

    @property
    def fixed(self) -> bool:
        """Whether it treats every prompt alike: always the device, or always the cloud."""
        alike = np.isnan(self.score).all() and (self.wants.all() or not self.wants.any())
        return bool(alike) and not self.joint and self.point is None

    @property
    def matched(self) -> bool:
        """Whether it is compared at a call share: it chooses between prompts, and is no point of a knob."""
        return not (self.fixed or self.joint or self.point is not None)

    @property
    def as_run(self) -> Floats:
        """Quality of the answers as run, before shares are matched, with what failed on the way left aside."""
        return self.served if self.joint else np.where(self.wants, self.cloud, self.device)

    @property
    def device_solved(self) -> Bools:
        return np.asarray(self.device >= metrics.SOLVED)

    @property
    def cloud_solved(self) -> Bools:
        return np.asarray(self.cloud >= metrics.SOLVED)

    @property
    def filled(self) -> Floats:
        """The score, and where there is none, ±∞ by the decision."""
        return metrics.filled_score(self.wants, self.score)

    def amount(self, name: str) -> Floats:
        """A number of every record, 0 where no strategy has any."""
        return self.numbers[name] if name in self.numbers else np.zeros(len(self))

    def sent(self, calls: int) -> Bools:
        """Who goes to the cloud if exactly so many may."""
        chosen = np.zeros(len(self), dtype=bool)
        chosen[self.order[:calls]] = True
        return chosen


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """All settings of all strategies on the prompts that they share: ids in order, and how many are left out."""

    splits: list[Split]
    ids: tuple[str, ...]
    excluded: int


def splits_of(columns: Columns, *, seed: int, where: str = "") -> Shared:
    """Every strategy, at each of its points, on the prompts that all answered and that are graded on both sides.

    Args:
        seed: breaks ties of scores.
        where: the file, for messages.

    Raises:
        ConfigError: strategies were run on different rows, or no prompt is left.
    """
    place = columns.places()
    prefix = f"{where}: " if where else ""
    _check_same_rows(columns, place, prefix)
    served = ~np.isnan(columns.qualities["correct"])[place]
    # Where both may write one answer, what they wrote has to be graded on every row.
    usable = columns.graded[place] & (served | ~columns.joint[place].any(1, keepdims=True))
    shared = usable.all(0) if len(usable) else np.zeros(0, dtype=bool)
    if not shared.any():
        empty = [name for (name, _), known in zip(columns.settings, usable, strict=True) if not known.any()]
        blame = f"; strategy '{empty[0]}' has none: see `error` in its records" if empty else ""
        raise ConfigError(
            f"{prefix}none of {len(columns.ids)} prompts was answered and graded on both sides by every strategy{blame}"
        )
    by_id = sorted(np.flatnonzero(shared).tolist(), key=columns.ids.__getitem__)
    made = [
        _split(columns, setting, place[number, by_id], seed=seed, errors=int(columns.failed[place[number]].sum()))
        for number, setting in enumerate(columns.settings)
    ]
    return Shared(made, tuple(columns.ids[i] for i in by_id), len(columns.ids) - len(by_id))


def reference_of(splits: Sequence[Split]) -> Split:
    """The strategy whose device stands for all: the first that never asks the cloud, else the first one."""
    return next((s for s in splits if s.fixed and not s.wants.any()), splits[0])


def caller_of(splits: Sequence[Split]) -> Split:
    """The strategy whose calls stand for the cloud alone: the first that always asks it, else the reference."""
    return next((s for s in splits if s.fixed and s.wants.all()), reference_of(splits))


def _check_same_rows(columns: Columns, place: Ints, prefix: str) -> None:
    gaps = np.argwhere(place < 0)
    if not len(gaps):
        return
    setting, row = (int(value) for value in gaps[0])
    other = next(name for (name, _), there in zip(columns.settings, place[:, row], strict=True) if there >= 0)
    name, point = columns.settings[setting]
    at = "" if point is None else f" at point {point:g}"
    raise ConfigError(
        f"{prefix}strategy '{name}'{at} has no record of row '{columns.ids[row]}', which '{other}' "
        f"has ({len(gaps)} such gaps); compare strategies on the same rows: evaluate them in one run"
    )


def _split(columns: Columns, setting: Setting, at: Ints, *, seed: int, errors: int) -> Split:
    wants, score = columns.wants[at], columns.numbers["score"][at]
    device, cloud, served = (columns.qualities[name][at] for name in ("device_correct", "cloud_correct", "correct"))
    return Split(
        setting[0],
        wants,
        score,
        device=device,
        cloud=cloud,
        served=served,
        order=metrics.send_order(metrics.filled_score(wants, score), seed=seed),
        numbers={key: values[at] for key, values in columns.numbers.items() if key != "score"},
        errors=errors,
        point=setting[1],
        joint=bool(columns.joint[at].any()),
        oracle=bool(columns.oracle[at].any()),
    )

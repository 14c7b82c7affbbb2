"""Strategies against each other along resources: the part of the summary, and what its charts show."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from selfroute.errors import ConfigError
from selfroute.evaluation.counting import costs, work
from selfroute.evaluation.counting.frontier import (
    FRACTIONS,
    Path,
    at_budget,
    oracle_path,
    path_of_points,
    path_of_shares,
)
from selfroute.evaluation.counting.metrics import Floats, curve_of_counts
from selfroute.evaluation.counting.resampling import Counts, Resampled, Spending, percentiles
from selfroute.evaluation.counting.split import Split, caller_of, reference_of
from selfroute.evaluation.counting.work import Work
from selfroute.network.link import Network
from selfroute.prices import Prices

__all__ = ["AXES", "Along", "Axis", "Chart", "ChartLine", "check_axes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A resource of a request.

    Attributes:
        label: what a chart calls it, in the unit of `scale` times the resource.
        amount: what the work of each request takes of it, shape (n,).
    """

    label: str
    amount: Callable[[Work, Network, Prices], Floats]
    scale: float = 1.0


AXES: dict[str, Axis] = {
    "calls": Axis(
        label="call share: requests answered with the cloud, %",
        amount=lambda took, network, prices: (took.calls > 0).astype(np.float64),
        scale=100.0,
    ),
    "round_trips": Axis(
        label="calls to the cloud per request",
        amount=lambda took, network, prices: took.calls,
    ),
    "cloud_tokens": Axis(
        label="tokens that the cloud writes per request",
        amount=lambda took, network, prices: took.cloud_written,
    ),
    "cloud_prompt_tokens": Axis(
        label="tokens that the cloud reads per request",
        amount=lambda took, network, prices: took.cloud_read,
    ),
    "layer_tokens": Axis(
        label="tokens times layers of the cloud per request",
        amount=lambda took, network, prices: took.layers,
    ),
    "bytes": Axis(
        label="bytes to and from the cloud per request",
        amount=lambda took, network, prices: took.up + took.down,
    ),
    "seconds": Axis(
        label="seconds per request, by the stated network",
        amount=lambda took, network, prices: costs.latency_s(took, network),
    ),
    "usd": Axis(
        label="cost of 1,000 requests, $",
        amount=lambda took, network, prices: costs.usd(took, prices),
        scale=1000.0,
    ),
}


def check_axes(names: Iterable[str], *, priced: bool) -> None:
    """Refuse an axis that cannot be counted, before anything is.

    Raises:
        ConfigError: an unknown name, a name given twice, or `usd` without prices.
    """
    seen = set[str]()
    for name in names:
        if name not in AXES:
            near = difflib.get_close_matches(name, AXES, n=1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise ConfigError(f"axes: unknown axis '{name}'; {hint}known: {', '.join(AXES)}")
        if name in seen:
            raise ConfigError(f"axes: '{name}' occurs more than once; name each axis once")
        seen.add(name)
    if "usd" in seen and not priced:
        raise ConfigError("axes: 'usd' needs a price table; add prices: FILE (`selfroute recipes prices` shows one)")


# --- what is shown ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class ChartLine:
    """A strategy on a chart.

    Attributes:
        path: None where it has no line, only a mark.
        marks: as run, one for each point: its name, spent and accuracy.
        bands: 95 % interval of the accuracy at each of `Chart.budgets`, shape (fractions, 2); NaN where the budget is
            too small for it.
    """

    name: str
    path: Path | None
    marks: Sequence[tuple[str, float, float]]
    bands: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Chart:
    """Accuracy against one resource; `budgets` are NaN where the records do not tell.

    Attributes:
        name: of the axis.
        budgets: `Along.fractions` of what the cloud alone spends, per request.
        random, oracle: between the reference device and the cloud.
    """

    name: str
    lines: Sequence[ChartLine]
    budgets: Floats
    random: Path
    oracle: Path


_CORNERS = 200  # of a line that is drawn


# --- counting --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Along:
    """All strategies along one axis.

    Bootstrap samples are drawn once for everything: `means`, `spending` and `held` say what is wanted of each, and
    `section` and `chart` read it.

    Attributes:
        axis: a key of `AXES`.
        splits: all settings.
        fractions: of what asking the cloud alone spends: where strategies are compared.
    """

    axis: str
    splits: Sequence[Split]
    network: Network
    prices: Prices
    fractions: Sequence[float] = FRACTIONS

    @cached_property
    def reference(self) -> int:
        """The split whose device, and whose cloud, are the ends."""
        return self.splits.index(reference_of(self.splits))

    @cached_property
    def ends(self) -> tuple[Floats, Floats]:
        """The resource of each request on the reference device alone, and in the cloud alone."""
        alone = work.sent_alone(caller_of(self.splits), self.network)
        return self._amount(work.kept(self.splits[self.reference])), self._amount(alone)

    @cached_property
    def ran(self) -> Sequence[Floats]:
        """The resource of each request as run, by split."""
        return [self._amount(work.as_run(split, self.network)) for split in self.splits]

    @cached_property
    def lines(self) -> dict[str, list[int]]:
        """The splits of each strategy, by point."""
        found: dict[str, list[int]] = {split.name: [] for split in self.splits}
        for number in sorted(range(len(self.splits)), key=lambda number: self.splits[number].point or 0.0):
            found[self.splits[number].name].append(number)
        return found

    def _amount(self, took: Work) -> Floats:
        return AXES[self.axis].amount(took, self.network, self.prices)

    def _kept_and_sent(self, split: Split) -> tuple[Floats, Floats]:
        return self._amount(work.kept(split)), self._amount(work.sent(split, self.network))

    # --- of every sample ---

    @property
    def means(self) -> list[dict[str, Floats]]:
        """Values per prompt whose means are wanted, by split."""
        wanted: list[dict[str, Floats]] = [
            {} if split.matched or split.fixed else {f"spent.{self.axis}": ran, "as_run": split.as_run}
            for split, ran in zip(self.splits, self.ran, strict=True)
        ]
        for end, values in zip(("device", "cloud"), self.ends, strict=True):
            wanted[self.reference][f"{end}.{self.axis}"] = values
        return wanted

    @property
    def spending(self) -> list[dict[str, Spending]]:
        """For `Counts.spent`, by split; calls are counted without."""
        if self.axis == "calls":
            return [{} for _ in self.splits]
        return [
            {self.axis: (*self._kept_and_sent(split), self.ends[1])} if split.matched else {} for split in self.splits
        ]

    def held(self, counts: Counts) -> dict[str, Floats]:
        """Accuracy at each budget of a split that is compared at a share, shape (b, fractions)."""
        if self.axis not in counts.spent:
            return {}
        spent, whole = counts.spent[self.axis]
        _, accuracy = curve_of_counts(counts.prompts, counts.device, counts.cloud)
        return {f"held.{self.axis}": self._held_to((spent, accuracy), whole)}

    def _samples(self, numbers: Sequence[int], drawn: Resampled, shares: Floats) -> Floats | None:
        """Accuracy of a strategy at each budget, shape (b, fractions); None of one that has no path."""
        first = self.splits[numbers[0]]
        if not self._has_path(first):
            return None
        if not first.matched:
            spent, accuracy = (
                np.stack([drawn.values[number, name] for number in numbers], -1)
                for name in (f"spent.{self.axis}", "as_run")
            )
            device, cloud = self._sampled_ends(drawn)
            return self._held_to(path_of_points(spent, accuracy, device, cloud), cloud[0][:, 0])
        if self.axis == "calls":
            curve = drawn.values[numbers[0], "curve"]
            return self._held_to((np.broadcast_to(shares, curve.shape), curve), np.ones(len(curve)))
        return drawn.values[numbers[0], f"held.{self.axis}"]

    def _sampled_ends(self, drawn: Resampled) -> tuple[Path, Path]:
        device = drawn.values[self.reference, "forced_local_accuracy"]
        cloud = device + drawn.values[self.reference, "cloud_lead"]
        spent = [drawn.values[self.reference, f"{end}.{self.axis}"] for end in ("device", "cloud")]
        return (spent[0][:, None], device[:, None]), (spent[1][:, None], cloud[:, None])

    # --- results ---

    def section(self, drawn: Resampled, shares: Floats) -> dict[str, Any]:
        """The axis in the summary.

        Args:
            shares: where the samples' `curve` stands.
        """
        device, cloud = self._ends()
        whole = np.asarray(cloud[0][0] if cloud[0][0] > 0 else np.nan)  # none at all: nobody counted
        chance = self._held_to(_joined(device, cloud), whole)
        made = {name: self._line(name, numbers, chance) for name, numbers in self.lines.items()}
        self._add_intervals(made, drawn, shares)
        return {
            "axis": self.axis,
            "fractions": [*self.fractions],
            "device_spent": _number(device[0][0]),
            "device_accuracy": float(device[1][0]),
            "cloud_spent": _number(float(whole)),
            "cloud_accuracy": float(cloud[1][0]),
            "random_accuracy": _numbers(chance),
            "oracle_accuracy": _numbers(self._held_to(self._oracle(), whole)),
            "lines": [*made.values()],
        }

    def chart(self, section: Mapping[str, Any]) -> Chart:
        """The same for a figure."""
        device, cloud = self._ends()
        lines = [
            ChartLine(
                line["name"],
                None if (path := self._path(self.lines[line["name"]])) is None else _thinned(path),
                [
                    (_point_name(found["point"]), found["spent"], found["accuracy"])
                    for found in line["points"]
                    if found["spent"] is not None
                ],
                np.array([band or (np.nan, np.nan) for band in line["ci95"]], dtype=np.float64),
            )
            for line in section["lines"]
        ]
        whole = np.nan if section["cloud_spent"] is None else cloud[0][0]
        budgets = np.array([part * whole for part in self.fractions])
        oracle = _thinned(self._oracle())
        rest = np.array([max(oracle[0][-1], cloud[0][0])]), oracle[1][-1:]  # it may spend less than all
        return Chart(self.axis, lines, budgets, _joined(device, cloud), _joined(oracle, rest))

    def _line(self, name: str, numbers: Sequence[int], chance: Floats) -> dict[str, Any]:
        path, whole = self._path(numbers), float(self.ends[1].mean())
        accuracy = np.full(len(self.fractions), np.nan) if path is None else self._held_to(path, np.array(whole))
        points = [
            {
                "point": self.splits[number].point,
                "spent": _number(self.ran[number].mean()),
                "accuracy": float(self.splits[number].as_run.mean()),
            }
            for number in numbers
        ]
        return {
            "name": name,
            "oracle": self.splits[numbers[0]].oracle,
            "points": points,
            "accuracy": _numbers(accuracy),
            "over_random": _numbers(accuracy - chance),
        }

    def _add_intervals(self, made: Mapping[str, dict[str, Any]], drawn: Resampled, shares: Floats) -> None:
        device, cloud = self._sampled_ends(drawn)
        chance = self._held_to(_joined(device, cloud), cloud[0][:, 0])
        samples = {name: self._samples(numbers, drawn, shares) for name, numbers in self.lines.items()}
        best = [_best(made.values(), at) for at in range(len(self.fractions))]
        for name, line in made.items():
            found = samples[name]
            if found is None:
                line |= dict.fromkeys(("ci95", "over_random_ci95", "near_best"), [None] * len(self.fractions))
                continue
            line["ci95"] = _bands(found, line["accuracy"])
            line["over_random_ci95"] = _bands(found - chance, line["accuracy"])
            line["near_best"] = [
                None if value is None or best[at] is None else _is_near(samples[str(best[at])], found, at)
                for at, value in enumerate(line["accuracy"])
            ]

    def _path(self, numbers: Sequence[int]) -> Path | None:
        """What a strategy can be set to; None without a path."""
        first = self.splits[numbers[0]]
        if not self._has_path(first):
            return None
        if first.matched:
            return path_of_shares(*self._kept_and_sent(first), first.device, first.cloud, first.order)
        spent = np.array([self.ran[number].mean() for number in numbers])
        accuracy = np.array([self.splits[number].as_run.mean() for number in numbers])
        return path_of_points(spent, accuracy, *self._ends())

    def _has_path(self, split: Split) -> bool:
        """Whether it chooses between prompts or points, and it is known what its choices take."""
        if split.fixed:
            return False
        return not split.matched or all(bool(np.isfinite(each).all()) for each in self._kept_and_sent(split))

    def _held_to(self, path: Path, whole: Floats) -> Floats:
        """Accuracy of a path at each fraction of a spending, shape (…, fractions); NaN where nothing is spent."""
        whole = np.where(whole > 0, whole, np.nan)
        return np.stack([at_budget(path, fraction * whole) for fraction in self.fractions], -1)

    def _ends(self) -> tuple[Path, Path]:
        reference = self.splits[self.reference]
        device, cloud = self.ends
        return (
            (np.array([device.mean()]), np.array([reference.device.mean()])),
            (np.array([cloud.mean()]), np.array([reference.cloud.mean()])),
        )

    def _oracle(self) -> Path:
        reference = self.splits[self.reference]
        return oracle_path(*self.ends, reference.device, reference.cloud)


def _joined(*paths: Path) -> Path:
    return np.concatenate([path[0] for path in paths], -1), np.concatenate([path[1] for path in paths], -1)


def _thinned(path: Path) -> Path:
    """At most `_CORNERS` corners, evenly chosen, the ends among them."""
    last = len(path[0]) - 1
    chosen = np.unique(np.linspace(0, last, min(last + 1, _CORNERS)).astype(np.int64))
    return path[0][chosen], path[1][chosen]


def _best(lines: Iterable[Mapping[str, Any]], at: int) -> str | None:
    known = [line for line in lines if line["accuracy"][at] is not None and not line["oracle"]]
    return max(known, key=lambda line: float(line["accuracy"][at]))["name"] if known else None


def _is_near(top: Floats | None, found: Floats, at: int) -> bool:
    """Whether a paired 95 % interval does not tell a strategy apart from the best one."""
    assert top is not None
    return percentiles(top[:, at] - found[:, at])[0] <= 0


def _bands(samples: Floats, known: Sequence[float | None]) -> list[list[float] | None]:
    """95 % interval at each budget; None where there is no value."""
    found = [percentiles(samples[:, at]) for at in range(samples.shape[1])]
    return [
        None if value is None or not np.isfinite(band).all() else [*band]
        for value, band in zip(known, found, strict=True)
    ]


def _point_name(point: float | None) -> str:
    return "as run" if point is None else f"at {point:g}"


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _numbers(values: Floats) -> list[float | None]:
    return [_number(value) for value in values]

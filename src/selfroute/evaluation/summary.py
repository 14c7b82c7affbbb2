"""From records to numbers: the summary, and the curves that the figures show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from selfroute.errors import ConfigError
from selfroute.evaluation import metrics
from selfroute.evaluation.metrics import Bools, Floats, Ints
from selfroute.evaluation.records import Record

__all__ = ["Curves", "Line", "curves", "summarise"]

_GRID = np.linspace(0, 1, 51)
_BAND_RESAMPLES = 200


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    """One strategy's records as arrays of shape (n,), in the order of the row ids."""

    name: str
    records: Sequence[Record]
    wants: Bools
    score: Floats
    device: Bools
    cloud: Bools
    order: Ints

    @property
    def fixed(self) -> bool:
        """Whether it treats every prompt alike: always the device, or always the cloud."""
        return bool(np.isnan(self.score).all() and (self.wants.all() or not self.wants.any()))


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """Accuracy against call share for one strategy; arrays over `Curves.shares`, with a 95 % band."""

    name: str
    fixed: bool
    accuracy: Floats
    low: Floats
    high: Floats
    raw_share: float
    raw_accuracy: float


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """What the figure shows; the lines of chance and of the oracle belong to the reference device."""

    shares: Floats
    lines: list[Line]
    random: Floats
    oracle: Floats
    device: float
    cloud: float


def summarise(
    records: Iterable[Record], *, share: float, seed: int, task: str = "", resamples: int = 1000
) -> dict[str, Any]:
    """Every number of an evaluation, from its records alone.

    All strategies are compared on the same prompts: those that each of them answered and that could be graded on
    both sides. `n_excluded` counts the others. Token counts and costs are totals over these prompts, as run, before
    shares are matched. The device of `device_accuracy` and the oracle line is that of the first strategy that never
    asks the cloud, else of the first one; APGR and `oracle_gain` of a strategy refer to its own device.

    Args:
        share: the call share at which strategies are compared.
        seed: breaks ties of scores and draws the bootstrap samples.
        resamples: bootstrap samples over prompts.

    Raises:
        ConfigError: a share outside [0, 1], or no prompt that could be graded for every strategy.
    """
    by_strategy = _grouped(records)
    columns, excluded = _columns(by_strategy, seed=seed)
    n = len(columns[0].wants)
    at = metrics.calls_at(share, n) / n
    refusals = [metrics.apgr_refusal(c.device, c.cloud, resamples=resamples, seed=seed) for c in columns]
    samples = metrics.intervals(
        lambda weights: {
            f"{i}.{name}": values for i, c in enumerate(columns) for name, values in _statistics(c, at, weights).items()
        },
        n,
        resamples=resamples,
        seed=seed,
    )
    entries = []
    for i, (column, refusal) in enumerate(zip(columns, refusals, strict=True)):
        bands = {key.split(".", 1)[1]: band for key, band in samples.items() if key.startswith(f"{i}.")}
        entries.append(_entry(column, at, refusal, bands, errors=_errors(by_strategy[column.name])))
    reference = _reference(columns)
    return {
        "task": task,
        "n": n,
        "n_excluded": excluded,
        "call_share_target": share,
        "seed": seed,
        "resamples": resamples,
        "reference": reference.name,
        "device_accuracy": float(reference.device.mean()),
        "cloud_accuracy": float(reference.cloud.mean()),
        "either_accuracy": float((reference.device | reference.cloud).mean()),
        "random_accuracy": float(metrics.random_accuracy(reference.device.mean(), reference.cloud.mean(), at)),
        "oracle_accuracy": float(metrics.oracle_accuracy(reference.device, reference.cloud, at)),
        "strategies": entries,
        "comparisons": _comparisons(columns, entries, at, resamples=resamples, seed=seed),
    }


def curves(records: Iterable[Record], *, seed: int) -> Curves:
    """The curve of every strategy, with a pointwise 95 % band.

    Raises:
        ConfigError: no prompt could be graded for every strategy.
    """
    columns, _ = _columns(_grouped(records), seed=seed)
    reference = _reference(columns)
    device, cloud = float(reference.device.mean()), float(reference.cloud.mean())
    oracle = [float(metrics.oracle_accuracy(reference.device, reference.cloud, share)) for share in _GRID]
    lines = [_line(column, seed=seed) for column in columns]
    return Curves(_GRID, lines, metrics.random_accuracy(device, cloud, _GRID), np.array(oracle), device, cloud)


# --- records to arrays -----------------------------------------------------------------------------------------


def _grouped(records: Iterable[Record]) -> dict[str, dict[str, Record]]:
    grouped: dict[str, dict[str, Record]] = {}
    for record in records:
        grouped.setdefault(record.strategy, {})[record.id] = record
    return grouped


def _columns(by_strategy: Mapping[str, Mapping[str, Record]], *, seed: int) -> tuple[list[_Columns], int]:
    """Arrays on the prompts that all strategies share, and how many prompts are left out."""
    seen = {id for records in by_strategy.values() for id in records}
    graded = [{id for id, r in records.items() if _is_graded(r)} for records in by_strategy.values()]
    ids = sorted(set.intersection(*graded)) if graded else []
    if not ids:
        empty = [name for name, known in zip(by_strategy, graded, strict=True) if not known]
        blame = f"; strategy '{empty[0]}' has none: see `error` in its records" if empty else ""
        raise ConfigError(f"none of {len(seen)} prompts was answered and graded on both sides by every strategy{blame}")
    made = [_column(name, [records[id] for id in ids], seed=seed) for name, records in by_strategy.items()]
    return made, len(seen) - len(ids)


def _is_graded(record: Record) -> bool:
    return record.device_correct is not None and record.cloud_correct is not None


def _column(name: str, records: Sequence[Record], *, seed: int) -> _Columns:
    wants = np.array([r.wants_cloud for r in records], dtype=bool)
    score = np.array([np.nan if r.score is None else r.score for r in records], dtype=np.float64)
    return _Columns(
        name,
        records,
        wants,
        score,
        device=np.array([r.device_correct for r in records], dtype=bool),
        cloud=np.array([r.cloud_correct for r in records], dtype=bool),
        order=metrics.send_order(metrics.filled_score(wants, score), seed=seed),
    )


def _reference(columns: Sequence[_Columns]) -> _Columns:
    return next((c for c in columns if c.fixed and not c.wants.any()), columns[0])


def _errors(records: Mapping[str, Record]) -> int:
    return sum(r.error is not None for r in records.values())


# --- arrays to numbers -----------------------------------------------------------------------------------------


def _statistics(c: _Columns, share: float, weights: npt.NDArray[Any]) -> dict[str, Floats]:
    """Every statistic with an interval, for weights of shape (b, n); `share` is a ratio of whole calls."""
    curve = metrics.call_curve(c.device, c.cloud, c.order, weights)
    refusing = metrics.call_curve(c.device & ~c.wants, c.cloud, c.order, weights)
    overall = metrics.accuracy_at(*curve, share)
    device, cloud = metrics.weighted_mean(c.device, weights), metrics.weighted_mean(c.cloud, weights)
    chance = metrics.random_accuracy(device, cloud, share)
    return {
        "raw_call_share": metrics.weighted_mean(c.wants, weights),
        "raw_overall_accuracy": metrics.weighted_mean(np.where(c.wants, c.cloud, c.device), weights),
        "overall_accuracy": overall,
        "overall_accuracy_excess_wrong": metrics.accuracy_at(*refusing, share),
        "local_accuracy": metrics.weighted_mean(c.device & ~c.wants, weights),
        "conditional_local_accuracy": metrics.weighted_mean(c.device, weights, among=~c.wants),
        "forced_local_accuracy": device,
        "apgr": metrics.apgr(*curve),
        "cpt50": metrics.cpt(*curve, 0.5),
        "cpt80": metrics.cpt(*curve, 0.8),
        "oracle_gain": metrics.oracle_gain(overall, chance, metrics.oracle_accuracy(c.device, c.cloud, share, weights)),
        "auroc": metrics.auroc(metrics.filled_score(c.wants, c.score), ~c.device, weights),
    }


_NEED_LEAD = ("apgr", "cpt50", "cpt80")


def _entry(
    c: _Columns, share: float, refusal: str | None, bands: Mapping[str, tuple[float, float]], *, errors: int
) -> dict[str, Any]:
    points = {name: _number(value[0]) for name, value in _statistics(c, share, np.ones((1, len(c.wants)))).items()}
    ci95 = {name: None if points[name] is None else [_number(end) for end in band] for name, band in bands.items()}
    if refusal is not None:
        points |= dict.fromkeys(_NEED_LEAD)
        ci95 |= dict.fromkeys(_NEED_LEAD)
    return {
        "name": c.name,
        "fixed": c.fixed,
        "matched_by": "random" if np.isnan(c.score).all() else "score",
        "call_share": share,
        **points,
        "apgr_refused": refusal,
        "usd": sum(r.usd for r in c.records),
        "seconds": sum(r.seconds for r in c.records),
        "device_tokens": sum(r.device_tokens for r in c.records),
        "cloud_tokens": sum(r.cloud_tokens for r in c.records),
        "errors": errors,
        "ci95": ci95,
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _comparisons(
    columns: Sequence[_Columns], entries: Sequence[Mapping[str, Any]], share: float, *, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """The best strategy at the share against each other one, paired by prompt; fixed strategies stay out."""
    ranked = sorted((e["overall_accuracy"], -i) for i, e in enumerate(entries) if not e["fixed"])
    if len(ranked) < 2:
        return []
    best, others = -ranked[-1][1], [-i for _, i in reversed(ranked[:-1])]

    def differences(weights: npt.NDArray[Any]) -> dict[str, Floats]:
        accuracy = {i: _overall(columns[i], share, weights) for i in (best, *others)}
        return {str(i): accuracy[best] - accuracy[i] for i in others}

    point = differences(np.ones((1, len(columns[0].wants))))
    bands = metrics.intervals(differences, len(columns[0].wants), resamples=resamples, seed=seed)
    return [
        {"a": columns[best].name, "b": columns[i].name, "difference": float(point[str(i)][0]), "ci95": [*bands[str(i)]]}
        for i in others
    ]


def _overall(c: _Columns, share: float, weights: npt.NDArray[Any]) -> Floats:
    return metrics.accuracy_at(*metrics.call_curve(c.device, c.cloud, c.order, weights), share)


def _line(c: _Columns, *, seed: int) -> Line:
    def at_grid(weights: npt.NDArray[Any]) -> dict[str, Floats]:
        curve = metrics.call_curve(c.device, c.cloud, c.order, weights)
        return {str(j): metrics.accuracy_at(*curve, share) for j, share in enumerate(_GRID)}

    n = len(c.wants)
    point = at_grid(np.ones((1, n)))
    bands = metrics.intervals(at_grid, n, resamples=_BAND_RESAMPLES, seed=seed)
    low, high = np.array([bands[str(j)] for j in range(len(_GRID))]).T
    return Line(
        c.name,
        c.fixed,
        np.array([point[str(j)][0] for j in range(len(_GRID))]),
        low,
        high,
        raw_share=float(c.wants.mean()),
        raw_accuracy=float(np.where(c.wants, c.cloud, c.device).mean()),
    )

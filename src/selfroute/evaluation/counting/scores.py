"""Scores to calibrate on: from the records of an evaluation, or from any log with one request a line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from selfroute.errors import ConfigError
from selfroute.evaluation.counting import costs, work
from selfroute.evaluation.counting.columns import read_columns
from selfroute.evaluation.counting.metrics import Floats
from selfroute.evaluation.counting.split import Split, splits_of
from selfroute.network.link import Network
from selfroute.prices import Prices

__all__ = ["Scores", "read_scores"]


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What one strategy wanted, arrays of shape (n,).

    Attributes:
        score: higher = send.
        kept_usd, sent_usd: cost of each request if kept and if sent; None where the file does not tell.
        skipped: requests without a score.
    """

    strategy: str
    score: Floats
    kept_usd: Floats | None
    sent_usd: Floats | None
    skipped: int


def read_scores(path: Path, *, strategy: str | None = None, prices: Prices | None = None) -> Scores:
    """The scores of a strategy in a file of records, or in a trace log.

    A trace log is JSON lines with `score` (null where a request had none), and where there are several, `strategy`.
    Its costs are averages, of `usd` over the requests that each `source` answered. Records tell what each request
    costs either way, at `prices`.

    Args:
        strategy: which one; needed if the file holds several.
        prices: for records.

    Raises:
        ConfigError: the file cannot be read, is neither, or holds no score of the strategy; names file, line and fix.
    """
    first = next(_lines(path), None)
    if first is None:
        raise ConfigError(f"'{path}' is empty; give records.jsonl of an evaluation, or a log of requests with scores")
    if "device_correct" in first[1]:
        return _of_records(path, strategy, prices)
    return _of_log(path, strategy)


def _of_records(path: Path, strategy: str | None, prices: Prices | None) -> Scores:
    columns = read_columns(path)
    splits = splits_of(columns, seed=0, where=str(path)).splits
    split = splits[_chosen(path, strategy, tuple(split.label for split in splits))]
    known = ~np.isnan(split.score)
    if not known.any():
        scored = [s.name for s in splits if not np.isnan(s.score).all()]
        raise ConfigError(f"{path}: strategy '{split.name}' has no scores; choose --strategy from: {_listed(scored)}")
    kept, sent = _usd(split, prices)
    return Scores(
        split.name,
        split.score[known],
        None if kept is None else kept[known],
        None if sent is None else sent[known],
        int((~known).sum()),
    )


def _usd(split: Split, prices: Prices | None) -> tuple[Floats | None, Floats | None]:
    """If kept, and if sent."""
    if prices is None or not work.is_known(split):
        return None, None
    return costs.usd(work.kept(split), prices), costs.usd(work.sent(split, Network()), prices)


def _of_log(path: Path, strategy: str | None) -> Scores:
    rows = [(line, _flat(values)) for line, values in _lines(path)]
    names = tuple(dict.fromkeys(str(values.get("strategy", "")) for _, values in rows))
    name = names[_chosen(path, strategy, names)]
    own = [(line, values) for line, values in rows if str(values.get("strategy", "")) == name]
    found = [score for line, values in own if (score := _score(path, line, values)) is not None]
    if not found:
        raise ConfigError(f"{path}: no request has a score; log the scores of a strategy that has one")
    kept, sent = (_mean_usd(own, side) for side in ("device", "cloud"))
    size = len(found)
    return Scores(
        name,
        np.array(found, dtype=np.float64),
        None if kept is None or sent is None else np.full(size, kept),
        None if kept is None or sent is None else np.full(size, sent),
        len(own) - size,
    )


def _chosen(path: Path, strategy: str | None, names: tuple[str, ...]) -> int:
    if strategy is None and len(names) == 1:
        return 0
    if strategy in names:
        return names.index(str(strategy))
    problem = "holds several strategies" if strategy is None else f"has no strategy '{strategy}'"
    raise ConfigError(f"'{path}' {problem}; choose one with --strategy: {_listed(names)}")


def _listed(names: object) -> str:
    return ", ".join(names) or "none" if isinstance(names, list | tuple) else str(names)


def _lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    values = json.loads(line)
                except json.JSONDecodeError:
                    raise ConfigError(f"{path}:{number} is no JSON; give JSON lines, one request each") from None
                if not isinstance(values, dict):
                    raise ConfigError(f"{path}:{number} is no JSON object; give one request a line")
                yield number, values
    except FileNotFoundError:
        raise ConfigError(f"there is no '{path}'; name the folder of an evaluation, or a file of JSON lines") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read '{path}': {error}; give a file of JSON lines") from None


def _flat(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The request itself, also where a log wraps it in `trace` or `selfroute`."""
    for key in ("trace", "selfroute"):
        if "score" not in values and isinstance(values.get(key), dict):
            return {**values, **values[key]}
    return values


def _score(path: Path, line: int, values: Mapping[str, Any]) -> float | None:
    if "score" not in values:
        raise ConfigError(f"{path}:{line} has no 'score'; give records.jsonl, or a log that holds scores")
    score = values["score"]
    if score is None:
        return None
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise ConfigError(f"{path}:{line}: score is {score!r}, not a finite number or null; mend or delete the line")
    return float(score)


def _mean_usd(rows: list[tuple[int, Mapping[str, Any]]], side: str) -> float | None:
    paid = [values.get("usd", values.get("cost_usd")) for _, values in rows if values.get("source") == side]
    known = [float(usd) for usd in paid if isinstance(usd, int | float) and math.isfinite(usd)]
    return float(np.mean(known)) if known else None

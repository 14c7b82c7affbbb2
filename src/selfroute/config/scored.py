"""Options of strategies with a score, from a recipe: the threshold, and the file of a score that was fitted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfroute.bounds import Count, Positive
from selfroute.config.entries import StrategyEntry, at
from selfroute.config.values import build
from selfroute.errors import ConfigError

__all__ = ["FittedOptions", "SampledOptions", "ScoreOptions", "strategy_options"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreOptions:
    """A score that is not fitted.

    Attributes:
        threshold: least score that goes to the cloud; `selfroute calibrate` finds it for a share or a cost.
    """

    threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedOptions:
    """A score that was fitted.

    Attributes:
        threshold: least score that goes to the cloud; `selfroute calibrate` finds it for a share or a cost.
        scorer: what the fitted score's `save` wrote.
    """

    threshold: float
    scorer: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledOptions:
    """A score of further answers.

    Attributes:
        threshold: least score that goes to the cloud; `selfroute calibrate` finds it for a share or a cost.
        samples: further answers of the device.
        temperature: of these.
    """

    threshold: float
    samples: Count = 5
    temperature: Positive = 0.7


def strategy_options(entry: StrategyEntry, options: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """What the factory of a strategy takes, checked against the dataclass of its options, a fitted score read from its
    file.

    Raises:
        ConfigError: an option is unknown, missing or wrong, or the file holds no such score.
    """
    assert entry.options is not None
    built = build(at(entry.options), options, where=where)
    values = {field.name: getattr(built, field.name) for field in dataclasses.fields(built)}
    if entry.fitted:
        values["score"] = _stored_score(entry, values.pop("scorer"), where)
    return values


def _stored_score(entry: StrategyEntry, path: Path, where: str) -> Any:
    score = at(entry.stored)(path)
    if score.reads_answers and entry.reads == "question":
        raise ConfigError(f"{where}: scorer: '{path}' judges the device's answer; use it with {score.kind}")
    return score

"""Options of strategies with a score, from a recipe: the threshold, and the file of a score that was fitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfroute.bounds import Count, Positive
from selfroute.config.names import LEARNED, SCORED
from selfroute.config.values import build
from selfroute.errors import ConfigError

__all__ = ["is_scored", "scored_options"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Score:
    threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _FittedScore(_Score):
    scorer: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class _SampledScore(_Score):
    samples: Count = 5
    temperature: Positive = 0.7


def is_scored(name: str) -> bool:
    """Whether a strategy sends what scores at or above a threshold."""
    return name in LEARNED or name in SCORED


def scored_options(name: str, options: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """What the factory of a scored strategy takes, fitted scores read from their files.

    Raises:
        ConfigError: an option is unknown, missing or wrong, or the file holds no such score.
    """
    if name in LEARNED:
        fitted = build(_FittedScore, options, where=where)
        return {"threshold": fitted.threshold, "score": _load(name, fitted.scorer, where)}
    if name == "self_consistency":
        sampled = build(_SampledScore, options, where=where)
        return {"threshold": sampled.threshold, "samples": sampled.samples, "temperature": sampled.temperature}
    return {"threshold": build(_Score, options, where=where).threshold}


def _load(name: str, path: Path, where: str) -> Any:
    if name == "encoder_router":
        from selfroute.train.fit.encoder import EncoderScorer

        return EncoderScorer.load(path)
    from selfroute.scores.scorers import Scorer

    scorer = Scorer.load(path)
    if scorer.reads_answers and LEARNED[name] == "question":
        raise ConfigError(f"{where}: scorer: '{path}' judges the device's answer; use it with {scorer.kind}")
    return scorer

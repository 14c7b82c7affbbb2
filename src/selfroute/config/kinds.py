"""Kinds of recipes, told apart by their keys: one given to the wrong command is named as what it is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from selfroute.config.comparing import CompareRecipe
from selfroute.config.placing import PlaceRecipe
from selfroute.config.recipes import EvaluateRecipe
from selfroute.config.serving import ServeRecipe
from selfroute.config.training import (
    AdaSwitchRecipe,
    ExitsRecipe,
    HeadRecipe,
    SplitPolicyRecipe,
    TrainRecipe,
    WarmupRecipe,
)
from selfroute.config.tuning import TuneRecipe
from selfroute.config.values import load_values
from selfroute.errors import ConfigError

__all__ = ["KINDS", "Kind", "Shape", "check_kind"]

_CLEARLY = 2  # fewer faults that another kind must have where it fits no better than with some


@dataclass(frozen=True, slots=True)
class Shape:
    """Keys that a kind knows, and those of them that it cannot do without."""

    known: frozenset[str]
    wanted: frozenset[str]

    def faults(self, values: Mapping[str, Any]) -> float:
        """Unknown keys, and twice the missing ones; infinite where most keys are unknown."""
        unknown = values.keys() - self.known
        return math.inf if 2 * len(unknown) > len(values) else len(unknown) + 2 * len(self.wanted - values.keys())


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of recipe.

    Attributes:
        name: with its article.
        command: that reads it; None for what only belongs to a recipe.
        shapes: it has one of these.
    """

    name: str
    command: str | None
    shapes: tuple[Shape, ...]

    def faults(self, values: Mapping[str, Any]) -> float:
        return min(shape.faults(values) for shape in self.shapes)


def _shape(options: type) -> Shape:
    fields = dataclasses.fields(options)
    bare = [f for f in fields if f.default is MISSING and f.default_factory is MISSING]
    return Shape(frozenset(f.name for f in fields), frozenset(f.name for f in bare))


KINDS = (
    Kind(
        "a training recipe",
        "train",
        tuple(map(_shape, (TrainRecipe, WarmupRecipe, HeadRecipe, AdaSwitchRecipe, ExitsRecipe, SplitPolicyRecipe))),
    ),
    Kind("an evaluation recipe", "evaluate", (_shape(EvaluateRecipe),)),
    Kind("a comparison", "compare", (_shape(CompareRecipe),)),
    Kind("a serving recipe", "serve", (_shape(ServeRecipe),)),
    Kind("a tuning recipe", "tune", (_shape(TuneRecipe),)),
    Kind("a placement recipe", "place", (_shape(PlaceRecipe),)),
    Kind("a price table", None, (Shape(frozenset({"as_of", "source", "models"}), frozenset({"as_of", "models"})),)),
)


def check_kind(path: Path | str, command: str) -> None:
    """See that a file holds a recipe of the command's kind, as far as its keys tell; faults in it are not looked for.

    Raises:
        ConfigError: it is of another kind, which is named with the command that reads it; or it cannot be read.
    """
    values = load_values(path)
    mine = next(kind for kind in KINDS if kind.command == command)
    mistakes = mine.faults(values)
    found = min(KINDS, key=lambda kind: (kind.faults(values), kind is not mine))
    others = found.faults(values)
    if found is mine or not mistakes or others == math.inf or (others and mistakes - others < _CLEARLY):
        return
    use = f"use `selfroute {found.command} {path}`" if found.command else "name it as `prices` of a recipe"
    raise ConfigError(f"{path}: this is {found.name}, not {mine.name}; {use}")

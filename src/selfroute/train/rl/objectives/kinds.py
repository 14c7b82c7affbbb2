"""The objectives by name: what makes them, and what an algorithm's own options say of them.

An algorithm or a recipe names one; nothing else asks which it is. Nothing heavy is imported before one is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

__all__ = ["OBJECTIVES", "ObjectiveKind"]

_HERE = "selfroute.train.rl.objectives"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveKind:
    """An objective that can be named.

    Attributes:
        place: module and name of what makes it; its keyword arguments are its options.
        example: how a recipe writes it.
        sums: whether TRL's loss has to be a plain sum under it.
        given: its arguments that come from the method's options, by the names of these.
    """

    place: str
    example: str = ""
    sums: bool = True
    given: Mapping[str, str] = field(default_factory=dict)

    def given_by(self, method: Any) -> dict[str, Any]:
        """What a method's options say of its arguments."""
        return {name: getattr(method, option) for name, option in self.given.items()}

    def make(self, method: Any) -> Any:
        """The objective as a method has it, other options at their defaults."""
        module, _, name = self.place.partition(":")
        return getattr(import_module(module), name)(**self.given_by(method))


OBJECTIVES: Mapping[str, ObjectiveKind] = {
    "group": ObjectiveKind(
        place=f"{_HERE}.group:Group", given={"forced": "forced_attempts", "weight": "forced_weight"}
    ),
    "trl": ObjectiveKind(place=f"{_HERE}.trl:TRLAdvantages", sums=False),
    "vargrad_tb": ObjectiveKind(place=f"{_HERE}.balance:VarGradTB", example="{vargrad_tb: {temperature: 0.25}}"),
    "tb": ObjectiveKind(place=f"{_HERE}.balance:TB", example="{tb: {z_rate: 0.1}}"),
    "flowrl": ObjectiveKind(place=f"{_HERE}.flow:FlowRL", example="{flowrl: {beta: 15}}"),
    "subtb": ObjectiveKind(place=f"{_HERE}.subtb:SubTB", example="{subtb: {prefix_reward: reference}}"),
    "tree": ObjectiveKind(place=f"{_HERE}.tree:TreeCredit", example="{tree: {credit: weighted}}"),
}

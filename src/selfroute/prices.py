"""What models cost."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from selfroute.errors import ConfigError
from selfroute.types import Usage

__all__ = ["Price", "Prices"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a model costs, in USD per million tokens.

    Raises:
        ConfigError: a price is negative or not a number.
    """

    prompt_usd: float = 0.0
    completion_usd: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{field.name}: {value} is not a price; give USD per million tokens, 0 or more")

    def cost_usd(self, usage: Usage) -> float:
        return (usage.prompt_tokens * self.prompt_usd + usage.completion_tokens * self.completion_usd) / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Prices of both sides."""

    device: Price = Price()
    cloud: Price = Price()

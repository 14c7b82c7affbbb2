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

    Attributes:
        prompt_usd, completion_usd: of a token read, and of one written.
        cached_prompt_usd: of a token read that the provider had in its cache; None is `prompt_usd`.
        reasoning_usd: of a token written that is not shown; None is `completion_usd`.

    Raises:
        ConfigError: a price is negative or not a number.
    """

    prompt_usd: float = 0.0
    completion_usd: float = 0.0
    cached_prompt_usd: float | None = None
    reasoning_usd: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{field.name}: {value} is not a price; give USD per million tokens, 0 or more")

    def cost_usd(self, usage: Usage) -> float:
        """Of what was used; cached and reasoning tokens at their own prices, where there are such."""
        cached = 0 if self.cached_prompt_usd is None else min(usage.cached_tokens, usage.prompt_tokens)
        thought = 0 if self.reasoning_usd is None else min(usage.reasoning_tokens, usage.completion_tokens)
        read = (usage.prompt_tokens - cached) * self.prompt_usd + cached * (self.cached_prompt_usd or 0.0)
        written = (usage.completion_tokens - thought) * self.completion_usd + thought * (self.reasoning_usd or 0.0)
        return (read + written) / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Prices of both sides."""

    device: Price = Price()
    cloud: Price = Price()

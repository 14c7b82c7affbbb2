"""The model and the links of a placement, as plain numbers: no library is needed to read a recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from selfroute.errors import ConfigError

__all__ = ["Link", "Mixture", "Unit", "check_number"]

Unit = Literal["hops", "seconds"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """The mixture-of-experts model that is placed.

    Attributes:
        layers: that have experts; the dense ones are not counted.
        experts: routed experts of each such layer. Shared experts are on every rank and cost no network.
        top_k: experts that a token visits in each such layer.
        dense: numbers of the hidden layers without experts, which engines' files count too.
        groups: of experts, among which DeepSeek's routers choose first.
        hidden_size: values of a token's hidden state, sent to an expert and back.
        bytes_per_value: of them on the wire.

    Raises:
        ConfigError: a count below 1, more chosen experts than there are, groups that do not divide, or dense layers
            that cannot be.
    """

    layers: int
    experts: int
    top_k: int = 8
    dense: tuple[int, ...] = ()
    groups: int = 1
    hidden_size: int = 4096
    bytes_per_value: float = 2.0

    def __post_init__(self) -> None:
        for name in ("layers", "experts", "top_k", "groups", "hidden_size", "bytes_per_value"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"model.{name}: {getattr(self, name)} must be above 0")
        if self.top_k > self.experts:
            raise ConfigError(
                f"model.top_k: {self.top_k} experts of a token are more than the {self.experts} there are"
            )
        if self.experts % self.groups:
            raise ConfigError(f"model.groups: {self.groups} do not divide {self.experts} experts")
        if len(set(self.dense)) < len(self.dense) or any(not 0 <= i < self.hidden_layers for i in self.dense):
            raise ConfigError(
                f"model.dense: {list(self.dense)} must be different hidden layers, from 0 to {self.hidden_layers - 1}"
            )

    @property
    def hidden_layers(self) -> int:
        return self.layers + len(self.dense)

    @property
    def mixture_rows(self) -> list[int]:
        """Numbers of the hidden layers that have experts."""
        return [i for i in range(self.hidden_layers) if i not in set(self.dense)]

    @property
    def bytes_per_token(self) -> float:
        return self.hidden_size * self.bytes_per_value


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What every link of a generated network can do.

    Attributes:
        latency_s: of one link; `inside_latency_s` between two ranks of one server.
        gbps: gigabits per second of one link; `inside_gbps` likewise.

    Raises:
        ConfigError: a latency below 0, or a bandwidth of 0 or less.
    """

    latency_s: float = 1e-6
    gbps: float = 400.0
    inside_latency_s: float = 1e-6
    inside_gbps: float = 3600.0

    def __post_init__(self) -> None:
        for name in ("latency_s", "inside_latency_s"):
            check_number(f"links.{name}", getattr(self, name), low=0.0)
        for name in ("gbps", "inside_gbps"):
            check_number(f"links.{name}", getattr(self, name), low=0.0, exclusive=True)


def check_number(name: str, value: Any, *, low: float, high: float = math.inf, exclusive: bool = False) -> None:
    """One number within its range; `high` itself is outside.

    Raises:
        ConfigError: names key and value.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or value < low or value >= high or (exclusive and value == low):
        upper = f" and below {high:g}" if high < math.inf else ""
        raise ConfigError(
            f"{name}: {value!r} must be a number {'above' if exclusive else 'of at least'} {low:g}{upper}"
        )

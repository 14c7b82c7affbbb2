"""What the fields of an options class may be, said in their types."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from selfroute.errors import ConfigError

__all__ = ["Bounds", "Choice", "Count", "NotNegative", "Positive", "Rate", "Share", "Whole", "check_fields", "suggest"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Range of a number; `low` and `high` themselves are outside if `exclusive`."""

    low: float
    high: float = float("inf")
    exclusive: bool = False
    hint: str = ""

    def check(self, name: str, value: float) -> None:
        """See that a number lies inside.

        Raises:
            ConfigError: it does not.
        """
        inside = self.low < value < self.high if self.exclusive else self.low <= value <= self.high
        if not inside:
            raise ConfigError(f"{name}: {value:g} is not {self}{self.hint}")

    def __str__(self) -> str:
        if self.high == float("inf"):
            return f"{'above' if self.exclusive else 'at least'} {self.low:g}"
        return f"between {self.low:g} and {self.high:g}" + (", both excluded" if self.exclusive else "")


@dataclass(frozen=True, slots=True)
class Choice:
    """Names of a table, asked for when one is checked: a table may grow."""

    names: Callable[[], Iterable[str]]

    def check(self, name: str, value: str) -> None:
        """See that a name is among them.

        Raises:
            ConfigError: it is not.
        """
        known = list(self.names())
        if value not in known:
            raise ConfigError(f"{name}: '{value}' is not one of {', '.join(known)}{suggest(value, known)}")

    def __str__(self) -> str:
        return ", ".join(f"`{name}`" for name in self.names())


def suggest(key: Any, known: Iterable[Any]) -> str:
    """`; did you mean 'x'?` with the nearest name, or nothing."""
    near = difflib.get_close_matches(str(key), [str(k) for k in known], n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


Share = Annotated[float, Bounds(0, 1, exclusive=True, hint="; 0.3 lets 30 % of the requests go to the cloud")]
Count = Annotated[int, Bounds(1)]
Whole = Annotated[int, Bounds(0)]
Positive = Annotated[float, Bounds(0, exclusive=True)]
NotNegative = Annotated[float, Bounds(0)]
Rate = Annotated[float, Bounds(0, 1)]


def check_fields(options: Any) -> None:
    """See that every field of a dataclass is within its bounds, and one of its choices.

    Raises:
        ConfigError: names the field, its value and what it may be.
    """
    hints = get_type_hints(type(options), include_extras=True)
    for field in dataclasses.fields(options):
        _check(getattr(options, field.name), hints[field.name], field.name)


def _check(value: Any, hint: Any, name: str) -> None:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal and value not in arguments:
        raise ConfigError(f"{name}: '{value}' is not one of {', '.join(map(str, arguments))}")
    if origin is Annotated:
        for bounds in arguments[1:]:
            bounds.check(name, value)
    elif origin is tuple and isinstance(value, Sequence):
        for index, item in enumerate(value):
            _check(item, arguments[0], f"{name}[{index}]")
    elif type(None) in arguments and value is not None:
        for argument in arguments:
            if argument is not type(None):
                _check(value, argument, name)

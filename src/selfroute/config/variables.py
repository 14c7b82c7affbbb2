"""`${NAME}` and `${NAME:-default}` in a recipe's values: filled from the environment when the recipe is read."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from selfroute.errors import ConfigError

__all__ = ["Filled", "fill", "is_filled"]

_MARK = re.compile(r"\$?\$\{([^{}]*)\}")
_INSIDE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


class Filled(str):
    """Text that came from the environment; where a number or a truth value is wanted, it is read as one."""


def fill(values: Any, where: str) -> Any:
    """Plain values with their variables filled in; keys stay as they are. `$${` stands for the characters `${`.

    An empty variable is as one that is not set, as in a shell's `:-`.

    Args:
        where: the key of the values, for messages.

    Raises:
        ConfigError: a variable is not set and has no default, or what stands in the braces is no name.
    """
    if isinstance(values, Mapping):
        return {key: fill(value, f"{where}.{key}") for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [fill(value, f"{where}[{index}]") for index, value in enumerate(values)]
    if isinstance(values, str) and "${" in values:
        return Filled(_MARK.sub(lambda mark: _value(mark, where), values))
    return values


def is_filled(value: Any) -> bool:
    """Whether any text in a value came from the environment."""
    if isinstance(value, Mapping):
        return any(map(is_filled, value.values()))
    return any(map(is_filled, value)) if isinstance(value, list | tuple) else isinstance(value, Filled)


def _value(mark: re.Match[str], where: str) -> str:
    if mark[0].startswith("$$"):
        return mark[0][1:]
    inside = _INSIDE.fullmatch(mark[1])
    if inside is None:
        raise ConfigError(f"{where}: '{mark[0]}' names no variable; write ${{NAME}}, or $${{ for the characters")
    name, default = inside.groups()
    value = os.environ.get(name) or default
    if value is None:
        raise ConfigError(f"{where}: {mark[0]} is not set; export {name}=…, or write ${{{name}:-default}}")
    return value

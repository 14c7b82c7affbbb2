"""Values as they are written on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from selfroute.config import Spec

__all__ = ["spec_of"]


def spec_of(text: str, where: str) -> Spec:
    """A name, `name:value`, or `{name: {option: value}}`, the braces left out or not.

    Raises:
        ConfigError: it is none of them.
    """
    from selfroute import config

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    return config.parse_spec(value, where)

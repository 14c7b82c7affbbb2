"""Which private values a text tells: the ones that a row of data names, however they are spelled.

A row of any task may hold two lists beside its question: `fields["needed"]`, the values without which nobody can
answer, and `fields["unneeded"]`, those that nobody but the device has to know.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from selfroute.errors import TaskError
from selfroute.privacy.table import Spellings

__all__ = ["Leakage", "Values", "leakage", "told"]

_NUMBER = re.compile(r"[\d\W_]{4,}")


@dataclass(frozen=True, slots=True)
class Values:
    """The private values of one row."""

    needed: tuple[str, ...] = ()
    unneeded: tuple[str, ...] = ()

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Values | None:
        """Those of a row's fields; None where it names none.

        Raises:
            TaskError: they are no lists of texts.
        """
        found = {name: fields[name] for name in ("needed", "unneeded") if name in fields}
        for name, values in found.items():
            if isinstance(values, str) or not all(isinstance(value, str) and value.strip() for value in values):
                raise TaskError(f"fields.{name}: {values!r} is no list of texts; give the private values of the row")
        return cls(**{name: tuple(values) for name, values in found.items()}) if found else None


@dataclass(frozen=True, slots=True)
class Leakage:
    """What a message tells of a row's values.

    Attributes:
        leaked: unneeded values that it tells, however they are spelled.
        verbatim: those of them that stand there letter by letter.
        lost: needed values that it does not tell.
    """

    leaked: int
    verbatim: int
    lost: int


def told(text: str, values: Iterable[str]) -> list[str]:
    """Those of the values that a text tells: in any case and width, numbers with any gaps."""
    shown = Spellings(text)
    return [value for value in values if shown.holds("phone" if _NUMBER.fullmatch(value) else "name", value)]


def leakage(message: str, values: Values) -> Leakage:
    """What a message tells of a row's values."""
    leaked = told(message, values.unneeded)
    return Leakage(
        leaked=len(leaked),
        verbatim=sum(value in message for value in leaked),
        lost=len(values.needed) - len(told(message, values.needed)),
    )

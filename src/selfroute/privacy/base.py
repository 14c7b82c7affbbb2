"""What a detector finds, and the kinds of values that are known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from selfroute.errors import ConfigError, PrivacyRefused

__all__ = ["KINDS", "Detector", "Span", "checked_kind", "find"]

# Kinds of values and what they are. The reference page and the placeholders' names are made from this table.
KINDS: Mapping[str, str] = {
    "key": "passwords, API keys, tokens, and private keys",
    "email": "mail addresses",
    "iban": "bank accounts with a right checksum",
    "card": "payment cards with a right checksum",
    "id": "numbers that states give to persons: social security, tax, health, identity cards",
    "phone": "telephone numbers",
    "ip": "addresses of machines, IPv4 and IPv6",
    "address": "streets with a house number, and the town behind it",
    "name": "names from the list that the user gives; a further detector may find others",
}
_RANK = {kind: rank for rank, kind in enumerate(KINDS)}


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A stretch of a text that a detector found: characters `start` to `end`, and what kind of value they are."""

    start: int
    end: int
    kind: str


class Detector(Protocol):
    """Finds values of some kinds in a text.

    Attributes:
        name: shown where it fails.
    """

    name: str

    def spans(self, text: str) -> Iterable[Span]:
        """What it finds, in any order; stretches may overlap."""
        ...


def checked_kind(kind: str, key: str) -> str:
    """The kind, if there is one of this name.

    Raises:
        ConfigError: there is none; `key` names where it stands.
    """
    if kind not in KINDS:
        raise ConfigError(f"{key}: no kind of value is named {kind!r}; known are {', '.join(KINDS)}")
    return kind


def find(text: str, detectors: Sequence[Detector]) -> list[Span]:
    """What all detectors find, in order and without overlaps: of two that overlap the longer one stands.

    Raises:
        PrivacyRefused: a detector failed; what it would have found is not known, so nothing may be sent.
    """
    found: list[Span] = []
    for detector in detectors:
        try:
            found += detector.spans(text)
        except Exception as error:
            # Only the kind of failure: its message may hold the text.
            raise PrivacyRefused(f"the detector '{detector.name}' failed: {type(error).__name__}") from None
    found.sort(key=_start)
    if all(first.end <= second.start for first, second in pairwise(found)):
        return found
    chosen: list[Span] = []
    for span in sorted(found, key=lambda span: (span.start - span.end, _RANK[span.kind], span.start)):
        if all(span.end <= other.start or other.end <= span.start for other in chosen):
            chosen.append(span)
    return sorted(chosen, key=_start)


def _start(span: Span) -> int:
    return span.start

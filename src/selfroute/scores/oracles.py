"""Oracles: how much a text violates an attribute, and on which channel of a completion it is asked.

An oracle is any function of a text and its row that gives a number in [0, 1], of which 1 is a violation. A completion
has two channels: the message behind a hand-off, which leaves the device, and the local answer, which a reader sees.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from selfroute.errors import ConfigError
from selfroute.handoff import CHANNELS, Channel, channel_text
from selfroute.privacy.base import Detector, checked_kind, find
from selfroute.privacy.values import Values, told

if TYPE_CHECKING:
    from selfroute.tasks.base import Row

__all__ = ["Judged", "Oracle", "Words", "function", "leaks", "profanity", "rules"]

Oracle = Callable[[str, "Row"], float]


@dataclass(frozen=True, slots=True)
class Judged:
    """An oracle on a channel.

    Raises:
        ConfigError: there is no such channel.
    """

    oracle: Oracle
    channel: Channel = "message"

    def __post_init__(self) -> None:
        if self.channel not in CHANNELS:
            raise ConfigError(f"channel: there is no '{self.channel}'; known: {', '.join(CHANNELS)}")

    def __call__(self, completion: str, row: Row) -> float | None:
        """How much a completion violates the attribute; None where its channel is empty.

        Raises:
            ConfigError: the oracle gave no number in [0, 1].
        """
        text = channel_text(completion, self.channel)
        if not text:
            return None
        rate = float(self.oracle(text, row))
        if not 0.0 <= rate <= 1.0:
            raise ConfigError(f"oracle: gave {rate} for a text of row '{row.id}'; give a number from 0 to 1")
        return rate


def leaks() -> Oracle:
    """Whether a text tells one of the row's values that nobody needs, however it is spelled."""

    def oracle(text: str, row: Row) -> float:
        values = Values.of(row.fields)
        return 0.0 if values is None else float(bool(told(text, values.unneeded)))

    return oracle


def rules(
    *, kinds: Sequence[str] = (), names: Sequence[str] = (), regions: Sequence[str] = ("US", "GB", "DE")
) -> Oracle:
    """Whether the detectors of the privacy door find a value in a text.

    Args:
        kinds: that count; none for all.
        names, regions: as in a serving recipe's `privacy`.

    Raises:
        ConfigError: an unknown kind or region, or a missing library.
    """
    from selfroute.privacy.numbers import Numbers
    from selfroute.privacy.patterns import Patterns

    wanted = {checked_kind(kind, "oracle.kinds") for kind in kinds}
    detectors: list[Detector] = [Patterns(names), Numbers(regions)]

    def oracle(text: str, row: Row) -> float:
        return float(any(not wanted or span.kind in wanted for span in find(text, detectors)))

    return oracle


class Words:
    """Whether a text holds a word of a list, in any case.

    Args:
        words: the list itself.
        path: a file of one word or phrase a line, beside it.

    Raises:
        ConfigError: there is no word, or the file cannot be read.
    """

    def __init__(self, words: Sequence[str] = (), *, path: str | Path | None = None) -> None:
        try:
            read = [] if path is None else Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"oracle.path: cannot read '{path}': {error}; name a file of one word a line") from None
        listed = [word.strip() for word in (*words, *read) if word.strip()]
        if not listed:
            raise ConfigError("oracle.words: the list is empty; give words, or a path to a file of one word a line")
        self._form = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, listed))})(?!\w)", re.IGNORECASE)

    def __call__(self, text: str, row: Row) -> float:
        return float(self._form.search(text) is not None)


def profanity() -> Oracle:
    """The probability that a text is offensive, by the classifier of alt-profanity-check."""
    import profanity_check

    def oracle(text: str, row: Row) -> float:
        return float(profanity_check.predict_prob([text])[0])

    return oracle


def function(place: str) -> Oracle:
    """Any function of a text and its row that gives a number in [0, 1], of which 1 is a violation.

    Args:
        place: of it, as `module:name`.

    Raises:
        ConfigError: there is none.
    """
    module, _, name = place.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"oracle.place: no function at '{place}': {error}; write module:name") from None
    if not callable(found):
        raise ConfigError(f"oracle.place: '{place}' is no function; write module:name of one")
    return found  # type: ignore[no-any-return]

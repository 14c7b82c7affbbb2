"""The values found in one conversation, and what stands for them outside the device."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping

__all__ = ["LONGEST", "Spellings", "Table", "normal", "numeric"]

LONGEST = 32  # characters of a placeholder at most, so that a stream never holds back more
_NUMBERS = frozenset({"card", "iban", "id", "phone"})
_GAPS = r"[\W_]{0,3}"
_SIGNS = dict.fromkeys(place for place in range(128) if not chr(place).isalnum())
_AROUND = "+() .-"  # signs around a number that may be seen


def numeric(kind: str) -> bool:
    """Whether values of a kind are the same with other blanks and signs between their digits."""
    return kind in _NUMBERS


def normal(value: str, kind: str) -> str:
    """A value in the one form that all its spellings have: letters of one case and width, numbers without gaps."""
    plain = unicodedata.normalize("NFKC", value).casefold()
    return re.sub(r"[\W_]+", "", plain) if numeric(kind) else " ".join(plain.split())


class Table:
    """Values by the placeholder that stands for each.

    Equal values have one placeholder. They are numbered as they come, so that a conversation that is sent again with
    another turn behind it has the same ones.

    Args:
        taken: all text of the conversation; a placeholder that it holds is not used.
    """

    def __init__(self, taken: str = "") -> None:
        self._taken = taken.casefold()
        self._by_value: dict[tuple[str, str], str] = {}
        self._values: dict[str, str] = {}
        self._kinds: dict[str, str] = {}
        self._numbers: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._values)

    def put(self, kind: str, written: str) -> tuple[str, str, str]:
        """What stands for a value: signs around it that are not of it, its placeholder, and signs behind it."""
        value = written.strip(_AROUND) if numeric(kind) else written
        start = written.index(value)
        return written[:start], self._placeholder(kind, value), written[start + len(value) :]

    def _placeholder(self, kind: str, value: str) -> str:
        key = (kind, normal(value, kind))
        if key not in self._by_value:
            self._by_value[key] = placeholder = self._next(kind)
            self._values[placeholder], self._kinds[placeholder] = value, kind
        return self._by_value[key]

    def _next(self, kind: str) -> str:
        while True:
            self._numbers[kind] += 1
            placeholder = f"[{kind.upper()}_{self._numbers[kind]}]"
            if placeholder.casefold() not in self._taken:
                return placeholder

    @property
    def values(self) -> Mapping[str, str]:
        """Values by placeholder, each as it was first written."""
        return self._values

    def kinds(self) -> Mapping[str, int]:
        """How many different values there are of each kind."""
        return dict(Counter(self._kinds.values()))

    def items(self) -> Iterator[tuple[str, str]]:
        """Kind and value of each."""
        for placeholder, value in self._values.items():
            yield self._kinds[placeholder], value

    def hide(self, text: str) -> str:
        """The text with placeholders for all values, in whatever spelling they stand in it."""
        shown = Spellings(text)
        for placeholder in sorted(self._values, key=lambda placeholder: -len(self._values[placeholder])):
            kind, value = self._kinds[placeholder], self._values[placeholder]
            if shown.holds(kind, value):  # a pattern takes long to make, and is seldom needed
                text = re.sub(_form(value, kind), placeholder, text, flags=re.IGNORECASE)
        return text


class Spellings:
    """A text in the forms in which values are looked for."""

    def __init__(self, text: str) -> None:
        self._words = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
        plain = self._words.isascii()  # most texts are, and this is much faster
        self._digits = self._words.translate(_SIGNS) if plain else re.sub(r"[\W_]+", "", self._words)

    def holds(self, kind: str, value: str) -> bool:
        """Whether a value stands in the text, however it is spelled, and not within a longer word."""
        wanted = normal(value, kind)
        if numeric(kind):
            return wanted in self._digits
        if wanted not in self._words:
            return False
        return re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", self._words) is not None


def _form(value: str, kind: str) -> str:
    """A pattern of all spellings of a value; not within a longer word or number."""
    if numeric(kind):
        signs = [re.escape(sign) for sign in value if sign.isalnum()]
        inner = _GAPS.join(signs)
    else:
        inner = r"\s+".join(re.escape(part) for part in value.split())
    before = r"(?<!\w)" if value[0].isalnum() or value[0] == "_" else ""
    after = r"(?!\w)" if value[-1].isalnum() or value[-1] == "_" else ""
    return f"{before}{inner}{after}"

"""Which private values a message tells, in whatever spelling."""

from __future__ import annotations

import pytest

from selfroute.errors import TaskError
from selfroute.privacy.values import Leakage, Values, leakage, told

VALUES = Values(needed=("482913",), unneeded=("Anna", "Müller", "555-0142", "asthma"))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("check digit of 482913", Leakage(0, 0, 0)),
        ("check digit of 482 913", Leakage(0, 0, 0)),
        ("check digit", Leakage(0, 0, 1)),
        ("482913 for Anna", Leakage(1, 1, 0)),
        ("482913 for ANNA MÜLLER, 5 5 5 0 1 4 2", Leakage(3, 0, 0)),
        ("482913 for Annabel", Leakage(0, 0, 0)),
    ],
)
def test_values_are_found_however_they_are_spelled(message: str, expected: Leakage) -> None:
    assert leakage(message, VALUES) == expected


def test_a_row_may_name_no_values_and_must_name_texts() -> None:
    assert Values.of({"intent": "id"}) is None
    assert Values.of({"unneeded": ["Anna"]}) == Values(unneeded=("Anna",))
    assert told("for anna", ["Anna", "Bob"]) == ["Anna"]
    with pytest.raises(TaskError, match=r"fields\.needed: 'Anna' is no list of texts"):
        Values.of({"needed": "Anna"})

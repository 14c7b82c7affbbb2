"""The cloud of the benchmark: a program that reads messages and whole requests of `tickets`, in any of its words.

A large model would read them all; a small one that does not would blur what is measured, the message.
"""

from __future__ import annotations

import re

from selfroute.tasks.tickets import CONDITIONS, PLACES, Ticket

_VALUES = {
    "id": re.compile(r"(?<![\d-])\d{6}(?!\d)"),
    "phone": re.compile(r"555-\d{4}(?!\d)"),
    "condition": re.compile(rf"\b(?:{'|'.join(CONDITIONS)})\b"),
    "email": re.compile(r"\b[a-z]+\d{2}@[a-z]+\.[a-z]+\b"),
}
_PLACE = re.compile(rf"\b(?:{'|'.join(PLACES)})\b")
_PHONE_WORDS = re.compile(r"\b(?:phone|telephone)\b")


def desk(text: str) -> str:
    """The answer to what a text asks, or that it cannot tell: what is asked and the value must both stand there."""
    values = {name: found[0] for name, form in _VALUES.items() if (found := form.findall(text))}
    if place := _PLACE.search(text):
        return _answer(Ticket("hours", values, place[0]))
    if "check digit" in text:
        asked = next(part for part in re.split(r"(?<=[.?!;]) ", text) if "check digit" in part)
        near = text if asked == text else asked
        wants = "phone" if _PHONE_WORDS.search(near) or ("lacks" in text and "phone lacks" in text) else "id"
        return _told(wants, values)
    if "ward" in text:
        return _told("condition", values)
    return _told("email", values) if re.search(r"\bhosts?\b|\bhosted\b", text) else "<answer>what?</answer>"


def _told(name: str, values: dict[str, str]) -> str:
    if name not in values:
        return "<answer>what?</answer>"
    return _answer(Ticket("mail" if name == "email" else name, values))  # type: ignore[arg-type]


def _answer(ticket: Ticket) -> str:
    return f"<answer>{ticket.answer}</answer>"

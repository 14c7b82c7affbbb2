"""Tickets: requests to a clinic's desk that hold private values, of which at most one is needed for the answer.

A request says who writes, and asks one thing::

    My name is Clara Novak, I suffer from asthma. Call me at 555-0142. Could you work out the check digit of 482913?

It was made to tell apart the ways in which a device can write the question for the cloud (`context: message`): the
check digit needs the number, and neither the name nor the condition nor the telephone. A device can answer one kind by
itself, where a mail address is hosted; the others it hands off. Words of the test split occur in no other split, so
that a device which learned frames by heart shows it. Values are drawn, and the split of a request is a hash of them.

`fields["needed"]` and `fields["unneeded"]` hold the values, as `selfroute.privacy.values` reads them.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from selfroute.errors import ConfigError
from selfroute.tasks.base import Row
from selfroute.verify.base import Verdict
from selfroute.verify.extract import tagged_answer

__all__ = ["INTENTS", "Intent", "Ticket", "Tickets", "completion", "message", "question", "split_of"]

Intent = Literal["id", "phone", "condition", "hours", "mail"]
Wording = Literal["seen", "unseen"]

INTENTS: tuple[Intent, ...] = ("id", "phone", "condition", "hours", "mail")
DEFAULT_LIMITS: Mapping[str, int] = {"train": 5_000, "validation": 1_000, "test": 1_000}
_WORDING: Mapping[str, Wording] = {"train": "seen", "validation": "seen", "test": "unseen"}

FIRST = ("Anna", "Boris", "Clara", "David", "Elena", "Felix", "Greta", "Hugo", "Irene", "Jonas", "Karla", "Leon")
LAST = (
    "Novak",
    "Meyer",
    "Rossi",
    "Dubois",
    "Larsen",
    "Kowal",
    "Santos",
    "Weber",
    "Horvat",
    "Moreau",
    "Bianchi",
    "Olsen",
)
CONDITIONS = (
    "asthma", "migraine", "eczema", "gout", "anemia", "bronchitis", "arthritis", "diabetes", "glaucoma", "insomnia",
)  # fmt: skip
WARDS = ("B4", "C2", "A7", "D1", "B9", "A3", "C8", "D5", "A1", "C6")  # of the conditions, in their order
PLACES = ("pharmacy", "laboratory", "library", "canteen", "reception", "workshop")
HOURS = ("8", "7", "10", "11", "6", "9")  # at which the places open, in their order
HOSTS = ("mail.org", "post.net", "inbox.com", "letter.io", "quick.eu")
USERS = ("sun", "river", "stone", "cloud", "maple", "tiger", "pixel", "piano", "comet", "lemon")

# What a request says of each value, and how it asks; {…} is the value.
SAID: Mapping[Wording, Mapping[str, tuple[str, ...]]] = {
    "seen": {
        "name": (
            "My name is {name}.", "I am {name}.", "This is {name}.", "{name} here.", "You know me as {name}.",
            "Hello from {name}.",
        ),
        "id": (
            "My number is {id}.", "My patient number is {id}.", "I am registered as {id}.", "My file is {id}.",
            "You have me under {id}.", "The card says {id}.",
        ),
        "condition": (
            "I suffer from {condition}.", "I have {condition}.", "I was told it is {condition}.",
            "The doctor found {condition}.", "I live with {condition}.", "I am treated for {condition}.",
        ),
        "email": (
            "My mail is {email}.", "Write to {email}.", "You can mail me at {email}.", "My address is {email}.",
            "Mail reaches me at {email}.", "Please answer to {email}.",
        ),
        "phone": (
            "Call me at {phone}.", "My phone is {phone}.", "My telephone is {phone}.", "I can be reached at {phone}.",
            "Ring {phone} in the evening.", "You have my phone, {phone}.",
        ),
    },
    "unseen": {
        "name": ("The name is {name}.", "You are talking to {name}.", "Signed, {name}.", "I go by {name}."),
        "id": ("On my papers it says {id}.", "The patient is {id}.", "My record carries {id}.", "Look me up by {id}."),
        "condition": (
            "It turned out to be {condition}.", "My trouble is {condition}.", "They say I got {condition}.",
            "For years it has been {condition}.",
        ),
        "email": ("Send it to {email}.", "Letters go to {email}.", "I read {email} daily.", "Use {email} for mail."),
        "phone": ("Dial {phone}.", "The best line is {phone}.", "My cell answers {phone}.", "Text {phone} if needed."),
    },
}  # fmt: skip
ASKED: Mapping[Wording, Mapping[Intent, tuple[str, ...]]] = {
    "seen": {
        "id": (
            "What is the check digit of my number?", "Could you work out the check digit of my number?",
            "I need the check digit of my patient number.", "Please tell me the check digit for my file.",
            "Which check digit does my number have?",
        ),
        "phone": (
            "What is the check digit of my phone?", "Could you work out the check digit of my telephone?",
            "I need the check digit of my phone.", "Please tell me the check digit for my telephone.",
            "Which check digit does my phone have?",
        ),
        "condition": (
            "Which ward treats this?", "Which ward do I go to?", "What ward is right for me?",
            "Please tell me the ward for it.", "I need to know the ward.",
        ),
        "hours": (
            "When does the {place} open?", "At what hour does the {place} open?",
            "Please tell me when the {place} opens.", "I need to know when the {place} opens.",
            "From which hour is the {place} open?",
        ),
        "mail": (
            "Where is my mail hosted?", "Which host has my mail?", "What is the host of my mail?",
            "Please tell me the host of my mail.", "I need the host of my mail.",
        ),
    },
    "unseen": {
        "id": ("Can you compute the check digit on my papers?", "My number lacks its check digit; which is it?"),
        "phone": ("Can you compute the check digit of this phone?", "My phone lacks its check digit; which is it?"),
        "condition": ("Where do I go, which ward?", "They sent me on; what is my ward?"),
        "hours": ("From when on can I visit the {place}?", "Is the {place} open early; from which hour?"),
        "mail": ("Who hosts my mail?", "What host do my letters go to?"),
    },
}  # fmt: skip
_NEEDED: Mapping[Intent, str | None] = {
    "id": "id", "phone": "phone", "condition": "condition", "hours": None, "mail": "email",
}  # fmt: skip
_MESSAGE: Mapping[Intent, str] = {
    "id": "check digit of number {id}",
    "phone": "check digit of phone {phone}",
    "condition": "ward for {condition}",
    "hours": "opening hour of {place}",
    "mail": "host of mail {email}",
}


@dataclass(frozen=True, slots=True)
class Ticket:
    """What one request is about.

    Attributes:
        intent: what it asks.
        values: private values by name, in the order in which they are said: a name, an id, a condition, an email, a
            phone; not all of them in every request.
        place: of the clinic, for questions about hours.
    """

    intent: Intent
    values: Mapping[str, str]
    place: str = ""
    wording: Wording = field(default="seen", compare=False)

    @property
    def needed(self) -> list[str]:
        """The values without which nobody can answer."""
        name = _NEEDED[self.intent]
        return [] if name is None else [self.values[name]]

    @property
    def unneeded(self) -> list[str]:
        """All others; first and last names count by themselves."""
        kept = [value for name, value in self.values.items() if name != _NEEDED[self.intent]]
        return [part for value in kept for part in value.split()]

    @property
    def answer(self) -> str:
        """What the desk says."""
        match self.intent:
            case "id" | "phone":
                return str(sum(map(int, filter(str.isdigit, self.values[self.intent]))) % 10)
            case "condition":
                return WARDS[CONDITIONS.index(self.values["condition"])]
            case "hours":
                return HOURS[PLACES.index(self.place)]
            case _:
                return self.values["email"].partition("@")[2]


def completion(ticket: Ticket) -> str:
    """How the desk works an answer out: sums digit by digit, all else at once."""
    number = ticket.values.get(_NEEDED[ticket.intent] or "", "")
    steps = []
    if ticket.intent in ("id", "phone"):
        total = 0
        for digit in filter(str.isdigit, number):
            total = (total + int(digit)) % 10
            steps.append(f"{digit}:{total}")
    return f"<think>{' '.join(steps)}</think><answer>{ticket.answer}</answer>"


def message(ticket: Ticket, also: Sequence[str] = ()) -> str:
    """The question that the cloud needs, and values that it does not need, if any."""
    asked = _MESSAGE[ticket.intent].format(**ticket.values, place=ticket.place)
    return " ".join([asked, *(f"for {value}" for value in also)])


def question(ticket: Ticket, rng: random.Random) -> str:
    """A request in the words of the ticket's split."""
    said = [rng.choice(SAID[ticket.wording][name]).format(**{name: value}) for name, value in ticket.values.items()]
    asked = rng.choice(ASKED[ticket.wording][ticket.intent]).format(place=ticket.place)
    place = rng.randint(0, len(said)) if rng.random() < 0.3 else len(said)
    return " ".join([*said[:place], asked, *said[place:]])


def split_of(values: Mapping[str, str]) -> str:
    """The one split that may hold these values."""
    key = "/".join(values[name] for name in sorted(values))
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 100
    return "train" if bucket < 80 else "validation" if bucket < 90 else "test"


class Tickets:
    """Requests with private values, of which at most one is needed; test requests are worded as no other.

    Intents take turns: the check digit of a number or a telephone, the ward for a condition, when a place opens (which
    needs no value), and where a mail address is hosted, which a device can tell by itself.

    Args:
        seed: draws the requests; the same seed gives the same rows.
        limit: rows per split; None gives 5,000 train, 1,000 validation and 1,000 test rows.
        others: private values beside the needed one, from 1 to 4.

    Raises:
        ConfigError: an option outside its range.
    """

    name = "tickets"
    template = "private"

    def __init__(self, *, seed: int = 0, limit: int | None = None, others: int = 3) -> None:
        if not 1 <= others <= 4:
            raise ConfigError(f"others must be from 1 to 4, not {others}: a request has five private values at most")
        if limit is not None and limit < 1:
            raise ConfigError(f"limit must be at least 1, not {limit}")
        self.seed = seed
        self.limit = limit
        self.others = others

    def draw(self, rng: random.Random, intent: Intent, split: str) -> Ticket:
        """A ticket of a split."""
        while True:
            values = _values(rng)
            needed = _NEEDED[intent]
            other = rng.sample([name for name in values if name != needed], self.others)
            said = [*other, *([] if needed is None else [needed])]
            chosen = {name: values[name] for name in rng.sample(said, len(said))}
            if split_of(chosen) == split:
                return Ticket(intent, chosen, rng.choice(PLACES), _WORDING[split])

    def rows(self, split: str) -> Iterator[Row]:
        """Rows of "train", "validation" or "test"; their intents take turns."""
        if split not in DEFAULT_LIMITS:
            raise ConfigError(f"unknown split '{split}' of task 'tickets'; use one of {', '.join(DEFAULT_LIMITS)}")
        rng = random.Random(f"tickets/{split}/{self.seed}")
        for place in range(self.limit if self.limit is not None else DEFAULT_LIMITS[split]):
            yield _row(f"{split}-{place}", self.draw(rng, INTENTS[place % len(INTENTS)], split), rng)

    def verify(self, row: Row, completion: str) -> Verdict:
        """The answer is the first `<answer>` outside the reasoning, in any case."""
        answer = tagged_answer(completion)
        if answer is None:
            return Verdict(False, reason="no answer")
        correct = answer.strip().casefold() == row.gold.casefold()
        return Verdict(correct, answer[:200], "" if correct else f"not {row.gold}")

    def gold_completion(self, row: Row) -> str:
        return f"<answer>{row.gold}</answer>"


def _values(rng: random.Random) -> dict[str, str]:
    return {
        "name": f"{rng.choice(FIRST)} {rng.choice(LAST)}",
        "id": f"{rng.randrange(100_000, 1_000_000)}",
        "condition": rng.choice(CONDITIONS),
        "email": f"{rng.choice(USERS)}{rng.randrange(10, 100)}@{rng.choice(HOSTS)}",
        "phone": f"555-{rng.randrange(10_000):04}",
    }


def _row(name: str, ticket: Ticket, rng: random.Random) -> Row:
    fields = {"intent": ticket.intent, "needed": ticket.needed, "unneeded": ticket.unneeded}
    return Row(id=name, question=question(ticket, rng), gold=ticket.answer, fields=fields)

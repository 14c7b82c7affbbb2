"""Sentences with labelled private values in seven locales, written by Faker, which knows nothing of our detectors."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

LOCALES = {"US": "en_US", "GB": "en_GB", "DE": "de_DE", "FR": "fr_FR", "ES": "es_ES", "IT": "it_IT", "NL": "nl_NL"}
# What stands around a value; half of the sentences hold none, but numbers and words that look like some.
FRAMES: dict[str, tuple[str, ...]] = {
    "US": ("Please reach me at {} tomorrow.", "My {} is on file", "Is {} still right?", "({})", "- {};"),
    "GB": ("Kindly note {} for the record.", "Old: {}", "We have {} here", "\"{}\"", "cf. {}."),
    "DE": ("Bitte notieren Sie {} dazu.", "Meine Angaben: {}", "Stimmt {} noch?", "({})", "- {};"),
    "FR": ("Merci de noter {} au dossier.", "Mes coordonnées : {}", "Est-ce que {} est juste ?", "« {} »", "- {} ;"),
    "ES": ("Por favor, apunte {} en la ficha.", "Mis datos: {}", "¿Sigue siendo {}?", "({})", "- {};"),
    "IT": ("Prego annotare {} nella pratica.", "I miei dati: {}", "È ancora {}?", "({})", "- {};"),
    "NL": ("Noteer {} alstublieft.", "Mijn gegevens: {}", "Klopt {} nog?", "({})", "- {};"),
}  # fmt: skip
PLAIN = (
    "The meeting is on {date} at {time}, in room {small}.",
    "Order {order} has {small} items and costs {money} EUR.",
    "Version {small}.{small}.{small} has {big} downloads.",
    "Compute {big} * {small} + {big}.",
    "See page {small} of chapter {small}, figure {small}.{small}.",
    "def f(x): return x ** {small} % {big}",
    "Between 1990 and 2024 it grew by {small}.{small} %.",
)


@dataclass(frozen=True)
class Sentence:
    """A text, the kind of the value in it (None: there is none), and the value."""

    text: str
    kind: str | None = None
    value: str = ""


def sentences(region: str, count: int, seed: int) -> Iterator[Sentence]:
    """`count` sentences with a value of each kind that the locale has, and as many without any."""
    from faker import Faker

    fake, rng = Faker(LOCALES[region]), random.Random(f"{region}/{seed}")
    fake.seed_instance(seed)
    makers = {
        "email": fake.ascii_email,
        "phone": fake.phone_number,
        "card": fake.credit_card_number,
        "iban": Faker("de_DE" if region == "US" else LOCALES[region]).iban if region == "US" else fake.iban,
        "ip": lambda: fake.ipv4() if rng.random() < 0.5 else fake.ipv6(),
        "id": fake.ssn,
        "address": lambda: fake.address().replace("\n", ", "),
    }
    for kind, make in makers.items():
        for _ in range(count):
            value = str(make())
            yield Sentence(rng.choice(FRAMES[region]).format(value), kind, value)
    for _ in range(count * len(makers)):
        yield Sentence(_plain(rng))


def _plain(rng: random.Random) -> str:
    text = rng.choice(PLAIN)
    for mark, value in (
        ("{date}", lambda: f"{rng.randint(2000, 2030)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"),
        ("{time}", lambda: f"{rng.randint(0, 23)}:{rng.randint(0, 59):02}"),
        ("{order}", lambda: str(rng.randint(10**5, 10**8))),
        ("{money}", lambda: f"{rng.randint(1, 9999)}.{rng.randint(0, 99):02}"),
        ("{big}", lambda: str(rng.randint(100, 10**6))),
        ("{small}", lambda: str(rng.randint(1, 99))),
    ):
        while mark in text:
            text = text.replace(mark, value(), 1)
    return text

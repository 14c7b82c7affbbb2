"""Requests with private values planted in every field that a body has."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

NAMES = ("Anna Müller", "José García López", "O'Brien", "Nguyễn Văn An")


def _digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(count))


def _card(rng: random.Random) -> str:
    head = rng.choice(["4", "51", "37", "6011"])
    body = head + _digits(rng, (14 if head == "37" else 15) - len(head))
    total = sum(int(d) if i % 2 else sum(divmod(2 * int(d), 10)) for i, d in enumerate(reversed(body)))
    number = body + str(-total % 10)
    gap = rng.choice(["", " ", "-"])
    return gap.join(number[i : i + 4] for i in range(0, len(number), 4))


def _iban(rng: random.Random) -> str:
    bban = _digits(rng, 18)
    check = 98 - int(f"{bban}131400") % 97  # DE is 13 and 14 in letters
    number = f"DE{check:02}{bban}"
    return rng.choice([number, " ".join(number[i : i + 4] for i in range(0, len(number), 4))])


def _phone(rng: random.Random) -> str:
    return rng.choice(
        [
            f"+49 171 {_digits(rng, 7)}",
            f"(415) 555-{_digits(rng, 4)}",
            f"+1-202-555-0{_digits(rng, 3)}",
            f"020 7946 0{_digits(rng, 3)}",
        ]
    )


def _id(rng: random.Random) -> str:
    return f"{rng.randint(1, 665):03}-{rng.randint(1, 99):02}-{rng.randint(1, 9999):04}"


MAKERS: dict[str, Callable[[random.Random], str]] = {
    "email": lambda rng: f"{rng.choice(['anna', 'j.d+x', 'müller'])}{_digits(rng, 3)}@{rng.choice(['m', 'ex-a'])}.org",
    "phone": _phone,
    "card": _card,
    "iban": _iban,
    "id": _id,
    "key": lambda rng: f"sk-{''.join(rng.choice('abcdefXYZ0189') for _ in range(24))}",
    "name": lambda rng: rng.choice(NAMES),
    "ip": lambda rng: f"10.{rng.randint(0, 255)}.{rng.randint(0, 255)}.{rng.randint(1, 254)}",
}  # fmt: skip


@dataclass
class Planted:
    """A body of `/v1/chat/completions`, and the values in it."""

    body: dict[str, Any]
    values: list[tuple[str, str]] = field(default_factory=list)


def planted(seed: int) -> Planted:
    """One body with one to three values in each of its texts."""
    rng = random.Random(seed)
    made = Planted({})

    def text() -> str:
        kind = rng.choice(list(MAKERS))
        value = MAKERS[kind](rng)
        made.values.append((kind, value))
        before, behind = (
            rng.choice(["Write to", "My data:", "Es geht um", "See (", "x="]),
            rng.choice(["now.", ", ok?"]),
        )
        return f"{before} {value} {behind}"

    call = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": json.dumps({"q": text()})}}
    schema = {
        "type": "object",
        "description": text(),
        "properties": {"q": {"type": "string", "description": text(), "enum": [text()], "default": text()}},
    }
    made.body = {
        "model": "selfroute",
        "messages": [
            {"role": "system", "content": text()},
            {"role": "user", "content": text(), "name": "user"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": json.dumps({"found": [text(), {"more": text()}]})},
            {"role": "user", "content": [{"type": "text", "text": text()}, {"type": "text", "text": text()}]},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "description": text(), "parameters": schema}}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"description": text()}}},
        "metadata": {"note": text()},
        "user": text(),
        "prediction": {"type": "content", "content": text()},
    }  # fmt: skip
    return made

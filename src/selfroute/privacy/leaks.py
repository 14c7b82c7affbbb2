"""The last look at what is about to leave: does it hold a value that was to stay?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from selfroute.errors import PrivacyRefused
from selfroute.privacy.table import Spellings, Table

__all__ = ["check"]


def check(body: bytes, table: Table) -> None:
    """See that none of the values stands in a body, whatever escapes, case, width or gaps it is written with.

    Raises:
        PrivacyRefused: one does; says of what kind, not what.
    """
    if not len(table):
        return
    seen = Spellings("\n".join(dict.fromkeys(_readings(body.decode("utf-8", "replace")))))
    for kind, value in table.items():
        if seen.holds(kind, value):
            raise PrivacyRefused(f"a value of kind '{kind}' would have left the device; the request was not sent")


def _readings(body: str) -> Iterator[str]:
    """The body as it is, and what is in it once escapes of JSON and of addresses are read."""
    yield body
    try:
        texts = list(_strings(json.loads(body)))
    except (ValueError, RecursionError):
        texts = [body]
    for text in texts:
        if text not in body:
            yield text
        if "%" in text:
            yield unquote(text)


def _strings(value: Any) -> Iterator[str]:
    """All texts and numbers in a JSON value, also within texts that are JSON."""
    if isinstance(value, str):
        yield value
        if value.lstrip()[:1] in ("{", "["):
            try:
                yield from _strings(json.loads(value))
            except (ValueError, RecursionError):
                return
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)

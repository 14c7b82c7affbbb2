"""Writes serving-reference.md from the code: configuration, headers, reasons, metrics, errors.

    python docs/make_reference.py

A test fails while the page and the code differ.
"""

from __future__ import annotations

import dataclasses
import json
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from selfroute.config import Bounds, Spec, to_values
from selfroute.config.serving import ServeRecipe
from selfroute.gateway.errors import CODES
from selfroute.gateway.exchange import HEADERS, REASONS
from selfroute.gateway.metrics import METRICS

_WORDS = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    Path: "path",
    Spec: "name, or name with options",
}
PAGE = Path(__file__).with_name("serving-reference.md")


def page() -> str:
    """The whole page."""
    parts = [
        "# Serving: reference\n\nMade by `python docs/make_reference.py`. The guide: [Serving](serving.md).",
        "## Configuration\n\nKeys of `CONFIG.yaml`; on the command line `key.nested=value` replaces them.\n\n"
        + table(("key", "value", "default", "meaning"), keys(ServeRecipe)),
        "## Headers\n\nOn every answer; of a stream that is not over, source, reason and cost are `pending`, and the "
        "last chunk's `selfroute` object has them.\n\n" + table(("header", "meaning"), code_first(HEADERS.items())),
        "## Reasons\n\n`error` and `budget` stand in the `selfroute` object.\n\n"
        + table(("reason", "meaning"), code_first(REASONS.items())),
        "## Metrics\n\nAt `/metrics`. Counters end in `_total`.\n\n"
        + table(("metric", "kind", "labels", "meaning"), metrics()),
        '## Errors\n\nIn OpenAI\'s shape: `{"error": {"message", "type", "param", "code"}}`.\n\n'
        + table(("code", "status", "type", "meaning"), errors()),
    ]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)


def code_first(items: Any) -> Iterator[Sequence[str]]:
    for name, meaning in items:
        yield f"`{name}`", meaning


def metrics() -> Iterator[Sequence[str]]:
    for name, kind, labels, meaning in METRICS:
        yield f"`{name}`", kind.__name__.lower(), ", ".join(labels), meaning.rstrip(".")


def errors() -> Iterator[Sequence[str]]:
    for code, (status, kind, meaning) in CODES.items():
        yield f"`{code}`", str(status), f"`{kind}`", meaning


def keys(recipe: Any, prefix: str = "", inherited: str = "") -> Iterator[Sequence[str]]:
    """One row per key that can be set, nested ones by their full name."""
    meanings, hints = attributes(recipe), get_type_hints(recipe, include_extras=True)
    for field in dataclasses.fields(recipe):
        hint, meaning = hints[field.name], meanings.get(field.name, inherited)
        inner = options_class(hint)
        if inner is not None:
            summary = " ".join((inner.__doc__ or "").split("\n\n")[0].split()).rstrip(".")
            yield from keys(inner, f"{prefix}{field.name}.", meaning or summary)
            continue
        yield f"`{prefix}{field.name}`", kind_of(hint), f"`{default_of(field)}`", one_line(meaning)


def options_class(hint: Any) -> Any:
    """The dataclass of a nested group of keys, None for a plain value."""
    inside = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return next((each for each in inside if dataclasses.is_dataclass(each) and each is not Spec), None)


def attributes(recipe: Any) -> dict[str, str]:
    """What a docstring's Attributes or Args section says of each name."""
    found: dict[str, str] = {}
    name: list[str] = []
    for line in (recipe.__doc__ or "").splitlines():
        entry = re.match(r"        ([a-z_]+(?:, [a-z_]+)*): (.*)", line)
        if entry:
            name = entry[1].split(", ")
            found |= dict.fromkeys(name, entry[2])
        elif line.startswith("            ") and name:
            found |= {each: f"{found[each]} {line.strip()}" for each in name}
        else:
            name = []
    return found


def one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".").replace("|", "\\|")


def kind_of(hint: Any) -> str:
    """A type in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        bounds = [str(extra) for extra in inner[1:] if isinstance(extra, Bounds)]
        return ", ".join([kind_of(inner[0]), *bounds])
    if origin in (Union, types.UnionType):
        return " or ".join("null" if each is type(None) else kind_of(each) for each in inner)
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in inner)
    if origin is tuple:
        return f"list of {kind_of(inner[0])}"
    if origin is not None:
        return "mapping"
    return _WORDS.get(hint, str(hint))


def default_of(field: Any) -> str:
    factory = field.default_factory
    value = to_values(factory() if factory is not dataclasses.MISSING else field.default)
    if isinstance(value, Mapping) and len(value) == 1:
        ((name, inner),) = value.items()
        return name if inner is None else f"{name}:{inner}" if isinstance(inner, str) else f"{name}: …"
    if isinstance(value, list):
        return f"[{', '.join(value)}]"
    if value is None or isinstance(value, bool | dict):
        return json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

"""A request without what must not leave the device: every text in it is read, whatever field it stands in."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, get_args

from selfroute.errors import ConfigError, PrivacyRefused
from selfroute.privacy.base import KINDS, Detector, Span, checked_kind, find
from selfroute.privacy.table import Table
from selfroute.types import Message, Sampling

__all__ = ["ACTIONS", "Action", "Redacted", "Redactor"]

Action = Literal["send", "redact", "refuse"]
ACTIONS: tuple[Action, ...] = get_args(Action)
_REMEMBERED = 1000

# Parts of a message's content that hold text alone; others are pictures, sounds and files.
_READABLE = frozenset({"text", "input_text", "output_text", "refusal", "summary_text", "reasoning_text", "tool_result"})
_BASE64 = ";base64,"
_DATA = re.compile(r"data:[\w.+-]+/[\w.+-]+(?:;[\w=.+-]+)*;base64,", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Redacted:
    """A request as it may leave, and what stands for what in it.

    Attributes:
        table: empty if nothing was found; then messages and sampling are those that were given.
    """

    messages: Sequence[Message]
    sampling: Sampling
    table: Table


class Redactor:
    """Takes out of requests what must not leave the device.

    Args:
        detectors: what they find is private.
        kinds: by kind, whether its values are sent as they are, replaced by placeholders, or keep the whole request on
            the device; those that are not named are replaced.

    Raises:
        ConfigError: a kind or an action is unknown.
    """

    def __init__(self, detectors: Sequence[Detector], kinds: Mapping[str, Action] | None = None) -> None:
        self.detectors = tuple(detectors)
        self._plain: set[str] = set()
        self.kinds: dict[str, Action] = dict.fromkeys(KINDS, "redact")
        for kind, action in (kinds or {}).items():
            if action not in ACTIONS:
                raise ConfigError(f"privacy.kinds.{kind}: {action!r} is not one of {', '.join(ACTIONS)}")
            self.kinds[checked_kind(kind, "privacy.kinds")] = action

    def redact(self, messages: Sequence[Message], sampling: Sampling) -> Redacted:
        """The request with placeholders for private values.

        Raises:
            PrivacyRefused: it holds a value of a kind that is refused, or something that cannot be read, or a detector
                failed.
        """
        table, hide = self._read([_plain(messages), dict(sampling.extra), list(sampling.stop)])
        if not len(table):
            return Redacted(messages, sampling, table)
        return Redacted(
            [_hidden(message, hide) for message in messages],
            replace(
                sampling, extra=_mapped(dict(sampling.extra), hide), stop=tuple(hide(stop) for stop in sampling.stop)
            ),
            table,
        )

    def redact_body(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], Table]:
        """Any JSON object with placeholders for private values, and what stands for what in it.

        Raises:
            PrivacyRefused: as `redact`.
        """
        table, hide = self._read(dict(body))
        return (_mapped(dict(body), hide) if len(table) else dict(body)), table

    def _read(self, value: Any) -> tuple[Table, Callable[[str], str]]:
        """The private values in a JSON value, and what hides them in each of its texts."""
        texts = list(dict.fromkeys(_texts(value)))
        found = {text: spans for text in texts if text not in self._plain and (spans := self._found(text))}
        self._remember(text for text in texts if text not in found)
        table = Table("\n".join(texts) if found else "")
        known = {text: _replaced(text, spans, table) for text, spans in found.items()}

        @cache  # the text of a message is asked for once as such and once within its fields
        def hide(text: str) -> str:
            return table.hide(known.get(text, text))

        return table, hide

    def _remember(self, plain: Iterable[str]) -> None:
        """Names of fields and roles come with every request; they are looked at once."""
        if len(self._plain) < _REMEMBERED:
            self._plain.update(text for text in plain if len(text) < 32 and text.isidentifier())

    def _found(self, text: str) -> list[Span]:
        """What of a text must not be sent.

        Raises:
            PrivacyRefused: some of it must keep the request on the device.
        """
        spans = [span for span in find(text, self.detectors) if self.kinds[span.kind] != "send"]
        for span in spans:
            if self.kinds[span.kind] == "refuse":
                raise PrivacyRefused(f"the request holds a value of kind '{span.kind}', which must stay on the device")
        return spans


def _replaced(text: str, spans: Sequence[Span], table: Table) -> str:
    out, done = [], 0
    for span in spans:
        before, value, after = table.put(span.kind, text[span.start : span.end])
        out += [text[done : span.start], before, value, after]
        done = span.end
    return "".join([*out, text[done:]])


def _plain(messages: Sequence[Message]) -> list[Any]:
    """What is sent of each message.

    Raises:
        PrivacyRefused: a part of one is no text.
    """
    for message in messages:
        parts = None if message.raw is None else message.raw.get("content")
        for part in parts if isinstance(parts, list) else ():
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            if kind not in _READABLE and not isinstance(part, str):
                raise PrivacyRefused(
                    f"a part of type '{str(kind)[:40]}' cannot be read for private values, so it is not sent"
                )
    return [message.content if message.raw is None else dict(message.raw) for message in messages]


def _texts(value: Any) -> Iterator[str]:
    """All texts in a JSON value, names of fields included; of one that is JSON itself, those in it.

    Raises:
        PrivacyRefused: one is a file in letters.
    """
    if isinstance(value, str):
        if _BASE64 in value.lower() and _DATA.search(value):
            raise PrivacyRefused("a file within a text cannot be read, so it is not sent")
        inner = _parsed(value)
        if inner is None:
            yield value
        else:
            yield from _texts(inner)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield str(name)
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON value with each text of `_texts` changed; what does not change stays as it is written."""
    if isinstance(value, str):
        inner = _parsed(value)
        if inner is None:
            return change(value)
        changed = _mapped(inner, change)
        return value if changed == inner else json.dumps(changed, ensure_ascii=False)
    if isinstance(value, Mapping):
        return {change(str(name)): _mapped(item, change) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(item, change) for item in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        changed = change(str(value))
        return value if changed == str(value) else changed
    return value


def _parsed(text: str) -> Any:
    """The JSON object or list that a text is, as arguments and results of tools are; None for other texts."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _hidden(message: Message, hide: Callable[[str], str]) -> Message:
    raw = None if message.raw is None else _mapped(dict(message.raw), hide)
    return replace(message, content=_mapped(message.content, hide), raw=raw)

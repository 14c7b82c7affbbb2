"""The one door to a model that must not see everything: what goes in is redacted, what comes out is restored."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from selfroute.backends.base import Asked, Backend, Wire, as_backend, capability, find_capability
from selfroute.backends.flight import closing
from selfroute.errors import PrivacyRefused
from selfroute.privacy.leaks import check
from selfroute.privacy.redaction import Redacted, Redactor
from selfroute.privacy.restoring import Restorer, restored
from selfroute.privacy.table import Table
from selfroute.types import Delta, Message, Sampling

__all__ = ["Departure", "RedactedBackend", "encoded"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Departure:
    """A request as it leaves: the request, what stands for what in it, and the bytes that are sent."""

    request: Redacted
    body: bytes


class RedactedBackend(Backend):
    """A model that gets placeholders in place of private values, and whose answers get the values back.

    It stands outside caches, which therefore hold redacted text alone. Nothing can reach the model past it: of what
    else the backend can do, only what is redacted here is offered.

    Args:
        backend: the model.
        redactor: says what is private.
        restore: put the values back into answers; else they keep the placeholders.
    """

    inner: Backend
    announces = True

    def __init__(self, backend: Backend, redactor: Redactor, *, restore: bool = True) -> None:
        self.inner = as_backend(backend)
        self.name = backend.name
        self.redactor = redactor
        self.restore = restore

    @property
    def model(self) -> str:
        """The server's name for the model, where it has one."""
        return capability(self.inner, Asked).model

    def offer(self, kind: type[T]) -> T | None:
        """Itself or nothing: what it wraps would see what it must not."""
        if kind is Asked and find_capability(self.inner, Asked) is None:
            return None
        return self if isinstance(self, kind) else None

    def depart(self, messages: Sequence[Message], sampling: Sampling) -> Departure:
        """The request that would leave, and its very bytes, seen to hold no private value.

        Raises:
            PrivacyRefused: it may not leave.
        """
        request = self.redactor.redact(messages, sampling)
        body = encoded(self.inner, request.messages, request.sampling)
        check(body, request.table)
        return Departure(request, body)

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        """Ask for an answer to the redacted request.

        Raises:
            PrivacyRefused: the request may not leave; nothing was sent.
        """
        request = self.redactor.redact(messages, sampling)
        if len(request.table):  # else there is no value to look for in the bytes
            check(encoded(self.inner, request.messages, request.sampling), request.table)
        found = request.table.kinds()
        if not self.inner.announces:
            yield Delta(sent=True, redacted=found)
            found = {}
        restoring = _Restoring(request.table if self.restore else Table())
        async with closing(self.inner.stream(request.messages, request.sampling)) as deltas:
            async for delta in deltas:
                for each in restoring.read(delta):
                    yield replace(each, redacted=found) if found else each
                    found = {}

    async def ask(self, address: str, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """See `selfroute.backends.base.Asked`.

        Raises:
            PrivacyRefused: the request may not leave, or its answer comes in pieces that cannot be restored.
        """
        hidden, table = self.redactor.redact_body(body)
        check(_dumped(hidden), table)
        if len(table) and body.get("stream"):
            raise PrivacyRefused(f"answers of {address} cannot be restored as a stream; ask without stream")
        async with closing(capability(self.inner, Asked).ask(address, hidden)) as answers:
            async for answer in answers:
                yield _restored(answer, table) if self.restore and len(table) else answer


class _Restoring:
    """Deltas of one answer with the values put back.

    Log-probabilities are left out: they are those of placeholders.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._text = Restorer(table)
        self._arguments: dict[int | None, Restorer] = {}  # by tool call; None is the one of the older form

    def read(self, delta: Delta) -> list[Delta]:
        if not len(self._table):
            return [delta]
        text = self._text.feed(delta.text)
        extra = self._extra(delta.extra) if delta.extra else delta.extra
        if delta.finish_reason is None:
            is_sign = not (delta.text or delta.tokens or delta.extra)
            return [replace(delta, text=text, tokens=(), extra=extra)] if text or extra or is_sign else []
        rest = [Delta(extra=piece) for piece in self._open_arguments()]
        return [*rest, replace(delta, text=text + self._text.close(), tokens=(), extra=extra)]

    def _extra(self, extra: Mapping[str, Any]) -> dict[str, Any]:
        apart = ("tool_calls", "function_call")
        out = {name: _restored(value, self._table) for name, value in extra.items() if name not in apart}
        if calls := extra.get("tool_calls"):
            out["tool_calls"] = [self._call(call) for call in calls]
        if call := extra.get("function_call"):
            out["function_call"] = self._function(call, None)
        return out

    def _call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        function = call.get("function")
        if not isinstance(function, Mapping):
            return {name: _restored(value, self._table) for name, value in call.items()}
        return {**call, "function": self._function(function, call.get("index", 0))}

    def _function(self, function: Mapping[str, Any], place: int | None) -> dict[str, Any]:
        written = function.get("arguments")
        if not isinstance(written, str):
            return dict(function)
        restorer = self._arguments.setdefault(place, Restorer(self._table, within_json=True))
        return {**function, "arguments": restorer.feed(written)}

    def _open_arguments(self) -> list[dict[str, Any]]:
        """What is left of the arguments when the answer ends."""
        pieces: list[dict[str, Any]] = []
        for place, restorer in self._arguments.items():
            if rest := restorer.close():
                function = {"arguments": rest}
                whole = {"function_call": function}
                pieces.append(whole if place is None else {"tool_calls": [{"index": place, "function": function}]})
        return pieces


def _restored(value: Any, table: Table) -> Any:
    if isinstance(value, str):
        return restored(value, table)
    if isinstance(value, Mapping):
        return {name: _restored(item, table) for name, item in value.items()}
    return [_restored(item, table) for item in value] if isinstance(value, list) else value


def encoded(backend: Backend, messages: Sequence[Message], sampling: Sampling) -> bytes:
    """The bytes that a request becomes; of a model in this process, all that it is given."""
    wire = find_capability(backend, Wire)
    if wire is not None:
        return wire.encode(messages, sampling)
    turns = [{"role": m.role, "content": m.content} if m.raw is None else dict(m.raw) for m in messages]
    return _dumped({"messages": turns, "stop": list(sampling.stop), **sampling.extra})


def _dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "replace")

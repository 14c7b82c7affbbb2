"""Chats that go on with an assistant's turn that others began: enough for steps that two models write."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

from selfroute.backends.base import Backend
from selfroute.backends.flight import closing
from selfroute.types import Delta, Message, Sampling

__all__ = ["Continued", "Continues", "Way"]

Way = Literal["vllm", "prefix", "plain"]


@runtime_checkable
class Continues(Protocol):
    """Optional capability: goes on with an assistant's turn that others began, in text."""

    def go_on(self, messages: Sequence[Message], begun: str, sampling: Sampling) -> AsyncIterator[Delta]:
        """As `Backend.stream`, behind what has been written of the answer; some servers repeat that first.

        Raises:
            BackendError: the model did not answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Says:
    """What tells a server to go on: fields of the request, and of the last message."""

    body: Mapping[str, Any] = field(default_factory=dict)
    message: Mapping[str, Any] = field(default_factory=dict)


_WAYS: Mapping[Way, _Says] = {
    "vllm": _Says(body={"continue_final_message": True, "add_generation_prompt": False}),
    "prefix": _Says(message={"prefix": True}),
    "plain": _Says(),
}


class Continued:
    """A chat endpoint that goes on.

    Args:
        chat: the endpoint.
        way: how it is told to.
    """

    def __init__(self, chat: Backend, way: Way) -> None:
        self._chat, self._says = chat, _WAYS[way]

    async def go_on(self, messages: Sequence[Message], begun: str, sampling: Sampling) -> AsyncIterator[Delta]:
        """See `Continues`; an answer that nobody has begun is asked for as ever."""
        if begun:
            raw = {"role": "assistant", "content": begun, **self._says.message}
            messages = [*messages, Message("assistant", begun, raw=raw)]
            sampling = replace(sampling, extra={**sampling.extra, **self._says.body})
        async with closing(self._chat.stream(messages, sampling)) as deltas:
            async for delta in deltas:
                yield delta

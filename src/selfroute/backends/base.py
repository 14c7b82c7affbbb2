"""The backend contract: one required method, and plain functions over it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from selfroute.errors import BackendError, SelfRouteError, UnsupportedByBackend
from selfroute.types import Completion, Delta, Message, Sampling, Token, Usage

__all__ = [
    "Backend",
    "BatchBackend",
    "complete",
    "complete_all",
    "lacking",
    "refuse_fields",
    "request_fields",
    "run_sync",
]

T = TypeVar("T")


class Backend(Protocol):
    """A model that answers. The role, device or cloud, is given by the strategy that uses it."""

    name: str

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        """Write the answer piece by piece; the last `Delta` carries finish reason and usage.

        Raises:
            BackendError: the model did not answer.
            UnsupportedByBackend: `sampling` asks for something this backend cannot do.
        """
        ...


@runtime_checkable
class BatchBackend(Protocol):
    """Optional capability: many prompts at once, in a worker thread, in order."""

    name: str

    def generate_batch(self, prompts: Sequence[Sequence[Message]], sampling: Sampling) -> list[Completion]: ...


# Fields that tell a provider about the request and do not change the answer, or that `Sampling` says already.
_NOTES = frozenset(
    {
        "max_completion_tokens",
        "metadata",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
# What a field says when it says nothing.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("auto", "none"),
    "function_call": ("auto", "none"),
    "parallel_tool_calls": (True, False),
}


def request_fields(messages: Sequence[Message], sampling: Sampling) -> list[str]:
    """Names of all that a request asks for beyond text messages and the typed options of `Sampling`."""
    fields = [
        name
        for name, value in sampling.extra.items()
        if value is not None and name not in _NOTES and value not in _NEUTRAL.get(name, ())
    ]
    for message in messages:
        fields += _beyond_text(message)
    return list(dict.fromkeys(fields))


def _beyond_text(message: Message) -> list[str]:
    if message.raw is None:
        return []
    names = [name for name, value in message.raw.items() if name not in ("role", "content", "name") and value]
    parts = message.raw.get("content")
    for part in parts if isinstance(parts, list) else []:
        if isinstance(part, Mapping) and part.get("type") != "text":
            names.append(str(part.get("type")))
    return names


def lacking(backend: Backend, messages: Sequence[Message], sampling: Sampling) -> list[str]:
    """The fields of a request that this backend cannot honour.

    A backend that sends OpenAI-style requests has an attribute `lacks`, the fields that its server cannot do; one
    without it takes text and `Sampling`'s own options alone.
    """
    asked = request_fields(messages, sampling)
    lacks = getattr(backend, "lacks", None)
    return asked if lacks is None else [name for name in asked if name in lacks]


def refuse_fields(backend: Backend, messages: Sequence[Message], sampling: Sampling) -> None:
    """Refuse what `lacking` names.

    Raises:
        UnsupportedByBackend: names the fields.
    """
    if names := lacking(backend, messages, sampling):
        raise UnsupportedByBackend(f"{backend.name} has no {', '.join(names)}; leave it out, or use another model")


async def complete(backend: Backend, messages: Sequence[Message], sampling: Sampling) -> Completion:
    """Drain a stream into one completion; a replayed one keeps the seconds it took when it was made."""
    started = time.perf_counter()
    seconds: float | None = None
    usd: float | None = None
    text: list[str] = []
    tokens: list[Token] = []
    usage, finish_reason = Usage(), "stop"
    async for delta in backend.stream(messages, sampling):
        text.append(delta.text)
        tokens.extend(delta.tokens)
        usage = delta.usage or usage
        finish_reason = delta.finish_reason or finish_reason
        seconds = delta.seconds if delta.seconds is not None else seconds
        usd = delta.usd if delta.usd is not None else usd
    measured = time.perf_counter() - started
    seconds = measured if seconds is None else seconds
    return Completion("".join(text), usage, finish_reason, tuple(tokens), seconds, usd)


async def complete_all(
    backend: Backend, prompts: Sequence[Sequence[Message]], sampling: Sampling, *, concurrency: int = 64
) -> list[Completion | SelfRouteError]:
    """Answer every prompt; a failed one gives its error in place of a completion, never an exception.

    Args:
        concurrency: requests in flight at once for backends without `generate_batch`.
    """
    if isinstance(backend, BatchBackend):
        try:
            return list(await asyncio.to_thread(backend.generate_batch, prompts, sampling))
        except BackendError as error:
            return [error] * len(prompts)
    gate = asyncio.Semaphore(concurrency)

    async def one(messages: Sequence[Message]) -> Completion | SelfRouteError:
        async with gate:
            try:
                return await complete(backend, messages, sampling)
            except SelfRouteError as error:
                return error

    return await asyncio.gather(*(one(messages) for messages in prompts))


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine from synchronous code, also inside a thread that already runs a loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()

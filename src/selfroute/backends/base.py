"""The backend contract: one method to write, defaults for the rest, and plain functions over it."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

from selfroute.backends.flight import in_flight
from selfroute.errors import (
    BackendError,
    BackendStatusError,
    ConfigError,
    ContextLengthExceeded,
    PrivacyRefused,
    SelfRouteError,
    UnsupportedByBackend,
)
from selfroute.types import Completion, Delta, Message, Sampling, Token, Usage

__all__ = [
    "REFUSED",
    "Asked",
    "Backend",
    "BatchBackend",
    "Fold",
    "Wire",
    "as_backend",
    "capability",
    "complete",
    "complete_all",
    "find_capability",
    "is_refusal",
    "lacking",
    "refuse_fields",
    "request_fields",
    "run_sync",
]

T = TypeVar("T")

# HTTP statuses by which a model's server says that the request is wrong, not the server.
REFUSED = frozenset({400, 413, 415, 422})


class Backend(ABC):
    """A model that answers: a class to derive from, with one method to write.

    The role, device or cloud, is given by the strategy that uses it. A backend in front of another one says so in
    `inner`; what it does not say itself, the inner one says.

    Attributes:
        name: shown in traces, reports and errors.
        inner: the backend that this one wraps, None if it wraps none.
    """

    name: str
    inner: Backend | None = None

    @abstractmethod
    def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        """Write the answer piece by piece; the last `Delta` carries finish reason and usage.

        Raises:
            BackendError: the model did not answer.
            UnsupportedByBackend: `sampling` asks for something this backend cannot do.
        """

    @property
    def identity(self) -> str:
        """What tells its answers from other models' in a cache; by default its name."""
        return self.name if self.inner is None else self.inner.identity

    @property
    def lacks(self) -> frozenset[str] | None:
        """The fields of OpenAI-style requests that it cannot do; None if it takes text and `Sampling`'s options alone.

        See `request_fields`.
        """
        return None if self.inner is None else self.inner.lacks

    @property
    def announces(self) -> bool:
        """Whether its streams say with `Delta.sent` when the request leaves; with others it leaves at once.

        A request that ends before that has cost nothing.
        """
        return self.inner is not None and self.inner.announces

    @property
    def most_answers(self) -> int:
        """How many answers of `Sampling.max_tokens` it may write for one request, all of which its usage counts."""
        return 1 if self.inner is None else self.inner.most_answers

    def check(self) -> None:
        """Find out without a request what every request would be refused for.

        Raises:
            ConfigError: e.g. a key is missing.
        """
        if self.inner is not None:
            self.inner.check()

    async def aclose(self) -> None:
        """Let go of connections, threads and memory; closing twice does nothing."""
        if self.inner is not None:
            await self.inner.aclose()

    def missing(self, fields: Sequence[str]) -> list[str]:
        """Of the fields that a request asks for, those that it cannot honour; see `lacking`."""
        lacks = self.lacks
        return list(fields) if lacks is None else [name for name in fields if name in lacks]

    def offer(self, kind: type[T]) -> T | None:
        """This backend as a `kind`, or else the one behind it that is one; see `find_capability`.

        What asks the model is not looked for behind a backend, as it would go past whatever this one does for each
        request. One that writes other answers than its inner one must not be passed by at all: override this.
        """
        if isinstance(self, kind):
            return self
        return None if self.inner is None or kind in (Asked, BatchBackend) else self.inner.offer(kind)


@runtime_checkable
class BatchBackend(Protocol):
    """Optional capability: many prompts at once, in a worker thread, in order."""

    name: str

    def generate_batch(self, prompts: Sequence[Sequence[Message]], sampling: Sampling) -> list[Completion]: ...


@runtime_checkable
class Asked(Protocol):
    """Optional capability: a server that can be asked for more than chats, in its own terms."""

    name: str
    model: str

    def ask(self, address: str, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The JSON objects of its answer: the one that it is, or the events of a stream.

        Args:
            address: behind the base URL, e.g. "embeddings".
            body: of the request, sent as it is.

        Raises:
            BackendError: there is no whole answer.
        """
        ...


@runtime_checkable
class Wire(Protocol):
    """Optional capability: requests leave this process, as bytes that can be seen beforehand."""

    def encode(self, messages: Sequence[Message], sampling: Sampling) -> bytes:
        """The body that `stream` would send."""
        ...


def as_backend(value: object) -> Backend:
    """The value, if it is a backend.

    Raises:
        ConfigError: its class does not derive from `Backend`, however much it looks like one.
    """
    if isinstance(value, Backend):
        return value
    raise ConfigError(
        f"{value!r:.80} is no backend; derive {type(value).__name__} from selfroute.Backend, or wrap a function in "
        "FunctionBackend"
    )


def find_capability(backend: Backend, kind: type[T]) -> T | None:
    """What of a backend can do more than `stream`: itself, or one that it wraps and may be passed by for this.

    Args:
        kind: a protocol that can be checked at run time, such as `BatchBackend`, or a class.

    Returns:
        The outermost one that is a `kind`, to call its methods; None if there is none.

    Raises:
        ConfigError: `backend` is none.
    """
    return as_backend(backend).offer(kind)


def capability(backend: Backend, kind: type[T]) -> T:
    """As `find_capability`, where there is no way to do without.

    Raises:
        UnsupportedByBackend: neither the backend nor what it wraps can do it; names both.
        ConfigError: `backend` is none.
    """
    found = find_capability(backend, kind)
    if found is None:
        raise UnsupportedByBackend(f"{backend.name} has no {kind.__name__}; use a backend that has, e.g. another model")
    return found


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
    """The fields of a request that this backend cannot honour; see `Backend.lacks`."""
    lacks = backend.lacks
    if lacks is not None and not lacks:  # most endpoints: nothing to look for
        return []
    return backend.missing(request_fields(messages, sampling))


def is_refusal(failure: BackendError) -> bool:
    """Whether a failure is the request's fault: asking again, or asking less often, is of no use."""
    if isinstance(failure, BackendStatusError):
        return failure.status_code in REFUSED
    return isinstance(failure, ContextLengthExceeded | PrivacyRefused)


def refuse_fields(backend: Backend, messages: Sequence[Message], sampling: Sampling) -> None:
    """Refuse what `lacking` names.

    Raises:
        UnsupportedByBackend: names the fields.
    """
    if names := lacking(backend, messages, sampling):
        raise UnsupportedByBackend(f"{backend.name} has no {', '.join(names)}; leave it out, or use another model")


@dataclass(slots=True)
class Fold:
    """The deltas of one stream put together, as they come.

    Attributes:
        texts: its pieces of text, none empty.
        tokens: what was reported, in order.
        finish_reason: why it stopped, None until it says so.
        usage: what it used, None until it says so.
        seconds, usd: of a replayed answer, what it took and cost when it was made; None if nobody knows.
        redacted: as in `Delta`.
    """

    texts: list[str] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    finish_reason: str | None = None
    usage: Usage | None = None
    seconds: float | None = None
    usd: float | None = None
    redacted: Mapping[str, int] = field(default_factory=dict)

    def add(self, delta: Delta) -> None:
        """Put the next delta to what is there."""
        if delta.text:
            self.texts.append(delta.text)
        if delta.tokens:
            self.tokens.extend(delta.tokens)
        if delta.finish_reason:
            self.finish_reason = delta.finish_reason
        if delta.usage is not None:
            self.usage = delta.usage
        if delta.seconds is not None:
            self.seconds = delta.seconds
        if delta.usd is not None:
            self.usd = delta.usd
        if delta.redacted:
            self.redacted = delta.redacted

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def used(self) -> Usage:
        """What was reported; of a stream that broke off before that, one token for each piece of text."""
        return self.usage or Usage(completion_tokens=len(self.texts))

    def completion(self, measured_s: float) -> Completion:
        """The whole answer.

        Args:
            measured_s: how long it took; of a replayed answer, what it once took is kept.
        """
        seconds = measured_s if self.seconds is None else self.seconds
        usage, reason = self.usage or Usage(), self.finish_reason or "stop"
        return Completion(self.text, usage, reason, tuple(self.tokens), seconds, self.usd)


async def complete(backend: Backend, messages: Sequence[Message], sampling: Sampling) -> Completion:
    """Drain a stream into one completion; a replayed one keeps the seconds it took when it was made."""
    started, fold = time.perf_counter(), Fold()
    async for delta in backend.stream(messages, sampling):
        fold.add(delta)
    return fold.completion(time.perf_counter() - started)


async def complete_all(
    backend: Backend,
    prompts: Sequence[Sequence[Message]],
    sampling: Sampling,
    *,
    concurrency: int = 64,
    on_done: Callable[[], object] = lambda: None,
) -> list[Completion | SelfRouteError]:
    """Answer every prompt; a failed one gives its error in place of a completion, never an exception.

    Args:
        concurrency: requests in flight at once for backends without `generate_batch`.
        on_done: called once for each prompt when its answer is there.
    """
    found: dict[int, Completion | SelfRouteError] = {}

    async def one(number: int) -> tuple[int, Completion | SelfRouteError]:
        try:
            return number, await complete(backend, prompts[number], sampling)
        except SelfRouteError as error:
            return number, error

    if (batches := find_capability(backend, BatchBackend)) is not None:
        found |= enumerate(await _batch(batches, prompts, sampling))
        for _ in prompts:
            on_done()
    else:
        async for number, answer in in_flight(range(len(prompts)), one, limit=concurrency):
            found[number] = answer
            on_done()
    return [found[number] for number in range(len(prompts))]


async def _batch(
    backend: BatchBackend, prompts: Sequence[Sequence[Message]], sampling: Sampling
) -> Sequence[Completion | SelfRouteError]:
    try:
        return await asyncio.to_thread(backend.generate_batch, prompts, sampling)
    except BackendError as error:
        return [error] * len(prompts)


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine from synchronous code, also inside a thread that already runs a loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()

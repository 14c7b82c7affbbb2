"""Any server that speaks OpenAI's chat completions: a provider, or vLLM, llama.cpp, Ollama, LM Studio at home."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import math
import os
import random
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, Self, TypeVar, cast
from urllib.request import ProxyHandler, Request, build_opener, getproxies, proxy_bypass

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from selfroute.backends.base import Backend, refuse_fields
from selfroute.backends.chunks import ChunkReader, whole_object
from selfroute.backends.completions import CompletionSessions, Server
from selfroute.backends.continuing import Continued, Continues, Way
from selfroute.backends.layer_endpoint import EndpointLayers
from selfroute.backends.layers import Layered
from selfroute.backends.sessions import Sessions
from selfroute.backends.sse import DONE, EventReader, Malformed, error_message
from selfroute.errors import (
    BackendError,
    BackendStatusError,
    BackendTimeout,
    BackendUnavailable,
    ConfigError,
    ContextLengthExceeded,
    UnsupportedByBackend,
)
from selfroute.types import Delta, Message, Sampling

__all__ = ["OpenAICompatibleBackend"]

T = TypeVar("T")

_BACKOFF_S = 0.5  # before the second attempt; doubles with each further one
_MAX_BACKOFF_S = 8.0
_RETRYABLE = frozenset({408, 409, 425, 429})
_JITTER = random.Random()  # our own, as the global one belongs to the user's seed
# How servers say that a conversation does not fit.
_TOO_LONG = re.compile(
    r"context_length_exceeded|context (length|size|window)|maximum context|prompt is too long|too many (input )?tokens",
    re.IGNORECASE,
)
# Headers that belong to the connection.
_NOT_OURS = frozenset({"host", "connection", "content-length", "content-type", "transfer-encoding", "accept-encoding"})
_DRAIN_S = 0.05  # most waits for the end of a response behind [DONE]; some servers leave it open


class OpenAICompatibleBackend(Backend):
    """A model behind an OpenAI-compatible endpoint, asked over a streamed `/chat/completions`.

    Reasoning that the server sends beside the answer is put back in front of it as `<think>…</think>`. Where the
    server sends no usage, tokens are estimated as one per 4 characters. Failed requests are repeated as long as
    nothing was received, after a growing pause or the server's `Retry-After`.

    Close it with `aclose` or `async with`; a loop that ends closes its connections too.

    Args:
        name: shown in traces and reports.
        base_url: up to, without, `/chat/completions`, e.g. `https://api.openai.com/v1`.
        model: the server's name for the model.
        api_key_env: the environment variable that holds the key, read with every request and never kept; None
            sends no key. On a loopback address the variable may be absent.
        headers: to send with each request, for what may be written down, e.g. `{"X-Title": "my app"}`.
        headers_env: header -> environment variable that holds its value, read and kept like the key. They win.
        timeout_s: seconds for one whole answer, retries and their pauses included.
        connect_timeout_s: seconds for the connection alone.
        max_retries: further attempts after a failed one.
        concurrency: requests in flight at once, per event loop.
        extra_body: fields to add to each request or, with the value None, to leave out, e.g.
            `{"stream_options": None}` for a server that refuses it. They win over a request's own.
        lacks: request fields that this server cannot do, e.g. `["tools"]`; see `selfroute.backends.base.lacking`.
        sessions: how its `/v1/completions` takes and returns token ids, for answers that two models write: `selfroute`
            for a `selfroute cloud`, `vllm`; None if it does not. See docs/inside.md.
        tokenizer: folder or repository of the model's tokenizer, which `vllm` needs.
        continues: how its chat goes on with an assistant's turn that others began, for steps that two models write:
            `vllm` (also SGLang), `prefix` for a field of the message (Mistral, DeepSeek), `plain` for a server that
            does so by itself (llama.cpp); None if it does not.

    Raises:
        ConfigError: if an argument is wrong.
    """

    lacks: frozenset[str] = frozenset()
    announces = True
    _reuse_connections = True

    def __init__(
        self,
        name: str,
        base_url: str,
        model: str,
        *,
        api_key_env: str | None = "OPENAI_API_KEY",
        timeout_s: float = 120.0,
        connect_timeout_s: float = 10.0,
        max_retries: int = 3,
        concurrency: int = 16,
        extra_body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        headers_env: Mapping[str, str] | None = None,
        lacks: Sequence[str] = (),
        sessions: Server | None = None,
        tokenizer: str | None = None,
        continues: Way | None = None,
    ) -> None:
        self.name = name
        self.model = model
        self.api_key_env = None if api_key_env is None else _checked_variable(api_key_env, "api_key_env")
        self.timeout_s = _checked("timeout_s", timeout_s, above=0)
        self.connect_timeout_s = _checked("connect_timeout_s", connect_timeout_s, above=0)
        self.max_retries = int(_checked("max_retries", max_retries, above=-1))
        self.concurrency = int(_checked("concurrency", concurrency, above=0))
        self.lacks = frozenset(lacks)
        self._extra_body = _checked_body(extra_body)
        self._own_headers = {name: _checked_header(name, value) for name, value in (headers or {}).items()}
        self.headers_env = {
            _header_name(name): _checked_variable(variable, f"headers_env.{name}")
            for name, variable in (headers_env or {}).items()
        }
        self._url = _endpoint(base_url)
        self._links: dict[asyncio.AbstractEventLoop, _Link] = {}
        self._sessions = None if sessions is None else CompletionSessions(self, sessions, tokenizer, self._about)
        self._layers = EndpointLayers(name, self.send, self._about) if sessions == "selfroute" else None
        self._continued = None if continues is None else Continued(self, continues)

    def offer(self, kind: type[T]) -> T | None:
        """See `Backend.offer`; answers stay open where the server's `/v1/completions` takes and returns ids."""
        if kind is Sessions:
            return cast(T | None, self._sessions)
        if kind is Layered:
            return cast(T | None, self._layers)
        if kind is Continues:
            return cast(T | None, self._continued)
        return super().offer(kind)

    def _about(self) -> dict[str, Any] | None:
        """What a `selfroute cloud` says of its sessions; None if it cannot be reached. Waits for it."""
        url = str(_beside(self._url, "models"))
        opener = build_opener(ProxyHandler({})) if _is_loopback(self._url) else build_opener()
        try:
            with opener.open(Request(url, headers=self._headers()), timeout=self.connect_timeout_s) as response:
                about = json.load(response).get("selfroute")
        except (OSError, ValueError, AttributeError, ConfigError):
            return None
        return about if isinstance(about, dict) and about else None

    @property
    def base_url(self) -> str:
        """The address without `/chat/completions` and query."""
        return str(self._url.parent.parent.with_query(None)).rstrip("/")

    @property
    def identity(self) -> str:
        """What tells this model from others in an answer cache."""
        extra = json.dumps(self._extra_body, sort_keys=True) if self._extra_body else ""
        return f"{self.base_url} {self.model} {extra}".rstrip()

    def __repr__(self) -> str:
        masked = "".join(f", {name}=***" for name in (*self._own_headers, *self.headers_env))
        return (
            f"OpenAICompatibleBackend({self.name!r}, {self.base_url!r}, {self.model!r}, "
            f"api_key_env={self.api_key_env!r}{masked})"
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close this event loop's connections; a later request opens new ones."""
        if link := self._links.pop(asyncio.get_running_loop(), None):
            await link.keeper.aclose()

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        """Ask the endpoint once `concurrency` allows, and pass on what it writes.

        Once a server has begun to answer, the call is paid for: an empty delta says so, and it is not repeated,
        whatever becomes of it.

        Raises:
            ConfigError: if the key is missing.
            UnsupportedByBackend: if `sampling` forbids text or asks for what the server `lacks`, or the server sends
                no log-probabilities.
            ContextLengthExceeded: the server says that the conversation is too long for the model.
            BackendTimeout: no whole answer within `timeout_s`, or no connection within `connect_timeout_s`.
            BackendUnavailable: the connection failed or was cut, or the answer is malformed.
            BackendStatusError: an HTTP error status.
        """
        if sampling.forbid:
            raise UnsupportedByBackend(f"{self.name}: a chat endpoint cannot be forbidden to write {sampling.forbid}")
        refuse_fields(self, messages, sampling)
        headers = self._headers()
        body = self.encode(messages, sampling)
        link = await self._link()
        async with link.gate:
            yield Delta(sent=True)
            deadline = time.monotonic() + self.timeout_s
            for attempt in range(self.max_retries + 1):
                started = False
                try:
                    reader = ChunkReader(messages)
                    async with aclosing(self._attempt(link.session, headers, body, reader, deadline)) as deltas:
                        async for delta in deltas:
                            started = True
                            yield delta
                    break
                except _Failed as error:
                    failed = error
                if reader.began and not started:
                    started = True
                    yield Delta()
                pause_s = _backoff_s(attempt) if failed.pause_s is None else failed.pause_s
                late = time.monotonic() + pause_s >= deadline
                if started or late or attempt == self.max_retries or not failed.error.retryable:
                    raise failed.error  # outside the handler: its context could show the request and so the key
                await asyncio.sleep(pause_s)
        if sampling.top_logprobs is not None and reader.characters and not reader.token_count:
            raise UnsupportedByBackend(
                f"{self.name}: {self.base_url} sent no log-probabilities; use a server that can, or a strategy "
                "that does without"
            )

    async def _attempt(
        self,
        session: aiohttp.ClientSession,
        headers: Mapping[str, str],
        body: bytes,
        reader: ChunkReader,
        deadline: float,
    ) -> AsyncGenerator[Delta, None]:
        with self._faults():
            try:
                async with self._post(session, self._url, headers, body, deadline) as response:
                    if not 200 <= response.status < 300:
                        raise await self._refused(response)
                    events = EventReader(is_json="json" in response.content_type)
                    async for block in response.content.iter_any():
                        for delta in reader.deltas(events.read(block)):
                            yield delta
                        if reader.is_done:
                            await _drain(response)
                            break
                    else:
                        for delta in reader.deltas(events.end()):
                            yield delta
            except aiohttp.ClientPayloadError as error:
                if not reader.is_finished:  # else nothing but the server's own closing words is missing
                    raise Malformed(f"the answer was cut off after {reader.characters} characters") from error
            yield reader.end()

    def encode(self, messages: Sequence[Message], sampling: Sampling) -> bytes:
        """See `selfroute.backends.base.Wire`."""
        return json.dumps(_request(self.model, messages, sampling, self._extra_body)).encode()

    async def ask(self, address: str, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Ask another address of this server, once; see `selfroute.backends.base.Asked`.

        Raises:
            ConfigError, BackendTimeout, BackendUnavailable, BackendStatusError, ContextLengthExceeded: as in `stream`.
        """
        headers, link = self._headers(), await self._link()
        async with link.gate:
            try:
                with self._faults():
                    async with aclosing(self._objects(link.session, address, headers, body)) as objects:
                        async for each in objects:
                            yield each
                return
            except _Failed as error:
                failed = error.error
        raise failed  # outside the handler: its context could show the request and so the key

    async def send(self, address: str, data: bytes) -> bytes:
        """Post bytes to another address of this server, once, and bring those that come back.

        Waits for no turn: a question may need what another message carries.

        Raises:
            ConfigError, BackendTimeout, BackendUnavailable, BackendStatusError: as in `stream`.
        """
        headers, link = self._headers(), await self._link()
        headers = {"Content-Type": "application/octet-stream", **headers}
        url, deadline = _beside(self._url, address), time.monotonic() + self.timeout_s
        try:
            with self._faults():
                async with self._post(link.session, url, headers, data, deadline) as response:
                    if not 200 <= response.status < 300:
                        raise await self._refused(response)
                    return await response.content.read()
        except _Failed as error:
            failed = error.error
        raise failed  # outside the handler: its context could show the request and so the key

    async def _objects(
        self, session: aiohttp.ClientSession, address: str, headers: Mapping[str, str], body: Mapping[str, Any]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The JSON objects of an answer: the one that it is, or the events of a stream up to its end."""
        url, deadline = _beside(self._url, address), time.monotonic() + self.timeout_s
        async with self._post(session, url, headers, json.dumps(body).encode(), deadline) as response:
            if not 200 <= response.status < 300:
                raise await self._refused(response)
            events = EventReader(is_json="json" in response.content_type)
            async for block in response.content.iter_any():
                for event in events.read(block):
                    if event == DONE:
                        await _drain(response)
                        return
                    yield whole_object(event)
            for event in events.end():
                if event != DONE:
                    yield whole_object(event)

    def _post(
        self,
        session: aiohttp.ClientSession,
        url: URL,
        headers: Mapping[str, str],
        body: bytes,
        deadline: float,
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        left_s = max(deadline - time.monotonic(), 0.001)
        timeout = aiohttp.ClientTimeout(total=left_s, connect=self.connect_timeout_s)
        headers = {"Content-Type": "application/json", **headers}
        return session.post(url, data=body, headers=headers, timeout=timeout, proxy=_proxy(url), allow_redirects=False)

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """What goes wrong between here and the server, as a failed attempt."""
        try:
            yield
        except Malformed as error:
            raise _Failed(self._unavailable(str(error), summary="the answer cannot be read")) from error
        except TimeoutError as error:
            raise _Failed(self._late(error)) from error
        except (aiohttp.ClientError, OSError) as error:
            what = f"the request failed, is the server running? {type(error).__name__}: {error}"
            raise _Failed(self._unavailable(what)) from error

    def check(self) -> None:
        """See that the key and the values of headers are there before the first request needs them.

        Raises:
            ConfigError: one is missing, or cannot be sent.
        """
        self._headers()

    def _headers(self) -> Mapping[str, str]:
        key = self._key()
        sent = CIMultiDict({"Authorization": f"Bearer {key}"} if key else {})
        sent.update(self._own_headers)
        for name, variable in self.headers_env.items():
            value = os.environ.get(variable, "").strip()
            if not value:
                raise ConfigError(f"{self.name}: no value for the header {name}; export {variable}=…")
            sent[name] = _checked_header(name, value, f"the value in {variable}")
        return sent

    def _key(self) -> str | None:
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key and not _is_loopback(self._url):
            raise ConfigError(f"{self.name}: no key for {self.base_url}; export {self.api_key_env}=…")
        if not key.isascii() or not key.isprintable():
            raise ConfigError(f"{self.name}: the key in {self.api_key_env} holds characters that no key has")
        return key or None

    def _scrub(self, text: str) -> str:
        """A server's words for the user: on one line, short, and without keys if the server repeats them."""
        for variable in (self.api_key_env, *self.headers_env.values()):
            if secret := os.environ.get(variable, "").strip() if variable else "":
                text = text.replace(secret, "***")
        text = " ".join(text.split())
        return text if len(text) <= 200 else text[:200] + "…"

    def _unavailable(self, what: str, *, summary: str | None = None) -> BackendUnavailable:
        where = f"{self.name}: {self.base_url}"
        what = self._scrub(what)
        return BackendUnavailable(f"{where}: {what}", backend=self.name, summary=f"{where}: {summary or what}")

    def _late(self, error: Exception) -> BackendTimeout:
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            what = f"no connection within {self.connect_timeout_s:g} s"
        else:
            what = f"no whole answer within {self.timeout_s:g} s; raise timeout_s or lower max_tokens"
        return BackendTimeout(f"{self.name}: {self.base_url}: {what}", backend=self.name)

    async def _refused(self, response: aiohttp.ClientResponse) -> _Failed:
        status = response.status
        body = (await response.content.read(65536)).decode("utf-8", "replace")
        said = error_message(body)
        summary = f"{self.name}: {self.base_url} answered HTTP {status}{self._advice(status)}"
        message = f"{summary}: {self._scrub(said)}"
        if status in (400, 413, 422) and _TOO_LONG.search(f"{said} {body}"):
            return _Failed(ContextLengthExceeded(message, backend=self.name))
        error = BackendStatusError(
            message,
            backend=self.name,
            status_code=status,
            summary=summary,
            retryable=(status in _RETRYABLE or status >= 500) and "insufficient_quota" not in body,
        )
        return _Failed(error, _retry_after_s(response.headers.get("Retry-After")))

    def _advice(self, status: int) -> str:
        if status in (401, 403):
            key = f"the key in {self.api_key_env}" if self.api_key_env else "api_key_env, as no key was sent"
            return f" (check {key})"
        if status == 404 or 300 <= status < 400:
            return f" (check base_url and the model {self.model!r})"
        return ""

    async def _link(self) -> _Link:
        loop = asyncio.get_running_loop()
        for ended in [other for other in self._links if other.is_closed()]:
            self._links.pop(ended, None)
        if loop not in self._links:
            keeper = _keep_session(reuse=self._reuse_connections)
            session = await anext(keeper)  # does not give up control, so there is one session per loop
            self._links[loop] = _Link(session, asyncio.Semaphore(self.concurrency), keeper)
        return self._links[loop]


@dataclass(frozen=True, slots=True)
class _Link:
    """What belongs to one event loop."""

    session: aiohttp.ClientSession
    gate: asyncio.Semaphore
    keeper: AsyncGenerator[aiohttp.ClientSession, None]


async def _keep_session(*, reuse: bool) -> AsyncGenerator[aiohttp.ClientSession, None]:
    """Holds a session open until it is closed itself, at the latest when its event loop shuts down."""
    connector = aiohttp.TCPConnector(limit=0, force_close=not reuse)  # the semaphore limits
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


class _Failed(Exception):
    """An attempt failed; `pause_s` is what the server asks to wait before the next one."""

    def __init__(self, error: BackendError, pause_s: float | None = None) -> None:
        super().__init__()
        self.error = error
        self.pause_s = pause_s


def _request(
    model: str, messages: Sequence[Message], sampling: Sampling, extra_body: Mapping[str, Any]
) -> dict[str, Any]:
    """The body of a request. What equals the server's default is left out, as some models refuse to be told."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [
            {"role": message.role, "content": message.content} if message.raw is None else dict(message.raw)
            for message in messages
        ],
        "temperature": sampling.temperature,
        "top_p": sampling.top_p if sampling.top_p != 1 else None,
        "max_tokens": sampling.max_tokens,
        "seed": sampling.seed,
        "stop": list(sampling.stop) or None,
        "logprobs": None if sampling.top_logprobs is None else True,
        "top_logprobs": sampling.top_logprobs or None,
        "stream": True,
        "stream_options": {"include_usage": True},
        **sampling.extra,
        **extra_body,
    }
    return {key: value for key, value in body.items() if value is not None}


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read to the end of the response, so that its connection can be used again; not for long."""
    try:
        async with asyncio.timeout(_DRAIN_S):
            await response.content.read()
    except (TimeoutError, aiohttp.ClientError):
        pass


def _retry_after_s(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, given as a number or as a date."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _backoff_s(attempt: int) -> float:
    """The pause after a failed attempt, counted from 0: doubling, less up to half by chance so that clients spread."""
    return min(_BACKOFF_S * 2.0**attempt, _MAX_BACKOFF_S) * _JITTER.uniform(0.5, 1.0)


def _endpoint(base_url: str) -> URL:
    wrong = ConfigError(f"base_url is {base_url!r}; write the address up to /v1, e.g. http://127.0.0.1:8000/v1")
    try:
        url = URL(base_url)
    except (TypeError, ValueError):
        raise wrong from None
    if url.user or url.password:
        raise ConfigError("base_url holds a user or password; put the key in a variable and name it in api_key_env")
    if url.scheme not in ("http", "https") or not url.host:
        raise wrong
    path = url.path.rstrip("/").removesuffix("/chat/completions")
    return url.with_path(f"{path}/chat/completions").with_query(url.query)


def _beside(url: URL, address: str) -> URL:
    """Another address of the server that answers chats at `url`."""
    return url.with_path(url.path.removesuffix("chat/completions") + address).with_query(url.query)


@lru_cache(maxsize=64)
def _is_loopback(url: URL) -> bool:
    try:
        return ipaddress.ip_address(url.host or "").is_loopback
    except ValueError:
        return url.host == "localhost"


def _proxy(url: URL) -> str | None:
    """The proxy that the environment names for this address."""
    if _is_loopback(url) or proxy_bypass(url.host or ""):
        return None
    return getproxies().get(url.scheme)


def _checked_variable(name: str, where: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        # The value is not shown: it is likely the key itself.
        raise ConfigError(f"{where} is not the name of an environment variable; it must not be the key itself")
    return name


def _header_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name) or name.lower() in _NOT_OURS:
        raise ConfigError(f"headers: '{name}' is no header that can be set; write e.g. X-Title")
    return name


def _checked_header(name: str, value: str, what: str = "its value") -> str:
    _header_name(name)
    if not value.isascii() or not value.isprintable():
        raise ConfigError(f"headers.{name}: {what} holds characters that no header has; write printable ASCII")
    return value


def _checked_body(extra_body: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        json.dumps(body := dict(extra_body or {}))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"extra_body cannot be sent as JSON: {error}") from None
    return body


def _checked(name: str, value: float, *, above: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not above < value < math.inf:
        raise ConfigError(f"{name} is {value!r}; it must be a number above {above:g}")
    return value

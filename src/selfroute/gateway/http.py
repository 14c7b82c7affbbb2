"""The little of HTTP that the gateway needs over ASGI: a bounded body, one answer, and a client that may leave."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

from selfroute.gateway.errors import ApiError

__all__ = ["ClientGone", "Http", "Receive", "Scope", "Send"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# The client is asked not to guess types, not to frame, and not to tell others where it comes from.
_ALWAYS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
]


class ClientGone(Exception):
    """The client closed its connection before it had its answer."""


_GATHERED_BYTES = 1 << 16  # of a stream, before whoever writes it waits for the client


class Http:
    """One HTTP request and its answer.

    The pieces of a stream that are there at the same time leave in one write: a system call for each costs more than
    all else that is done for it.

    Attributes:
        started: whether the answer has begun; from then on an error can only end it.
        client: name of the key that asks, None where no keys are asked for.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.always: list[tuple[bytes, bytes]] = []  # headers of this answer, whatever it says
        self.started = False
        self.client: str | None = None
        self._headers: list[tuple[bytes, bytes]] = scope["headers"]
        self._receive, self._send = receive, send
        self._gathered: list[bytes] = []
        self._gathered_bytes = self._written = 0
        self._sending: asyncio.Task[None] | None = None

    def header(self, name: str) -> str | None:
        wanted = name.encode()
        for key, value in self._headers:
            if key == wanted:
                return value.decode("latin-1")
        return None

    async def body(self, most_bytes: int) -> bytes:
        """The whole body, decompressed.

        Raises:
            ApiError: it is larger than allowed, before or after it is decompressed, or compressed in another way.
            ClientGone: it does not come to its end.
        """
        data = await self._raw_body(most_bytes)
        coding = (self.header("content-encoding") or "identity").strip().lower()
        return data if coding == "identity" else _decompressed(data, coding, most_bytes)

    async def _raw_body(self, most_bytes: int) -> bytes:
        declared = self.header("content-length")
        if declared is not None and declared.isdecimal() and int(declared) > most_bytes:
            raise _too_large(most_bytes)
        chunks: list[bytes] = []
        left = most_bytes
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunk: bytes = message.get("body", b"")
            left -= len(chunk)
            if left < 0:
                raise _too_large(most_bytes)
            chunks.append(chunk)
            if not message.get("more_body"):
                return b"".join(chunks)

    async def start(self, status: int, content_type: str, headers: Mapping[str, str], length: int | None) -> None:
        """Begin the answer; `length` is None for a stream."""
        lines = [(b"content-type", content_type.encode()), *_ALWAYS, *self.always]
        lines += [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        if length is None:
            lines.append((b"x-accel-buffering", b"no"))  # or nginx keeps a stream until it is over
        else:
            lines.append((b"content-length", b"%d" % length))
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": lines})

    async def write(self, data: bytes) -> None:
        """A piece of a stream; it leaves with those behind it as soon as their writer has to wait for the next."""
        self._gathered.append(data)
        self._gathered_bytes += len(data)
        self._written += 1
        if self._sending is None:
            self._sending = asyncio.create_task(self._send_gathered())
        if self._gathered_bytes > _GATHERED_BYTES:
            await self._sending

    async def _send_gathered(self) -> None:
        try:
            while self._gathered:
                data = b"".join(self._gathered)
                self._gathered.clear()
                self._gathered_bytes = 0
                await self._send({"type": "http.response.body", "body": data, "more_body": True})
        finally:
            self._sending = None

    @asynccontextmanager
    async def kept_alive(
        self, begin: Callable[[], Awaitable[None]], *, after_s: float, every_s: float
    ) -> AsyncIterator[None]:
        """Begin a stream after `after_s`, and write a comment after every `every_s` without a piece.

        Proxies and clients cut what is silent for long; a comment is a line that readers of events pass over.
        """
        loop, quiet_since = asyncio.get_running_loop(), 0
        beating: asyncio.Task[None] | None = None
        timer = loop.call_later(min(after_s, every_s), lambda: beat())

        def beat() -> None:
            nonlocal timer, quiet_since, beating
            if beating is None or beating.done():
                beating = loop.create_task(say(quiet=self._written == quiet_since))
            quiet_since = self._written
            timer = loop.call_later(every_s, beat)

        async def say(*, quiet: bool) -> None:
            await begin()
            if quiet:
                await self._send({"type": "http.response.body", "body": b": waiting\n\n", "more_body": True})

        try:
            yield
        finally:
            timer.cancel()
            if beating is not None:
                await beating

    async def end(self, data: bytes) -> None:
        """The last of the answer."""
        if self._sending is not None:
            await self._sending
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def answer(
        self, status: int, data: bytes, headers: Mapping[str, str], content_type: str = "application/json"
    ) -> None:
        """The whole answer at once."""
        await self.start(status, content_type, headers, len(data))
        await self.end(b"" if self.method == "HEAD" else data)

    async def while_there(self, work: Coroutine[Any, Any, None]) -> None:
        """Do the work, and cancel it as soon as the client leaves.

        Raises:
            ClientGone: it left.
        """
        task = asyncio.current_task()
        assert task is not None
        gone = finished = False

        async def watch() -> None:
            nonlocal gone
            while (await self._receive())["type"] != "http.disconnect":
                pass
            if not finished:
                gone = True
                task.cancel()

        watcher = asyncio.create_task(watch())
        try:
            await work
            finished = True
        except asyncio.CancelledError:
            if not gone:
                raise
            task.uncancel()
            raise ClientGone from None
        finally:
            finished = True
            watcher.cancel()


_WINDOWS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # zlib's number for each content coding


def _decompressed(data: bytes, coding: str, most_bytes: int) -> bytes:
    if coding not in _WINDOWS:
        raise ApiError("unsupported_encoding", f"Content-Encoding {coding[:40]!r}: send gzip, deflate, or plain JSON")
    reader = zlib.decompressobj(_WINDOWS[coding])
    try:
        plain = reader.decompress(data, most_bytes + 1)
    except zlib.error as error:
        raise ApiError("invalid_json", f"the body is not what Content-Encoding {coding} says: {error}") from None
    if len(plain) > most_bytes:
        raise _too_large(most_bytes)
    if not reader.eof:
        raise ApiError("invalid_json", f"the body ends before its {coding} does")
    return plain


def _too_large(most_bytes: int) -> ApiError:
    return ApiError("body_too_large", f"the body is larger than {most_bytes} bytes", headers={"Connection": "close"})

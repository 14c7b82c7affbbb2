"""One answer per question: an SQLite cache in front of any backend, shared between runs, threads and processes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from selfroute.backends.base import (
    Backend,
    BatchBackend,
    Fold,
    as_backend,
    capability,
    find_capability,
    refuse_fields,
)
from selfroute.backends.flight import closing
from selfroute.backends.function import replay
from selfroute.backends.recorded import completion_from_row, completion_to_row
from selfroute.errors import ConfigError
from selfroute.types import Completion, Delta, Message, Sampling

__all__ = ["AnswerCache", "CacheStats", "CachedBackend", "answer_key", "cached"]

T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY,
    model TEXT NOT NULL,
    answer TEXT NOT NULL,
    created_s REAL NOT NULL
) WITHOUT ROWID
"""
_BUSY_TIMEOUT_S = 30.0
_LEFT_BEHIND: list[sqlite3.Connection] = []


@dataclass(slots=True)
class CacheStats:
    """Answers given by this cache object: from what was known or already asked, and by a new call."""

    hits: int = 0
    misses: int = 0


class AnswerCache:
    """Finished answers by key, in one SQLite file.

    Safe for threads, and for several processes on one machine (not over a network file system).

    Args:
        path: the file; it and its folder are made if need be.

    Raises:
        ConfigError: if the file is not such a cache or cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.stats = CacheStats()
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._connect()

    def __repr__(self) -> str:
        return f"AnswerCache({str(self.path)!r})"

    def __len__(self) -> int:
        return int(self._run("SELECT count(*) FROM answers")[0][0])

    def get(self, key: str) -> Completion | None:
        """The answer under `key`, or None."""
        rows = self._run("SELECT answer FROM answers WHERE key = ?", key)
        try:
            return completion_from_row(json.loads(rows[0][0])) if rows else None
        except ValueError as error:
            raise ConfigError(
                f"the answer cache {self.path} holds a broken answer ({error}); delete the file"
            ) from error

    def put(self, key: str, completion: Completion, *, model: str = "") -> None:
        """Keep an answer; the first one under a key stays, so that every reader sees the same.

        Args:
            model: who gave it, for people who look into the file.
        """
        answer = json.dumps(completion_to_row(completion))
        self._run("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?)", key, model, answer, time.time())

    def count(self, *, hits: int = 0, misses: int = 0) -> None:
        """Add to `stats`."""
        with self._lock:
            self.stats.hits += hits
            self.stats.misses += misses

    def close(self) -> None:
        """Close the file; what was put stays. Closing twice does nothing."""
        self._close()

    def _connect(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(
                self.path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error
        self._connection = connection
        self._close = weakref.finalize(self, connection.close)
        try:
            _prepare(connection)
        except sqlite3.Error as error:
            self.close()
            raise self._unusable(error) from error

    def _run(self, statement: str, *values: object) -> list[Any]:
        with self._lock:
            if self._process != os.getpid():  # a connection must not be used, nor closed, on this side of a fork
                self._close.detach()
                _LEFT_BEHIND.append(self._connection)
                self._process = os.getpid()
                self._connect()
            try:
                return self._connection.execute(statement, values).fetchall()
            except sqlite3.Error as error:
                raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> ConfigError:
        return ConfigError(f"cannot use {self.path} as answer cache: {error}; choose another path or delete the file")


def _prepare(connection: sqlite3.Connection) -> None:
    """Set the file up. While others do the same, SQLite answers "locked" at once instead of waiting: try again."""
    deadline = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may cost the last answers, never the file
            connection.execute(_SCHEMA)
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


class CachedBackend(Backend):
    """Asks the cache first, and the backend behind it only for what the cache does not know.

    Only whole answers in text are stored: one that failed, was abandoned or holds tool calls is asked again. Requests
    for the same answer that come while it is being written read along instead of asking too (within one event loop).
    Sampled answers are cached as well: give each sample its own `Sampling.seed` to get different ones. Make it with
    `cached`.

    Attributes:
        inner: the backend behind the cache.
        cache: the answers; `cache.stats` counts hits and misses.
    """

    inner: Backend
    announces = True  # that an answer is not known, and has to be asked for

    def __init__(self, backend: Backend, cache: AnswerCache, *, identity: str | None = None) -> None:
        self.inner = as_backend(backend)
        self.name = backend.name
        self.cache = cache
        self._identity = identity or backend.identity
        self._flights: dict[tuple[asyncio.AbstractEventLoop, str], _Flight] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.inner!r}, {self.cache!r})"

    @property
    def identity(self) -> str:
        """What names the model in the cache."""
        return self._identity

    def offer(self, kind: type[T]) -> T | None:
        """As any backend; batches only over one that has them."""
        if kind is BatchBackend and find_capability(self.inner, kind) is None:
            return None
        return super().offer(kind)

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        """Replay the known answer, or pass on what the backend writes and keep it at the end."""
        key = answer_key(self.identity, messages, sampling)
        place = (asyncio.get_running_loop(), key)
        flight = self._flights.get(place)
        if flight is None or flight.error is not None:
            flight = self._flights[place] = _Flight(self._answer(key, messages, sampling))
        else:
            self.cache.count(hits=1)
        flight.readers += 1
        try:
            async for delta in flight.read():
                yield delta
        finally:
            flight.readers -= 1
            if not flight.readers:
                if self._flights.get(place) is flight:
                    del self._flights[place]
                await flight.stop()

    def generate_batch(self, prompts: Sequence[Sequence[Message]], sampling: Sampling) -> list[Completion]:
        """Answer every prompt, in order; equal prompts are asked once, and only what the cache does not know.

        Raises:
            UnsupportedByBackend: the backend behind has no batches.
        """
        batches = capability(self.inner, BatchBackend)
        keys = [answer_key(self.identity, messages, sampling) for messages in prompts]
        asked = dict(zip(keys, prompts, strict=True))
        answers = {key: answer for key in asked if (answer := self.cache.get(key)) is not None}
        missing = [key for key in asked if key not in answers]
        self.cache.count(hits=len(keys) - len(missing), misses=len(missing))
        if missing:
            made = batches.generate_batch([asked[key] for key in missing], sampling)
            answers.update(zip(missing, made, strict=True))
            for key in missing:
                self.cache.put(key, answers[key], model=self.identity)
        return [answers[key] for key in keys]

    async def _answer(self, key: str, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        known = await asyncio.to_thread(self.cache.get, key)
        if known is not None:
            self.cache.count(hits=1)
            for delta in replay(known):
                yield delta
            return
        self.cache.count(misses=1)
        refuse_fields(self.inner, messages, sampling)
        if not self.inner.announces:
            yield Delta(sent=True)
        started, fold, only_text = time.perf_counter(), Fold(), True
        async with closing(self.inner.stream(messages, sampling)) as deltas:
            async for delta in deltas:
                fold.add(delta)
                only_text &= not delta.extra
                if delta.finish_reason is not None and only_text:  # stored first, as readers may stop at the last one
                    completion = fold.completion(time.perf_counter() - started)
                    await asyncio.to_thread(self.cache.put, key, completion, model=self.identity)
                yield delta


def cached(backend: Backend, cache: AnswerCache, *, identity: str | None = None) -> CachedBackend:
    """Put a cache in front of a backend; the result can answer batches if the backend can.

    Args:
        identity: what tells this model from others in the cache; by default the backend's own `identity`
            (for an endpoint its address and model), or else its name.
    """
    return CachedBackend(backend, cache, identity=identity)


def answer_key(identity: str, messages: Sequence[Message], sampling: Sampling) -> str:
    """The SHA-256, in hexadecimal, of everything that decides an answer."""
    turns = [
        [message.role, message.content, *([dict(message.raw)] if message.raw is not None else [])]
        for message in messages
    ]
    options = asdict(sampling) | {
        "temperature": float(sampling.temperature),
        "top_p": float(sampling.top_p),
    }  # 0 is 0.0
    if not sampling.extra:  # as before there was such a field: answers already stored stay found
        del options["extra"]
    canonical = json.dumps([identity, turns, options], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


class _Flight:
    """One answer while it is written, with any number of readers at their own pace."""

    def __init__(self, source: AsyncIterator[Delta]) -> None:
        self.error: BaseException | None = None
        self.readers = 0
        self._deltas: list[Delta] = []
        self._done = False
        self._news = asyncio.Event()
        self._told = asyncio.Event()  # that the request leaves: a reader has seen it and goes on
        self._task = asyncio.create_task(self._write(source))

    async def read(self) -> AsyncIterator[Delta]:
        position = 0
        while True:
            news = self._news
            while position < len(self._deltas):
                yield (delta := self._deltas[position])
                position += 1
                if delta.sent:
                    self._told.set()
            if self._done:
                break
            await news.wait()
        if self.error is not None:
            raise self.error

    async def stop(self) -> None:
        """Cancel what is still being written, and wait until the backend has let go."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _write(self, source: AsyncIterator[Delta]) -> None:
        try:
            async for delta in source:
                self._deltas.append(delta)
                self._tell()
                if delta.sent:
                    await self._told.wait()
        except BaseException as error:
            self.error = error
            if not isinstance(error, Exception):
                raise
        finally:
            self._done = True
            self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

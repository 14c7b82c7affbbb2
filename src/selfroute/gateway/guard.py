"""A model as the gateway sees it: it may still be loading, be slow, or fail so often that asking is a waste of time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from selfroute.backends.around import offer_around
from selfroute.backends.base import Asked, Backend, as_backend, capability, is_refusal
from selfroute.backends.flight import closing
from selfroute.errors import BackendError, BackendTimeout, BackendUnavailable, PrivacyRefused
from selfroute.types import Delta, Message, Sampling

__all__ = ["Guard", "Health"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Health:
    """State of a model.

    Attributes:
        state: "loading"; "ready"; "failing", the last request failed; "resting", the circuit breaker is open.
        error: message of the last failure, None once it answers again.
        answered, failed: requests since the start; of a session every failed call, and its first answer.
        in_flight: requests now.
        first_token_s: time to the first piece, averaged with more weight on the last ones; None before the first.
        idle_s: seconds since the last answer, None before the first.
    """

    state: str
    error: str | None
    answered: int
    failed: int
    in_flight: int
    first_token_s: float | None
    idle_s: float | None


class Guard(Backend):
    """A backend with health, a time limit for the first piece, and a circuit breaker; it may load later.

    After `failures` failures in a row the breaker opens: requests fail at once for `rest_s` seconds, then one is let
    through as a probe. What the server says of a wrong request is no failure of the server.

    Args:
        name: of the backend, also while it is not loaded.
        backend: the model, or a function that loads it in a worker thread once `load` is called.
        failures: in a row, that open the breaker.
        rest_s: how long it stays open.
        first_token_s: most seconds until the first piece, and until each answer of a session; None leaves it to the
            backend's own limit.
        load_wait_s: how long a request waits for a model that is loading.
        on_failure: called with each failure, e.g. to count it.
    """

    def __init__(
        self,
        name: str,
        backend: Backend | Callable[[], Backend],
        *,
        failures: int = 5,
        rest_s: float = 15.0,
        first_token_s: float | None = None,
        load_wait_s: float = 60.0,
        on_failure: Callable[[BackendError], None] | None = None,
    ) -> None:
        self.name = name
        self.failures, self.rest_s = failures, rest_s
        self.first_token_s, self.load_wait_s = first_token_s, load_wait_s
        self.on_failure = on_failure
        self._make: Callable[[], Backend] | None = None
        if callable(backend) and not isinstance(backend, Backend):
            self._make = backend
        else:
            self.inner = as_backend(backend)
        self._loaded = asyncio.Event()
        self._in_a_row = self._answered = self._failed = self._in_flight = 0
        self._rests_until = 0.0
        self._probing = False
        self._error: str | None = None
        self._first_token_s: float | None = None
        self._last_answer: float | None = None

    @property
    def is_loaded(self) -> bool:
        return self.inner is not None

    async def load(self) -> None:
        """Load the model, if that is still to be done.

        Raises:
            ConfigError: it cannot be loaded.
        """
        if self._make is not None and self.inner is None:
            self.inner = as_backend(await _apart(self._make))
        self._loaded.set()

    async def ready(self) -> Backend:
        """The model, once it is loaded; waits for at most `load_wait_s`.

        Raises:
            BackendUnavailable: it is not.
        """
        if self.inner is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.load_wait_s):
                    await self._loaded.wait()
        if self.inner is None:
            raise BackendUnavailable(
                f"{self.name}: still loading after {self.load_wait_s:g} s; /readyz says when it is ready",
                backend=self.name,
            )
        return self.inner

    def health(self) -> Health:
        now = time.monotonic()
        state = "ready" if self._error is None else "failing"
        if self.inner is None:
            state = "loading"
        elif self._rests_until > now:
            state = "resting"
        idle_s = None if self._last_answer is None else now - self._last_answer
        return Health(state, self._error, self._answered, self._failed, self._in_flight, self._first_token_s, idle_s)

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        """See `selfroute.backends.base.Backend`.

        Raises:
            BackendUnavailable: the breaker is open, or the model is not loaded in time.
            BackendTimeout: no piece within `first_token_s`.
        """
        async with self._watching():
            began = time.monotonic()
            model = await self.ready()
            async with closing(model.stream(messages, sampling)) as stream:
                patience_s = None if model.announces else self.first_token_s  # a turn in our own queue is no failure
                while (delta := await self._first(stream, patience_s)) is not None and delta.is_empty:
                    if delta.sent:
                        began, patience_s = time.monotonic(), self.first_token_s
                    yield delta
                self._note_first(time.monotonic() - began)
                while delta is not None:
                    yield delta
                    delta = await anext(stream, None)
            self._note_answer()

    async def ask(self, address: str, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """See `selfroute.backends.base.Asked`; health and breaker are those of `stream`.

        Raises:
            UnsupportedByBackend: the model is no server that can be asked for this.
            BackendUnavailable: as in `stream`.
        """
        async with self._watching():
            server = capability(await self.ready(), Asked)
            async with closing(server.ask(address, body)) as answer:
                async for each in answer:
                    yield each
            self._note_answer()

    def offer(self, kind: type[T]) -> T | None:
        """As any backend; what a session or a cut answer asks has its health and breaker as well."""
        around = None if self.inner is None else offer_around(self.inner, kind, self._asking)
        return super().offer(kind) if around is None else around

    @asynccontextmanager
    async def _asking(self, answered: bool) -> AsyncIterator[None]:
        """Around one call of a session.

        Args:
            answered: whether the session was before, and so counts already.
        """
        async with self._watching():
            model, began = await self.ready(), time.monotonic()
            try:
                async with asyncio.timeout(None if model.announces else self.first_token_s):
                    yield
            except TimeoutError:
                raise self._late() from None
            if not answered:
                self._note_first(time.monotonic() - began)
            self._note_answer(counts=not answered)

    @asynccontextmanager
    async def _watching(self) -> AsyncIterator[None]:
        """Around one request: the breaker, and its failure if it has one."""
        probes = self._admit()
        self._in_flight += 1
        try:
            yield
        except BackendError as failure:
            self._note_failure(failure)
            raise
        finally:
            self._in_flight -= 1
            if probes:
                self._probing = False

    async def _first(self, stream: AsyncIterator[Delta], patience_s: float | None) -> Delta | None:
        if patience_s is None:
            return await anext(stream, None)
        try:
            async with asyncio.timeout(patience_s):
                return await anext(stream, None)
        except TimeoutError:
            raise self._late() from None

    def _late(self) -> BackendTimeout:
        return BackendTimeout(
            f"{self.name}: nothing within {self.first_token_s:g} s; raise first_token_s", backend=self.name
        )

    def resting(self) -> str | None:
        """Why a request would fail at once, None if it may be asked."""
        if self._in_a_row < self.failures:
            return None
        left_s = self._rests_until - time.monotonic()
        if left_s <= 0 and not self._probing:
            return None
        return f"failed {self._in_a_row} times in a row, last: {self._error}; next try in {max(left_s, 0):.0f} s"

    def _admit(self) -> bool:
        """Whether this request is the probe of an open breaker."""
        if self._in_a_row < self.failures:
            return False
        if (why := self.resting()) is not None:
            raise BackendUnavailable(f"{self.name}: {why}", backend=self.name)
        self._probing = True
        return True

    def _note_first(self, seconds: float) -> None:
        before = self._first_token_s
        self._first_token_s = seconds if before is None else before + 0.2 * (seconds - before)

    def _note_answer(self, *, counts: bool = True) -> None:
        self._answered += counts
        self._in_a_row, self._error, self._last_answer = 0, None, time.monotonic()

    def _note_failure(self, failure: BackendError) -> None:
        if isinstance(failure, PrivacyRefused):  # the model was not asked
            return
        self._failed += 1
        if self.on_failure is not None:
            self.on_failure(failure)
        if is_refusal(failure):
            return
        self._error = str(failure)
        self._in_a_row += 1
        if self._in_a_row >= self.failures:
            self._rests_until = time.monotonic() + self.rest_s


async def _apart(make: Callable[[], Backend]) -> Backend:
    """What a function makes in a thread that ends with the process: Ctrl-C need not wait for a model to load."""
    loop = asyncio.get_running_loop()
    made: asyncio.Future[Backend] = loop.create_future()

    def run() -> None:
        try:
            tell = partial(made.set_result, make())
        except Exception as error:
            tell = partial(made.set_exception, error)
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(lambda: None if made.done() else tell())

    threading.Thread(target=run, name="load", daemon=True).start()
    return await made

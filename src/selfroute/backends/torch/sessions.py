"""Open answers of one model in this process, see `selfroute.backends.torch.engine`."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from selfroute.backends.sessions import Judge, View, Written
from selfroute.backends.torch.engine import Engine, Job, ReadJob, RecallJob, WriteJob
from selfroute.backends.torch.lines import Line
from selfroute.backends.torch.tokens import until_mark
from selfroute.errors import BackendError, ContextLengthExceeded
from selfroute.types import Usage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TorchSession"]


class TorchSession:
    """See `selfroute.backends.sessions.Session`; one that nobody holds any more lets go by itself.

    Args:
        engine: of its model.
        line: its answer.
        tokenizer: for marks in the text.
        vocabulary: fingerprint of the ids.
        size: of the vocabulary.
        window: most tokens of prompt and answer, None for any number.
    """

    def __init__(
        self,
        engine: Engine,
        line: Line,
        tokenizer: PreTrainedTokenizerBase,
        *,
        vocabulary: str,
        size: int,
        window: int | None,
    ) -> None:
        self.vocabulary = vocabulary
        self._engine, self._line, self._tokenizer = engine, line, tokenizer
        self._size, self._window = size, window
        self._ahead: WriteJob | None = None  # whose tokens are written ahead of the reader
        self._finalizer = weakref.finalize(self, engine.let_go, line)

    @property
    def ids(self) -> Sequence[int]:
        """See `Session`."""
        return self._line.ids[self._line.begin : self._counts[0]]

    @property
    def used(self) -> Usage:
        """See `Session`."""
        _, read, written, computed = self._counts
        return Usage(read, written, layer_tokens=computed * self._engine.layers)

    @property
    def _counts(self) -> tuple[int, int, int, int]:
        """Without what is written ahead of the reader."""
        return self._line.counts() if self._ahead is None else self._line.noted

    async def read(self, ids: Sequence[int], *, every: bool = False) -> list[View]:
        """See `Session`."""
        self._check(ids)
        await self._recall()
        line = self._line
        first = line.seen if every and line.ready and ids else None
        for token_id in ids:
            line.push(token_id)
        if not every:
            return []
        if first is not None:
            first = first.last(1)
        views: list[View] = await self._ask(ReadJob(line, count=len(ids), first=first))
        return views

    async def write(
        self, limit: int, *, until: Sequence[str] = (), judge: Judge | None = None, within_s: float | None = None
    ) -> list[Written]:
        """See `Session`."""
        self._check(())
        if limit < 1:
            raise ValueError(f"limit is {limit}; a session writes at least 1 token")
        room = limit if self._window is None else min(limit, self._window - self._counts[0])
        if room < 1:
            raise self._full()
        job = await self._going_on(room, tuple(until), judge)
        job.deadline = None if within_s is None else time.monotonic() + within_s
        written: list[Written] = await self._ask(job)
        self._ahead = job if job.goes_on else None
        return written

    async def drop(self, count: int) -> None:
        """See `Session`."""
        self._check(())
        await self._recall()
        if not 0 <= count <= len(self._line.ids) - self._line.begin:
            raise ValueError(f"cannot drop {count} tokens of an answer of {len(self._line.ids) - self._line.begin}")
        if count:
            self._line.drop(count)

    async def close(self) -> None:
        """See `Session`."""
        self._finalizer()

    async def _going_on(self, limit: int, until: tuple[str, ...], judge: Judge | None) -> WriteJob:
        """The job that is written ahead, if it is what is asked for; else a new one."""
        job = self._ahead
        if job is not None and (job.until, job.judge) == (until, judge) and job.given + limit >= job.limit:
            job.limit = job.given + limit
            return job
        await self._recall()
        marks = until_mark(self._tokenizer, self.ids, until) if any(until) else None
        return WriteJob(self._line, limit=limit, until=until, judge=judge, on_token=marks)

    async def _recall(self) -> None:
        """Forget what is written ahead of the reader."""
        if self._ahead is not None:
            await self._ask(RecallJob(self._line, ahead=self._ahead))
            self._ahead = None

    async def _ask(self, job: Job) -> Any:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()

        def settle(result: Any) -> None:
            if answer.done():
                return
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)

        job.done = lambda result: self._engine.tell(loop, settle, result)
        self._engine.submit(job)
        try:
            return await answer
        except BaseException:
            job.cancelled = True
            raise

    def _check(self, ids: Sequence[int]) -> None:
        line, name = self._line, self._engine.name
        if line.failure is not None:
            raise line.failure
        if line.closed:
            raise BackendError(f"{name}: the session is closed; open a new one", backend=name)
        if wrong := [i for i in ids if not 0 <= i < self._size]:
            raise BackendError(f"{name}: token {wrong[0]} is outside its vocabulary of {self._size}", backend=name)
        if self._window is not None and len(line.ids) + len(ids) > self._window:
            raise self._full()

    def _full(self) -> ContextLengthExceeded:
        name = self._engine.name
        return ContextLengthExceeded(
            f"{name}: prompt and answer fill the model's window of {self._window} tokens; shorten the conversation",
            backend=name,
        )

"""The worker of one model: whatever its open answers and streams ask for at a time is done in one pass.

A worker thread takes what is asked for as it comes. A pass reads what each of them has to read; then each that writes
draws its next token. Nobody waits for another one's answer to end.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from selfroute.backends.sessions import Judge, View, Written
from selfroute.backends.torch.drawing import Drawn, Place, last_of
from selfroute.backends.torch.kv_pool import KVPool, Seen
from selfroute.backends.torch.lines import Line
from selfroute.backends.torch.sampler import evaluating
from selfroute.errors import BackendError, SelfRouteError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Engine", "Job", "ReadJob", "RecallJob", "WriteJob"]

# How long a new answer that comes to an idle worker waits for company.
_GATHER_S = 0.002
# How long it waits before it puts its rows away.
_REST_S = 0.05
# Most tokens that an answer is written ahead of its reader.
_AHEAD = 16


@dataclass(eq=False)
class Job:
    """Something a session wants; `done` gets its result, or the error, in the worker thread."""

    line: Line
    done: Callable[[Any], None] = lambda result: None
    cancelled: bool = False
    awaited: bool = False  # whether somebody waits for `done`

    @property
    def wanted(self) -> int:
        """Of how many of the last tokens the next place has to be known."""
        return 1

    @property
    def over(self) -> bool:
        """Whether there is nothing left to compute."""
        return False

    def begin(self) -> None:
        """Do what needs no pass."""

    def settle(self, result: Any) -> None:
        """It is over."""
        self.rest()
        self.done(result)

    def rest(self) -> None:
        """Keep what was seen last, and not the whole pass that it is a part of."""
        if (seen := self.line.seen) is not None:
            self.line.seen = seen.kept()


@dataclass(eq=False)
class ReadJob(Job):
    """The model's views of the last `count` tokens and of the place after them."""

    count: int = 0
    first: Seen | None = None  # view of the place of the first one, where it was there before

    @property
    def wanted(self) -> int:
        return self.count + (self.first is None)


@dataclass(eq=False)
class WriteJob(Job):
    """Tokens to be written; `on_token` is told of each, and says whether it shall be the last.

    At the deadline `done` gets what there is, and more is written meanwhile, a little ahead of the reader, whose next
    question would otherwise come a pass too late. It gets the next part by submitting the job again.

    Attributes:
        limit: of all parts together.
        until: the marks that `on_token` looks for.
        written: what nobody has been given yet.
        given: how many tokens were given so far.
        goes_on: whether more may follow on them.
    """

    limit: int = 1
    judge: Judge | None = None
    deadline: float | None = None
    on_token: Callable[[Written], bool] | None = None
    written: list[Written] = field(default_factory=list)
    until: tuple[str, ...] = ()
    goes_on: bool = False
    given: int = 0
    _ended: bool = False

    @property
    def over(self) -> bool:
        return self._ended or self.given + len(self.written) >= self.limit

    @property
    def far_ahead(self) -> bool:
        """Whether it waits for its reader."""
        return not self.awaited and len(self.written) >= _AHEAD

    def begin(self) -> None:
        if self.over:  # written before it was asked for
            self.hand_over()

    def add(self, token: Written, state: int | None) -> None:
        """Take a drawn token, which leads to `state` of the table of forbidden strings."""
        line = self.line
        self.written.append(token)
        if token.kept:
            line.own.add(len(line.ids))
            line.push(token.token_id, state)
            line.written += 1
        told = self.on_token is not None and self.on_token(token)
        self._ended = token.ends or not token.kept or told

    def hand_over(self) -> None:
        """Give what there is to whoever waits for it."""
        self.awaited, self.goes_on = False, not self.over
        written, self.written = self.written, []
        self.given += len(written)
        self.line.note()
        if self.goes_on:
            self.done(written)
        else:
            self.settle(written)


@dataclass(eq=False)
class RecallJob(Job):
    """Forget what was written ahead of the reader, and write no more of it."""

    ahead: WriteJob | None = None

    @property
    def over(self) -> bool:
        return True

    def begin(self) -> None:
        assert self.ahead is not None
        self.ahead.cancelled = True
        self.line.drop(sum(token.kept for token in self.ahead.written))
        self.settle(None)


class Engine:
    """The worker of one model.

    Args:
        name: of the backend, for errors.
        model: a causal language model with plain keys and values.
        end_ids: tokens that end an answer.
        max_rows: most answers at once in one pass.
        lock: held while the model computes.

    Raises:
        ConfigError: see `KVPool`.
    """

    def __init__(
        self, name: str, model: PreTrainedModel, end_ids: Iterable[int], *, max_rows: int, lock: threading.Lock
    ) -> None:
        self.name = name
        self.layers = int(model.config.get_text_config(decoder=True).num_hidden_layers)
        self.pool = KVPool(model, max_rows)
        self._ends = frozenset(end_ids)
        self._model, self._lock = model, lock
        self._max_rows = max_rows
        self._wake = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._letting_go: deque[Line] = deque()
        self._worker: threading.Thread | None = None
        self._closed: SelfRouteError | None = None
        self._news: list[tuple[asyncio.AbstractEventLoop, Callable[[Any], None], Any]] = []

    def submit(self, job: Job) -> None:
        """Let the worker do it."""
        with self._wake:
            if self._closed is not None:
                raise self._closed
            self._jobs.append(job)
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name=f"selfroute {self.name}", daemon=True)
                self._worker.start()
                # A thread that Python ends within a pass of torch takes the process down with it.
                atexit.register(self._exit)
            self._wake.notify()

    def let_go(self, line: Line) -> None:
        """Free what is kept for an answer; what is still asked for it is not done."""
        line.closed = True
        with self._wake:
            if self._worker is None:
                return
            self._letting_go.append(line)
            self._wake.notify()

    def tell(self, loop: asyncio.AbstractEventLoop, call: Callable[[Any], None], value: Any) -> None:
        """From the worker: call something in an event loop, once the pass is over and together with all others."""
        self._news.append((loop, call, value))

    def close(self, error: SelfRouteError) -> None:
        """End the worker; what is asked for fails with `error`."""
        with self._wake:
            self._closed = self._closed or error
            self._wake.notify()
        atexit.unregister(self._exit)
        if self._worker is not None and self._worker is not threading.current_thread():
            self._worker.join()

    def _exit(self) -> None:
        self.close(BackendError(f"{self.name}: the program ended meanwhile", backend=self.name))

    # --- the worker

    def _work(self) -> None:
        active: list[Job] = []
        with torch.inference_mode():
            while self._take(active):
                active = self._cycle([job for job in active if self._is_wanted(job)])
                self._publish()
        self._publish()

    def _take(self, active: list[Job]) -> bool:
        """Add what is asked for to `active`, waiting for it if there is nothing to do; False at the end."""
        with self._wake:
            if not active:
                self._wait()
            while self._jobs and (len(active) < self._max_rows or self._closed):
                job = self._jobs.popleft()
                job.awaited = True
                if job not in active:  # else it is written on already
                    active.append(job)
            going = list(self._letting_go)
            self._letting_go.clear()
        if self._closed is not None:
            self._fail(active, self._closed)
            self.pool.clear()
            return False
        for line in going:
            self.pool.free(line.row)
            line.seen = None
        return True

    def _wait(self) -> None:
        """Wait for something to do, and then a moment for company; what rests meanwhile takes no room for growth."""

        def is_due() -> bool:
            return bool(self._jobs or self._letting_go or self._closed)

        if is_due():
            return
        if not self._wake.wait_for(is_due, _REST_S):
            self.pool.rest()
            self._wake.wait_for(is_due)
        if any(not job.line.row.tokens for job in self._jobs):
            self._wake.wait_for(lambda: self._closed, _GATHER_S)

    def _is_wanted(self, job: Job) -> bool:
        """Whether somebody still waits for it; who closed its answer meanwhile is told so."""
        if job.awaited and job.line.closed and not job.cancelled:
            job.done(BackendError(f"{self.name}: the session was closed meanwhile", backend=self.name))
        return not (job.cancelled or job.line.closed)

    def _cycle(self, jobs: list[Job]) -> list[Job]:
        """Draw for all that can, read for all that must; the jobs that are not over."""
        try:
            for job in jobs:
                job.begin()
            going = [job for job in jobs if not (job.over or job.cancelled)]
            with evaluating(self._model), self._lock:
                over = self._draw([job for job in going if isinstance(job, WriteJob) and job.line.ready])
                going = [job for job in going if job not in over]
                self._read(going)
            over = self._views([job for job in going if isinstance(job, ReadJob)])
        except Exception as error:  # the worker must outlive any failure of a library
            self._fail(jobs, self._as_backend_error(error))
            return []
        return [job for job in going if job not in over]

    def _fail(self, jobs: Iterable[Job], error: SelfRouteError) -> None:
        for job in jobs:
            job.line.failure = error
            self.pool.free(job.line.row)
            job.line.seen = None
            job.done(error)

    def _as_backend_error(self, error: Exception) -> SelfRouteError:
        if isinstance(error, SelfRouteError):
            return error
        what = (str(error).strip() or "no message").splitlines()[0].rstrip(".")
        return BackendError(f"{self.name}: {type(error).__name__}: {what}", backend=self.name)

    def _publish(self) -> None:
        """Tell every event loop its news, waking it once: a wake-up costs more than a token."""
        news, self._news = self._news, []
        for loop in {loop for loop, _, _ in news}:
            own = [(call, value) for told, call, value in news if told is loop]
            try:
                loop.call_soon_threadsafe(_call_all, own)
            except RuntimeError:  # whoever waited has gone with its loop
                continue

    # --- reading

    def _read(self, jobs: Sequence[Job]) -> None:
        """One pass over everything that has to be read."""
        jobs = [job for job in jobs if not job.line.ready]
        if not jobs:
            return
        appends, keeps = [], []
        for job in jobs:
            line = job.line
            if line.pending < job.wanted:  # the view of the first place is gone
                line.row.tokens = len(line.ids) - job.wanted
            appends.append(line.ids[line.row.tokens :])
            keeps.append(job.wanted)
        for job, append in zip(jobs, appends, strict=True):
            _count(job.line, len(append))
        for job, seen in zip(jobs, self.pool.append([job.line.row for job in jobs], appends, keeps), strict=True):
            job.line.seen = seen

    def _views(self, jobs: Sequence[ReadJob]) -> set[Job]:
        """Views for those who asked for them."""
        for job in jobs:
            seen = job.line.seen
            assert seen is not None
            if job.first is not None:
                both = job.first, seen
                seen = Seen.of(torch.cat([each.logits for each in both]), torch.cat([each.hidden for each in both]))
            job.settle(self._views_of(job.line, seen.last(job.count + 1)))
        return set(jobs)

    def _views_of(self, line: Line, seen: Seen) -> list[View]:
        count = len(seen) - 1
        given = line.ids[len(line.ids) - count :]
        places = [Place(line, len(line.ids) - count + i) for i in range(count + 1)]
        drawn = Drawn.of(seen.logits, seen.hidden, places, {line.look})
        tokens = torch.tensor(given, dtype=torch.long, device=drawn.scores.device)
        logprobs = drawn.scores[:count].gather(1, tokens[:, None])
        views = [drawn.view(i, line.look, g) for i, g in enumerate([*logprobs[:, 0].tolist(), None])]
        return [replace(view, ends=True) if view.drawn in self._ends else view for view in views]

    # --- writing

    def _draw(self, jobs: Sequence[WriteJob]) -> set[Job]:
        """One token for each job; those that are over."""
        over: set[Job] = set()
        if not jobs:
            return over
        lines = [job.line for job in jobs]
        places = [Place(line, len(line.ids)) for line in lines]
        shows = {look: bool(look.gives) for look in {line.look for line in lines}}
        drawn = Drawn.of(*last_of(lines), places, shows)
        now = time.monotonic()
        views = [drawn.view(i, line.look) if shows[line.look] else None for i, line in enumerate(lines)]
        written = [
            Written(token, logprob, token in self._ends, view)
            for token, logprob, view in zip(drawn.tokens, drawn.logprobs, views, strict=True)
        ]
        _judge(jobs, written)
        for job, token, state in zip(jobs, written, drawn.states, strict=True):
            job.add(token, state)
            late = job.deadline is not None and now >= job.deadline
            leaves = job.over or job.far_ahead
            if job.awaited and (leaves or late):
                job.hand_over()
            elif leaves:
                job.rest()
            if leaves:
                over.add(job)
        return over


def _count(line: Line, tokens: int) -> None:
    """Tokens that the model reads: what it wrote itself, and reads for the first time, was paid as written."""
    own = line.own.intersection(range(line.row.tokens, line.row.tokens + tokens))
    line.own -= own
    line.read += tokens - len(own)
    line.computed += tokens


def _judge(jobs: Sequence[WriteJob], written: Sequence[Written]) -> None:
    """Note what becomes of each token; each judge is asked once for all of its own."""
    by_score: dict[int, list[tuple[Judge, Written]]] = defaultdict(list)
    for job, token in zip(jobs, written, strict=True):
        if job.judge is not None:
            by_score[id(job.judge.score)].append((job.judge, token))
    for asked in by_score.values():
        scores = asked[0][0].score([token for _, token in asked])
        for (judge, token), score in zip(asked, scores, strict=True):
            token.score, token.kept = float(score), bool(score >= judge.least)


def _call_all(news: Sequence[tuple[Callable[[Any], None], Any]]) -> None:
    for call, value in news:
        call(value)

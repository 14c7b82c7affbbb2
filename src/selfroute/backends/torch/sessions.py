"""Open answers of one model in this process: whatever they ask for at a time is done in one pass.

A worker thread takes what sessions and streams ask for as it comes. A pass reads what each of them has to read; then
each that writes draws its next token. Nobody waits for another one's answer to end.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from selfroute.backends.sessions import Judge, Look, View, Written
from selfroute.backends.torch.kv_pool import KVPool, Row, Seen
from selfroute.backends.torch.sampler import check_heat, draw, evaluating
from selfroute.backends.torch.tokens import until_mark
from selfroute.errors import BackendError, ContextLengthExceeded, SelfRouteError
from selfroute.types import Sampling, Usage

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Engine", "Line", "TorchSession", "WriteJob", "lucks"]

# How long a new answer that comes to an idle worker waits for company.
_GATHER_S = 0.002
# How long it waits before it puts its rows away.
_REST_S = 0.05
_MORE_LUCK = 256


class Line:
    """One open answer, as the worker sees it.

    Attributes:
        ids: the prompt's tokens, then the answer's.
        begin: where the answer begins.
        row: what the pool holds of it: the first `row.tokens` of `ids`.
        seen: views of the last places that were read, the last one of the place after `row.tokens`; None if unknown.
        states: of the table of forbidden strings, before each token of the answer.
    """

    def __init__(
        self, prompt: Sequence[int], sampling: Sampling, look: Look, luck: Iterator[float], table: Tensor | None
    ) -> None:
        check_heat(sampling.temperature, sampling.top_p)
        self.ids = list(prompt)
        self.begin = len(self.ids)
        self.row = Row()
        self.seen: Seen | None = None
        self.temperature, self.top_p = sampling.temperature, sampling.top_p
        self.look = look
        self.table = table
        self.states = [0]
        self.read = self.written = self.computed = 0
        self.own: set[int] = set()  # places of tokens that the model wrote itself
        self.closed = False
        self.failure: SelfRouteError | None = None
        self._luck = luck
        self._drawn: list[float] = []

    @property
    def pending(self) -> int:
        """Tokens that the model has not read yet."""
        return len(self.ids) - self.row.tokens

    @property
    def ready(self) -> bool:
        """Whether the next token can be drawn."""
        return not self.pending and self.seen is not None

    def push(self, token_id: int, state: int | None = None) -> None:
        """Add a token; `state` is where it leads in the table, if that is known already."""
        if self.table is not None:
            self.states.append(max(0, int(self.table[self.states[-1], token_id])) if state is None else state)
        self.ids.append(token_id)

    def drop(self, count: int) -> None:
        end = len(self.ids) - count
        kept = {place for place in self.own if place < end}
        self.written -= len(self.own) - len(kept)  # what nobody has read was as good as not written
        self.own = kept
        del self.ids[end:], self.states[end - self.begin + 1 :]
        gone = self.row.tokens - end
        if gone > 0:
            self.row.tokens = end
            self.seen = _without_last(self.seen, gone)

    def luck(self, place: int) -> float:
        """A number in [0, 1) for a place of the answer, always the same one."""
        while len(self._drawn) <= place:
            self._drawn.append(next(self._luck))
        return self._drawn[place]

    def usage(self, layers: int) -> Usage:
        return Usage(self.read, self.written, layer_tokens=self.computed * layers)


def _without_last(seen: Seen | None, count: int) -> Seen | None:
    if seen is None or len(seen.logits) <= count:
        return None
    return Seen(seen.logits[:-count], seen.hidden[:-count])


def lucks(seed: int | None, first: int) -> Iterator[float]:
    """Uniform numbers of one answer: the first ones as the batched sampler draws them for it."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    yield from torch.rand(1, first, generator=generator)[0].tolist()
    while True:
        yield from torch.rand(_MORE_LUCK, generator=generator).tolist()


# --- what is asked for --------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Job:
    """Something a session wants; `done` gets its result, or the error, in the worker thread."""

    line: Line
    done: Callable[[Any], None]
    cancelled: bool = False

    @property
    def wanted(self) -> int:
        """Of how many of the last tokens the next place has to be known."""
        return 1

    def settle(self, result: Any) -> None:
        """It is over. What was seen last is kept, and not the whole pass that it is a part of."""
        if (seen := self.line.seen) is not None:
            self.line.seen = Seen(seen.logits.clone(), seen.hidden.clone())
        self.done(result)


@dataclass(eq=False)
class _Read(_Job):
    """The model's views of the last `count` tokens and of the place after them."""

    count: int = 0
    first: Seen | None = None  # view of the place of the first one, where it was there before

    @property
    def wanted(self) -> int:
        return self.count + (self.first is None)


@dataclass(eq=False)
class WriteJob(_Job):
    """Tokens to be written; `on_token` is told of each, and says whether it shall be the last."""

    limit: int = 1
    judge: Judge | None = None
    deadline: float | None = None
    on_token: Callable[[Written], bool] | None = None
    written: list[Written] = field(default_factory=list)


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
        self._jobs: deque[_Job] = deque()
        self._letting_go: deque[Line] = deque()
        self._worker: threading.Thread | None = None
        self._closed: SelfRouteError | None = None
        self._news: list[tuple[asyncio.AbstractEventLoop, Callable[[Any], None], Any]] = []

    def submit(self, job: _Job) -> None:
        """Let the worker do it."""
        with self._wake:
            if self._closed is not None:
                raise self._closed
            self._jobs.append(job)
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name=f"selfroute {self.name}", daemon=True)
                self._worker.start()
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
        if self._worker is not None and self._worker is not threading.current_thread():
            self._worker.join()

    # --- the worker

    def _work(self) -> None:
        active: list[_Job] = []
        with torch.inference_mode():
            while self._take(active):
                active = self._cycle([job for job in active if not (job.cancelled or job.line.closed)])
                self._publish()
        self._publish()

    def _take(self, active: list[_Job]) -> bool:
        """Add what is asked for to `active`, waiting for it if there is nothing to do; False at the end."""
        with self._wake:
            if not active:
                self._wait()
            while self._jobs and (len(active) < self._max_rows or self._closed):
                active.append(self._jobs.popleft())
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

    def _cycle(self, jobs: list[_Job]) -> list[_Job]:
        """Draw for all that can, read for all that must; the jobs that are not over."""
        try:
            with evaluating(self._model), self._lock:
                over = self._draw([job for job in jobs if isinstance(job, WriteJob) and job.line.ready])
                going = [job for job in jobs if job not in over]
                self._read(going)
            over |= self._views([job for job in going if isinstance(job, _Read)])
        except Exception as error:  # the worker must outlive any failure of a library
            self._fail(jobs, self._as_backend_error(error))
            return []
        return [job for job in jobs if job not in over]

    def _fail(self, jobs: Iterable[_Job], error: SelfRouteError) -> None:
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

    def _read(self, jobs: Sequence[_Job]) -> None:
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

    def _views(self, jobs: Sequence[_Read]) -> set[_Job]:
        """Views for those who asked for them."""
        for job in jobs:
            seen = job.line.seen
            assert seen is not None
            if job.first is not None:
                seen = Seen(torch.cat([job.first.logits, seen.logits]), torch.cat([job.first.hidden, seen.hidden]))
            job.settle(self._views_of(job.line, Seen(seen.logits[-job.count - 1 :], seen.hidden[-job.count - 1 :])))
        return set(jobs)

    def _views_of(self, line: Line, seen: Seen) -> list[View]:
        count = len(seen.logits) - 1
        given = line.ids[len(line.ids) - count :]
        places = [_Place(line, len(line.ids) - count + i) for i in range(count + 1)]
        drawn = _Drawn.of(seen, places, {line.look})
        tokens = torch.tensor(given, dtype=torch.long, device=drawn.scores.device)
        logprobs = drawn.scores[:count].gather(1, tokens[:, None])
        views = [drawn.view(i, line.look, g) for i, g in enumerate([*logprobs[:, 0].tolist(), None])]
        return [replace(view, ends=True) if view.drawn in self._ends else view for view in views]

    # --- writing

    def _draw(self, jobs: Sequence[WriteJob]) -> set[_Job]:
        """One token for each job; those that are over."""
        over: set[_Job] = set()
        if not jobs:
            return over
        lines = [job.line for job in jobs]
        seen = _last_of(lines)
        drawn = _Drawn.of(seen, [_Place(line, len(line.ids)) for line in lines], {line.look for line in lines})
        now = time.monotonic()
        written = [
            Written(
                token, drawn.logprobs[i], token in self._ends, drawn.view(i, line.look) if line.look.gives else None
            )
            for i, (token, line) in enumerate(zip(drawn.tokens, lines, strict=True))
        ]
        for job, token, state in zip(jobs, _judged(jobs, written), drawn.states, strict=True):
            job.written.append(token)
            line = job.line
            if token.kept:
                line.own.add(len(line.ids))
                line.push(token.token_id, state)
                line.written += 1
            late = job.deadline is not None and now >= job.deadline
            told = job.on_token is not None and job.on_token(token)
            if token.ends or not token.kept or late or told or len(job.written) >= job.limit:
                over.add(job)
                job.settle(job.written)
        return over


def _count(line: Line, tokens: int) -> None:
    """Tokens that the model reads: what it wrote itself, and reads for the first time, was paid as written."""
    first, end = line.row.tokens, line.row.tokens + tokens
    own = {place for place in line.own if first <= place < end}
    line.own -= own
    line.read += tokens - len(own)
    line.computed += tokens


def _judged(jobs: Sequence[WriteJob], written: list[Written]) -> list[Written]:
    """What became of each token; each judge is asked once for all of its own."""
    by_score: dict[int, list[int]] = defaultdict(list)
    for i, job in enumerate(jobs):
        if job.judge is not None:
            by_score[id(job.judge.score)].append(i)
    for at in by_score.values():
        first = jobs[at[0]].judge
        assert first is not None
        for i, score in zip(at, first.score([written[i] for i in at]), strict=True):
            judge = jobs[i].judge
            assert judge is not None
            token = written[i]
            kept = score >= judge.least
            written[i] = Written(token.token_id, token.logprob, token.ends, token.view, kept, float(score))
    return written


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a token may be drawn: `at` within the ids of a line."""

    line: Line
    at: int

    def luck(self) -> float:
        return self.line.luck(self.at - self.line.begin)

    @property
    def state(self) -> int:
        return self.line.states[self.at - self.line.begin]


def _last_of(lines: Sequence[Line]) -> Seen:
    """The last view of each line; hidden states only where one of them looks at them."""
    seen = [line.seen for line in lines if line.seen is not None]
    look = any(line.look.hidden for line in lines)
    hidden = torch.stack([each.hidden[-1] for each in seen]) if look else torch.empty(0)
    return Seen(torch.stack([each.logits[-1] for each in seen]), hidden)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What is drawn at several places, and what there is to see of them."""

    scores: Tensor
    tokens: list[int]
    logprobs: list[float]
    top: list[dict[int, float]] | None
    entropy: list[float] | None
    hidden: Any
    states: list[int | None]

    @classmethod
    def of(cls, seen: Seen, places: Sequence[_Place], looks: Iterable[Look]) -> _Drawn:
        heat = [place.line.temperature or 1.0 for place in places]
        logits = seen.logits
        scores = torch.log_softmax(logits if set(heat) == {1.0} else logits / logits.new_tensor(heat)[:, None], dim=-1)
        allowed, moves = _allowed(scores, places)
        tokens = _draw_each(allowed, places)
        states: list[int | None] = [None] * len(places)
        for at, table in moves:
            for i, state in zip(at, table.gather(1, tokens[at][:, None])[:, 0].clamp(min=0).tolist(), strict=True):
                states[i] = state
        logprobs = scores.gather(1, tokens[:, None])[:, 0]
        most = max((look.top for look in looks), default=0)
        top = None
        if most:
            values, ids = scores.topk(min(most, scores.shape[-1]), dim=-1)
            top = [dict(zip(i, v, strict=True)) for i, v in zip(ids.tolist(), values.tolist(), strict=True)]
        entropy = None
        if any(look.entropy for look in looks):
            entropy = (-(scores.exp() * scores).nan_to_num().sum(-1)).tolist()
        hidden = seen.hidden.float().cpu().numpy() if any(look.hidden for look in looks) else None
        return cls(scores, tokens.tolist(), logprobs.tolist(), top, entropy, hidden, states)

    def seen_from(self, i: int, look: Look) -> View | None:
        """The view of a place, if a look asks for any."""
        return self.view(i, look) if look.gives else None

    def view(self, i: int, look: Look, given: float | None = None) -> View:
        top: Mapping[int, float] = {}
        if look.top and self.top is not None:
            top = self.top[i] if len(self.top[i]) == look.top else dict(list(self.top[i].items())[: look.top])
        entropy = self.entropy[i] if look.entropy and self.entropy is not None else None
        return View(self.tokens[i], self.logprobs[i], top, entropy, self.hidden[i] if look.hidden else None, given)


def _allowed(scores: Tensor, places: Sequence[_Place]) -> tuple[Tensor, list[tuple[list[int], Tensor]]]:
    """Scores without what is forbidden; and of the places under each table where every token leads."""
    tables: dict[int, list[int]] = defaultdict(list)
    for i, place in enumerate(places):
        if place.line.table is not None:
            tables[id(place.line.table)].append(i)
    found: list[tuple[list[int], Tensor]] = []
    for at in tables.values():
        table = places[at[0]].line.table
        assert table is not None
        moves = table[[places[i].state for i in at]].to(scores.device)
        if len(at) == len(places):
            scores = scores.masked_fill(moves < 0, float("-inf"))
        else:
            scores = scores.clone() if not found else scores
            scores[at] = scores[at].masked_fill(moves < 0, float("-inf"))
        found.append((at, moves))
    return scores, found


def _draw_each(allowed: Tensor, places: Sequence[_Place]) -> Tensor:
    tokens = allowed.argmax(-1)
    warm: dict[float, list[int]] = defaultdict(list)
    for i, place in enumerate(places):
        if place.line.temperature > 0:
            warm[place.line.top_p].append(i)
    for top_p, at in warm.items():
        luck = torch.tensor([places[i].luck() for i in at], device=allowed.device)
        tokens[at] = draw(allowed[at].exp(), luck, top_p)
    return tokens


def _call_all(news: Sequence[tuple[Callable[[Any], None], Any]]) -> None:
    for call, value in news:
        call(value)


# --- the session --------------------------------------------------------------------------------------------------


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
        self._finalizer = weakref.finalize(self, engine.let_go, line)

    @property
    def ids(self) -> Sequence[int]:
        """See `Session`."""
        return self._line.ids[self._line.begin :]

    @property
    def used(self) -> Usage:
        """See `Session`."""
        return self._line.usage(self._engine.layers)

    async def read(self, ids: Sequence[int], *, every: bool = False) -> list[View]:
        """See `Session`."""
        self._check(ids)
        line = self._line
        first = line.seen if every and line.ready and ids else None
        for token_id in ids:
            line.push(token_id)
        if not every:
            return []
        if first is not None:
            first = Seen(first.logits[-1:], first.hidden[-1:])
        views: list[View] = await self._ask(lambda done: _Read(line, done, count=len(ids), first=first))
        return views

    async def write(
        self, limit: int, *, until: Sequence[str] = (), judge: Judge | None = None, within_s: float | None = None
    ) -> list[Written]:
        """See `Session`."""
        self._check(())
        if limit < 1:
            raise ValueError(f"limit is {limit}; a session writes at least 1 token")
        room = limit if self._window is None else self._window - len(self._line.ids)
        if room < 1:
            raise self._full()
        deadline = None if within_s is None else time.monotonic() + within_s
        marks = until_mark(self._tokenizer, self.ids, until) if any(until) else None
        written: list[Written] = await self._ask(
            lambda done: WriteJob(
                self._line, done, limit=min(limit, room), judge=judge, deadline=deadline, on_token=marks
            )
        )
        return written

    async def drop(self, count: int) -> None:
        """See `Session`."""
        self._check(())
        if not 0 <= count <= len(self._line.ids) - self._line.begin:
            raise ValueError(f"cannot drop {count} tokens of an answer of {len(self._line.ids) - self._line.begin}")
        if count:
            self._line.drop(count)

    async def close(self) -> None:
        """See `Session`."""
        self._finalizer()

    async def _ask(self, make: Callable[[Callable[[Any], None]], _Job]) -> Any:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()

        def settle(result: Any) -> None:
            if answer.done():
                return
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)

        job = make(lambda result: self._engine.tell(loop, settle, result))
        self._engine.submit(job)
        try:
            return await answer
        finally:
            job.cancelled = True

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

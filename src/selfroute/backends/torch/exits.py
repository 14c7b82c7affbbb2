"""Exits behind some layers of a model, and answers that leave it where an exit is sure enough."""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from selfroute.backends.layers import ExitRule
from selfroute.backends.sessions import Judge, View, Written
from selfroute.backends.torch.layers import Cut, Part, drawn
from selfroute.backends.torch.lines import Line
from selfroute.errors import BackendError, ContextLengthExceeded, UnsupportedByBackend
from selfroute.types import Usage

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Exit", "LayerSession", "first_layers", "new_exit"]


class Exit(nn.Module):
    """A norm and a head: logits of the next token from the state behind some layer.

    Args:
        norm: of the model's kind.
        head: from the width to the vocabulary.
    """

    def __init__(self, norm: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.norm, self.head = norm, head

    def forward(self, states: Tensor) -> Tensor:
        """Logits, shape (…, vocabulary), of states of shape (…, width)."""
        logits: Tensor = self.head(self.norm(states))
        return logits


def new_exit(model: PreTrainedModel) -> Exit:
    """An exit that is the model's own norm and head, copied (EE-Tuning, arXiv 2402.00518, begins so)."""
    whole: Any = model
    return Exit(copy.deepcopy(whole.base_model.norm), copy.deepcopy(whole.get_output_embeddings()))


def first_layers(model: PreTrainedModel, layers: int, leave: Exit) -> PreTrainedModel:
    """A model of its own: the first layers of another one, and an exit for its norm and head."""
    config = copy.deepcopy(model.config)
    own = config.get_text_config(decoder=True)
    own.num_hidden_layers, config.tie_word_embeddings, own.tie_word_embeddings = layers, False, False
    if getattr(own, "layer_types", None):
        own.layer_types = list(own.layer_types)[:layers]
    made: Any = type(model)(config)
    torch.nn.Module.to(made, dtype=model.dtype)
    base = made.base_model
    kept = {name: value for name, value in model.base_model.state_dict().items() if name in base.state_dict()}
    base.load_state_dict(kept)
    base.norm.load_state_dict(leave.norm.state_dict())
    made.get_output_embeddings().load_state_dict(leave.head.state_dict())
    made.generation_config = model.generation_config
    device: PreTrainedModel = made.train(False)
    return device


@dataclass(frozen=True, slots=True)
class Place:
    """What an exit makes of the next place."""

    token: int
    logprob: float
    score: float


class _Level:
    """Layers that end at an exit.

    Attributes:
        waiting: states behind them that the next level has not seen.
        last: state behind them at the last position, shape (width,).
    """

    def __init__(self, part: Part, leave: Exit) -> None:
        self.part, self.leave = part, leave
        self.waiting: list[Tensor] = []
        self.last: Tensor | None = None

    def take(self, states: Tensor, begin: int, *, copies: bool) -> Tensor:
        """States behind these layers of the next positions.

        Args:
            begin: where the answer begins.
            copies: whether of its positions all but the last, which left before these layers, are not computed: behind
                them stands what stood before.
        """
        kept = min(len(states) - 1, max(0, begin - self.part.length)) if copies else len(states) - 1
        if kept == len(states) - 1:
            behind = self.part.run(states)
        else:
            first, left, last = states[:kept], states[kept:-1], states[-1:]
            first = self.part.run(first)
            self.part.copy(left)
            behind = torch.cat([first, left, self.part.run(last)])
        self.last = behind[-1]
        return behind


class LayerSession:
    """See `selfroute.backends.layers.ExitSession`: the first layers of a model over one answer.

    Args:
        name: of the backend.
        cut: the layers at hand.
        exits: behind how many layers each exit stands, and the exit.
        line: prompt, answer and luck.
        rule: which tokens stand.
        send: told of the states that the cloud goes on with.
        end_ids: tokens that end an answer.
        vocabulary: fingerprint of the ids.
        window: most tokens of prompt and answer, None for any number.
        lock: held while the model computes.
    """

    def __init__(
        self,
        name: str,
        cut: Cut,
        exits: Sequence[tuple[int, Exit]],
        line: Line,
        rule: ExitRule,
        send: Callable[[int, Any], object] | None,
        *,
        end_ids: Collection[int],
        vocabulary: str,
        window: int | None,
        lock: threading.Lock,
    ) -> None:
        self.vocabulary = vocabulary
        self.unsure: float | None = None
        self._name, self._cut, self._line, self._rule, self._send = name, cut, line, rule, send
        begins = [0, *(layers for layers, _ in exits)]
        self._levels = [
            _Level(cut.part(first, last), leave) for first, (last, leave) in zip(begins, exits, strict=False)
        ]
        self._ends, self._window, self._lock = frozenset(end_ids), window, lock
        self._outbox: list[tuple[int, Any]] = []

    @property
    def ids(self) -> Sequence[int]:
        """See `Session`."""
        return self._line.ids[self._line.begin :]

    @property
    def prompt_tokens(self) -> int:
        """See `ExitSession`."""
        return self._line.begin

    @property
    def used(self) -> Usage:
        """See `Session`."""
        computed = sum(level.part.computed for level in self._levels)
        return Usage(self._line.read, self._line.written, layer_tokens=computed)

    def luck(self, place: int) -> float:
        """See `ExitSession`."""
        return self._line.luck(place)

    async def read(self, ids: Sequence[int], *, every: bool = False) -> list[View]:
        """See `Session`; exits give no views of given tokens."""
        self._check(ids)
        if every:
            raise UnsupportedByBackend(f"{self._name}: its exits give no views of given tokens")
        for token in ids:
            self._line.push(token)
        return []

    async def write(
        self, limit: int, *, until: Sequence[str] = (), judge: Judge | None = None, within_s: float | None = None
    ) -> list[Written]:
        """Tokens that stand, up to the first of which no exit is sure; see `unsure`."""
        self._check(())
        if limit < 1:
            raise ValueError(f"limit is {limit}; a session writes at least 1 token")
        if judge is not None:
            raise UnsupportedByBackend(f"{self._name}: its exits judge by their own rule")
        if self._window is not None:
            limit = min(limit, self._window - len(self._line.ids))
        if limit < 1:
            raise self._full()
        deadline = None if within_s is None else time.monotonic() + within_s
        return await self._apart(lambda tell: self._write(limit, deadline, tell))

    async def standalone(self) -> Written:
        """See `ExitSession`."""
        self._check(())
        [written] = await self._apart(lambda tell: [self._stands(self._last_place(tell))])
        return written

    async def drop(self, count: int) -> None:
        """See `Session`; what was sent is not taken back."""
        if count:
            raise UnsupportedByBackend(f"{self._name}: layers keep what was written")

    async def close(self) -> None:
        """See `Session`."""
        self._line.closed = True
        self._levels = []

    # --- in a worker thread

    async def _apart(self, work: Callable[[Callable[[], None]], list[Written]]) -> list[Written]:
        """Do it in a worker thread; states leave as soon as they are there."""
        loop = asyncio.get_running_loop()

        def tell() -> None:
            outbox, self._outbox = self._outbox, []
            if self._send is not None:
                for first, states in outbox:
                    loop.call_soon_threadsafe(self._send, first, states)

        return await asyncio.to_thread(self._guarded, work, tell)

    def _guarded(self, work: Callable[[Callable[[], None]], list[Written]], tell: Callable[[], None]) -> list[Written]:
        with torch.inference_mode():
            try:
                return work(tell)
            except (RuntimeError, ValueError, IndexError) as error:
                if self._line.closed:
                    raise self._closed() from None
                what = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
                raise BackendError(f"{self._name}: {what}", backend=self._name) from error

    def _write(self, limit: int, deadline: float | None, tell: Callable[[], None]) -> list[Written]:
        written: list[Written] = []
        self.unsure = None
        while len(written) < limit and not (written and written[-1].ends):
            if self._line.closed or (written and deadline is not None and time.monotonic() >= deadline):
                break
            place = self._place(tell)
            if place is None:
                break
            written.append(self._stands(place))
        return written

    def _stands(self, place: Place) -> Written:
        self._line.push(place.token)
        self._line.written += 1
        self._line.own.add(len(self._line.ids) - 1)
        return Written(place.token, place.logprob, place.token in self._ends, score=place.score)

    def _place(self, tell: Callable[[], None]) -> Place | None:
        """The next token of the first exit that is sure; None if none is."""
        rule, score, last = self._rule, 0.0, len(self._levels) - 1
        for number, threshold in enumerate(rule.thresholds):
            with self._lock:
                state = self._behind(number)
                tell()
                stands = number == last and rule.last_stands
                place = self._seen(number, state) if threshold <= 1 or stands else None
            if place is not None:
                score = place.score
                if stands or score >= threshold:
                    return place
            if number >= rule.sends and not rule.looks_beyond(number):
                break
        self.unsure = score
        return None

    def _last_place(self, tell: Callable[[], None]) -> Place:
        with self._lock:
            for number in range(len(self._levels)):
                state = self._behind(number)
            tell()
            return self._seen(number, state)

    def _seen(self, number: int, state: Tensor) -> Place:
        line = self._line
        logits = self._levels[number].leave(state).float()
        luck = line.luck(len(line.ids) - line.begin)
        token, logprob = drawn(logits, temperature=line.temperature, top_p=line.top_p, luck=luck)
        if self._rule.score is None:
            return Place(token, logprob, float(torch.softmax(logits, dim=-1).max()))
        [score] = self._rule.score([Written(token, logprob)])
        return Place(token, logprob, score)

    def _behind(self, number: int) -> Tensor:
        """The state behind an exit's layers at the last position, which goes through them with all that have waited."""
        if self._line.closed:
            raise self._closed()
        level, line = self._levels[number], self._line
        first = level.part.length
        if number == 0:
            new = line.ids[first:]
            line.read += sum(place not in line.own for place in range(first, len(line.ids)))
            before = [self._cut.embed(new)] if new else []
        else:
            before, self._levels[number - 1].waiting = self._levels[number - 1].waiting, []
        if before:
            copies = number > 0 and self._rule.keys == "copy"
            states = level.take(torch.cat(before), line.begin, copies=copies)
            if number + 1 < len(self._levels):
                level.waiting.append(states)
            if number == self._rule.sends and self._send is not None:
                self._outbox.append((first, states.float().cpu().numpy()))
        assert level.last is not None
        return level.last

    # --- what cannot be

    def _check(self, ids: Sequence[int]) -> None:
        name, size = self._name, self._cut.vocabulary
        if self._line.closed:
            raise self._closed()
        if wrong := [i for i in ids if not 0 <= i < size]:
            raise BackendError(f"{name}: token {wrong[0]} is outside its vocabulary of {size}", backend=name)
        if self._window is not None and len(self._line.ids) + len(ids) > self._window:
            raise self._full()

    def _full(self) -> ContextLengthExceeded:
        name = self._name
        return ContextLengthExceeded(
            f"{name}: prompt and answer fill the model's window of {self._window} tokens; shorten the conversation",
            backend=name,
        )

    def _closed(self) -> BackendError:
        return BackendError(f"{self._name}: the session is closed; open a new one", backend=self._name)

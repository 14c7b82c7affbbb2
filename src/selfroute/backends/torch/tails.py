"""The cloud's end of a model that is cut in two: open answers of many devices, continued from their hidden states.

Of each answer it keeps the states that came and were not continued yet, and the keys and values of its own layers. A
question runs the layers once over all that is pending. Who stays away is forgotten after a while.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Collection
from typing import Any

import torch

from selfroute.backends.layers import Whole
from selfroute.backends.torch.layers import Cut, Part, drawn
from selfroute.errors import BackendError, BackendUnavailable, ConfigError
from selfroute.network.layer_messages import NAME_BYTES, Continued, Push, decode_push, encode_continued
from selfroute.network.messages import BadMessage
from selfroute.network.states import Block, decode_states

__all__ = ["Tails"]

_MOST_OPEN = 1024
_IDLE_S = 60.0
_PATIENCE_S = 5.0  # how long a question waits for states that another message carries


class _Open:
    """One answer.

    Attributes:
        first: the first layer that goes on with it.
        pending: states that came and were not continued, in order.
        early: those that came before others which are still on their way, by their first position.
        held: positions that have come without a gap.
    """

    def __init__(self, part: Part, first: int) -> None:
        self.part, self.first = part, first
        self.pending: list[Any] = []
        self.early: dict[int, Any] = {}
        self.held = 0
        self.touched = time.monotonic()
        self.news = asyncio.Condition()
        self.turn = asyncio.Lock()

    def take(self, block: Block, most: int) -> None:
        """States that came; what is held already is passed over.

        Raises:
            BadMessage: they reach beyond the model's window.
        """
        if block.first + len(block.states) > most:
            raise BadMessage(f"states of {block.first + len(block.states)} positions, and the window has {most}")
        self.early[block.first] = block.states
        for first in sorted(self.early):
            if first > self.held:
                break
            new = self.early.pop(first)[self.held - first :]
            if len(new):
                self.pending.append(new)
                self.held += len(new)


class Tails:
    """The layers of a model from `first` on, for whoever sends hidden states; see `selfroute.backends.layers.Tail`.

    An answer may begin at any of them, and stays there.

    Args:
        name: of the backend.
        cut: its model.
        whole: what both ends must hold alike.
        first: the first layer, from 0.
        end_ids: tokens that end an answer.
        window: most positions of an answer.
        lock: held while the model computes.
        idle_s: after so long without a message an answer is forgotten.
        most_open: answers at once.
        patience_s: how long a question waits for states that are on their way.

    Raises:
        ConfigError: the model has no such layers.
    """

    def __init__(
        self,
        name: str,
        cut: Cut,
        whole: Whole,
        first: int,
        *,
        end_ids: Collection[int],
        window: int,
        lock: threading.Lock,
        idle_s: float = _IDLE_S,
        most_open: int = _MOST_OPEN,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        if not 0 < first < cut.layers:
            raise ConfigError(
                f"layers: {first} is no place to cut {name}, which has {cut.layers}; 1 to {cut.layers - 1}"
            )
        self.name, self.whole, self.first = name, whole, first
        self._cut, self._ends, self._window, self._lock = cut, frozenset(end_ids), window, lock
        self._idle_s, self._most_open, self._patience_s = idle_s, most_open, patience_s
        self._open: dict[bytes, _Open] = {}
        self._sweep: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    @property
    def positions(self) -> int:
        """Of all open answers, how many states are pending or have keys and values here."""
        return sum(each.part.length + sum(map(len, each.pending)) for each in self._open.values())

    async def carry(self, data: bytes) -> bytes:
        """Answer a message.

        Raises:
            BackendError: it is none, is meant for another model, or says what cannot be.
            BackendUnavailable: too many answers are open, or states that a question needs did not come.
        """
        try:
            push = decode_push(data)
            self._check(push)
            block = decode_states(push.states, width=self.whole.width) if push.states else None
            if push.closes:
                self._open.pop(push.session, None)
                return encode_continued(Continued())
            opened = self._find(push.session, push.first)
            if block is not None:
                opened.take(block, self._window)
        except BadMessage as error:
            self._open.pop(data[:NAME_BYTES], None)  # nobody knows what its other states are worth
            raise BackendError(f"{self.name}: {error}", backend=self.name) from error
        opened.touched = time.monotonic()
        async with opened.news:
            opened.news.notify_all()
        token = await self._continued(opened, push) if push.wanted else (None, 0.0)
        return self._said(opened, *token)

    def _check(self, push: Push) -> None:
        """See that a message is for these layers of this model.

        Raises:
            BadMessage: it is not.
        """
        if push.model.hex() != self.whole.weights:
            raise BadMessage(f"states of model {push.model.hex()}, and this is {self.whole.weights}")
        if not self.first <= push.first < self._cut.layers:
            last = self._cut.layers - 1
            raise BadMessage(f"states for layer {push.first} on, and here are {self.first} to {last}")
        if push.wanted > self._window:
            raise BadMessage(f"a token behind {push.wanted} positions, and the window has {self._window}")

    def _find(self, name: bytes, first: int) -> _Open:
        self._forget()
        if name in self._open and self._open[name].first != first:
            raise BadMessage(f"states for layer {first} on, and the answer's go on at {self._open[name].first}")
        if name not in self._open:
            if len(self._open) >= self._most_open:
                raise BackendUnavailable(
                    f"{self.name}: {self._most_open} answers are open; ask later", backend=self.name
                )
            self._open[name] = _Open(self._cut.part(first, self._cut.layers), first)
            self._watch()
        return self._open[name]

    async def _continued(self, opened: _Open, push: Push) -> tuple[int, float]:
        """The token behind `push.wanted` positions."""
        try:
            async with asyncio.timeout(self._patience_s), opened.news:
                await opened.news.wait_for(lambda: opened.held >= push.wanted)
        except TimeoutError:
            raise BackendUnavailable(
                f"{self.name}: {opened.held} positions came, and the token behind {push.wanted} was asked for",
                backend=self.name,
            ) from None
        async with opened.turn:
            return await asyncio.to_thread(self._run, opened, push)

    def _run(self, opened: _Open, push: Push) -> tuple[int, float]:
        """In a worker thread; a question whose asker has gone may still be at it."""
        with self._lock, torch.inference_mode():
            pending, opened.pending = opened.pending, []
            states = torch.cat([torch.from_numpy(each.copy()) for each in pending]) if pending else torch.empty(0)
            new = push.wanted - opened.part.length
            if not 0 < new <= len(states):
                opened.pending[:0] = pending
                what = f"the token behind {push.wanted} positions, and {opened.part.length} are behind it"
                raise BackendError(f"{self.name}: {what}", backend=self.name)
            if new < len(states):
                opened.pending.insert(0, states[new:].numpy())
            behind = opened.part.run(states[:new].to(self._cut.model.device))
            logits = self._cut.logits(behind[-1]).float()
            return drawn(logits, temperature=push.temperature, top_p=push.top_p, luck=push.luck)

    def _said(self, opened: _Open, token: int | None, logprob: float) -> bytes:
        part = opened.part
        ends = token in self._ends
        return encode_continued(
            Continued(
                token=token,
                logprob=logprob,
                ends=ends,
                held=opened.held,
                read=part.length,
                layer_tokens=part.computed,
            )
        )

    def _forget(self) -> None:
        """Let go of what nobody has asked for in a long time."""
        due = time.monotonic() - self._idle_s
        for name, opened in list(self._open.items()):
            if opened.touched < due and not opened.turn.locked():
                del self._open[name]

    def _watch(self) -> None:
        """Look again when the first of them may be due, also if no further message comes."""
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(self._idle_s, self._swept)

    def _swept(self) -> None:
        self._sweep = None
        self._forget()
        if self._open:
            self._watch()

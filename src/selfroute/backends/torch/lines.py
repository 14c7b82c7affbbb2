"""Open answers as the worker of their model sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from selfroute.backends.sessions import Look
from selfroute.backends.torch.kv_pool import Row, Seen
from selfroute.backends.torch.sampler import check_heat
from selfroute.errors import SelfRouteError
from selfroute.types import Sampling

__all__ = ["Line", "lucks"]

_MORE_LUCK = 256


class Line:
    """One open answer, as the worker sees it.

    Attributes:
        ids: the prompt's tokens, then the answer's.
        begin: where the answer begins.
        row: what the pool holds of it: the first `row.tokens` of `ids`.
        seen: views of the last places that were read, the last one of the place after `row.tokens`; None if unknown.
        states: of the table of forbidden strings, before each token of the answer.
        noted: its `counts` when its reader was told last.
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
        self.noted = self.counts()
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
            self.seen = self.seen and self.seen.without_last(gone)

    def luck(self, place: int) -> float:
        """A number in [0, 1) for a place of the answer, always the same one."""
        while len(self._drawn) <= place:
            self._drawn.append(next(self._luck))
        return self._drawn[place]

    def counts(self) -> tuple[int, int, int, int]:
        """Ids there are, tokens that the model read, wrote, computed."""
        return len(self.ids), self.read, self.written, self.computed

    def note(self) -> None:
        """Its reader is told."""
        self.noted = self.counts()


def lucks(seed: int | None, first: int) -> Iterator[float]:
    """Uniform numbers of one answer: the first ones as the batched sampler draws them for it."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    yield from torch.rand(1, first, generator=generator)[0].tolist()
    while True:
        yield from torch.rand(_MORE_LUCK, generator=generator).tolist()

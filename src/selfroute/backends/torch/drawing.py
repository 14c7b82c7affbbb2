"""What is drawn at places of several answers at once, and what there is to see of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from selfroute.backends.sessions import Look, View
from selfroute.backends.torch.lines import Line
from selfroute.backends.torch.sampler import draw

__all__ = ["Drawn", "Place", "last_of"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a token may be drawn: `at` within the ids of a line."""

    line: Line
    at: int

    def luck(self) -> float:
        return self.line.luck(self.at - self.line.begin)

    @property
    def state(self) -> int:
        return self.line.states[self.at - self.line.begin]


def last_of(lines: Sequence[Line]) -> tuple[Tensor, Tensor]:
    """Logits and hidden states of each line's last place, shapes (lines, vocabulary) and (lines, width)."""
    seen = [line.seen for line in lines if line.seen is not None]
    whole = seen[0].whole
    if all(each.whole is whole for each in seen):
        count = whole.logits.shape[1]
        at = torch.tensor([each.row * count + each.end - 1 for each in seen], device=whole.logits.device)
        return whole.logits.flatten(0, 1).index_select(0, at), whole.hidden.flatten(0, 1).index_select(0, at)
    logits = [each.whole.logits[each.row, each.end - 1] for each in seen]
    return torch.stack(logits), torch.stack([each.whole.hidden[each.row, each.end - 1] for each in seen])


@dataclass(frozen=True, slots=True)
class Drawn:
    """What is drawn at several places, and what there is to see of them."""

    scores: Tensor
    tokens: list[int]
    logprobs: list[float]
    top: list[dict[int, float]] | None
    entropy: list[float] | None
    hidden: Any
    states: list[int | None]

    @classmethod
    def of(cls, logits: Tensor, hidden: Tensor, places: Sequence[Place], looks: Collection[Look]) -> Drawn:
        heat = [place.line.temperature or 1.0 for place in places]
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
        states_of = hidden.float().cpu().numpy() if any(look.hidden for look in looks) else None
        return cls(scores, tokens.tolist(), logprobs.tolist(), top, entropy, states_of, states)

    def view(self, i: int, look: Look, given: float | None = None) -> View:
        top: Mapping[int, float] = {}
        if look.top and self.top is not None:
            top = self.top[i] if len(self.top[i]) == look.top else dict(list(self.top[i].items())[: look.top])
        entropy = self.entropy[i] if look.entropy and self.entropy is not None else None
        return View(self.tokens[i], self.logprobs[i], top, entropy, self.hidden[i] if look.hidden else None, given)


def _allowed(scores: Tensor, places: Sequence[Place]) -> tuple[Tensor, list[tuple[list[int], Tensor]]]:
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


def _draw_each(allowed: Tensor, places: Sequence[Place]) -> Tensor:
    tokens = allowed.argmax(-1)
    warm: dict[float, list[int]] = defaultdict(list)
    for i, place in enumerate(places):
        if place.line.temperature > 0:
            warm[place.line.top_p].append(i)
    for top_p, at in warm.items():
        luck = torch.tensor([places[i].luck() for i in at], device=allowed.device)
        tokens[at] = draw(allowed[at].exp(), luck, top_p)
    return tokens

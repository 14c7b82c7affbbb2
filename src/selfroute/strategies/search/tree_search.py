"""Tree search: UCT over what the policy proposes, each new node rolled out to its end and judged (ARMAP-M).

With N visits of a parent, n of a child, and weight c, a child with scores s of the attempts through it is worth

* standard (UCT; Kocsis and Szepesvári 2006): mean of s, scaled to [0, 1] by the least and the highest score so far,
  + c · √(log N / n); the search ends with the best whole attempt;
* released (code of arXiv 2502.12130): max of s + c · √(log N) / (1 + n), which explores less than √(log N / (1 + n));
  the search ends by walking down the highest means, with the best attempt below where that ends.

Proposals that were not tried yet go first in both. The standard form asks for more of them as a place is visited more
(progressive widening: once for the first visit and again each time √N / 2 grows by one), the released one only when all
that came of the first is closed. An attempt that came to its end is not visited again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from selfroute.actions import Action
from selfroute.strategies.search.arena import Arena, Found, Place

__all__ = ["EXPLORATION", "Form", "Node", "tree_search", "worth"]

Form = Literal["standard", "released"]
EXPLORATION = {"standard": math.sqrt(0.5), "released": 6.36}  # c of each form

Ended = tuple[Place, float | None]


@dataclass(slots=True)
class Node:
    """A place in the tree.

    Attributes:
        tried, untried: actions proposed here, by whether there is a child for them.
        asked: how often the policy was asked here.
        visits: attempts through it; one that was broken off or cannot be judged has no score.
        scored, total, highest: number, sum and maximum of the scores.
        best: the best whole attempt through it.
        closed: nothing new can be found below.
    """

    place: Place
    parent: Node | None = None
    children: list[Node] = field(default_factory=list)
    tried: list[Action] = field(default_factory=list)
    untried: list[Action] = field(default_factory=list)
    asked: int = 0
    visits: int = 0
    scored: int = 0
    total: float = 0.0
    highest: float = -math.inf
    best: Place | None = None
    closed: bool = False

    @property
    def mean(self) -> float:
        """Of the scores; of a node without any it is the least there can be."""
        return self.total / self.scored if self.scored else -math.inf

    def path(self) -> Iterator[Node]:
        """From here up to the root."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent

    def add(self, whole: Place, score: float | None) -> None:
        """Count an attempt that went through here, on the way up as well; None if it has no score."""
        for node in self.path():
            node.visits += 1
            if score is None:
                continue
            if score > node.highest:
                node.highest, node.best = score, whole
            node.scored, node.total = node.scored + 1, node.total + score


def worth(node: Node, form: Form, c: float, *, lowest: float, highest: float) -> float:
    """What a visited child is worth to the selection; without a score it counts as the lowest.

    Args:
        lowest, highest: of all scores so far.
    """
    assert node.parent is not None
    spread = math.log(max(1, node.parent.visits))
    if form == "released":
        return max(node.highest, lowest) + c * math.sqrt(spread) / (1 + node.visits)
    scaled = (max(node.mean, lowest) - lowest) / (highest - lowest) if highest > lowest else 0.5
    return scaled + c * math.sqrt(spread / node.visits)


async def tree_search(
    arena: Arena, *, form: Form = "standard", c: float | None = None, width: int = 4, seed: int = 0
) -> Found:
    """Grow a tree until a limit is reached or nothing new is proposed.

    Args:
        form: of the selection and of the end.
        c: weight of exploration; None takes the form's own.
        width: proposals asked for at a place at a time.
    """
    weight, root, ended = EXPLORATION[form] if c is None else c, Node(arena.start()), list[Ended]()
    while (why := arena.meter.over) is None and not root.closed:
        leaf = await _leaf(arena, root, ended, form=form, c=weight, width=width, seed=seed)
        if leaf is not None:
            await _try(arena, leaf, ended, seed)
    return _chosen(arena, root, ended, form, why or "exhausted")


async def _leaf(
    arena: Arena, node: Node, ended: Sequence[Ended], *, form: Form, c: float, width: int, seed: int
) -> Node | None:
    """The place to try next, with a child for it; None where a limit is met, or the way down is closed."""
    known = [score for _, score in ended if score is not None] or [0.0]
    while arena.meter.room("environment_calls", "tokens", "seconds"):
        open_children = [child for child in node.children if not child.closed]
        wider = form == "standard" and node.asked < 1 + math.sqrt(node.visits) / 2
        if not node.untried and (wider or not open_children):
            await _widen(arena, node, width, seed)
        if not node.untried and not open_children:
            node.closed = True
            return None
        if node.untried:
            return _child(arena, node, node.untried.pop(0))
        node = max(open_children, key=lambda child: worth(child, form, c, lowest=min(known), highest=max(known)))
    return None


async def _widen(arena: Arena, node: Node, width: int, seed: int) -> None:
    """Ask for proposals at a place, and keep those that are new."""
    node.asked += 1
    if len(node.place.steps) >= arena.most_steps:
        return
    asked = seed * 1_000_003 + arena.meter.attempts
    for proposal in await arena.proposals(node.place, count=width, seed=asked):
        if proposal.action not in node.tried and proposal.action not in node.untried:
            node.untried.append(proposal.action)


def _child(arena: Arena, node: Node, action: Action) -> Node:
    node.tried.append(action)
    child = Node(arena.step(node.place, action), node)
    node.children.append(child)
    return child


async def _try(arena: Arena, leaf: Node, ended: list[Ended], seed: int) -> None:
    """Follow the policy from a leaf to the end, and count what came of it."""
    arena.meter.attempts += 1
    place = await arena.rollout(leaf.place, seed=seed * 1_000_003 + arena.meter.attempts)
    score = None if place is None else (await arena.judge([place]))[0]
    leaf.closed = leaf.place.done
    leaf.add(place or leaf.place, score)
    if place is not None:
        ended.append((place, score))


def _chosen(arena: Arena, root: Node, ended: Sequence[Ended], form: Form, why: str) -> Found:
    if form == "standard":
        return arena.found(ended, why)
    node = root
    while below := [child for child in node.children if child.best is not None]:
        node = max(below, key=lambda child: child.mean)
    return replace(arena.found(ended, why), best=node.best, score=None if node.best is None else node.highest)

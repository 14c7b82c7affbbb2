"""When an attempt forks: the rules of arXiv 2507.19849 and of its neighbours, one call of `forks` each.

An attempt may fork behind the probe, the first tokens that follow a tool's result, and its branches share the probe: a
fork before it would keep one branch that was selected by what it says and another that was not, which is a bias.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Protocol

from selfroute.bounds import Bounds, Choice, Count, NotNegative, check_fields

__all__ = ["BRANCHINGS", "Brancher", "Node", "TreeOptions", "budgets"]

Branching = Annotated[str, Choice(lambda: tuple(BRANCHINGS))]
Probability = Annotated[float, Bounds(0, 1)]
Branches = Annotated[int, Bounds(2, hint="; a fork into one is none")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Where an attempt may fork. Entropies are means over a probe's tokens, as a part of log V, in [0, 1].

    Attributes:
        now: behind the present result; 0 where nobody measured it.
        first: of the first tokens of the attempt.
        before: behind the result before, or `first`.
        call: how many calls there were, the present one included.
        place: of the attempt's group in its batch.
    """

    now: float = 0.0
    first: float = 0.0
    before: float = 0.0
    call: int = 1
    place: int = 0


class Brancher(Protocol):
    """Decides of a node whether it forks."""

    @property
    def probes(self) -> bool:
        """Whether it decides behind a probe; one that does not never forks under way."""
        ...

    @property
    def measures(self) -> bool:
        """Whether it reads entropies, which are then taken while a probe is written."""
        ...

    @property
    def late(self) -> bool:
        """Whether attempts fork at random nodes once they are written."""
        ...

    def forks(self, node: Node, rng: random.Random) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeOptions:
    """How trees of attempts grow (arXiv 2507.19849, section 3.1).

    Attributes:
        branching: when an attempt forks, a name of `BRANCHINGS`.
        first: attempts of a group that start at the prompt (N); None takes half of the group.
        branches: what an attempt forks into (Z).
        probe: tokens behind a result by which it is decided (k).
        calls: most calls of tools in one attempt; a further one ends it without an answer.
        alpha, beta: probability of a fork without a change of entropy, and what a change adds to it.
        tau: what that probability has to exceed, with `threshold`.
        rate: probability of a fork, with `random`.
        every: calls from fork to fork, with `fixed`.
    """

    branching: Branching = "entropy"
    first: Count | None = None
    branches: Branches = 2
    probe: Count = 8
    calls: Count = 5
    alpha: Probability = 0.5
    beta: NotNegative = 0.2
    tau: Probability = 0.5
    rate: Probability = 0.5
    every: Count = 1

    def __post_init__(self) -> None:
        check_fields(self)

    def brancher(self) -> Brancher:
        """The rule that `branching` names."""
        return BRANCHINGS[self.branching](self)


@dataclass(frozen=True, slots=True)
class Entropy:
    """Forks with a probability that grows with the entropy behind a result: α + β·ΔH."""

    probes: ClassVar[bool] = True
    measures: ClassVar[bool] = True
    late: ClassVar[bool] = False

    alpha: float
    beta: float

    def probability(self, node: Node) -> float:
        """Of a fork, in [0, 1]."""
        return min(1.0, max(0.0, self.alpha + self.beta * (node.now - node.first)))

    def forks(self, node: Node, rng: random.Random) -> bool:
        return rng.random() < self.probability(node)


@dataclass(frozen=True, slots=True)
class Threshold:
    """Forks where α + β·ΔH exceeds τ, as the paper has it; with α = τ, wherever entropy has risen."""

    probes: ClassVar[bool] = True
    measures: ClassVar[bool] = True
    late: ClassVar[bool] = False

    rule: Entropy
    tau: float

    def forks(self, node: Node, rng: random.Random) -> bool:
        return self.rule.probability(node) > self.tau


@dataclass(frozen=True, slots=True)
class Released:
    """The rule of the released code, for comparison: with its entropies of the call before, and of a prompt long gone.

    A draw minus β·ΔH is compared with one half. The entropy is that behind the call before, so that ΔH is 0 at the
    first fork; and what it is compared with is of the first batch for ever, whatever prompt stands in its place now.
    """

    probes: ClassVar[bool] = True
    measures: ClassVar[bool] = True
    late: ClassVar[bool] = False

    beta: float
    table: MutableMapping[int, float] = field(default_factory=dict)

    def forks(self, node: Node, rng: random.Random) -> bool:
        first = self.table.setdefault(node.place, node.first)
        return min(1.0, max(0.0, rng.random() - self.beta * (node.before - first))) <= 0.5


@dataclass(frozen=True, slots=True)
class Random:
    """Forks with one probability everywhere: the control of every rule that looks at something."""

    probes: ClassVar[bool] = True
    measures: ClassVar[bool] = False
    late: ClassVar[bool] = False

    rate: float

    def forks(self, node: Node, rng: random.Random) -> bool:
        return rng.random() < self.rate


@dataclass(frozen=True, slots=True)
class Fixed:
    """Forks behind every so-manieth call."""

    probes: ClassVar[bool] = True
    measures: ClassVar[bool] = False
    late: ClassVar[bool] = False

    every: int

    def forks(self, node: Node, rng: random.Random) -> bool:
        return node.call % self.every == 0


@dataclass(frozen=True, slots=True)
class Never:
    """Attempts do not fork; with `late`, they do so at random nodes once they are written (arXiv 2509.21240)."""

    probes: ClassVar[bool] = False
    measures: ClassVar[bool] = False

    late: bool = False

    def forks(self, node: Node, rng: random.Random) -> bool:
        return False


BRANCHINGS: Mapping[str, Callable[[TreeOptions], Brancher]] = {
    "entropy": lambda options: Entropy(options.alpha, options.beta),
    "released": lambda options: Released(options.beta),
    "threshold": lambda options: Threshold(Entropy(options.alpha, options.beta), options.tau),
    "random": lambda options: Random(options.rate),
    "fixed": lambda options: Fixed(options.every),
    "random_nodes": lambda options: Never(late=True),
    "never": lambda options: Never(),
}


def budgets(leaves: int, trees: int) -> list[int]:
    """How many leaves each tree of a group may have: as equal as can be, whatever the others make of theirs."""
    return [leaves // trees + (place < leaves % trees) for place in range(trees)]

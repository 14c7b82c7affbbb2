"""Attempts of an agent with tools, as trees: branches share a beginning, which is written once (arXiv 2507.19849).

An attempt is what the policy writes, with the tools' results between under the mask of what it did not write. Of a
group of M attempts N start at the prompt, each with an equal part of the M leaves; where a tree has fewer in the end,
fresh attempts fill the group up.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from selfroute.actions import CALL_CLOSE, Action, TurnReader, result_text
from selfroute.errors import ConfigError
from selfroute.tasks.base import Environment, Restorable
from selfroute.train.rl.rollouts.base import Attempts, Prompt, Sampler
from selfroute.train.rl.rollouts.branching import Brancher, Node, TreeOptions, budgets

__all__ = ["FACTS", "Tree"]

# What is known of each attempt, by name; places are those within its group.
FACTS = ("parent", "fork", "tree", "weight", "fresh", "written", "calls")


class Tree:
    """Attempts in an environment that fork.

    Args:
        open: the environment of a prompt's question.
        options: how trees grow.

    Attributes:
        gives: names of the facts of its attempts; `weight` is not known of leaves that fork late. `parent` is the
            attempt that one forked from, -1 for none, and `fork` how many of its first tokens are that one's; `tree`
            says which share a beginning, `fresh` which filled the group up. `weight` is Π 1/Z over the forks above a
            leaf, `written` counts the tokens that are an attempt's alone and not a tool's, `calls` its calls of tools.
    """

    def __init__(self, open: Callable[[Prompt], Environment], options: TreeOptions | None = None) -> None:
        self.open = open
        self.options = options or TreeOptions()
        self.brancher: Brancher = self.options.brancher()
        self.gives = frozenset(FACTS) - ({"weight"} if self.brancher.late else set())

    def generate(self, prompts: Sequence[Prompt], sampler: Sampler) -> Attempts:
        """See `Rollout`.

        Raises:
            ConfigError: an environment that cannot go back, where attempts fork.
        """
        size, rng = sampler.group, sampler.luck()
        ids = sampler.encode(prompts)
        groups = [
            _Group(place, prompts[at], ids[at], budgets(size, self._first(size)), sampler.limit)
            for place, at in enumerate(range(0, len(prompts), size))
        ]
        self._grow([self._root(group, tree) for group in groups for tree in range(len(group.room))], sampler, rng)
        if self.brancher.late:
            self._fork_late(groups, sampler, rng)
        self._grow([self._root(group, tree, fresh=True) for group in groups for tree in group.missing()], sampler, rng)
        return _attempts(ids, [leaf for group in groups for leaf in group.leaves], sorted(self.gives))

    def state(self) -> dict[str, Any]:
        """What the rule remembers, ready for JSON."""
        return {"table": list(getattr(self.brancher, "table", {}).items())}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        if state["table"]:
            getattr(self.brancher, "table", {}).update({int(place): value for place, value in state["table"]})

    def _first(self, size: int) -> int:
        """Attempts of a group that start at the prompt."""
        if size == 1 or (not self.brancher.probes and not self.brancher.late):
            return size
        return min(self.options.first or max(1, size // 2), size)

    def _root(self, group: _Group, tree: int, *, fresh: bool = False) -> _Leaf:
        environment = self.open(group.prompt)
        if (self.brancher.probes or self.brancher.late) and not isinstance(environment, Restorable):
            raise ConfigError(
                f"branching={self.options.branching}: the environment {type(environment).__name__} has no snapshots to "
                "fork from; give it snapshot and restore, or take branching=never"
            )
        environment.reset()
        probing = self.brancher.probes and not fresh
        return group.add(_Leaf(group, environment, tree=tree, fresh=fresh, probing=probing and self.brancher.measures))

    def _grow(self, leaves: list[_Leaf], sampler: Sampler, rng: random.Random) -> None:
        """Write leaves to their ends, and what forks from them.

        Whole turns are written, and forks are decided by their probes alone: what a leaf says behind its probe has no
        part in it, so that this is the same as stopping there, without a round of its own.
        """
        while going := [leaf for leaf in leaves if not leaf.over]:
            turns = sampler.write(
                [[*leaf.group.ids, *leaf.ids] for leaf in going],
                until=(CALL_CLOSE,),
                limits=[leaf.left for leaf in going],
                entropies=self.options.probe if self.brancher.measures else 0,
            )
            ended = [leaf.take(turn, sampler.ends) for leaf, turn in zip(going, turns.ids, strict=True)]
            for leaf, now in zip(going, turns.entropies, strict=False):
                leaf.now = now
            # Before anyone acts: a branch begins in the state in which its probe was written.
            forked = self._forked(self._probed(going, sampler), rng)
            said = sampler.decode([leaf.ids[leaf.turn :] for leaf in going])
            for leaf, text, over in zip(going, said, ended, strict=True):
                self._act(leaf, text, sampler, over)
            leaves = [*leaves, *forked]

    def _probed(self, leaves: Sequence[_Leaf], sampler: Sampler) -> list[_Leaf]:
        """Those whose turn went on behind a probe that was no action yet."""
        probe = self.options.probe
        longer = [leaf for leaf in leaves if leaf.probing and len(leaf.ids) > leaf.turn + probe]
        if not longer:
            return []
        said = sampler.decode([leaf.ids[leaf.turn : leaf.turn + probe] for leaf in longer])
        return [leaf for leaf, text in zip(longer, said, strict=True) if _action(text) is None]

    def _act(self, leaf: _Leaf, text: str, sampler: Sampler, ended: bool) -> None:
        """Carry out what a turn says."""
        leaf.probing = False
        action = _action(text)
        if action is not None:
            self._call(leaf, action, sampler)
        elif ended:
            leaf.end(text)

    def _call(self, leaf: _Leaf, action: Action, sampler: Sampler) -> None:
        leaf.calls += 1
        if leaf.calls > self.options.calls:
            leaf.end("")
            return
        seen = leaf.environment.step(action)
        if seen.done:
            leaf.end(str(Action(seen.text)))
            return
        leaf.read(sampler.read(result_text(seen.text)))
        leaf.probing = self.brancher.probes and not leaf.fresh
        if self.brancher.late:
            leaf.keep()

    def _forked(self, probed: Sequence[_Leaf], rng: random.Random) -> list[_Leaf]:
        """What forks from leaves behind their probes."""
        found: list[_Leaf] = []
        for leaf in probed:
            if not leaf.calls:
                leaf.first = leaf.before = leaf.now
                continue
            node = Node(now=leaf.now, first=leaf.first, before=leaf.before, call=leaf.calls, place=leaf.group.place)
            leaf.before = leaf.now
            count = min(self.options.branches - 1, leaf.group.room[leaf.tree])
            if count and self.brancher.forks(node, rng):
                leaf.weight /= count + 1
                found += [self._branch(leaf) for _ in range(count)]
        return found

    def _branch(self, leaf: _Leaf) -> _Leaf:
        """Another leaf that goes on from a leaf's probe."""
        return self._beside(leaf, leaf.turn + self.options.probe)

    def _beside(self, leaf: _Leaf, length: int) -> _Leaf:
        """Another leaf that goes on from a place in a leaf's turn."""
        branch = leaf.branch(self.open(leaf.group.prompt), length, leaf.calls)
        branch.turn = leaf.turn
        _restorable(branch.environment).restore(_restorable(leaf.environment).snapshot())
        return leaf.group.add(branch)

    def _fork_late(self, groups: Sequence[_Group], sampler: Sampler, rng: random.Random) -> None:
        """Fork at random nodes of what is written, one of each tree at a time, until each has its leaves."""
        while any(any(group.room) for group in groups):
            leaves = [
                self._from_node(group, tree, rng) for group in groups for tree, room in enumerate(group.room) if room
            ]
            self._grow(leaves, sampler, rng)

    def _from_node(self, group: _Group, tree: int, rng: random.Random) -> _Leaf:
        owner, kept = rng.choice([(leaf, kept) for leaf in group.leaves if leaf.tree == tree for kept in leaf.kept])
        branch = owner.branch(self.open(group.prompt), kept.length, kept.calls)
        _restorable(branch.environment).restore(kept.snapshot)
        return group.add(branch)


@dataclass(slots=True)
class _Group:
    """The attempts at one prompt.

    Attributes:
        room: how many leaves each tree may still get.
    """

    place: int
    prompt: Prompt
    ids: Sequence[int]
    room: list[int]
    limit: int
    leaves: list[_Leaf] = field(default_factory=list)

    def add(self, leaf: _Leaf) -> _Leaf:
        leaf.place = len(self.leaves)
        if not leaf.fresh:
            self.room[leaf.tree] -= 1
        self.leaves.append(leaf)
        return leaf

    def missing(self) -> list[int]:
        """The tree in whose place each fresh attempt stands."""
        return [tree for tree, room in enumerate(self.room) for _ in range(room)]


@dataclass(frozen=True, slots=True)
class _Kept:
    """A node that an attempt can be taken up from again."""

    length: int
    snapshot: Any
    calls: int


@dataclass(slots=True)
class _Leaf:
    """One attempt under way.

    Attributes:
        tree: that it belongs to; of a fresh one, in whose place it stands.
        place: in its group.
        parent, fork, weight: as in `FACTS`.
        ids, own: its completion so far, and what of it the policy wrote.
        turn: where its present turn begins.
        first, before, now: entropies, as in `Node`; `now` is that of the last turn's first tokens.
        probing: whether its turn begins with a probe.
        text: what it says in the end.
        kept: its nodes, behind its fork.
    """

    group: _Group
    environment: Environment
    tree: int
    fresh: bool = False
    probing: bool = False
    place: int = 0
    parent: int = -1
    fork: int = 0
    weight: float = 1.0
    ids: list[int] = field(default_factory=list)
    own: list[int] = field(default_factory=list)
    turn: int = 0
    calls: int = 0
    first: float = 0.0
    before: float = 0.0
    now: float = 0.0
    text: str = ""
    over: bool = False
    kept: list[_Kept] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.parent < 0 and isinstance(self.environment, Restorable):
            self.kept.append(_Kept(0, self.environment.snapshot(), 0))

    @property
    def left(self) -> int:
        return self.group.limit - len(self.ids)

    def take(self, turn: Sequence[int], ends: frozenset[int]) -> bool:
        """What the policy has written on; whether it can write no more."""
        self.ids += turn
        self.own += [1] * len(turn)
        return turn[-1] in ends or self.left < 1

    def read(self, ids: Sequence[int]) -> None:
        """What a tool said, as far as it fits; an attempt without room behind it is over."""
        fits = ids[: self.left]
        self.ids += fits
        self.own += [0] * len(fits)
        self.turn = len(self.ids)
        self.over = self.left < 1

    def end(self, text: str) -> None:
        self.text, self.over = text, True

    def keep(self) -> None:
        """Note the node behind a result."""
        if not self.over:
            self.kept.append(_Kept(len(self.ids), _restorable(self.environment).snapshot(), self.calls))

    def branch(self, environment: Environment, length: int, calls: int) -> _Leaf:
        """Another leaf with the first tokens of this one, and the calls that these hold."""
        return _Leaf(
            self.group,
            environment,
            tree=self.tree,
            parent=self.place,
            fork=length,
            weight=self.weight,
            ids=self.ids[:length],
            own=self.own[:length],
            turn=length,
            calls=calls,
            first=self.first,
            before=self.before,
        )


def _action(text: str) -> Action | None:
    """The action that a turn says, if it is whole."""
    reader = TurnReader()
    reader.feed(text)
    return reader.action


def _restorable(environment: Environment) -> Restorable:
    assert isinstance(environment, Restorable)
    return environment


def _attempts(ids: Sequence[Sequence[int]], leaves: Sequence[_Leaf], gives: Sequence[str]) -> Attempts:
    facts: Mapping[str, Iterable[float]] = {
        "parent": (leaf.parent for leaf in leaves),
        "fork": (leaf.fork for leaf in leaves),
        "tree": (leaf.tree for leaf in leaves),
        "weight": (leaf.weight for leaf in leaves),
        "fresh": (leaf.fresh for leaf in leaves),
        "written": (sum(leaf.own[leaf.fork :]) for leaf in leaves),
        "calls": (leaf.calls for leaf in leaves),
    }
    return Attempts(
        prompts=ids,
        completions=[leaf.ids for leaf in leaves],
        own=[leaf.own for leaf in leaves],
        texts=[leaf.text for leaf in leaves],
        facts={name: [float(value) for value in facts[name]] for name in gives},
    )

"""Where searches act: an environment that goes back, a policy that proposes, a reward that judges whole attempts.

A search sees places: what was done up to there, and the environment's snapshot. Acting at a place gives another one and
leaves the first as it was, so attempts may be under way side by side. Every limit is counted here, for all searches
alike, and a tool that costs money is never called: the agent is told so, and goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from selfroute.actions import Action, result_text
from selfroute.bounds import Count, Positive, check_fields
from selfroute.errors import ConfigError
from selfroute.tasks.base import Environment, Observation, Restorable

__all__ = [
    "Arena",
    "Found",
    "Limits",
    "Meter",
    "Place",
    "Proposal",
    "Propose",
    "Scores",
    "Spent",
    "Step",
    "check_restorable",
]

MOST_STEPS = 64


@dataclass(frozen=True, slots=True)
class Step:
    """An action and what came of it."""

    action: Action
    seen: Observation


@dataclass(frozen=True, slots=True)
class Place:
    """What was done up to here, and the environment's state.

    Attributes:
        state: the snapshot behind the last step.
        opening: what there was to see at first.
    """

    state: Any
    opening: str = ""
    steps: tuple[Step, ...] = ()

    @property
    def done(self) -> bool:
        """Whether the episode is over."""
        return bool(self.steps) and self.steps[-1].seen.done

    @property
    def answer(self) -> str:
        """The episode's answer; empty before its end."""
        return self.steps[-1].seen.text if self.done else ""

    @property
    def text(self) -> str:
        """All of it as an agent reads and writes it, which is what a reward model scores."""
        said = [result_text(self.opening)] if self.opening else []
        for step in self.steps:
            said.append(str(step.action))
            if step.action.tool:
                said.append(result_text(step.seen.text))
        return "\n".join(said)


@dataclass(frozen=True, slots=True)
class Proposal:
    """An action that a policy would take.

    Attributes:
        tokens: what writing it took.
        logprob: of its tokens together, in nats; None where the policy does not say.
    """

    action: Action
    tokens: int = 0
    logprob: float | None = None


class Propose(Protocol):
    """A policy: what to do at a place."""

    async def __call__(
        self, question: str, place: Place, *, count: int, seed: int, lessons: Sequence[str] = ()
    ) -> Sequence[Proposal]:
        """Up to `count` proposals, equal ones among them where the policy is sure.

        Args:
            seed: another one, other draws.
            lessons: what was learned from attempts before.
        """
        ...


# From questions and texts of attempts to scores, higher for better, None for what cannot be judged: as
# `selfroute.scores.reward_model.RewardModel.scores`. Called in a worker thread.
Scores = Callable[[Sequence[tuple[str, str]]], Sequence[float | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one search may take; None sets no limit, and one of them has to be set.

    Attributes:
        attempts: whole episodes, or answers.
        environment_calls: actions carried out.
        tokens: that the policy writes.
        seconds: of wall time.

    Raises:
        ConfigError: none is set, or one is out of range.
    """

    attempts: Count | None = None
    environment_calls: Count | None = None
    tokens: Count | None = None
    seconds: Positive | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if all(limit is None for limit in (self.attempts, self.environment_calls, self.tokens, self.seconds)):
            raise ConfigError("limits: none is set, and a search would not end; set attempts, e.g. 16")


@dataclass(frozen=True, slots=True)
class Spent:
    """What a search took; as `Limits`."""

    attempts: int = 0
    environment_calls: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Meter:
    """Counts what a search takes against its limits."""

    limits: Limits
    clock: Callable[[], float] = time.perf_counter
    attempts: int = 0
    environment_calls: int = 0
    tokens: int = 0
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.clock()

    @property
    def spent(self) -> Spent:
        return Spent(self.attempts, self.environment_calls, self.tokens, self.clock() - self.began)

    @property
    def over(self) -> str | None:
        """The limit that is reached, None while there is room."""
        spent = self.spent
        for name in ("attempts", "environment_calls", "tokens", "seconds"):
            limit = getattr(self.limits, name)
            if limit is not None and getattr(spent, name) >= limit:
                return name
        return None

    def room(self, *names: str) -> bool:
        """Whether there is room left under some of the limits."""
        spent = self.spent
        limits = [(getattr(spent, name), getattr(self.limits, name)) for name in names]
        return all(limit is None or used < limit for used, limit in limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search ended with.

    Attributes:
        best: the attempt to go by, None where none came to its end and could be scored.
        score: of it.
        first: the first whole attempt, to fall back on; None where there was none.
        scores: of all whole attempts, in the order in which they ended; None where one could not be judged.
        spent: what the search took.
        ended: the limit that ended it, or `enough` where a score was good enough, or `exhausted`.
    """

    best: Place | None
    score: float | None
    first: Place | None
    scores: tuple[float | None, ...]
    spent: Spent
    ended: str


@dataclass(slots=True)
class Arena:
    """One question in its environment, with who acts and who judges.

    Args:
        question: as the policy and the reward read it.
        environment: one that goes back.
        propose: the policy.
        scores: the reward of whole attempts.
        limits: what the search may take.
        most_steps: of one attempt; a longer one is broken off and not judged.
        read: what the reward reads of an attempt; by default all of it.

    Raises:
        ConfigError: the environment has no snapshot.
    """

    question: str
    environment: Restorable
    propose: Propose
    scores: Scores
    limits: Limits
    most_steps: int = MOST_STEPS
    read: Callable[[Place], str] = lambda place: place.text
    meter: Meter = field(init=False)
    _paid: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        check_restorable(self.environment)
        self.meter = Meter(self.limits)
        self._paid = frozenset(tool.name for tool in self.environment.tools if tool.price_usd > 0)

    def start(self) -> Place:
        """The beginning of the episode."""
        opening = self.environment.reset()
        return Place(self.environment.snapshot(), opening)

    def step(self, place: Place, action: Action) -> Place:
        """Act at a place; counts as one call of the environment, unless the tool costs money: that is not called."""
        if action.tool in self._paid:
            seen = Observation(f"{action.tool} costs money and cannot be called while planning")
            return Place(place.state, place.opening, (*place.steps, Step(action, seen)))
        self.environment.restore(place.state)
        self.meter.environment_calls += 1
        seen = self.environment.step(action)
        return Place(self.environment.snapshot(), place.opening, (*place.steps, Step(action, seen)))

    async def proposals(self, place: Place, *, count: int, seed: int, lessons: Sequence[str] = ()) -> list[Proposal]:
        """What the policy would do at a place; its tokens are counted."""
        found = list(await self.propose(self.question, place, count=count, seed=seed, lessons=lessons))
        self.meter.tokens += sum(proposal.tokens for proposal in found)
        return found

    async def rollout(self, place: Place, *, seed: int, lessons: Sequence[str] = ()) -> Place | None:
        """Follow the policy to the end; None where a limit or the length breaks the attempt off, or nobody acts."""
        while not place.done:
            if len(place.steps) >= self.most_steps or not self.meter.room("environment_calls", "tokens", "seconds"):
                return None
            step = seed * MOST_STEPS + len(place.steps)
            if not (found := await self.proposals(place, count=1, seed=step, lessons=lessons)):
                return None
            if not self.meter.room("environment_calls"):
                return None
            place = self.step(place, found[0].action)
        return place

    async def judge(self, places: Sequence[Place]) -> list[float | None]:
        """Scores of whole attempts."""
        if not places:
            return []
        rows = [(self.question, self.read(place)) for place in places]
        return list(await asyncio.to_thread(self.scores, rows))

    def found(self, ended: Sequence[tuple[Place, float | None]], why: str) -> Found:
        """The best of the attempts by score, the first of equals."""
        known = [(place, score) for place, score in ended if score is not None]
        best = max(known, key=lambda one: one[1], default=None)
        scores = tuple(score for _, score in ended)
        place, score = best if best is not None else (None, None)
        first = ended[0][0] if ended else None
        return Found(best=place, score=score, first=first, scores=scores, spent=self.meter.spent, ended=why)


def check_restorable(environment: Environment) -> None:
    """See that an environment can go back.

    Raises:
        ConfigError: it has no snapshot and restore.
    """
    if not isinstance(environment, Restorable):
        raise ConfigError(
            f"search: {type(environment).__name__} has no snapshot() and restore(), and a search must be able to go "
            "back; add them, or take another strategy"
        )

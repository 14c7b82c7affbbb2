"""Plan on the device, judge by a learned reward, hand off where the best is not good enough (arXiv 2502.12130)."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from selfroute.backends.flight import closing
from selfroute.errors import ConfigError
from selfroute.strategies.attempt import Attempt, spoken
from selfroute.strategies.base import Needs, Sides
from selfroute.strategies.prompt_router import question_of
from selfroute.strategies.search.agent import Agent, OneAnswer
from selfroute.strategies.search.arena import Arena, Found, Limits, Scores
from selfroute.strategies.search.best_of_n import best_of_n
from selfroute.strategies.search.reflexion import reflexion
from selfroute.strategies.search.tree_search import tree_search
from selfroute.strategies.sides import Decision, Kept, ask_cloud
from selfroute.tasks.base import Restorable
from selfroute.types import Event, Finished, Message, Sampling, Segment, Trace

__all__ = ["Planned", "Search"]

UNJUDGED = 1e6  # the score where nothing could be judged: above that of any reward
Search = Literal["best_of_n", "reflexion", "tree_search", "released_tree"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """The best of several attempts of the device is served if its reward is high enough; otherwise the cloud answers.

    The score is minus the best reward, so what is calibrated, matched and budgeted is as with any other strategy: at or
    above the threshold the cloud is asked, once, with the whole question and after the search. Within the search
    nothing that costs money is called. When the budget refuses the call or the cloud fails, the best attempt is served
    after all. Without an attempt that could be judged the score is a million.

    Args:
        scores: the reward of answers or of what an agent did, as `RewardModel.scores`.
        threshold: least score that is sent; `math.inf` sends none.
        limits: of one search.
        search: how attempts are made; a question without environment takes `best_of_n` or `reflexion`.
        temperature: of the attempts.
        enough: reward at which reflexion stops.
        environment: from a question to its environment; None answers at once.

    Raises:
        ConfigError: a threshold that is NaN, greedy attempts, which are all the same, or a tree of plain answers.
    """

    scores: Scores
    threshold: float
    limits: Limits
    search: Search = "best_of_n"
    temperature: float = 0.7
    enough: float = math.inf
    environment: Callable[[str], Restorable] | None = None
    name: str = "planned"

    def __post_init__(self) -> None:
        if math.isnan(self.threshold):
            raise ConfigError("threshold: nan is not a threshold; give the least score that goes to the cloud")
        if self.temperature <= 0:
            raise ConfigError("temperature: 0 makes all attempts alike; give one above 0, e.g. 0.7")
        if self.environment is None and self.search in ("tree_search", "released_tree"):
            raise ConfigError(
                f"search: {self.search} needs an environment to act in, and a plain answer is one step; name a task "
                "that has one, or take best_of_n"
            )

    @property
    def needs(self) -> Needs:
        return Needs()

    async def stream(self, sides: Sides, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Event]:
        """See `selfroute.strategies.base.Strategy`.

        Raises:
            BackendError: the device wrote nothing.
            ConfigError: the environment of the question has no snapshot, or the question is none of its task.
        """
        agent = Agent(sides, messages, replace(sampling, temperature=self.temperature))
        found = await self._search(question_of(sides.template, messages), agent)
        if not agent.attempts and agent.failure is not None:
            raise agent.failure
        score = UNJUDGED if found.score is None else -found.score
        place = found.best or found.first
        text = "" if place is None else place.answer
        probes, best = _written(agent.attempts, text)
        answer = replace(best, text=_shown(text, best), part="answer" if text else "void", score=score)
        said = tuple(spoken(answer.text))
        if score < self.threshold:
            await sides.budget.keep()
            for delta in said:
                yield delta
            yield Finished(
                Trace(
                    strategy=self.name,
                    wants_cloud=False,
                    reason="answered",
                    segments=(*probes, answer),
                    decided_after=len(probes) + 1,
                    score=score,
                )
            )
            return
        decision = Decision(strategy=self.name, reason="judged", score=score, before=probes)
        kept = Kept(said, answer)
        async with closing(ask_cloud(sides, messages, sampling, decision, handed_off=True, kept=kept)) as events:
            async for event in events:
                yield event

    async def _search(self, question: str, agent: Agent) -> Found:
        if self.environment is None:
            arena = Arena(
                question, OneAnswer(), agent.answers, self.scores, self.limits, read=lambda place: place.answer
            )
        else:
            arena = Arena(question, self.environment(question), agent.turns, self.scores, self.limits)
        if self.search == "best_of_n":
            return await best_of_n(arena)
        if self.search == "reflexion":
            return await reflexion(arena, agent.reflect, enough=self.enough)
        return await tree_search(arena, form="standard" if self.search == "tree_search" else "released")


def _written(attempts: Sequence[Attempt], answer: str) -> tuple[tuple[Segment, ...], Segment]:
    """All that the device wrote but the last that makes up the answer, and that one."""
    place = next((i for i in range(len(attempts) - 1, -1, -1) if attempts[i].text == answer), len(attempts) - 1)
    segments = [attempt.segment("probe") for attempt in attempts]
    best = segments.pop(place)
    return tuple(segments), best


def _shown(answer: str, best: Segment) -> str:
    """An answer as its reader gets it: as it was written, or in tags where an environment gave it."""
    return f"<answer>{answer}</answer>" if answer and answer != best.text else best.text

"""The device as a policy of a search: whole answers to a question, or the turns of an agent in an environment."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from selfroute.actions import CALL_CLOSE, Action, read_turn, result_text
from selfroute.errors import BackendError
from selfroute.handoff import parse
from selfroute.strategies.attempt import Attempt
from selfroute.strategies.base import Sides
from selfroute.strategies.search.arena import Place, Proposal
from selfroute.strategies.sides import muzzled
from selfroute.tasks.base import Observation, Tool
from selfroute.types import Message, Sampling

__all__ = ["Agent", "OneAnswer", "Writer"]

_LESSONS = "\n\nWhat earlier attempts have taught:\n{lessons}"
_REFLECT = "That attempt was not good enough. Say in one sentence what to do differently."


class OneAnswer:
    """The environment of a plain question: one action, the answer, ends it."""

    tools: Sequence[Tool] = ()

    def reset(self) -> str:
        """See `Environment`."""
        return ""

    def step(self, action: Action) -> Observation:
        """See `Environment`."""
        return Observation(action.text, done=True)

    def score(self) -> None:
        """See `Environment`: nobody knows."""
        return None

    def snapshot(self) -> None:
        """See `Restorable`."""

    def restore(self, at: Any) -> None:
        """See `Restorable`."""


@dataclass(slots=True)
class Writer:
    """The device, asked for one request; keeps what it wrote.

    Attributes:
        sides: of the request.
        messages: the conversation.
        sampling: of an attempt; its seed is moved for each.
        attempts: all that it wrote, in the order in which it was asked.
        failure: why it wrote nothing, the last time it did not.
    """

    sides: Sides
    messages: Sequence[Message]
    sampling: Sampling
    attempts: list[Attempt] = field(default_factory=list)
    failure: BackendError | None = None

    async def write(self, prompt: Sequence[Message], sampling: Sampling) -> Attempt | None:
        """One completion; None if the device failed, which ends one attempt and not the search."""
        attempt = Attempt("device", self.sides.device, self.sides.prices.device)
        try:
            await attempt.finish(prompt, *muzzled(sampling))
        except BackendError as error:
            self.failure = error
            return None
        self.attempts.append(attempt)
        return attempt

    def prompt(self, lessons: Sequence[str] = ()) -> list[Message]:
        """What the device reads at first, with lessons behind its last turn."""
        asked = self.sides.template.device_messages(self.messages, offer_handoff=False)
        told = [lesson for lesson in lessons if lesson]
        if told and asked:
            listed = "\n".join(f"- {lesson}" for lesson in told)
            asked[-1] = replace(asked[-1], content=asked[-1].content + _LESSONS.format(lessons=listed))
        return asked

    async def answers(
        self, question: str, place: Place, *, count: int, seed: int, lessons: Sequence[str] = ()
    ) -> list[Proposal]:
        """Whole answers, as `Propose`; one that hands off proposes nothing."""
        prompt = self.prompt(lessons)
        drawn = [replace(self.sampling, seed=self._seed(seed, k)) for k in range(count)]
        written = await asyncio.gather(*(self.write(prompt, one) for one in drawn))
        return [
            Proposal(Action(one.text), one.usage.completion_tokens)
            for one in written
            if one is not None and not parse(one.text).wants_cloud
        ]

    async def reflect(self, question: str, place: Place, score: float | None) -> tuple[str, int]:
        """What to do differently, by the device itself, in one line; and its tokens."""
        asked = [*self.prompt(), Message("assistant", place.answer or place.text), Message("user", _REFLECT)]
        said = await self.write(asked, replace(self.sampling, max_tokens=min(64, self.sampling.max_tokens)))
        if said is None:
            return "", 0
        return " ".join(parse(said.text).answer.split()), said.usage.completion_tokens

    def _seed(self, seed: int, number: int) -> int:
        return (self.sampling.seed or 0) + 1_009 * seed + number


class Agent(Writer):
    """The device as an agent: it writes a turn, reads what came of it, and writes the next."""

    async def turns(
        self, question: str, place: Place, *, count: int, seed: int, lessons: Sequence[str] = ()
    ) -> list[Proposal]:
        """Next actions, as `Propose`; a turn that hands off proposes nothing."""
        prompt = [*self.prompt(lessons), *turns_of(place)]
        stop = (*self.sampling.stop, CALL_CLOSE)
        drawn = [replace(self.sampling, stop=stop, seed=self._seed(seed, k)) for k in range(count)]
        written = await asyncio.gather(*(self.write(prompt, one) for one in drawn))
        read = [(read_turn(f"{one.text}{CALL_CLOSE}"), one) for one in written if one is not None]
        return [Proposal(action, one.usage.completion_tokens) for action, one in read if action is not None]


def turns_of(place: Place) -> list[Message]:
    """What was done up to a place as turns of a conversation: the agent's calls, and what came of each."""
    turns = [Message("user", result_text(place.opening))] if place.opening else []
    for step in place.steps:
        turns += [Message("assistant", str(step.action)), Message("user", result_text(step.seen.text))]
    return turns

"""Decide from the prompt alone, before any model runs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from selfroute.backends.flight import closing
from selfroute.errors import ConfigError
from selfroute.prompts import PromptTemplate
from selfroute.strategies.base import Needs, Sides
from selfroute.strategies.sides import Decision, ask_cloud, keep_on_device
from selfroute.types import Event, Message, Sampling

__all__ = ["PromptRouter", "question_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRouter:
    """Questions that score at or above a threshold go to the cloud ("router" in arXiv 2509.24050).

    Args:
        score: from a question to how much it needs the cloud, e.g. what `fit_prompt_router` in
            `selfroute.train.fit.scorer` returns. It sees the last user turn, without the template's words around the
            question, and runs in a worker thread.
        threshold: least score that is sent; `math.inf` sends none.

    Raises:
        ConfigError: the threshold is NaN.
    """

    score: Callable[[str], float]
    threshold: float
    name: str = "prompt_router"

    def __post_init__(self) -> None:
        if math.isnan(self.threshold):
            raise ConfigError("threshold: nan is not a threshold; give the least score that goes to the cloud")

    @property
    def needs(self) -> Needs:
        return Needs()

    async def stream(self, sides: Sides, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Event]:
        """See `selfroute.strategies.base.Strategy`."""
        score = float(await asyncio.to_thread(self.score, question_of(sides.template, messages)))
        turn = ask_cloud if score >= self.threshold else keep_on_device
        decision = Decision(strategy=self.name, reason="routed", score=score)
        async with closing(turn(sides, messages, sampling, decision)) as events:
            async for event in events:
                yield event


def question_of(template: PromptTemplate, messages: Sequence[Message]) -> str:
    """The last user turn as the scorer's training data had it: the template's own words are no evidence."""
    last = next((message.content for message in reversed(messages) if message.role == "user"), "")
    head, _, tail = template.user.partition("{question}")
    return last.removeprefix(head).removesuffix(tail)

"""The device tries, and asks for the cloud itself: GAPG's way of splitting work (arXiv 2509.24050)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from selfroute.backends.base import Backend
from selfroute.budget.base import Budget, Unlimited
from selfroute.errors import ConfigError
from selfroute.handoff import StreamParser, handoff_score, parse
from selfroute.prices import Prices
from selfroute.prompts import PromptTemplate, with_attempt
from selfroute.strategies.sides import Attempt, ask_cloud, closing, speak
from selfroute.types import Event, Finished, Message, Sampling, Trace

__all__ = ["SelfRoute"]

_ALTERNATIVES = 5  # the most that every server with log-probabilities gives


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfRoute:
    """The device's attempt is streamed live; if it ends in a hand-off, the cloud answers the plain conversation.

    When the budget refuses the call or the cloud fails, the device has to answer after all: the same conversation
    again, without the offer. The trace keeps `wants_cloud`, and says "budget" or "cloud-error" and why.

    Args:
        scored: ask the device for log-probabilities, so that traces carry the hand-off's probability as score; a
            device that has none is asked again without.
        told_share: the wanted call share to say in the prompt, for a policy that was trained for several; None says
            none.
        context: what the cloud sees: the conversation ("prompt"), or also what the device wrote ("attempt").
        device, cloud, template, budget, prices, name: as in `AlwaysCloud`.

    Raises:
        ConfigError: a told share outside [0, 1].
    """

    device: Backend
    cloud: Backend
    template: PromptTemplate
    budget: Budget = field(default_factory=Unlimited)
    prices: Prices = field(default_factory=Prices)
    name: str = "self_route"
    scored: bool = True
    told_share: float | None = None
    context: Literal["prompt", "attempt"] = "prompt"

    def __post_init__(self) -> None:
        if self.told_share is not None and not 0 <= self.told_share <= 1:
            raise ConfigError(f"told_share={self.told_share:g}: a call share lies between 0 and 1; 0.3 is 30 %")

    def with_budget(self, budget: Budget) -> SelfRoute:
        """The same strategy under another budget."""
        return replace(self, budget=budget)

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Event]:
        """See `selfroute.strategies.base.Strategy`."""
        attempt, parser = Attempt("device", self.device, self.prices.device), StreamParser()
        prompt = self.template.device_messages(messages, share=self.told_share)
        async with closing(speak(attempt, parser, prompt, *self._variants(sampling))) as deltas:
            async for delta in deltas:
                yield delta
        score = handoff_score(attempt.tokens) if self.scored else None
        segments = (attempt.segment(),)
        if not parser.wants_cloud:
            await self.budget.keep()
            yield Finished(Trace(self.name, "device", False, "answered", attempt.text, segments, score))
            return
        asked = with_attempt(messages, parse(attempt.text).reasoning) if self.context == "attempt" else messages
        call = ask_cloud(
            self, messages, sampling, reason="hand-off", score=score, before=segments, handed_off=True, asked=asked
        )
        async with closing(call) as events:
            async for event in events:
                yield event

    def _variants(self, sampling: Sampling) -> tuple[Sampling, ...]:
        """How to ask the device, best first."""
        if not self.scored:
            return (sampling,)
        return replace(sampling, top_logprobs=max(_ALTERNATIVES, sampling.top_logprobs or 0)), sampling

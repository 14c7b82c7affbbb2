"""The device tries, and asks for the cloud itself: GAPG's way of splitting work (arXiv 2509.24050)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from selfroute.backends.flight import closing
from selfroute.errors import ConfigError
from selfroute.handoff import StreamParser, handoff_score, parse
from selfroute.prompts import with_attempt
from selfroute.strategies.attempt import Attempt, speak
from selfroute.strategies.base import Needs, Sides
from selfroute.strategies.sides import Decision, ask_cloud
from selfroute.types import Event, Finished, Message, Reason, Sampling, Trace

__all__ = ["SelfRoute"]

_ALTERNATIVES = 5  # the most that every server with log-probabilities gives


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfRoute:
    """The device's attempt is streamed live; if it ends in a hand-off, the cloud answers the plain conversation.

    So it does where the device stops without a word for the reader, e.g. after thinking (reason "empty").

    When the budget refuses the call or the cloud fails, the device has to answer after all: the same conversation
    again, without the offer. The trace keeps `wants_cloud`, and says "budget" or "cloud-error" and why.

    Args:
        scored: ask the device for log-probabilities, so that traces carry the hand-off's probability as score; a
            device that has none is asked again without.
        told_share: the wanted call share to say in the prompt, for a policy that was trained for several; None says
            none.
        context: what the cloud sees: the conversation ("prompt"), or also what the device wrote ("attempt").

    Raises:
        ConfigError: a told share outside [0, 1].
    """

    name: str = "self_route"
    scored: bool = True
    told_share: float | None = None
    context: Literal["prompt", "attempt"] = "prompt"

    def __post_init__(self) -> None:
        if self.told_share is not None and not 0 <= self.told_share <= 1:
            raise ConfigError(f"told_share={self.told_share:g}: a call share lies between 0 and 1; 0.3 is 30 %")

    @property
    def needs(self) -> Needs:
        return Needs()

    def told(self, share: float) -> SelfRoute:
        """The same with another share in the prompt, if it tells one."""
        return self if self.told_share is None else replace(self, told_share=share)

    async def stream(self, sides: Sides, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Event]:
        """See `selfroute.strategies.base.Strategy`."""
        attempt, parser = Attempt("device", sides.device, sides.prices.device), StreamParser()
        prompt = sides.template.device_messages(messages, share=self.told_share)
        said = False
        async with closing(speak(attempt, parser, prompt, *self._variants(sampling))) as deltas:
            async for delta in deltas:
                said |= delta.kind == "content"
                yield delta
        score = handoff_score(attempt.written.tokens) if self.scored else None
        # An answer that was cut is none yet, and its finish reason tells.
        is_empty = not said and attempt.written.finish_reason == "stop" and sides.cloud is not None
        if not parser.wants_cloud and not is_empty:
            await sides.budget.keep()
            yield Finished(
                Trace(
                    strategy=self.name,
                    wants_cloud=False,
                    reason="answered",
                    segments=(attempt.segment(score=score),),
                    decided_after=1,
                    score=score,
                )
            )
            return
        before = (attempt.segment("attempt", score=score),)
        reason: Reason = "hand-off" if parser.wants_cloud else "empty"
        decision = Decision(strategy=self.name, reason=reason, score=score, before=before)
        asked = with_attempt(messages, parse(attempt.text).reasoning) if self.context == "attempt" else messages
        async with closing(
            ask_cloud(sides, messages, sampling, decision, handed_off=parser.wants_cloud, asked=asked)
        ) as events:
            async for event in events:
                yield event

    def _variants(self, sampling: Sampling) -> tuple[Sampling, ...]:
        """How to ask the device, best first."""
        if not self.scored:
            return (sampling,)
        return replace(sampling, top_logprobs=max(_ALTERNATIVES, sampling.top_logprobs or 0)), sampling

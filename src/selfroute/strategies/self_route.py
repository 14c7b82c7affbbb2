"""The device tries, and asks for the cloud itself: GAPG's way of splitting work (arXiv 2509.24050)."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from selfroute.backends.flight import closing
from selfroute.errors import ConfigError
from selfroute.handoff import StreamParser, handoff_score, parse
from selfroute.prompts import with_attempt
from selfroute.strategies.attempt import Attempt, speak
from selfroute.strategies.base import Needs, Sides
from selfroute.strategies.sides import Decision, Kept, ask_cloud, keep_on_device, withhold
from selfroute.types import Event, Finished, Message, Reason, Sampling, TextDelta, Trace

__all__ = ["Context", "SelfRoute"]

Context = Literal["prompt", "attempt", "message"]

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
        context: what the cloud sees: the conversation ("prompt"), also what the device wrote ("attempt"), or nothing
            but the message that the device wrote behind its hand-off ("message"); without one the device answers, and
            further fields of the request, such as tools, stay behind.
        threshold: least score that goes to the cloud, whatever the device decided by itself; its answer is shown once
            it is accepted. Where an attempt has no score, and with None, the device's own decision counts.

    Raises:
        ConfigError: a told share outside [0, 1], or a threshold that is no number, stands without scores, or beside
            messages, as an attempt that is judged has none.
    """

    name: str = "self_route"
    scored: bool = True
    told_share: float | None = None
    context: Context = "prompt"
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and (math.isnan(self.threshold) or not self.scored):
            fault = "a threshold needs scores; leave out scored: false" if not self.scored else "it is not a number"
            raise ConfigError(f"threshold={self.threshold:g}: {fault}; `selfroute calibrate` finds one for a share")
        if self.threshold is not None and self.discreet:
            raise ConfigError(
                f"threshold={self.threshold:g}: an answer that is judged has no message for the cloud; leave it out, "
                "or take context=attempt"
            )
        if self.told_share is not None and not 0 <= self.told_share <= 1:
            raise ConfigError(f"told_share={self.told_share:g}: a call share lies between 0 and 1; 0.3 is 30 %")

    @property
    def needs(self) -> Needs:
        return Needs()

    @property
    def discreet(self) -> bool:
        """Whether the device writes what the cloud sees."""
        return self.context == "message"

    def told(self, share: float) -> SelfRoute:
        """The same with another share in the prompt, if it tells one."""
        return self if self.told_share is None else replace(self, told_share=share)

    async def stream(self, sides: Sides, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Event]:
        """See `selfroute.strategies.base.Strategy`."""
        attempt, parser = Attempt("device", sides.device, sides.prices.device), StreamParser()
        prompt = sides.template.device_messages(messages, share=self.told_share)
        said, held = False, list[TextDelta]()
        async with closing(speak(attempt, parser, prompt, *self._variants(sampling))) as deltas:
            async for delta in deltas:
                said |= delta.kind == "content"
                if self.threshold is None or delta.kind == "reasoning":
                    yield delta
                else:
                    held.append(delta)
        score = handoff_score(attempt.written.tokens) if self.scored else None
        # An answer that was cut is none yet, and its finish reason tells.
        is_silent = not (said or parser.wants_cloud) and attempt.written.finish_reason == "stop"
        is_empty = is_silent and sides.cloud is not None
        asks = self._asks(parser.wants_cloud, score)
        if not (asks or parser.wants_cloud or is_empty):
            await sides.budget.keep()
            for delta in held:
                yield delta
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
        decision, kept = self._decided(attempt, parser.wants_cloud, score, held)
        turn = keep_on_device(sides, messages, sampling, decision)  # the threshold is above the device's own
        if (asks or is_empty) and self.discreet and not parser.message:
            turn = withhold(sides, messages, sampling, decision, "the device wrote no message for the cloud")
        elif asks or is_empty:
            asked, shown = self._shown(messages, sampling, attempt.text)
            told = parser.wants_cloud or kept is not None
            turn = ask_cloud(sides, messages, sampling, decision, handed_off=told, kept=kept, asked=asked, shown=shown)
        async with closing(turn) as events:
            async for event in events:
                yield event

    def _shown(self, messages: Sequence[Message], sampling: Sampling, text: str) -> tuple[Sequence[Message], Sampling]:
        """What the cloud gets of a request, given what the device wrote."""
        said = parse(text)
        if self.discreet:
            return [Message("user", said.message)], replace(sampling, extra={})
        return (with_attempt(messages, said.reasoning) if self.context == "attempt" else messages), sampling

    def _asks(self, own: bool, score: float | None) -> bool:
        """Whether the request goes to the cloud: by its score where there is a threshold, else as the device says."""
        return own if self.threshold is None or score is None else score >= self.threshold

    def _decided(
        self, attempt: Attempt, handed_off: bool, score: float | None, held: Sequence[TextDelta]
    ) -> tuple[Decision, Kept | None]:
        """What an attempt that is not simply kept was, and its answer, if it has one that its reader has not seen."""
        if held and not handed_off:
            kept = Kept(tuple(held), attempt.segment(score=score))
            return Decision(strategy=self.name, reason="judged", score=score), kept
        before = (attempt.segment("attempt", score=score),)
        reason: Reason = "empty"
        if handed_off:
            reason = "hand-off" if self._asks(True, score) else "judged"
        return Decision(strategy=self.name, reason=reason, score=score, before=before), None

    def _variants(self, sampling: Sampling) -> tuple[Sampling, ...]:
        """How to ask the device, best first."""
        if not self.scored:
            return (sampling,)
        return replace(sampling, top_logprobs=max(_ALTERNATIVES, sampling.top_logprobs or 0)), sampling

"""Let the device answer, judge its answer, and ask the cloud where the judgement is bad ("cascade").

One strategy for every judgement: what differs between the published methods is what they look at and how they turn it
into a number, which is the scorer's business (`selfroute.scores.evidence`, `selfroute.scores.scorers`).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from selfroute.backends.flight import closing
from selfroute.errors import ConfigError
from selfroute.handoff import StreamParser
from selfroute.scores.evidence import VERDICT_QUESTION, Evidence, doubt_in
from selfroute.strategies.attempt import Attempt, speak
from selfroute.strategies.base import Needs, Sides
from selfroute.strategies.prompt_router import question_of
from selfroute.strategies.sides import Decision, Kept, ask_cloud, muzzled
from selfroute.types import Event, Finished, Message, Sampling, Segment, TextDelta, Trace

__all__ = ["Cascade", "Looks"]

Looks = Literal["text", "tokens", "samples", "verdict"]

_ALTERNATIVES = 5  # the most that every server with log-probabilities gives


@dataclass(frozen=True, slots=True, kw_only=True)
class Cascade:
    """The device's answer is served if it scores below a threshold; otherwise the cloud answers.

    The reader sees the device's reasoning as it comes and its answer once that is accepted. When the budget refuses
    the call or the cloud fails, the device's answer is served after all, and the trace says why.

    Args:
        score: from what is known after the answer to how much it needs the cloud; runs in a worker thread.
        threshold: least score that is sent; `math.inf` sends none.
        looks: what is gathered for the score besides question and answer: "tokens" are the answer's
            log-probabilities, "samples" are `samples` further answers, "verdict" asks the device whether it is right.
        samples: how many further answers, at `temperature`.
        temperature: of the further answers.

    Raises:
        ConfigError: the threshold is NaN, or "samples" without a sample or at temperature 0.
    """

    score: Callable[[Evidence], float]
    threshold: float
    looks: Looks = "text"
    samples: int = 5
    temperature: float = 0.7
    name: str = "cascade"

    def __post_init__(self) -> None:
        if math.isnan(self.threshold):
            raise ConfigError("threshold: nan is not a threshold; give the least score that goes to the cloud")
        if self.looks == "samples" and (self.samples < 1 or self.temperature <= 0):
            raise ConfigError(
                f"samples: {self.samples} at temperature {self.temperature} show no spread; give 1 or more above 0"
            )

    @property
    def needs(self) -> Needs:
        return Needs()

    async def stream(self, sides: Sides, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Event]:
        """See `selfroute.strategies.base.Strategy`.

        Raises:
            UnsupportedByBackend: the score needs log-probabilities that the device does not give.
        """
        attempt, parser = Attempt("device", sides.device, sides.prices.device), StreamParser()
        prompt = sides.template.device_messages(messages, offer_handoff=False)
        held: list[TextDelta] = []
        async with closing(speak(attempt, parser, prompt, *self._variants(sampling))) as deltas:
            async for delta in deltas:
                if delta.kind == "reasoning":
                    yield delta
                else:
                    held.append(delta)
        # A device that hands off all the same has no answer to judge.
        text = "" if parser.wants_cloud else attempt.text
        known = Evidence(question_of(sides.template, messages), text, tuple(attempt.written.tokens))
        evidence, probes = await self._look(known, sides, prompt, sampling)
        score = float(await asyncio.to_thread(self.score, evidence))
        segment = attempt.segment("void" if parser.wants_cloud else "answer", score=score)
        if score < self.threshold and not parser.wants_cloud:
            await sides.budget.keep()
            for delta in held:
                yield delta
            written = (*probes, segment)
            yield Finished(
                Trace(
                    strategy=self.name,
                    wants_cloud=False,
                    reason="answered",
                    segments=written,
                    decided_after=len(written),
                    score=score,
                )
            )
            return
        decision = Decision(strategy=self.name, reason="judged", score=score, before=probes)
        kept = Kept(tuple(held), segment)
        async with closing(ask_cloud(sides, messages, sampling, decision, handed_off=True, kept=kept)) as events:
            async for event in events:
                yield event

    def _variants(self, sampling: Sampling) -> tuple[Sampling, ...]:
        """How to ask the device for its answer, best first; without hand-off where it can be kept from one."""
        if self.looks == "tokens":
            sampling = replace(sampling, top_logprobs=max(_ALTERNATIVES, sampling.top_logprobs or 0))
        return muzzled(sampling)

    async def _look(
        self, evidence: Evidence, sides: Sides, prompt: Sequence[Message], sampling: Sampling
    ) -> tuple[Evidence, tuple[Segment, ...]]:
        """What else the score needs, and what it cost."""

        def ask(messages: Sequence[Message], *variants: Sampling) -> Coroutine[Any, Any, Attempt]:
            return Attempt("device", sides.device, sides.prices.device).finish(messages, *variants)

        if self.looks == "samples":
            first = sampling.seed or 0
            draws = [replace(sampling, temperature=self.temperature, seed=first + 1 + k) for k in range(self.samples)]
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(ask(prompt, *muzzled(draw))) for draw in draws]
            attempts = [task.result() for task in tasks]
            texts = tuple(attempt.text for attempt in attempts)
            return replace(evidence, samples=texts), tuple(attempt.segment("probe") for attempt in attempts)
        if self.looks == "verdict":
            asked = [*prompt, Message("assistant", evidence.answer), Message("user", VERDICT_QUESTION)]
            short = replace(sampling, temperature=0.0, max_tokens=4, stop=())
            verdict = await ask(asked, *muzzled(replace(short, top_logprobs=_ALTERNATIVES)), *muzzled(short))
            doubt = doubt_in(verdict.text, verdict.written.tokens)
            return replace(evidence, doubt=doubt), (verdict.segment("probe"),)
        return evidence, ()

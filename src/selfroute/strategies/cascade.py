"""Let the device answer, judge its answer, and ask the cloud where the judgement is bad ("cascade").

One strategy for every judgement: what differs between the published methods is what they look at and how they turn it
into a number, which is the scorer's business (`selfroute.scores.evidence`, `selfroute.scores.scorers`).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from selfroute.backends.base import Backend
from selfroute.budget.base import Budget, Unlimited
from selfroute.errors import ConfigError
from selfroute.handoff import HANDOFF_TEXT, StreamParser
from selfroute.prices import Prices
from selfroute.prompts import PromptTemplate
from selfroute.scores.evidence import VERDICT_QUESTION, Evidence, doubt_in
from selfroute.strategies.prompt_router import question_of
from selfroute.strategies.sides import Attempt, Kept, ask_cloud, closing, speak
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
        device, cloud, template, budget, prices, name: as in `AlwaysCloud`.

    Raises:
        ConfigError: the threshold is NaN, or "samples" without a sample or at temperature 0.
    """

    score: Callable[[Evidence], float]
    threshold: float
    looks: Looks = "text"
    samples: int = 5
    temperature: float = 0.7
    device: Backend
    cloud: Backend
    template: PromptTemplate
    budget: Budget = field(default_factory=Unlimited)
    prices: Prices = field(default_factory=Prices)
    name: str = "cascade"

    def __post_init__(self) -> None:
        if math.isnan(self.threshold):
            raise ConfigError("threshold: nan is not a threshold; give the least score that goes to the cloud")
        if self.looks == "samples" and (self.samples < 1 or self.temperature <= 0):
            raise ConfigError(
                f"samples: {self.samples} at temperature {self.temperature} show no spread; give 1 or more above 0"
            )

    def with_budget(self, budget: Budget) -> Cascade:
        """The same strategy under another budget."""
        return replace(self, budget=budget)

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Event]:
        """See `selfroute.strategies.base.Strategy`.

        Raises:
            UnsupportedByBackend: the score needs log-probabilities that the device does not give.
        """
        attempt, parser = Attempt("device", self.device, self.prices.device), StreamParser()
        prompt = self.template.device_messages(messages, offer_handoff=False)
        held: list[TextDelta] = []
        async with closing(speak(attempt, parser, prompt, *self._variants(sampling))) as deltas:
            async for delta in deltas:
                if delta.kind == "reasoning":
                    yield delta
                else:
                    held.append(delta)
        # A device that hands off all the same has no answer to judge.
        text = "" if parser.wants_cloud else attempt.text
        kept = Kept(tuple(held), text, attempt.segment())
        question = question_of(self.template, messages)
        evidence, probes = await self._look(Evidence(question, text, tuple(attempt.tokens)), prompt, sampling)
        score = float(await asyncio.to_thread(self.score, evidence))
        if score < self.threshold and not parser.wants_cloud:
            await self.budget.keep()
            for delta in held:
                yield delta
            yield Finished(Trace(self.name, "device", False, "answered", text, (*probes, kept.segment), score))
            return
        call = ask_cloud(
            self, messages, sampling, reason="judged", score=score, before=probes, handed_off=True, kept=kept
        )
        async with closing(call) as events:
            async for event in events:
                yield event

    def _variants(self, sampling: Sampling) -> tuple[Sampling, ...]:
        """How to ask the device for its answer, best first; without hand-off where it can be kept from one."""
        if self.looks == "tokens":
            sampling = replace(sampling, top_logprobs=max(_ALTERNATIVES, sampling.top_logprobs or 0))
        return _muzzled(sampling)

    async def _look(
        self, evidence: Evidence, prompt: Sequence[Message], sampling: Sampling
    ) -> tuple[Evidence, tuple[Segment, ...]]:
        """What else the score needs, and what it cost; the served answer stays the last segment of a trace."""
        if self.looks == "samples":
            first = sampling.seed or 0
            draws = [replace(sampling, temperature=self.temperature, seed=first + 1 + k) for k in range(self.samples)]
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._ask(prompt, *_muzzled(draw))) for draw in draws]
            attempts = [task.result() for task in tasks]
            texts = tuple(attempt.text for attempt in attempts)
            return replace(evidence, samples=texts), tuple(attempt.segment() for attempt in attempts)
        if self.looks == "verdict":
            asked = [*prompt, Message("assistant", evidence.answer), Message("user", VERDICT_QUESTION)]
            short = replace(sampling, temperature=0.0, max_tokens=4, stop=())
            verdict = await self._ask(asked, *_muzzled(replace(short, top_logprobs=_ALTERNATIVES)), *_muzzled(short))
            return replace(evidence, doubt=doubt_in(verdict.text, verdict.tokens)), (verdict.segment(),)
        return evidence, ()

    async def _ask(self, messages: Sequence[Message], *variants: Sampling) -> Attempt:
        attempt = Attempt("device", self.device, self.prices.device)
        async with closing(attempt.stream(messages, *variants)) as texts:
            async for _ in texts:
                pass
        return attempt


def _muzzled(sampling: Sampling) -> tuple[Sampling, Sampling]:
    """Without a hand-off where the backend can be kept from one, and as it is."""
    return replace(sampling, forbid=(*sampling.forbid, HANDOFF_TEXT)), sampling

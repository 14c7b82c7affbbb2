"""One request from its first event to its record: choices, hand-over in mid-stream, who answered and what it cost."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

from selfroute.backends.clouds import About
from selfroute.backends.flight import closing
from selfroute.errors import BackendError, BudgetExceeded, BudgetUnavailable
from selfroute.gateway.errors import ApiError, refusal_fields
from selfroute.gateway.request import ChatRequest
from selfroute.gateway.service import Gate, Mode, Service
from selfroute.types import Finished, HandOff, Retract, Segment, Source, TextDelta, Trace, Usage

__all__ = ["ASKS", "HEADERS", "REASONS", "Choice", "Exchange", "Piece"]


# The reference page is made from these tables.
HEADERS: dict[str, str] = {
    "x-selfroute-source": "who answered: `device`, `cloud`, `both`, several by commas with several choices, or `none`",
    "x-selfroute-reason": "why; the table of reasons, or the code of an error",
    "x-selfroute-cost-usd": "what the answer cost at the configured prices, in USD",
    "x-selfroute-trace-id": "names the request in the log, on the dashboard and in the `selfroute` object",
    "x-request-id": "the same, under the name that OpenAI's clients show in their errors",
    "x-selfroute-redacted": "of how many values of which kinds the cloud got placeholders, e.g. `email=2, card=1`",
    "x-selfroute-mode": "who was allowed to answer; as request header it asks for a mode",
}
# Of requests, where several clouds choose by them.
ASKS: dict[str, str] = {
    "x-selfroute-session": "names a conversation, which stays with its cloud; `prompt_cache_key` does so too",
    "x-selfroute-task": "what kind of work it is, one of `choose.tasks`",
    "x-selfroute-tags": "tags that a cloud must have to answer, by commas; each cloud's name is one",
}
REASONS: dict[str, str] = {
    "answered": "the device answered and did not ask for the cloud",
    "hand-off": "the device asked for the cloud, and the cloud answered",
    "empty": "the device stopped without an answer, and the cloud answered",
    "routed": "the prompt router decided",
    "judged": "the strategy judged the device's answer and decided",
    "random": "the random strategy decided",
    "always": "the strategy always answers on this side",
    "budget": "the cloud was wanted and the budget refused, so the device answered; `budget` says which limit",
    "cloud-error": "the cloud was wanted and failed, so the device answered; `error` says how",
    "device-error": "the device failed, so the cloud answered; `error` says how",
    "mode": "the client asked for this side",
    "privacy": "the cloud was wanted and the request must not leave the device, so the device answered",
    "capability": "only this side has what the request asks for, e.g. tools",
}


# Something for the client: which choice it is of, and what one side said, or that the cloud takes over, or that what
# was said is void.
Piece = tuple[int, TextDelta | HandOff | Retract]


@dataclass(eq=False)
class Choice:
    """State of one choice; `trace` is there once it is finished."""

    index: int
    gate: Gate
    trace: Trace | None = None

    @property
    def used_cloud(self) -> bool:
        """Whether the cloud wrote for it; of a choice that broke off, whether the budget has booked a call."""
        if self.trace is None:
            return self.gate.booked
        return any(segment.source == "cloud" for segment in self.trace.segments)

    def cloud_alone_usd(self, cloud_usd: Callable[[Usage], float]) -> float:
        """What the cloud's answer cost; where the device answered, what one as long as that would have."""
        if self.trace is None:
            return self.gate.cost_usd
        answers = [segment for segment in self.trace.segments if segment.part == "answer"]
        return sum(s.cost_usd if s.source == "cloud" else cloud_usd(s.usage) for s in answers)

    @property
    def finish_reason(self) -> str:
        return self.trace.end.finish_reason if self.trace else "stop"


class Exchange:
    """One request on its way through the service.

    Attributes:
        id: the trace id.
        choices: one per answer the client asked for.
        first_token_s: time to the first piece, None before it.
    """

    def __init__(self, service: Service, request: ChatRequest, mode: Mode, about: About | None = None) -> None:
        self.id = secrets.token_hex(16)
        self.service, self.request, self.mode = service, request, mode
        self.began = time.perf_counter()
        self.created = int(time.time())
        self.first_token_s: float | None = None
        self.error: ApiError | None = None
        self.text = ("", "")  # reasoning and content, where they are kept for the log
        self.dry = False  # a decision only
        self.choices = [Choice(index, service.gate(self._about(about, index))) for index in range(request.n)]

    def _about(self, about: About | None, index: int) -> About | None:
        """What is known of one choice; those after the first have ids of their own."""
        return about and replace(about, trace=f"{self.id}.{index}" if index else self.id)

    def pieces(self) -> AsyncIterator[Piece]:
        """What the client gets, in order; then all choices have their traces.

        Raises:
            ApiError, BackendError, Rejected: as `Service.events`.
        """
        return self._one(self.choices[0]) if len(self.choices) == 1 else self._merged()

    async def _merged(self) -> AsyncIterator[Piece]:
        """All choices at once, as their pieces come; the first failure ends all."""
        queue: asyncio.Queue[Piece | None] = asyncio.Queue(maxsize=64)

        async def run(choice: Choice) -> None:
            async with closing(self._one(choice)) as pieces:
                async for piece in pieces:
                    await queue.put(piece)

        async def run_all() -> None:
            try:
                async with asyncio.TaskGroup() as group:
                    for choice in self.choices:
                        group.create_task(run(choice))
            finally:
                await queue.put(None)

        running = asyncio.create_task(run_all())
        try:
            while (piece := await queue.get()) is not None:
                yield piece
            await _first_failure(running)
        finally:
            running.cancel()
            while not running.done():  # a full queue must not keep the choices from ending
                while not queue.empty():
                    queue.get_nowait()
                await asyncio.wait({running}, timeout=0.01)

    async def _one(self, choice: Choice) -> AsyncIterator[Piece]:
        request = self.request
        if choice.index and request.sampling.seed is not None:
            request = _reseeded(request, choice.index)
        async with closing(await self.service.events(request, self.mode, choice.gate)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    choice.trace = event.trace
                    continue
                if self.first_token_s is None and isinstance(event, TextDelta):
                    self.first_token_s = time.perf_counter() - self.began
                yield choice.index, event

    def note(self, said: TextDelta) -> None:
        """Keep the text of a stream, for a log that is to show it."""
        reasoning, content = self.text
        is_content = said.kind == "content"
        self.text = (reasoning, content + said.text) if is_content else (reasoning + said.text, content)

    # --- the record

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    @property
    def traces(self) -> list[Trace]:
        return [choice.trace for choice in self.choices if choice.trace is not None]

    @property
    def source(self) -> str:
        """Who answered, one name for each kind of choice; "none" if nobody did."""
        return ",".join(dict.fromkeys(trace.source for trace in self.traces)) or "none"

    @property
    def reason(self) -> str:
        if self.error is not None:
            return self.error.code
        return ",".join(dict.fromkeys(trace.reason for trace in self.traces)) or "none"

    @property
    def cost_usd(self) -> float:
        return sum(c.trace.cost_usd if c.trace else c.gate.cost_usd for c in self.choices)

    @property
    def cloud_alone_usd(self) -> float:
        """What the same answers would have cost without a device; see `Choice.cloud_alone_usd`."""
        return sum(choice.cloud_alone_usd(self.service.cloud_usd) for choice in self.choices)

    @property
    def refusals(self) -> list[BudgetExceeded | BudgetUnavailable]:
        """Cloud calls that the budget let not pass."""
        return [choice.gate.refusal for choice in self.choices if choice.gate.refusal is not None]

    @property
    def used_cloud(self) -> bool:
        return any(choice.used_cloud for choice in self.choices)

    def used(self, source: Source) -> Usage:
        """What one side used; of a choice that broke off, what the budget has booked."""
        return Usage.total(
            choice.trace.usage(source) if choice.trace else choice.gate.usage if source == "cloud" else Usage()
            for choice in self.choices
        )

    def tokens(self, source: Source) -> tuple[int, int]:
        """Prompt and completion tokens of one side."""
        used = self.used(source)
        return used.prompt_tokens, used.completion_tokens

    def usage(self) -> dict[str, Any]:
        """Tokens of both sides, in OpenAI's form."""
        used = self.used("device") + self.used("cloud")
        return {
            "prompt_tokens": used.prompt_tokens,
            "completion_tokens": used.completion_tokens,
            "total_tokens": used.prompt_tokens + used.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": used.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": used.reasoning_tokens},
        }

    def headers(self, *, pending: bool = False) -> dict[str, str]:
        """Who, why and how much; of a stream that is not over, only what is known."""
        source, reason, cost = (
            ("pending", "pending", "pending") if pending else (self.source, self.reason, f"{self.cost_usd:.8f}")
        )
        redacted = {} if pending else self.redacted
        counts = ", ".join(f"{kind}={count}" for kind, count in redacted.items())
        return {
            "x-selfroute-source": source,
            "x-selfroute-reason": reason,
            "x-selfroute-cost-usd": cost,
            "x-selfroute-trace-id": self.id,
            "x-request-id": self.id,
            "x-selfroute-mode": self.mode,
            **({"x-selfroute-redacted": counts} if counts else {}),
        }

    @property
    def redacted(self) -> dict[str, int]:
        """Of how many values of each kind the cloud got placeholders."""
        counts: dict[str, int] = {}
        for segment in (segment for trace in self.traces for segment in trace.segments):
            for kind, count in segment.redacted.items():
                counts[kind] = max(count, counts.get(kind, 0))
        return counts

    def account(self) -> dict[str, Any]:
        """The `selfroute` object of a response."""
        about: dict[str, Any] = {
            "trace_id": self.id,
            "source": self.source,
            "reason": self.reason,
            "mode": self.mode,
            "strategy": self.service.strategy.name,
            "cost_usd": self.cost_usd,
            "seconds": round(self.seconds, 6),
        }
        for side, name in self._models():
            prompt, completion = self.tokens(side)
            about[side] = {"model": name, "prompt_tokens": prompt, "completion_tokens": completion}
        if redacted := self.redacted:
            about["redacted"] = redacted
        about |= self._decision(self.choices[0])
        if len(self.choices) > 1:
            about["choices"] = [{"index": c.index, **self._decision(c)} for c in self.choices]
        return about

    def _models(self) -> list[tuple[Source, str | None]]:
        """The models by side; of several clouds the one that was asked, None if none was."""
        models: dict[Source, str | None] = {side: guard.name for side, guard in self.service.guards()}
        if self.service.clouds is not None:
            models["cloud"] = None
            models |= {segment.source: segment.model for segment in self.cloud_segments}
        return list(models.items())

    @property
    def cloud_segments(self) -> list[Segment]:
        """What clouds wrote, also what does not stand."""
        return [segment for trace in self.traces for segment in trace.segments if segment.source == "cloud"]

    def _decision(self, choice: Choice) -> dict[str, Any]:
        trace, refusal = choice.trace, choice.gate.refusal
        about: dict[str, Any] = {}
        if trace is not None:
            about = {"source": trace.source, "reason": trace.reason, "wants_cloud": trace.wants_cloud}
            about |= {"score": trace.score, "error": trace.error}
            if trace.end.propensity is not None:
                about["propensity"] = trace.end.propensity
        if isinstance(refusal, BudgetExceeded):
            about["budget"] = refusal_fields(refusal)
        elif refusal is not None:
            about["budget"] = {"limit": "ledger", "error": str(refusal)}
        return about


def _reseeded(request: ChatRequest, index: int) -> ChatRequest:
    """Another sample of the same request."""
    seed = (request.sampling.seed or 0) + index
    return replace(request, sampling=replace(request.sampling, seed=seed))


async def _first_failure(running: asyncio.Task[None]) -> None:
    try:
        await running
    except BaseExceptionGroup as group:
        failures = [error for error in group.exceptions if isinstance(error, Exception)]
        known = [error for error in failures if isinstance(error, BackendError | ApiError)]
        raise (known or failures or [group])[0] from None

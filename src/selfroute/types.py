"""The values that travel between rooms: messages, sampling options, stream pieces, traces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = [
    "Answerer",
    "Completion",
    "Delta",
    "Event",
    "Finished",
    "HandOff",
    "Message",
    "Part",
    "Reason",
    "Refusal",
    "Retract",
    "Role",
    "Sampling",
    "Segment",
    "Source",
    "TextDelta",
    "Token",
    "Trace",
    "Usage",
]

Role = Literal["system", "developer", "user", "assistant", "tool"]
Source = Literal["device", "cloud"]
Answerer = Literal["device", "cloud", "both"]
Part = Literal["answer", "attempt", "probe", "void"]
Reason = Literal[
    "answered",
    "hand-off",
    "empty",
    "routed",
    "judged",
    "random",
    "always",
    "budget",
    "cloud-error",
    "device-error",
    "mode",
    "capability",
    "privacy",
]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        content: its text.
        raw: the message in OpenAI's form where role and text do not carry all of it (images, tool calls, a name);
            backends that speak that form send it as it is, see `selfroute.backends.base.request_fields`.
    """

    role: Role
    content: str
    raw: Mapping[str, Any] | None = field(default=None, hash=False)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to decode.

    Attributes:
        temperature: 0 is greedy.
        top_p: nucleus mass in (0, 1].
        max_tokens: most completion tokens.
        seed: makes sampling repeatable where the backend can.
        stop: strings that end the completion; not part of it.
        top_logprobs: how many alternatives per position to report in `Token.top`; None reports no tokens at all.
        forbid: strings the completion must not start to write; backends that cannot mask tokens
            raise `UnsupportedByBackend`.
        extra: further fields of an OpenAI-style request (`tools`, `response_format`, `logit_bias`), for backends that
            send such requests; a value of None leaves a field out of the request. Others raise `UnsupportedByBackend`
            for every field that would change the answer.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 512
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    forbid: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Usage:
    """What one model used; add them up with `+`.

    Attributes:
        prompt_tokens: read, those of `cached_tokens` included.
        completion_tokens: written, those of `reasoning_tokens` included.
        cached_tokens: of the prompt, found in the provider's cache.
        reasoning_tokens: written and not shown.
        calls: requests to the model.
        up_bytes, down_bytes: of the messages to and from it, as encoded; 0 where nobody counted.
        layer_tokens: tokens times the layers that each went through; 0 where nobody counted.
        round_trips: exchanges with it, of which an answer that stays open has many to one call; 0 where nobody counted.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    calls: int = 0
    up_bytes: int = 0
    down_bytes: int = 0
    layer_tokens: int = 0
    round_trips: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.calls + other.calls,
            self.up_bytes + other.up_bytes,
            self.down_bytes + other.down_bytes,
            self.layer_tokens + other.layer_tokens,
            self.round_trips + other.round_trips,
        )

    @staticmethod
    def total(usages: Iterable[Usage]) -> Usage:
        """Their sum; of one alone, which is the usual case, that one."""
        summed: Usage | None = None
        for usage in usages:
            summed = usage if summed is None else summed + usage
        return _NOTHING if summed is None else summed


_NOTHING = Usage()


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token: its text, its natural-log probability, and the likeliest alternatives at its position."""

    text: str
    logprob: float
    top: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a backend's stream. The last one carries `finish_reason` and `usage`.

    Attributes:
        sent: the request leaves as soon as the reader asks for the next piece; nothing else is in this one. Comes from
            backends whose requests wait for their turn, see `Backend.announces`.
        finish_reason: "stop" or "length"; of endpoints that have it also "tool_calls" or "content_filter".
        seconds: how long a replayed answer took when it was made, None if nobody knows.
        usd: what a replayed answer cost when it was made, None if nobody knows.
        extra: what an OpenAI-style stream sends beside text, e.g. pieces of `tool_calls`.
        aside: its text begins with a `<think>` that the server itself has set, as it tells reasoning from content.
        redacted: how many values of each kind of `selfroute.privacy` the request left without; in one delta.
    """

    text: str = ""
    tokens: tuple[Token, ...] = ()
    finish_reason: str | None = None
    usage: Usage | None = None
    seconds: float | None = None
    usd: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    sent: bool = False
    aside: bool = False
    redacted: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether it holds nothing of an answer: the request leaves, or the server has begun to answer."""
        return not (self.text or self.tokens or self.extra or self.finish_reason)


@dataclass(frozen=True, slots=True)
class Completion:
    """A drained stream: the whole answer of one backend."""

    text: str
    usage: Usage = Usage()
    finish_reason: str = "stop"
    tokens: tuple[Token, ...] = ()
    seconds: float = 0.0
    usd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A stretch of text that one side wrote within a request, and what became of it.

    Attributes:
        source: the side.
        model: name of the model.
        part: "answer" is part of the answer served; "attempt" is an answer that was not served, since the device
            asked for the cloud or was judged; "probe" was written for a decision; "void" does not stand, since its
            model broke off or had no right to it.
        text: as the model wrote it, tags included.
        usage, seconds, cost_usd: what writing it took; a call is counted in its first segment.
        finish_reason: why it stopped; as in `Delta`.
        score: what the decision at this segment was taken by (higher = send to the cloud), None if nobody scored.
        propensity: probability with which its model was chosen, None where nothing was drawn.
        redacted: as in `Delta`.
        note: why a "void" one does not stand, where its text does not tell.
    """

    source: Source
    model: str
    part: Part = "answer"
    text: str = ""
    usage: Usage = Usage()
    seconds: float = 0.0
    cost_usd: float = 0.0
    finish_reason: str = "stop"
    score: float | None = None
    propensity: float | None = None
    redacted: Mapping[str, int] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a budget let no call pass; as in `selfroute.errors.BudgetExceeded`.

    Attributes:
        limit: name of the limit, e.g. "calls_per_day".
        spent, cap: in the limit's unit.
        reset_s: seconds until the limit's window resets, None if no clock resets it.
        held: the part of `spent` that is held for requests under way.
        call: the most that the call could have used; None where none was estimated.
    """

    limit: str
    spent: float
    cap: float
    reset_s: float | None = None
    held: float = 0.0
    call: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The record of one request.

    Attributes:
        strategy: name of the strategy that answered.
        wants_cloud: what the strategy decided before any budget or failure had its say.
        reason: why the answer comes from whom it does.
        segments: everything written, in order.
        decided_after: how many of `segments` were written before it was decided who answers; None where that is
            decided all along.
        score: how much the strategy wants the cloud (higher = send), None if it has no score.
        error: message of a failure that changed the outcome, e.g. a cloud that did not answer.
        refusal: the limit that kept the request from the cloud, if a budget did.
    """

    strategy: str
    wants_cloud: bool
    reason: Reason
    segments: tuple[Segment, ...]
    decided_after: int | None = 0
    score: float | None = None
    error: str | None = None
    refusal: Refusal | None = None

    @property
    def text(self) -> str:
        """The answer: the parts that stand, joined as they are."""
        return "".join(s.text for s in self.segments if s.part == "answer")

    @property
    def source(self) -> Answerer:
        """Who wrote the answer; of an answer that nobody wrote, who was to."""
        if len(self.segments) == 1:
            return self.segments[0].source
        sources = {s.source for s in self.segments if s.part == "answer"}
        return "both" if len(sources) == 2 else self.end.source

    @property
    def end(self) -> Segment:
        """The segment that the answer ends with; of an answer that nobody wrote, the last one."""
        if len(self.segments) == 1:  # the usual case
            return self.segments[0]
        served = [s for s in self.segments if s.part == "answer"]
        return (served or self.segments)[-1]

    def usage(self, source: Source) -> Usage:
        """What one side used over all its segments."""
        return Usage.total(s.usage for s in self.segments if s.source == source)

    @property
    def cost_usd(self) -> float:
        return sum(s.cost_usd for s in self.segments)

    @property
    def seconds(self) -> float:
        return sum(s.seconds for s in self.segments)


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text for the reader: the source's reasoning or its answer, in order.

    Attributes:
        tokens: those that begin in this text, where the backend reports them.
        extra: as in `Delta`; may come without text.
    """

    text: str
    source: Source
    kind: Literal["reasoning", "content"] = "content"
    tokens: tuple[Token, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HandOff:
    """The device asked for the cloud, and the budget has let the call pass."""

    score: float | None = None


@dataclass(frozen=True, slots=True)
class Retract:
    """What was shown so far is void: the answer begins anew with what follows."""


@dataclass(frozen=True, slots=True)
class Finished:
    """Always the last event of a strategy's stream."""

    trace: Trace


Event = TextDelta | HandOff | Retract | Finished

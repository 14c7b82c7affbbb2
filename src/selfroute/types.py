"""The values that travel between rooms: messages, sampling options, stream pieces, traces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = [
    "Completion",
    "Delta",
    "Event",
    "Finished",
    "HandOff",
    "Message",
    "Reason",
    "Refusal",
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
Reason = Literal[
    "answered",
    "hand-off",
    "routed",
    "judged",
    "random",
    "always",
    "budget",
    "cloud-error",
    "device-error",
    "mode",
    "capability",
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
    """Token counts of one model; add them up with `+`."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens)


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
        finish_reason: "stop" or "length"; of endpoints that have it also "tool_calls" or "content_filter".
        seconds: how long a replayed answer took when it was made, None if nobody knows.
        usd: what a replayed answer cost when it was made, None if nobody knows.
        extra: what an OpenAI-style stream sends beside text, e.g. pieces of `tool_calls`.
    """

    text: str = ""
    tokens: tuple[Token, ...] = ()
    finish_reason: str | None = None
    usage: Usage | None = None
    seconds: float | None = None
    usd: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Completion:
    """A drained stream: the whole answer of one backend."""

    text: str
    usage: Usage = Usage()
    finish_reason: str = "stop"
    tokens: tuple[Token, ...] = ()
    seconds: float = 0.0
    usd: float | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """What one side wrote within a trace, and why it stopped."""

    source: Source
    text: str
    usage: Usage
    seconds: float
    cost_usd: float = 0.0
    finish_reason: str = "stop"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a budget let no call pass; as in `selfroute.errors.BudgetExceeded`.

    Attributes:
        limit: name of the limit, e.g. "calls_per_day".
        spent, cap: in the limit's unit.
        reset_s: seconds until the limit's window resets, None if no clock resets it.
    """

    limit: str
    spent: float
    cap: float
    reset_s: float | None = None


@dataclass(frozen=True, slots=True)
class Trace:
    """The record of one request.

    Attributes:
        strategy: name of the strategy that answered.
        source: who gave the final answer.
        wants_cloud: what the strategy decided before any budget or failure had its say.
        reason: why `source` answered.
        text: the final answer's text (of `source`; the last segment).
        segments: everything written, in order.
        score: how much the strategy wants the cloud (higher = send), None if it has no score.
        error: message of a failure that changed the outcome, e.g. a cloud that did not answer.
        refusal: the limit that kept the request from the cloud, if a budget did.
    """

    strategy: str
    source: Source
    wants_cloud: bool
    reason: Reason
    text: str
    segments: tuple[Segment, ...] = ()
    score: float | None = None
    error: str | None = None
    refusal: Refusal | None = None

    def usage(self, source: Source) -> Usage:
        """Token counts of one side over all its segments."""
        return sum((s.usage for s in self.segments if s.source == source), Usage())

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
    """The device asked for the cloud; text that follows comes from the cloud."""

    score: float | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """Always the last event of a strategy's stream."""

    trace: Trace


Event = TextDelta | HandOff | Finished

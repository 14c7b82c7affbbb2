"""The device as an agent with tools: one episode for each request; the cloud is one of its tools, with a price."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from selfroute.actions import CALL_CLOSE, CALL_OPEN, Action, TurnReader, harmless, result_text
from selfroute.backends.base import capability, find_capability
from selfroute.backends.flight import closing
from selfroute.backends.sessions import Encodes, Session, Sessions
from selfroute.budget.base import Estimate, Lease
from selfroute.errors import BackendError, BudgetExceeded, BudgetUnavailable, ConfigError
from selfroute.handoff import parse
from selfroute.strategies.attempt import Attempt, spoken
from selfroute.strategies.base import Needs, Sides
from selfroute.strategies.prompt_router import question_of
from selfroute.strategies.sides import Decision, ask_cloud, consult
from selfroute.tasks.base import Environment, Observation, Tool
from selfroute.tasks.episode import text_parameters, with_tools
from selfroute.types import Event, Finished, Message, Reason, Sampling, Segment, TextDelta, Trace, Usage

__all__ = ["ASK_CLOUD", "ToolAgent"]

NATIVE = "tools"  # the field of a request that tells a server what can be called
ASK_CLOUD = Tool(
    name="ask_cloud",
    description="Ask a larger model, which costs money and sees this question alone.",
    parameters=text_parameters(question="complete in itself"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolAgent:
    """An agent in an environment: it calls tools in its text, reads what came of it, and answers or hands off.

    The episode is that of `algorithm: tree`. Where the device keeps answers open, results stand within one answer, as
    in training; elsewhere each turn is a request, and a result the user's next turn. The reader sees the turns before
    the last as reasoning.

    A hand-off asks the cloud the whole question. With `ask_cloud` the device may also ask it a question of its own, as
    often as the budget lets it: each is reserved and booked apart, and sees nothing but that question. So is each call
    of a tool that has a price, which stands in the cost of the turn that called it.

    Args:
        open: from a question to its environment.
        calls: most calls of tools; an agent that wants more has no answer, and the cloud is asked (reason "empty").
        ask_cloud: offer the cloud as a tool, beside the hand-off; not the agent of a training that did not.
        native: tell the device's server of the tools and read the calls that it marks as such, in place of text.

    Raises:
        ConfigError: fewer than one call.
    """

    open: Callable[[str], Environment]
    calls: int = 5
    ask_cloud: bool = False
    native: bool = False
    name: str = "tool_agent"

    def __post_init__(self) -> None:
        if self.calls < 1:
            raise ConfigError(f"calls: {self.calls} leaves no call of a tool; set 1 or more, or take self_route")

    @property
    def needs(self) -> Needs:
        return Needs()

    def check(self, sides: Sides) -> None:
        """See `selfroute.strategies.base.Checked`."""
        if self.native and sides.device.missing([NATIVE]):
            raise ConfigError(
                f"tool_agent: native: {sides.device.name} takes no tools, as its chat template cannot hold calls of "
                "them; leave native out, and calls are text, which any template holds"
            )

    async def stream(self, sides: Sides, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Event]:
        """See `selfroute.strategies.base.Strategy`.

        Raises:
            BackendError: the device failed, or neither side could answer.
            ConfigError: the question is none of the environment's task.
        """
        environment = self.open(question_of(sides.template, messages))
        opening = environment.reset()
        offered = [ASK_CLOUD] if self.ask_cloud and sides.cloud is not None else []
        tools, prompt = [*environment.tools, *offered], sides.template.device_messages(messages)
        pen: _Pen = (
            _Natively(sides, list(prompt), sampling, tools)
            if self.native
            else _pen(sides, with_tools(prompt, tools), sampling)
        )
        episode = _Episode(sides, sampling, environment, bool(offered), pen)
        try:
            if opening:
                await episode.pen.read(opening)
            async for said in episode.turns(self.calls):
                yield said
        finally:
            await episode.pen.close()
        async with closing(self._ended(episode, messages)) as events:
            async for event in events:
                yield event

    async def _ended(self, episode: _Episode, messages: Sequence[Message]) -> AsyncIterator[Event]:
        """The last events of an episode: its answer, or the cloud's."""
        sides, reason = episode.sides, episode.gives_up
        if reason is not None and sides.cloud is not None:
            *probes, last = episode.segments
            decision = Decision(strategy=self.name, reason=reason, before=(*probes, replace(last, part="attempt")))
            told = reason == "hand-off"
            async with closing(ask_cloud(sides, messages, episode.sampling, decision, handed_off=told)) as events:
                async for event in events:
                    yield event
            return
        if not (episode.asked or episode.paid):
            await sides.budget.keep()
        *before_last, last = episode.segments
        served = replace(last, part="void" if reason == "hand-off" else "answer", text=episode.answer)
        if served.part == "answer":
            for delta in spoken(episode.answer):
                yield delta
        segments = (*before_last, served)
        yield Finished(
            Trace(
                strategy=self.name,
                wants_cloud=episode.asked or reason == "hand-off",
                reason="answered",
                segments=segments,
                decided_after=len(segments),
                error=episode.error,
            )
        )


@dataclass(frozen=True, slots=True)
class _Turn:
    """What the agent wrote until it called or ended.

    Attributes:
        action: its call, None for a turn that answers or hands off.
    """

    text: str
    segment: Segment
    action: Action | None

    @classmethod
    def of(cls, text: str, segment: Segment) -> _Turn:
        """A turn whose call is text."""
        reader = TurnReader()
        reader.feed(text)
        return cls(text, segment, reader.action)


class _Pen(Protocol):
    """Writes an agent's side of one episode."""

    async def write(self, limit: int) -> _Turn:
        """The next turn, to its first call or its end, of at most so many tokens."""
        ...

    async def read(self, said: str) -> None:
        """Take in what a tool said."""
        ...

    async def close(self) -> None: ...


def _pen(sides: Sides, prompt: Sequence[Message], sampling: Sampling) -> _Pen:
    """In one open answer where the device has such, else in turns of a conversation."""
    sessions, encodes = find_capability(sides.device, Sessions), find_capability(sides.device, Encodes)
    if sessions is not None and encodes is not None and {"ids", "spell", "until"} <= sessions.gives:
        return _InOneAnswer(sides, sessions.session(prompt, sampling))
    return _ByTurns(sides, list(prompt), sampling)


@dataclass(slots=True)
class _ByTurns:
    sides: Sides
    messages: list[Message]
    sampling: Sampling

    async def write(self, limit: int) -> _Turn:
        attempt = Attempt("device", self.sides.device, self.sides.prices.device)
        stop = (*self.sampling.stop, CALL_CLOSE)
        await attempt.finish(self.messages, replace(self.sampling, stop=stop, max_tokens=limit))
        text = attempt.text
        if attempt.written.finish_reason != "length" and text.rfind(CALL_OPEN) > text.rfind(CALL_CLOSE):
            text += CALL_CLOSE  # a stop string is no part of the text
        self.messages.append(Message("assistant", text))
        return _Turn.of(text, attempt.segment("probe"))

    async def read(self, said: str) -> None:
        self.messages.append(Message("user", result_text(said)))

    async def close(self) -> None:
        pass


@dataclass(slots=True)
class _Natively:
    """Turns of a conversation in which the server itself tells calls from text.

    Attributes:
        called: id of the call whose result is to be read next; None where nothing was called in the server's own way.
    """

    sides: Sides
    messages: list[Message]
    sampling: Sampling
    tools: Sequence[Tool]
    called: str | None = None

    async def write(self, limit: int) -> _Turn:
        attempt = Attempt("device", self.sides.device, self.sides.prices.device)
        told = {NATIVE: [tool.schema for tool in self.tools]} if self.tools else {}
        asked = replace(self.sampling, max_tokens=limit, extra={**self.sampling.extra, **told})
        calls: dict[int, dict[str, str]] = {}
        async with closing(attempt.deltas(self.messages, asked)) as deltas:
            async for delta in deltas:
                _collect(calls, delta.extra.get("tool_calls", ()))
        text, segment = attempt.text, attempt.segment("probe")
        if not calls:
            self.called = None
            self.messages.append(Message("assistant", text))
            return _Turn.of(text, segment)
        # The first alone: what comes of it may make the others needless, and each of them needs a result.
        first = calls[min(calls)]
        self.called = first["id"]
        function = {"name": first["name"], "arguments": first["arguments"] or "{}"}
        call = {"id": first["id"], "type": "function", "function": function}
        raw = {"role": "assistant", "content": text or None, "tool_calls": [call]}
        self.messages.append(Message("assistant", text, raw=raw))
        action = Action(first["arguments"], first["name"] or "?")
        shown = f"{text}{action}"
        return _Turn(shown, replace(segment, text=shown), action)

    async def read(self, said: str) -> None:
        if self.called is None:
            self.messages.append(Message("user", result_text(said)))
            return
        text = harmless(said)
        raw = {"role": "tool", "tool_call_id": self.called, "content": text}
        self.messages.append(Message("tool", text, raw=raw))

    async def close(self) -> None:
        pass


def _collect(calls: dict[int, dict[str, str]], pieces: Sequence[Mapping[str, Any]]) -> None:
    """Put pieces of calls, as `selfroute.backends.tool_calls` tells them apart, to what is there of them."""
    for piece in pieces:
        function = piece.get("function") or {}
        call = calls.setdefault(piece["index"], {"id": piece.get("id", ""), "name": "", "arguments": ""})
        call["name"] += function.get("name") or ""
        call["arguments"] += function.get("arguments") or ""


@dataclass(slots=True)
class _InOneAnswer:
    sides: Sides
    session: Session
    booked: Usage = field(default_factory=Usage)

    async def write(self, limit: int) -> _Turn:
        began, device = time.perf_counter(), self.sides.device
        written = await self.session.write(limit, until=(CALL_CLOSE,))
        speller = capability(device, Sessions).speller()
        speller.extend([token.token_id for token in written if not token.ends])
        speller.finish()
        text, _ = speller.take(last=True)
        used = self._used()
        segment = Segment(
            source="device",
            model=device.name,
            part="probe",
            text=text,
            usage=used,
            seconds=time.perf_counter() - began,
            cost_usd=self.sides.prices.device.cost_usd(used),
            finish_reason="length" if len(written) >= limit and not written[-1].ends else "stop",
        )
        return _Turn.of(text, segment)

    def _used(self) -> Usage:
        """Since the turn before; the open answer is one call."""
        now, before = replace(self.session.used, calls=1), self.booked
        self.booked = now
        return Usage(
            prompt_tokens=now.prompt_tokens - before.prompt_tokens,
            completion_tokens=now.completion_tokens - before.completion_tokens,
            cached_tokens=now.cached_tokens - before.cached_tokens,
            calls=now.calls - before.calls,
        )

    async def read(self, said: str) -> None:
        await self.session.read(capability(self.sides.device, Encodes).ids_of(result_text(said)))

    async def close(self) -> None:
        await self.session.close()


@dataclass(slots=True)
class _Episode:
    """One episode under way.

    Attributes:
        offered: whether the cloud may be asked as a tool.
        segments: of every turn, and of what the cloud said to a question.
        answer: what it says in the end.
        asked: whether the cloud was wanted for a question.
        paid: whether the budget was asked for the price of a tool.
        error: why the cloud did not answer a question.
        gives_up: why the cloud is to answer in the agent's place; None if it has answered itself.
    """

    sides: Sides
    sampling: Sampling
    environment: Environment
    offered: bool
    pen: _Pen
    segments: list[Segment] = field(default_factory=list)
    answer: str = ""
    asked: bool = False
    paid: bool = False
    error: str | None = None
    gives_up: Reason | None = None

    async def turns(self, calls: int) -> AsyncIterator[TextDelta]:
        """Act until there is an answer, or none to come; gives what the reader sees of it as reasoning."""
        left = self.sampling.max_tokens
        while left > 0:
            turn = await self.pen.write(left)
            left -= max(1, turn.segment.usage.completion_tokens)
            self.segments.append(turn.segment)
            if turn.action is None:
                self._end(turn.text)
                return
            calls -= 1
            if calls < 0:
                break
            seen = await self._acted(turn.action)
            result = "" if seen.done else result_text(seen.text)
            yield TextDelta(f"{turn.text}{result}\n", "device", "reasoning")
            if seen.done:
                self.answer = str(Action(seen.text))
                return
            await self.pen.read(seen.text)
        self.gives_up = "empty"

    def _end(self, text: str) -> None:
        self.answer, said = text, parse(text)
        if said.wants_cloud:
            self.gives_up = "hand-off"
        elif not said.answer:
            self.gives_up = "empty"

    async def _acted(self, action: Action) -> Observation:
        if self.offered and action.tool == ASK_CLOUD.name:
            return Observation(await self._consulted(action.text))
        priced = next((one for one in self.environment.tools if one.name == action.tool and one.price_usd), None)
        if priced is not None:
            return await self._bought(priced, action)
        return await asyncio.to_thread(self.environment.step, action)

    async def _bought(self, tool: Tool, action: Action) -> Observation:
        """What a tool with a price says, under a lease of its own; or that it cannot be called."""
        self.paid = True
        try:
            lease = await self.sides.budget.reserve(Estimate(cost_usd=tool.price_usd * tool.tries))
        except (BudgetExceeded, BudgetUnavailable) as error:
            self.error = str(error)
            return Observation(f"{tool.name} costs more than is left; go on without it")
        tries = tool.tries  # what is booked if the call is broken off: it may have cost that
        try:
            await lease.sent()
            seen = await asyncio.to_thread(self.environment.step, action)
            tries = seen.tries
        finally:
            await asyncio.shield(self._settled(lease, tool.price_usd * tries))
        return seen

    async def _settled(self, lease: Lease, usd: float) -> None:
        """Book what a tool cost, also as part of the turn that called it."""
        if usd:
            await lease.spend(Usage(), usd)
            last = self.segments[-1]
            self.segments[-1] = replace(last, cost_usd=last.cost_usd + usd)
        await lease.close()

    async def _consulted(self, question: str) -> str:
        """What the cloud says to a question of the device, or why it says nothing."""
        self.asked = True
        try:
            segment = await consult(self.sides, [Message("user", question)], replace(self.sampling, extra={}))
        except (BudgetExceeded, BudgetUnavailable, BackendError) as error:
            self.error = str(error)
            return "the larger model cannot be asked now; go on without it"
        self.segments.append(segment)
        return parse(segment.text).answer

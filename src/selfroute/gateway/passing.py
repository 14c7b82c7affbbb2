"""What is not routed: embeddings and plain completions go to the server of one side, and its answer comes back.

The device's server is asked where the device is one, else the cloud's, under the budget; `x-selfroute-mode` says
otherwise, and `lacks: [embeddings]` in a model's options keeps it out. No other side stands in for one that fails:
vectors of two models cannot be compared.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from selfroute.backends.base import Asked, find_capability
from selfroute.backends.chunks import tokens_used
from selfroute.backends.flight import closing
from selfroute.backends.halves import Halves
from selfroute.budget.base import Estimate, Lease, Unlimited
from selfroute.gateway.chat import DONE, dumps, sse
from selfroute.gateway.errors import ApiError, bad_request
from selfroute.gateway.exchange import Exchange
from selfroute.gateway.guard import Guard
from selfroute.gateway.http import Http
from selfroute.gateway.request import ChatRequest, Limits
from selfroute.gateway.service import Mode, Service
from selfroute.prices import Price
from selfroute.strategies.base import is_discreet
from selfroute.types import Reason, Sampling, Segment, Source, Trace, Usage

__all__ = ["PASSED", "Passed", "passed"]


@dataclass(frozen=True, slots=True)
class _Kind:
    """An address that is passed on.

    Attributes:
        writes: whether its model writes text, up to `max_tokens`, and can stream it; then it is the side's own model.
        needs: the field that must be there.
    """

    needs: str
    writes: bool


PASSED: Mapping[str, _Kind] = {
    "completions": _Kind(needs="prompt", writes=True),
    "embeddings": _Kind(needs="input", writes=False),
}
_MODES: Mapping[Mode, tuple[Source, ...]] = {
    "auto": ("device", "cloud"),
    "device": ("device",),
    "private": ("device",),
    "cloud": ("cloud",),
}


async def passed(service: Service, address: str, body: Mapping[str, Any], mode: Mode, limits: Limits) -> Passed:
    """See who is asked, and with what.

    Raises:
        ApiError: a field is wrong, or no side that may answer is a server that can.
        BackendUnavailable: a model that may is still loading.
    """
    kind, wanted = PASSED[address], body.get("model")
    if body.get(kind.needs) is None:
        raise bad_request(kind.needs, "must be there")
    if not isinstance(wanted, str | None):
        raise bad_request("model", "must be text")
    if not isinstance(body.get("stream"), bool | None):
        raise bad_request("stream", "must be true or false")
    source, guard, server = await _side(service, address, mode)
    sent = {key: value for key, value in body.items() if value is not None}
    if kind.writes or not wanted or wanted.startswith("selfroute"):
        sent["model"] = server.model
    most = limits.max_tokens
    if kind.writes:
        most = _most_tokens(body, sent, limits)
    return Passed(service, guard, source, address, sent, _request(body, stream=kind.writes), mode, most)


async def _side(service: Service, address: str, mode: Mode) -> tuple[Source, Guard, Asked]:
    """The side that is asked: the first that may be, and is a server that can."""
    for source, guard in service.guards():
        if source not in _MODES[mode] and len(service.guards()) > 1:
            continue
        if source == "cloud" and mode == "auto" and is_discreet(service.strategy):
            continue  # the device writes what leaves, and this is the user's own text
        server = find_capability(await guard.ready(), Asked)
        if server is not None and address not in (guard.lacks or ()):
            return source, guard, server
    raise ApiError(
        "unsupported_by_backend",
        f"no model that may answer has /v1/{address}; put an OpenAI-compatible server that has it behind the gateway",
    )


def _most_tokens(body: Mapping[str, Any], sent: dict[str, Any], limits: Limits) -> int:
    """The most that may be written, by all choices together; what is sent is cut down to it."""
    asked = body.get("max_tokens")
    if asked is None:
        asked = limits.default_tokens
    if asked is not None:
        if isinstance(asked, bool) or not isinstance(asked, int) or asked < 0:
            raise bad_request("max_tokens", "must be a whole number, at least 0")
        sent["max_tokens"] = min(asked, limits.max_tokens)
    if sent.get("stream"):
        sent["stream_options"] = {**(sent.get("stream_options") or {}), "include_usage": True}
    choices: int = 1
    for name in ("n", "best_of"):
        value = body.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= limits.n):
            raise bad_request(name, f"must be a whole number from 1 to {limits.n}", code="limit_exceeded")
        choices = max(choices, value or 1)
    prompts = body["prompt"]
    several = len(prompts) if isinstance(prompts, list) and prompts and not isinstance(prompts[0], int) else 1
    return int(sent.get("max_tokens", limits.max_tokens)) * choices * several


def _request(body: Mapping[str, Any], *, stream: bool) -> ChatRequest:
    """What of the request its record wants to know."""
    options = body.get("stream_options")
    return ChatRequest(
        model=body.get("model") or "selfroute",
        messages=[],
        sampling=Sampling(),
        stream=stream and body.get("stream") is True,
        include_usage=isinstance(options, Mapping) and options.get("include_usage") is True,
    )


class Passed:
    """One request on its way to one server and back, with its record.

    Attributes:
        exchange: the record; its mode is the side that is asked, as nothing was decided.
    """

    def __init__(
        self,
        service: Service,
        guard: Guard,
        source: Source,
        address: str,
        body: Mapping[str, Any],
        request: ChatRequest,
        mode: Mode,
        most_tokens: int,
    ) -> None:
        self.exchange = Exchange(service, request, source if mode == "auto" else mode)
        self._guard, self._source, self._address, self._body = guard, source, address, body
        self._reason: Reason = "capability" if mode == "auto" else "mode"
        self._price: Price = service.price_of(source, guard.name)
        self._usage: Usage | None = None
        self._most_tokens = most_tokens
        self._texts: dict[Any, Halves] = {}

    async def answer(self, http: Http) -> None:
        """Ask, send what comes, and keep the account.

        Raises:
            BackendError: the server does not answer.
            BudgetExceeded, BudgetUnavailable: the cloud may not be asked.
        """
        objects = self._asked()
        async with closing(objects):
            if self.exchange.request.stream:
                await self._stream(http, objects)
                return
            whole = await anext(objects, None)
            async for _ in objects:
                pass
        if whole is None:
            raise ApiError("upstream_error", f"{self._guard.name}: the server answered nothing")
        await http.answer(200, dumps(whole), self.exchange.headers())

    def failed(self, error: ApiError) -> bytes:
        """The last event of a stream that broke off."""
        return sse({**error.body(), "selfroute": self.exchange.account()})

    async def _stream(self, http: Http, objects: AsyncIterator[dict[str, Any]]) -> None:
        async def begin() -> None:
            if not http.started:
                await http.start(200, "text/event-stream", self.exchange.headers(pending=True), None)

        async for each in objects:
            if not each.get("choices") and not self.exchange.request.include_usage:
                continue
            await begin()
            await http.write(sse(self._mended(each)))
        await begin()
        await http.end(DONE)

    def _mended(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """A chunk whose characters are whole."""
        for choice in chunk.get("choices") or []:
            if isinstance(choice, dict) and isinstance(choice.get("text"), str):
                halves = self._texts.setdefault(choice.get("index"), Halves())
                choice["text"] = halves.feed(choice["text"]) + (halves.close() if choice.get("finish_reason") else "")
        return chunk

    async def _asked(self) -> AsyncIterator[dict[str, Any]]:
        """The answer's objects, under the budget where the cloud gives them."""
        estimate = self._estimate()
        gate = self.exchange.choices[0].gate
        budget = gate if self._source == "cloud" else Unlimited()
        lease, began, started = await budget.reserve(estimate), time.perf_counter(), False
        try:
            await lease.sent()
            async with closing(self._guard.ask(self._address, self._body)) as objects:
                async for each in objects:
                    started = True
                    self._usage = tokens_used(each.get("usage")) or self._usage
                    yield each
        finally:
            if started:
                self._note(self._usage or estimate.usage, time.perf_counter() - began)
            await asyncio.shield(self._book(lease, started))

    def _estimate(self) -> Estimate:
        """The most that the request can use; no tokenizer in use writes more tokens than a text has bytes."""
        kind = PASSED[self._address]
        prompt = len(json.dumps(self._body[kind.needs], ensure_ascii=False).encode())
        usage = Usage(prompt, self._most_tokens if kind.writes else 0)
        return Estimate(usage, self._price.cost_usd(usage))

    def _note(self, usage: Usage, seconds: float) -> None:
        used = Segment(
            source=self._source,
            model=self._guard.name,
            usage=usage,
            seconds=seconds,
            cost_usd=self._price.cost_usd(usage),
        )
        self.exchange.choices[0].trace = Trace(
            strategy=self.exchange.service.strategy.name, wants_cloud=False, reason=self._reason, segments=(used,)
        )

    async def _book(self, lease: Lease, started: bool) -> None:
        trace = self.exchange.choices[0].trace
        if started and trace is not None:
            await lease.spend(trace.usage(self._source), trace.cost_usd)
        await lease.close()

"""The gateway's ASGI application: addresses, limits, streams, records."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Any, Protocol

from selfroute.backends.base import Backend, find_capability
from selfroute.backends.flight import closing
from selfroute.backends.layers import Layered, Tail
from selfroute.budget.base import Targeted
from selfroute.errors import BackendError, ConfigError, SelfRouteError
from selfroute.gateway.access import Access
from selfroute.gateway.activity import Activity
from selfroute.gateway.chat import ChatChunks, ChatWhole, dumps
from selfroute.gateway.errors import ApiError, Rejected, api_error
from selfroute.gateway.exchange import HEADERS, Exchange
from selfroute.gateway.feedback import FeedbackDesk, what_is_said
from selfroute.gateway.http import ClientGone, Http, Receive, Scope, Send
from selfroute.gateway.metrics import Metrics
from selfroute.gateway.notices import Notices
from selfroute.gateway.openapi import description
from selfroute.gateway.page import dashboard
from selfroute.gateway.passing import PASSED, passed
from selfroute.gateway.preview import preview
from selfroute.gateway.record import CLIENT_GONE, content_of, reason_of, record_of, tally_of
from selfroute.gateway.request import ChatRequest, Limits, chat_request, json_object
from selfroute.gateway.responses import ResponseEvents, response_body, response_request
from selfroute.gateway.service import Mode, Service, SingleService, Switch
from selfroute.gateway.sessions import OpenAnswers
from selfroute.gateway.status import health_states, status
from selfroute.types import HandOff, Message, Retract, TextDelta

__all__ = ["Gateway", "Verifier"]

_log = logging.getLogger("selfroute.gateway")
_FOLLOW_S = 1.0  # between looks for a new call share
_READABLE = ", ".join([*HEADERS, "retry-after"]).encode()  # headers that pages of other origins may read
_PATIENCE_S = 1.0  # how long a stream may fail with a status of its own before its head leaves
_OPEN_PATHS = frozenset({"/", "/healthz", "/readyz", "/openapi.json"})
Handler = Callable[[Http], Awaitable[None]]
# From a conversation and an answer to a score in [0, 1]; None where it does not know the question.
Verifier = Callable[[Sequence[Message], str], Awaitable[float | None]]


class _Stream(Protocol):
    """A stream that may break off."""

    def failed(self, error: ApiError) -> bytes: ...


class _Chunks(_Stream, Protocol):
    """Turns the pieces of a stream into bytes."""

    def piece(self, index: int, said: TextDelta) -> bytes: ...
    def end(self) -> bytes: ...


class Gateway:
    """The ASGI application.

    Args:
        service: who answers.
        limits: of requests.
        access: who may ask; by default everybody who reaches the address.
        temperature: of requests that do not say; None leaves it to the model's server.
        share: target call share to show on the dashboard, None if there is none.
        activity, metrics: where requests are recorded.
        log_content: write prompts and answers to the log.
        feedback_per_minute: most pieces of feedback of one client, in this process.
        verifier: judges answers to questions that it knows; None judges none.
        follow: asked once a second for a new call share; None if it stays.
        switch: asked once a second whether several clouds act and learn, and for their prices; None if that stays.
        layers: the first layer of those that devices may go on with, from 0; None gives none.
        on_load_failure: called when a model cannot be loaded, to end the server.
    """

    def __init__(
        self,
        service: Service,
        *,
        limits: Limits | None = None,
        access: Access | None = None,
        temperature: float | None = None,
        share: float | None = None,
        activity: Activity | None = None,
        metrics: Metrics | None = None,
        log_content: bool = False,
        feedback_per_minute: int = 6000,
        verifier: Verifier | None = None,
        follow: Callable[[], float | None] | None = None,
        switch: Callable[[], Switch | None] | None = None,
        layers: int | None = None,
        on_load_failure: Callable[[SelfRouteError], None] | None = None,
    ) -> None:
        self.service = service
        self.limits = limits or Limits()
        self.access = access or Access()
        self.temperature, self.share = temperature, share
        self.activity = activity or Activity()
        self.metrics = metrics or Metrics()
        self.log_content = log_content
        self.verifier = verifier
        self.follow, self.switch = follow, switch
        self.on_load_failure = on_load_failure
        self.notices = Notices()
        self.open_answers = OpenAnswers(self.limits) if isinstance(service, SingleService) else None
        self._first_layer = layers
        self._verifying: set[asyncio.Task[None]] = set()
        self.in_flight = 0
        self.began = time.time()
        self._routes: dict[str, dict[str, Handler]] = {
            "/": {"GET": self._page},
            "/healthz": {"GET": self._healthz},
            "/readyz": {"GET": self._readyz},
            "/metrics": {"GET": self._metrics},
            "/status.json": {"GET": self._status},
            "/openapi.json": {"GET": self._openapi},
            "/v1/models": {"GET": self._models},
            "/v1/chat/completions": {"POST": self._chat},
            "/v1/responses": {"POST": self._responses},
            "/v1/route": {"POST": self._route},
            "/v1/selfroute/preview": {"POST": self._preview},
            **{f"/v1/{address}": {"POST": partial(self._pass, address)} for address in PASSED},
            "/v1/feedback": {"POST": self._feedback},
        }
        if layers is not None:
            self._routes["/v1/layers"] = {"POST": self._continue}
        for side, guard in service.guards():
            guard.on_failure = partial(self._note_failure, side, guard.name)
        self.desk = self._desk(feedback_per_minute)

    def _desk(self, per_minute: int) -> FeedbackDesk | None:
        """Where feedback goes, if there are several clouds that learn from it."""
        clouds, learning = self.service.clouds, self.service.learning
        if clouds is None or learning is None:
            return None
        return FeedbackDesk(learning, per_minute=per_minute, log=clouds.log, count=self.metrics.count_feedback)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(Http(scope, receive, send))
        else:
            await send({"type": "websocket.close", "code": 1000})

    # --- life

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        loading, following = asyncio.create_task(self._load()), asyncio.create_task(self._follow())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        loading.cancel()
        following.cancel()
        await self._verified()
        await self.service.aclose()
        self.activity.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _follow(self) -> None:
        """Take another share, or set the switches of several clouds, when the file says so."""
        while self.follow is not None or self.switch is not None:
            await asyncio.sleep(_FOLLOW_S)
            if self.follow is not None and (share := self.follow()) is not None:
                self.retarget(share)
            if self.switch is not None and (switch := self.switch()) is not None:
                self._set(switch)

    def _set(self, switch: Switch) -> None:
        if (clouds := self.service.clouds) is not None:
            clouds.mode, clouds.beliefs.frozen = switch.mode, switch.frozen
            for name, price in switch.prices:
                clouds.reprice(name, price)
            _log.warning(
                "clouds: mode %s%s, and these prices, from now on", switch.mode, ", frozen" if switch.frozen else ""
            )

    def retarget(self, share: float) -> None:
        """Let `share` of the requests go to the cloud from now on."""
        if isinstance(self.service.budget, Targeted):
            self.service.budget.retarget(share)
        self.service, self.share = self.service.told(share), share
        _log.warning("the call share is %g from now on", share)

    async def load(self) -> None:
        """Load the models, and cut the one whose layers are served.

        Raises:
            ConfigError: one cannot be loaded, lacks something, or has no such layers.
        """
        await self.service.load()
        if self._first_layer is not None:
            await asyncio.to_thread(self._tail, await self.service.device.ready())

    def _tail(self, model: Backend) -> Tail:
        """The layers of a model that are served.

        Raises:
            ConfigError: it has none.
        """
        layered, first = find_capability(model, Layered), self._first_layer
        if layered is None or first is None:
            raise ConfigError(f"--layers: {model.name} has no layers at hand; serve one of transformers, or embedded")
        return layered.tail(first)

    async def _load(self) -> None:
        try:
            await self.load()
        except Exception as error:
            failure = (
                error
                if isinstance(error, SelfRouteError)
                else SelfRouteError(f"a model cannot be loaded: {type(error).__name__}: {error}")
            )
            if self.on_load_failure is None:
                _log.error("%s", failure)
            else:
                self.on_load_failure(failure)

    # --- requests

    async def _http(self, http: Http) -> None:
        try:
            self._name_reader(http)
            await self._handler(http)(http)
        except ClientGone:
            pass
        except ApiError as error:
            await self._refuse(http, error)

    def _handler(self, http: Http) -> Handler:
        """What answers a request, once it is known that it may be asked.

        Raises:
            ApiError: the address, the method, the origin or the key is wrong.
        """
        self.access.check_origin(http.header("host") or "", http.header("origin"))
        http.path = self._address(http.path)
        methods = self._routes.get(http.path)
        if methods is None and http.path.startswith("/v1/models/"):
            methods = {"GET": self._model}
        if methods is None:
            raise ApiError("not_found", f"there is nothing at {http.path[:80]}; the addresses are in /openapi.json")
        if http.method == "OPTIONS":
            return lambda http: self._preflight(http, methods)
        if http.path not in _OPEN_PATHS:
            http.client = self.access.client(http.header("authorization"))
        handler = methods.get("GET" if http.method == "HEAD" else http.method)
        if handler is None:
            allowed = ", ".join(methods)
            raise ApiError("method_not_allowed", f"{http.path} takes {allowed}", headers={"Allow": allowed})
        return handler

    def _address(self, path: str) -> str:
        """The address that is meant: people type slashes at the end, twice, or leave /v1 out."""
        path = re.sub("/{2,}", "/", path).rstrip("/") or "/"
        versioned = f"/v1{path}"
        return versioned if path not in self._routes and versioned in self._routes else path

    def _name_reader(self, http: Http) -> None:
        """Let the browser show the answer, an error too, to a page of an origin that may ask."""
        if (origin := self.access.reader(http.header("origin"))) is not None:
            http.always += [
                (b"access-control-allow-origin", origin.encode("latin-1", "replace")),
                (b"access-control-expose-headers", _READABLE),
                (b"vary", b"Origin"),
            ]

    async def _preflight(self, http: Http, methods: Mapping[str, Handler]) -> None:
        """What a browser asks before it lets a page of another origin ask; a key comes with the request itself."""
        allowed = {
            "access-control-allow-methods": ", ".join(methods),
            "access-control-allow-headers": http.header("access-control-request-headers") or "*",
            "access-control-max-age": "600",
        }
        if http.header("access-control-request-private-network") == "true":
            allowed["access-control-allow-private-network"] = "true"
        await http.answer(204, b"", allowed)

    async def _refuse(self, http: Http, error: ApiError, headers: Mapping[str, str] | None = None) -> None:
        known = headers or {
            "x-selfroute-source": "none",
            "x-selfroute-reason": error.code,
            "x-selfroute-cost-usd": f"{0:.8f}",
            **dict.fromkeys(("x-selfroute-trace-id", "x-request-id"), secrets.token_hex(16)),
        }
        await http.answer(error.status, dumps(error.body()), {**known, **error.headers})

    async def _chat(self, http: Http) -> None:
        body = json_object(await http.body(self.limits.body_bytes))
        request = chat_request(body, self.limits, temperature=self.temperature)
        exchange = self._exchange(http, request)
        if request.stream:
            chunks = ChatChunks(exchange)
            await self._answer(http, exchange, self._stream(http, exchange, chunks), chunks)
        else:
            await self._answer(http, exchange, self._whole(http, exchange, ChatWhole.body))

    async def _responses(self, http: Http) -> None:
        body = json_object(await http.body(self.limits.body_bytes))
        request = response_request(body, self.limits, temperature=self.temperature)
        exchange = self._exchange(http, request)
        if request.stream:
            events = ResponseEvents(exchange, body)
            await self._answer(http, exchange, self._stream(http, exchange, events), events)
        else:
            await self._answer(http, exchange, self._whole(http, exchange, lambda whole: response_body(whole, body)))

    async def _route(self, http: Http) -> None:
        body = json_object(await http.body(self.limits.body_bytes))
        request = chat_request(body, self.limits, temperature=self.temperature)
        exchange = self._exchange(http, request)
        exchange.dry = True
        await self._answer(http, exchange, self._decide(http, exchange))

    async def _pass(self, address: str, http: Http) -> None:
        body = json_object(await http.body(self.limits.body_bytes))
        mode = self._mode(http, str(body.get("model")))
        self._check_room()
        if self.open_answers is not None and "selfroute" in body:
            model = await self.service.device.ready()
            try:
                said = await self.open_answers.answer(model, body)
            except SelfRouteError as failure:
                raise api_error(failure) from None
            await http.answer(200, dumps(said), {})
            return
        asked = await passed(self.service, address, body, mode, self.limits)
        await self._answer(http, asked.exchange, asked.answer(http), asked)

    async def _continue(self, http: Http) -> None:
        """A message of `selfroute.network.layer_messages`, and what comes back."""
        data = await http.body(self.limits.body_bytes)
        self._check_room()
        try:
            reply = await self._tail(await self.service.device.ready()).carry(data)
        except SelfRouteError as failure:
            raise api_error(failure) from None
        await http.answer(200, reply, {}, "application/octet-stream")

    async def _preview(self, http: Http) -> None:
        body = json_object(await http.body(self.limits.body_bytes))
        request = chat_request(body, self.limits, temperature=self.temperature)
        mode = self.service.mode(http.header("x-selfroute-mode"))
        try:
            told = await preview(self.service, request, mode)
        except SelfRouteError as failure:
            raise api_error(failure) from None
        await http.answer(200, dumps(told), {})

    def _exchange(self, http: Http, request: ChatRequest) -> Exchange:
        mode = self._mode(http, request.model)
        self._check_room()
        clouds = self.service.clouds
        return Exchange(self.service, request, mode, None if clouds is None else what_is_said(http, request, clouds))

    def _mode(self, http: Http, model: str) -> Mode:
        """Who may answer, by header or by the name that the client has for the model."""
        named = model.partition("selfroute-")[2] if model.startswith("selfroute-") else None
        header = http.header("x-selfroute-mode")
        return self.service.mode(named if header is None else header)

    def _check_room(self) -> None:
        if self.in_flight >= self.limits.concurrent:
            raise ApiError(
                "too_many_requests",
                f"{self.limits.concurrent} requests are being answered; try again",
                headers={"Retry-After": "1"},
            )

    async def _answer(self, http: Http, exchange: Exchange, work: Any, stream: _Stream | None = None) -> None:
        """Do the work of one request within its time, and record what came of it.

        An error before the first piece of a stream is a plain error, after it the last event of the stream.
        """
        self.in_flight += 1
        self.metrics.in_flight.inc()
        status_code = 200
        try:
            async with asyncio.timeout(self.limits.request_s):
                await http.while_there(work)
        except ClientGone:
            exchange.error, status_code = None, CLIENT_GONE
        except asyncio.CancelledError:  # the server is going down
            status_code = CLIENT_GONE
            raise
        except Exception as failure:
            error = self._told(failure, exchange)
            exchange.error, status_code = error, error.status
            if not http.started:
                await self._refuse(http, error, exchange.headers())
            elif stream is not None:
                await http.end(stream.failed(error))
        finally:
            self.in_flight -= 1
            self.metrics.in_flight.dec()
            self._record(exchange, status_code)
            self._verify(exchange)

    def _told(self, failure: Exception, exchange: Exchange) -> ApiError:
        if isinstance(failure, TimeoutError):
            return ApiError("request_timeout", f"no whole answer within {self.limits.request_s:g} s")
        if not isinstance(failure, ApiError | SelfRouteError | Rejected):
            # Only the kind and the place: an exception's text may hold somebody's words.
            _log.error("request %s failed: %s", exchange.id, _place(failure))
        return api_error(failure)

    async def _whole(self, http: Http, exchange: Exchange, body: Callable[[ChatWhole], dict[str, Any]]) -> None:
        whole = ChatWhole(exchange)
        async with closing(exchange.pieces()) as pieces:
            async for piece in pieces:
                whole.add(piece)
        exchange.text = whole.text()
        await http.answer(200, dumps(body(whole)), exchange.headers())

    async def _stream(self, http: Http, exchange: Exchange, chunks: _Chunks) -> None:
        """Send the pieces as they come, and a sign of life while none does."""

        async def begin() -> None:
            if not http.started:
                await http.start(200, "text/event-stream", exchange.headers(pending=True), None)

        async with http.kept_alive(begin, after_s=_PATIENCE_S, every_s=self.limits.keep_alive_s):
            await self._send_pieces(http, exchange, chunks, begin)
        await begin()
        await http.end(chunks.end())

    async def _send_pieces(
        self, http: Http, exchange: Exchange, chunks: _Chunks, begin: Callable[[], Awaitable[None]]
    ) -> None:
        shown: set[int] = set()  # choices of which the client has seen text of the cloud
        async with closing(exchange.pieces()) as pieces:
            async for index, said in pieces:
                if not isinstance(said, TextDelta):
                    _refuse_to_retract(said, is_shown=index in shown)
                    continue
                if said.source == "cloud" and (said.kind == "content" or said.extra):
                    shown.add(index)
                if self.log_content:
                    exchange.note(said)
                if data := chunks.piece(index, said):
                    await begin()
                    await http.write(data)

    async def _decide(self, http: Http, exchange: Exchange) -> None:
        about = exchange.choices[0].gate.about
        finished = await self.service.decide(exchange.request, exchange.mode, about)
        trace = finished.trace
        exchange.choices[0].trace = trace
        decision: dict[str, Any] = {
            "object": "selfroute.decision",
            "source": trace.source,
            "reason": trace.reason,
            "wants_cloud": trace.wants_cloud,
            "score": trace.score,
            "mode": exchange.mode,
            "strategy": trace.strategy,
            "model": trace.end.model,
            "trace_id": exchange.id,
            "error": trace.error,
        }
        if self.service.clouds is not None:
            outlook = self.service.outlook(exchange.request, about, trace.score)
            decision["candidates"] = [candidate._asdict() for candidate in outlook]
        await http.answer(200, dumps(decision), exchange.headers())

    async def _feedback(self, http: Http) -> None:
        body = json_object(await http.body(self.limits.body_bytes))
        if self.desk is None:
            raise ApiError("not_found", "feedback is for gateways with several clouds; write clouds: in the recipe")
        await http.answer(200, dumps(await self.desk.take(body, http.client)), {})

    # --- verifiers

    def _verify(self, exchange: Exchange) -> None:
        """Judge the answers to a question that the verifier knows, after they have left."""
        if self.verifier is None or self.desk is None or exchange.dry:
            return
        task = asyncio.create_task(self._verify_all(self.verifier, self.desk, exchange))
        self._verifying.add(task)
        task.add_done_callback(self._verifying.discard)

    async def _verify_all(self, verifier: Verifier, desk: FeedbackDesk, exchange: Exchange) -> None:
        for choice in exchange.choices:
            trace, about = choice.trace, choice.gate.about
            if trace is None or about is None or trace.end.propensity is None:  # nobody was chosen
                continue
            score = await verifier(exchange.request.messages, trace.text)
            if score is not None:
                with suppress(ApiError):  # a client was quicker, or the store is out of reach
                    await desk.judge(about.trace, about.client, score, "verifier")

    async def _verified(self) -> None:
        await asyncio.gather(*self._verifying)

    # --- records

    def _record(self, exchange: Exchange, status_code: int) -> None:
        now, refusals = time.time(), exchange.refusals
        self.metrics.count(exchange, status_code, reason_of(exchange, status_code))
        record = record_of(exchange, status_code, now)
        if self.service.clouds is not None:
            record["models"] = [segment.model for segment in exchange.cloud_segments]
        self.activity.add(record)
        for refusal in refusals:
            self.notices.refusal(refusal)
        self.activity.history.add(now, tally_of(exchange, status_code))
        if _log.isEnabledFor(logging.INFO):
            refused = {"refusal": str(refusals[0])} if refusals else {}
            content = content_of(exchange, self.service.door()) if self.log_content else {}
            _log.info("%s", json.dumps({**record, **refused, **content}))

    def _note_failure(self, side: str, model: str, failure: BackendError) -> None:
        self.metrics.count_failure(side, model, failure)
        self.notices.failure(side if self.service.clouds is None else f"{side} {model}", failure)

    # --- everything else

    async def _page(self, http: Http) -> None:
        page, policy = dashboard()
        headers = {
            "Content-Security-Policy": policy,
            "X-Frame-Options": "DENY",
            "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        await http.answer(200, page, headers, "text/html; charset=utf-8")

    async def _healthz(self, http: Http) -> None:
        await http.answer(200, dumps({"status": "ok"}), {})

    async def _readyz(self, http: Http) -> None:
        """Ready once a request can be answered: all models are loaded, and not all of them rest."""
        states = health_states(self.service.guards())
        ready = "loading" not in states.values() and any(state != "resting" for state in states.values())
        headers = {} if ready else {"Retry-After": "1"}
        await http.answer(200 if ready else 503, dumps({"ready": ready, **states}), headers)

    async def _metrics(self, http: Http) -> None:
        self.metrics.note_health(self.service.guards())
        if self.service.clouds is not None:
            self.metrics.note_clouds(self.service.clouds)
        await http.answer(200, self.metrics.render(), {}, "text/plain; version=0.0.4; charset=utf-8")

    async def _status(self, http: Http) -> None:
        about = await status(
            self.service,
            self.activity.last(1000),
            needs_key=self.access.needs_key,
            uptime_s=time.time() - self.began,
            in_flight=self.in_flight,
            share=self.share,
            history=self.activity.history,
        )
        await http.answer(200, dumps(about), {})

    async def _openapi(self, http: Http) -> None:
        await http.answer(200, dumps(description(self.limits, needs_key=self.access.needs_key)), {})

    def _known_models(self) -> list[dict[str, Any]]:
        names = ["selfroute", *(f"selfroute-{mode}" for mode in sorted(self.service.modes - {"auto"}))]
        return [
            {"id": name, "object": "model", "created": int(self.began), "owned_by": "selfroute"}
            for name in names
            if name != "selfroute-cloud" or self.service.cloud is not None
        ]

    async def _models(self, http: Http) -> None:
        known: dict[str, Any] = {"object": "list", "data": self._known_models()}
        if self.open_answers is not None and (model := self.service.device.inner) is not None:
            known["selfroute"] = self.open_answers.about(model)
            if self._first_layer is not None and (whole := self._tail(model).whole) is not None:
                known["selfroute"]["layers"] = {"first": self._first_layer, "whole": asdict(whole)}
        await http.answer(200, dumps(known), {})

    async def _model(self, http: Http) -> None:
        """Any name that a request may have: those that are not listed mean the strategy, and are echoed."""
        wanted = http.path.removeprefix("/v1/models/")
        known = self._known_models()
        if wanted.startswith("selfroute-") and wanted not in [model["id"] for model in known]:
            raise ApiError("not_found", f"there is no model '{wanted[:80]}'; /v1/models lists them")
        about = next((model for model in known if model["id"] == wanted), known[0] | {"id": wanted})
        await http.answer(200, dumps(about), {})


def _refuse_to_retract(event: HandOff | Retract, *, is_shown: bool) -> None:
    """What a stream has sent cannot be taken back."""
    if isinstance(event, Retract) and is_shown:
        raise ApiError(
            "answer_interrupted",
            "the cloud broke off in the middle of its answer; ask again, or without stream for the device's answer",
        )


def _place(failure: BaseException) -> str:
    """Kind and place of an exception, without its text."""
    at = failure.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    where = "" if at is None else f" at {at.tb_frame.f_code.co_filename}:{at.tb_lineno}"
    return f"{type(failure).__name__}{where}"

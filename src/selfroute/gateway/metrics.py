"""What the gateway counts, in Prometheus' form."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from selfroute.backends.clouds import Clouds
from selfroute.errors import BackendError
from selfroute.gateway.errors import refusal_limit
from selfroute.gateway.exchange import Exchange
from selfroute.gateway.guard import Guard

__all__ = ["METRICS", "Metrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
# Name, kind, labels, meaning. The reference page is made from this table.
METRICS: tuple[tuple[str, type, tuple[str, ...], str], ...] = (
    ("selfroute_requests", Counter, ("source", "reason", "mode", "status"), "Requests answered, by who and why."),
    ("selfroute_decisions", Counter, ("source", "reason", "mode", "status"), "Decisions of `/v1/route`, as requests."),
    ("selfroute_request_seconds", Histogram, ("source",), "Time from the request to the end of its answer."),
    ("selfroute_first_token_seconds", Histogram, ("source",), "Time from the request to the first piece."),
    ("selfroute_tokens", Counter, ("side", "kind"), "Tokens of both models; kind is prompt or completion."),
    ("selfroute_cost_usd", Counter, (), "What answers cost, at the configured prices."),
    ("selfroute_cloud_alone_usd", Counter, (), "What the answers had cost without a device."),
    ("selfroute_cloud_calls", Counter, (), "Answers that used the cloud, those that broke off included."),
    ("selfroute_handoffs", Counter, (), "Times that the strategy wanted the cloud, whether or not it got it."),
    ("selfroute_budget_refusals", Counter, ("limit",), "Cloud calls that the budget refused."),
    ("selfroute_backend_failures", Counter, ("side", "model", "error"), "Failed requests to a model, by kind."),
    ("selfroute_redacted", Counter, ("kind",), "Values that the cloud got placeholders for."),
    ("selfroute_in_flight", Gauge, (), "Requests being answered."),
    ("selfroute_backend_up", Gauge, ("side", "model"), "1 if the model is loaded and its last request went well."),
    ("selfroute_clouds_calls", Counter, ("cloud", "part"), "Calls of each of several clouds; part is answer or void."),
    ("selfroute_clouds_cost_usd", Counter, ("cloud",), "What each of several clouds cost."),
    ("selfroute_clouds_seconds", Histogram, ("cloud",), "Time that each of several clouds took for its answers."),
    ("selfroute_clouds_share", Gauge, ("cloud",), "Share of the last answers of all workers, by cloud."),
    ("selfroute_clouds_quality", Gauge, ("cloud",), "Quality that the policy expects of each cloud."),
    ("selfroute_clouds_latency_seconds", Gauge, ("cloud",), "Latency that the policy expects of each cloud."),
    ("selfroute_price_weight", Gauge, (), "What a dollar is worth in quality, by which several clouds are chosen."),
    ("selfroute_feedback", Counter, ("source", "verdict"), "Feedback on answers of clouds, and what became of it."),
)  # fmt: skip


class Metrics:
    """The counters of one worker; with several workers, `render` adds them all up.

    Several workers are told to by the environment variable PROMETHEUS_MULTIPROC_DIR, which `selfroute serve` sets.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._of: dict[str, Any] = {}
        for name, kind, labels, meaning in METRICS:
            options: dict[str, Any] = {"buckets": _SECONDS} if kind is Histogram else {}
            if kind is Gauge:
                options["multiprocess_mode"] = "livesum" if name == "selfroute_in_flight" else "livemin"
            self._of[name] = kind(name, meaning, labels, registry=self._registry, **options)
        self.in_flight = self._of["selfroute_in_flight"]
        self._children: dict[tuple[str, ...], Any] = {}

    def _child(self, name: str, *labels: str) -> Any:
        """One labelled series; kept, as looking it up costs more than counting."""
        key = (name, *labels)
        if key not in self._children:
            self._children[key] = self._of[name].labels(*labels)
        return self._children[key]

    def count(self, exchange: Exchange, status: int, reason: str) -> None:
        """Book a finished request."""
        name = "selfroute_decisions" if exchange.dry else "selfroute_requests"
        self._child(name, exchange.source, reason, exchange.mode, str(status)).inc()
        self._count_use(exchange)
        if not exchange.dry:
            self._count_answer(exchange)
            if exchange.service.clouds is not None:
                self._count_clouds(exchange)

    def _count_use(self, exchange: Exchange) -> None:
        """Tokens and money; the device may have written some for a decision too."""
        for side in ("device", "cloud"):
            prompt, completion = exchange.tokens(side)
            if prompt or completion:
                self._child("selfroute_tokens", side, "prompt").inc(prompt)
                self._child("selfroute_tokens", side, "completion").inc(completion)
        self._of["selfroute_cost_usd"].inc(exchange.cost_usd)

    def _count_answer(self, exchange: Exchange) -> None:
        self._child("selfroute_request_seconds", exchange.source).observe(exchange.seconds)
        self._of["selfroute_cloud_alone_usd"].inc(exchange.cloud_alone_usd)
        if exchange.first_token_s is not None:
            self._child("selfroute_first_token_seconds", exchange.source).observe(exchange.first_token_s)
        for kind, count in exchange.redacted.items():
            self._child("selfroute_redacted", kind).inc(count)
        for choice in exchange.choices:
            if choice.trace is not None and choice.trace.wants_cloud:
                self._of["selfroute_handoffs"].inc()
            if choice.used_cloud:
                self._of["selfroute_cloud_calls"].inc()
            if choice.gate.refusal is not None:
                self._child("selfroute_budget_refusals", refusal_limit(choice.gate.refusal)).inc()

    def _count_clouds(self, exchange: Exchange) -> None:
        for segment in exchange.cloud_segments:
            self._child("selfroute_clouds_calls", segment.model, segment.part).inc()
            self._child("selfroute_clouds_cost_usd", segment.model).inc(segment.cost_usd)
            self._child("selfroute_clouds_seconds", segment.model).observe(segment.seconds)

    def count_failure(self, side: str, model: str, failure: BackendError) -> None:
        self._child("selfroute_backend_failures", side, model, type(failure).__name__).inc()

    def count_feedback(self, source: str, verdict: str) -> None:
        self._child("selfroute_feedback", source, verdict).inc()

    def note_health(self, guards: Sequence[tuple[str, Guard]]) -> None:
        for side, guard in guards:
            self._child("selfroute_backend_up", side, guard.name).set(float(guard.health().state == "ready"))

    def note_clouds(self, clouds: Clouds) -> None:
        """What is believed of several clouds now."""
        self._of["selfroute_price_weight"].set(clouds.beliefs.price_weight)
        for one in clouds.estimates():
            self._child("selfroute_clouds_share", one.name).set(clouds.beliefs.share(one.name))
            if one.quality is not None:
                self._child("selfroute_clouds_quality", one.name).set(one.quality)
            if one.latency_s is not None:
                self._child("selfroute_clouds_latency_seconds", one.name).set(one.latency_s)

    def render(self) -> bytes:
        """All series as text."""
        if not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            return generate_latest(self._registry)
        every = CollectorRegistry()
        MultiProcessCollector(every)  # type: ignore[no-untyped-call]
        return generate_latest(every)

"""Redaction behind the gateway: what the cloud, logs, metrics and the client see, and the preview beforehand."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx2 as httpx
import pytest
from tests.backends.chat_server import ChatServer, answer
from tests.gateway.live import Live, ask, gateway, service
from tests.privacy.bodies import planted
from tests.privacy.test_privacy import DETECTORS

from selfroute.assemble.serving import make_service
from selfroute.backends.base import find_capability
from selfroute.backends.function import FunctionBackend
from selfroute.backends.openai_compatible import OpenAICompatibleBackend
from selfroute.backends.redacted import RedactedBackend
from selfroute.budget.ledger import LedgerBudget
from selfroute.budget.limits import Limits, WindowLimit
from selfroute.budget.memory import MemoryLedger
from selfroute.config.serving import build_serve_recipe
from selfroute.errors import BackendUnavailable
from selfroute.handoff import HANDOFF_TEXT
from selfroute.privacy.redaction import Redactor
from selfroute.strategies.always import AlwaysCloud
from selfroute.strategies.self_route import SelfRoute
from selfroute.types import Message, Sampling

TEXT = "Write to a@b.org and Anna Müller"
HIDDEN = "Write to [EMAIL_1] and [NAME_1]"
VALUES = ("a@b.org", "Anna", "Müller", "4111")


def door(cloud: Any, kinds: dict[str, Any] | None = None) -> RedactedBackend:
    backend = FunctionBackend("large", cloud) if callable(cloud) else cloud
    return RedactedBackend(backend, Redactor(DETECTORS, kinds or {}))


def echo(messages: Sequence[Message], sampling: Sampling) -> str:
    return f"<answer>{messages[-1].content}</answer>"


def device(messages: Sequence[Message], sampling: Sampling) -> str:
    return "<answer>on the device</answer>"


@contextmanager
def redacting(kinds: dict[str, Any] | None = None, **options: Any) -> Iterator[Live]:
    made = service(device, door(echo, kinds), strategy=AlwaysCloud(), strip_cloud_tags=True, **options)
    with gateway(made) as live:
        yield live


def test_the_client_gets_values_and_counts(caplog: pytest.LogCaptureFixture) -> None:
    with redacting() as live, caplog.at_level(logging.INFO, logger="selfroute.gateway"):
        reply = httpx.post(f"{live.url}/v1/chat/completions", json=ask(TEXT))
        metrics = httpx.get(f"{live.url}/metrics").text
        status = httpx.get(f"{live.url}/status.json").text
    body = reply.json()
    assert body["choices"][0]["message"]["content"] == TEXT
    assert body["selfroute"]["redacted"] == {"email": 1, "name": 1}
    assert reply.headers["x-selfroute-redacted"] == "email=1, name=1"
    assert 'selfroute_redacted_total{kind="email"} 1.0' in metrics
    assert '"redacted": {"email": 1, "name": 1}' in caplog.text
    assert not any(value in seen for value in VALUES for seen in (metrics, status, caplog.text))


def test_a_log_that_shows_texts_shows_them_redacted(caplog: pytest.LogCaptureFixture) -> None:
    made = service(device, door(echo), strategy=AlwaysCloud(), strip_cloud_tags=True)
    with caplog.at_level(logging.INFO, logger="selfroute.gateway"), gateway(made, log_content=True) as live:
        httpx.post(f"{live.url}/v1/chat/completions", json=ask(TEXT))
        httpx.post(f"{live.url}/v1/chat/completions", json=ask("see data:image/png;base64,AAAA"))
    assert HIDDEN in caplog.text and "withheld" in caplog.text
    assert not any(value in caplog.text for value in VALUES)


def test_streams_and_responses_are_restored() -> None:
    with redacting() as live:
        chunks = live.client().chat.completions.create(
            model="selfroute", messages=[{"role": "user", "content": TEXT}], stream=True
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == TEXT
        assert (
            live.client().responses.create(model="selfroute", input=TEXT, instructions="to a@b.org").output_text == TEXT
        )


@pytest.mark.parametrize("mode", ["auto", "cloud"])
def test_what_may_not_leave_is_answered_on_the_device_and_costs_nothing(mode: str) -> None:
    ledger = MemoryLedger()
    budget = LedgerBudget(Limits(windows=(WindowLimit(unit="calls", window="total", cap=1),)), ledger)
    with redacting({"card": "refuse"}, budget=budget) as live:
        for _ in range(7):  # more than the breaker bears of a cloud that fails
            reply = httpx.post(
                f"{live.url}/v1/chat/completions", json=ask("4111 1111 1111 1111"), headers={"x-selfroute-mode": mode}
            ).json()
        assert reply["choices"][0]["message"]["content"] == "on the device"
        assert reply["selfroute"]["reason"] == "privacy"
        assert "kind 'card'" in reply["selfroute"]["error"]
        fine = httpx.post(f"{live.url}/v1/chat/completions", json=ask(TEXT)).json()
    assert fine["selfroute"]["source"] == "cloud"


def test_a_device_that_cannot_stand_in_leaves_a_plain_error() -> None:
    class Seeing(FunctionBackend):
        lacks = frozenset[str]()

    part = {"type": "image_url", "image_url": {"url": "https://x.org/a.png"}}
    with gateway(service(device, door(Seeing("large", echo)), strategy=AlwaysCloud())) as live:
        reply = httpx.post(f"{live.url}/v1/chat/completions", json={"messages": [{"role": "user", "content": [part]}]})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "privacy_refused")


def test_private_mode_stays_as_it_is() -> None:
    with redacting() as live:
        reply = httpx.post(
            f"{live.url}/v1/chat/completions", json=ask(TEXT), headers={"x-selfroute-mode": "private"}
        ).json()
    assert reply["selfroute"]["source"] == "device" and "redacted" not in reply["selfroute"]


def test_a_decision_says_that_a_request_may_not_leave() -> None:
    with redacting({"card": "refuse"}) as live:
        decision = httpx.post(f"{live.url}/v1/route", json=ask("4111 1111 1111 1111")).json()
    assert (decision["source"], decision["reason"]) == ("device", "privacy")


async def test_the_preview_is_the_live_request_byte_for_byte_and_spends_nothing() -> None:
    received: list[bytes] = []

    async def noting(server: ChatServer, request: Any, body: Any) -> Any:
        received.append(await request.read())
        return await answer(server, request, {**body, "messages": [{"role": "user", "content": "hi"}]})

    async with ChatServer() as server:
        cloud = OpenAICompatibleBackend("large", server.url, "big", api_key_env=None)
        with gateway(service(device, door(cloud), strategy=AlwaysCloud())) as live:
            async with httpx.AsyncClient(base_url=live.url, timeout=60) as client:
                for seed in range(60):
                    body = planted(seed).body
                    told = (await client.post("/v1/selfroute/preview", json=body)).json()
                    assert len(received) == seed
                    server.script.append(noting)
                    reply = await client.post("/v1/chat/completions", json=body)
                    assert reply.status_code == 200, reply.text
                    assert received[-1].decode() == told["body"]
                    assert all(each["value"] not in told["body"] for each in told["placeholders"])


@pytest.mark.parametrize(
    ("text", "headers", "refused"),
    [
        ("4111 1111 1111 1111", {}, "kind 'card'"),
        (TEXT, {"x-selfroute-mode": "private"}, "nothing leaves the device"),
        ("see data:image/png;base64,AAAA", {}, "cannot be read"),
    ],
)
def test_a_preview_says_what_would_not_leave(text: str, headers: dict[str, str], refused: str) -> None:
    with redacting({"card": "refuse"}) as live:
        told = httpx.post(f"{live.url}/v1/selfroute/preview", json=ask(text), headers=headers).json()
    assert refused in told["refused"] and told["body"] is None


def test_a_gateway_without_redaction_shows_what_leaves_too() -> None:
    with gateway(service(device, echo)) as live:
        told = httpx.post(f"{live.url}/v1/selfroute/preview", json=ask(TEXT)).json()
    assert TEXT in json.loads(told["body"])["messages"][-1]["content"] and told["placeholders"] == []


class Down(FunctionBackend):
    """A model that cannot be reached."""

    def __init__(self, name: str) -> None:
        super().__init__(name, self._fail)

    def _fail(self, messages: Sequence[Message], sampling: Sampling) -> str:
        raise BackendUnavailable(f"{self.name}: down", backend=self.name)


def expected(what: str, device_up: bool, cloud_up: bool, left: bool) -> tuple[int, str, str]:
    """Status, source and reason; the table of docs/privacy.md."""
    if what == "private":
        return (200, "device", "mode") if device_up else (503, "none", "upstream_unavailable")
    if what == "redact" and cloud_up and left:
        return (200, "cloud", "always")
    if not device_up:
        return (503, "none", "upstream_unavailable")
    return (200, "device", "budget" if not left else "privacy" if what == "refuse" else "cloud-error")


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("cloud_up", [True, False])
@pytest.mark.parametrize("device_up", [True, False])
@pytest.mark.parametrize("what", ["redact", "refuse", "private"])
def test_each_outcome_is_the_documented_one(what: str, device_up: bool, cloud_up: bool, left: bool) -> None:
    caps = WindowLimit(unit="usd", window="total", cap=1.0 if left else 1e-9)
    made = service(
        FunctionBackend("small", device) if device_up else Down("small"),
        door(echo if cloud_up else Down("large"), {"email": "refuse"} if what == "refuse" else {}),
        strategy=AlwaysCloud(),
        budget=LedgerBudget(Limits(windows=(caps,)), MemoryLedger()),
    )
    headers = {"x-selfroute-mode": "private"} if what == "private" else {}
    with gateway(made) as live:
        reply = httpx.post(f"{live.url}/v1/chat/completions", json=ask(TEXT), headers=headers)
    found = (reply.status_code, reply.headers["x-selfroute-source"], reply.headers["x-selfroute-reason"])
    assert found == expected(what, device_up, cloud_up, left)
    assert "a@b.org" not in reply.text or reply.status_code == 200


def test_each_of_several_clouds_stands_behind_the_door() -> None:
    def cloud(name: str) -> dict[str, Any]:
        return {"name": name, "model": {"openai": {"base_url": "http://127.0.0.1:9/v1", "model": name}}}

    values = {"clouds": [cloud("a"), cloud("b")], "strategy": "always_cloud", "privacy": {"names": ["Anna Müller"]}}
    made = make_service(build_serve_recipe(values, where="test"))
    guards = [guard for side, guard in made.guards() if side == "cloud"]
    assert len(guards) == 2 and all(find_capability(guard, RedactedBackend) for guard in guards)
    assert made.door() is not None
    with gateway(made) as live:
        told = httpx.post(f"{live.url}/v1/selfroute/preview", json=ask(TEXT)).json()
    assert "[EMAIL_1]" in told["body"] and "a@b.org" not in told["body"]


# --- the device writes the question -------------------------------------------------------------------------------


def writing(messages: Sequence[Message], sampling: Sampling) -> str:
    """Hands off with a message that holds one value of the request, and another one if it is asked to leak."""
    if HANDOFF_TEXT in sampling.forbid:
        return "<answer>on the device</answer>"
    leak = " for 4111 1111 1111 1111" if "leak" in messages[-1].content else ""
    asks = "" if "silent" in messages[-1].content else f" What is a@b.org{leak}?"
    return f"{HANDOFF_TEXT}{asks}"


@contextmanager
def discreet(cloud: Any, **options: Any) -> Iterator[Live]:
    strategy = SelfRoute(context="message")
    with gateway(service(writing, door(cloud, {"card": "refuse"}), strategy=strategy, **options)) as live:
        yield live


async def test_the_cloud_gets_the_message_redacted_and_the_preview_shows_it() -> None:
    received: list[bytes] = []

    async def noting(server: ChatServer, request: Any, body: Any) -> Any:
        received.append(await request.read())
        return await answer(server, request, {**body, "messages": [{"role": "user", "content": "hi"}]})

    async with ChatServer() as server:
        with discreet(OpenAICompatibleBackend("large", server.url, "big", api_key_env=None)) as live:
            async with httpx.AsyncClient(base_url=live.url, timeout=60) as client:
                told = (await client.post("/v1/selfroute/preview", json=ask("I am Anna"))).json()
                assert not received
                server.script.append(noting)
                reply = (await client.post("/v1/chat/completions", json=ask("I am Anna"))).json()
    assert reply["selfroute"]["source"] == "cloud"
    assert received[-1].decode() == told["body"]
    assert "What is [EMAIL_1]?" in told["body"] and "Anna" not in told["body"]


@pytest.mark.parametrize(
    ("text", "refused"), [("silent", "wrote no message"), ("leak", "kind 'card'")], ids=["no message", "redacted"]
)
def test_a_question_that_may_not_leave_is_answered_on_the_device(text: str, refused: str) -> None:
    with discreet(echo) as live:
        told = httpx.post(f"{live.url}/v1/selfroute/preview", json=ask(text)).json()
        reply = httpx.post(f"{live.url}/v1/chat/completions", json=ask(text)).json()
    assert told["body"] is None and refused in told["refused"]
    assert (reply["selfroute"]["source"], reply["selfroute"]["reason"]) == ("device", "privacy")


@pytest.mark.parametrize("fault", ["device down", "tools"])
def test_no_other_way_sends_the_conversation(fault: str) -> None:
    asked: list[Any] = []

    class Tooled(FunctionBackend):
        lacks = frozenset[str]()

    def cloud(messages: Sequence[Message], sampling: Sampling) -> str:
        asked.append(messages)
        return "4"

    def down(messages: Sequence[Message], sampling: Sampling) -> str:
        raise BackendUnavailable("gone", backend="device")

    body = ask("I am Anna")
    if fault == "tools":
        body |= {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}
    made = service(
        down if fault == "device down" else writing, door(Tooled("large", cloud)), strategy=SelfRoute(context="message")
    )
    with gateway(made) as live:
        reply = httpx.post(f"{live.url}/v1/chat/completions", json=body)
    assert reply.status_code >= 400
    assert not asked

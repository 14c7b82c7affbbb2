"""Who may answer: header and model name, the decision without a call, and a mode that never leaves the device."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import httpx2 as httpx
import openai
import pytest
from tests.backends.chat_server import ChatServer
from tests.gateway.live import CLOUD_TEXT, EASY, HARD, Live, ask, device_fn, gateway, running, service

from selfroute.backends.openai_compatible import OpenAICompatibleBackend
from selfroute.budget.base import NoCloud
from selfroute.gateway.app import Gateway
from selfroute.strategies.always import AlwaysCloud, AlwaysDevice
from selfroute.strategies.random_offload import RandomOffload

DEVICE_ANSWER = "four, says the device"


@pytest.mark.parametrize(
    ("mode", "question", "source", "reason"),
    [
        ("auto", EASY, "device", "answered"),
        ("auto", HARD, "cloud", "hand-off"),
        ("device", HARD, "device", "mode"),
        ("private", HARD, "device", "mode"),
        ("cloud", EASY, "cloud", "mode"),
        ("cloud", EASY, "cloud", "mode"),
    ],
)
@pytest.mark.parametrize("by", ["header", "model"])
def test_the_mode_overrides_the_strategy(
    pair: Live, by: str, mode: str, question: str, source: str, reason: str
) -> None:
    asked = ask(question)
    if by == "header":
        asked["extra_headers"] = {"x-selfroute-mode": mode}
    elif mode != "auto":
        asked["model"] = f"selfroute-{mode}"
    with pair.client() as client:
        answer = client.chat.completions.create(**asked)
    assert answer.choices[0].message.content == (CLOUD_TEXT if source == "cloud" else DEVICE_ANSWER)
    about = answer.selfroute
    assert (about["source"], about["reason"], about["mode"]) == (source, reason, mode)


@pytest.mark.parametrize(
    ("mode", "message"),
    [("turbo", "'turbo' is not one"), ("cloud", "not one of auto, device"), ("Device", "'Device' is not one")],
)
def test_a_mode_that_the_config_does_not_allow(mode: str, message: str) -> None:
    made = service(modes=frozenset({"auto", "device"}))
    with gateway(made) as live, live.client(default_headers={"x-selfroute-mode": mode}) as client:
        with pytest.raises(openai.BadRequestError, match=message) as caught:
            client.chat.completions.create(**ask(EASY))
        assert caught.value.code == "mode_not_allowed"


def test_without_a_cloud_the_device_answers_everything() -> None:
    with gateway(service(cloud=None, strategy=AlwaysDevice())) as live, live.client() as client:
        assert client.chat.completions.create(**ask(HARD)).selfroute["source"] == "device"
        assert "selfroute-cloud" not in [model.id for model in client.models.list()]
        with pytest.raises(openai.BadRequestError, match="has no cloud"):
            client.chat.completions.create(**ask(HARD), extra_headers={"x-selfroute-mode": "cloud"})


@pytest.mark.parametrize(("on_budget", "status"), [("device", 200), ("reject", 429)])
def test_a_budget_that_refuses_says_which_limit_and_when(on_budget: Any, status: int) -> None:
    made = service(budget=NoCloud(), on_budget=on_budget)
    with gateway(made) as live:
        answer = httpx.post(f"{live.url}/v1/chat/completions", json=ask(HARD))
        streamed = httpx.post(f"{live.url}/v1/chat/completions", json=ask(HARD, stream=True)).text
    assert answer.status_code == status
    body = answer.json()
    if status == 200:
        assert body["choices"][0]["message"]["content"] == DEVICE_ANSWER
        assert answer.headers["x-selfroute-reason"] == body["selfroute"]["reason"] == "budget"
        limit = body["selfroute"]["budget"]
        assert '"reason":"budget"' in streamed
    else:
        limit = body["error"]
        assert limit["code"] == "budget_exceeded" and answer.headers["x-should-retry"] == "false"
        assert '"code":"budget_exceeded"' in streamed and DEVICE_ANSWER not in streamed
    assert (limit["limit"], limit["spent"], limit["cap"], limit["reset_s"]) == ("calls", 0, 0, None)


def test_thoughts_of_two_attempts_are_told_apart() -> None:
    with gateway(service(budget=NoCloud())) as live, live.client() as client:
        answer = client.chat.completions.create(**ask(HARD))
        easy = client.chat.completions.create(**ask(EASY))
    assert answer.choices[0].message.reasoning_content == "no idea\n\nthat is simple"
    assert easy.choices[0].message.reasoning_content == "that is simple"


def test_a_decision_costs_no_call_and_agrees_with_the_answer() -> None:
    calls: list[str] = []

    def cloud(messages: Any, sampling: Any) -> str:
        calls.append(messages[-1].content)
        return CLOUD_TEXT

    with (
        gateway(service(cloud=cloud, strategy=RandomOffload(share=0.5))) as live,
        httpx.Client(base_url=live.url) as client,
    ):
        questions = [f"question {number}" for number in range(60)]
        decisions = [client.post("/v1/route", json=ask(question)).json() for question in questions]
        assert not calls
        answers = [client.post("/v1/chat/completions", json=ask(question)).json() for question in questions]
    assert {decision["source"] for decision in decisions} == {"device", "cloud"}
    for name in ("source", "reason", "score", "wants_cloud"):
        assert [decision[name] for decision in decisions] == [answer["selfroute"][name] for answer in answers]


def test_a_decision_of_a_device_that_hands_off(pair: Live) -> None:
    easy, hard = (httpx.post(f"{pair.url}/v1/route", json=ask(question)).json() for question in (EASY, HARD))
    assert (easy["source"], easy["reason"], easy["model"]) == ("device", "answered", "small")
    assert (hard["source"], hard["reason"], hard["model"]) == ("cloud", "hand-off", "large")


class Watch:
    """Where this process goes: what it connects or sends to, in any family of sockets, and names it looks up."""

    def __init__(self) -> None:
        self.seen: set[Any] = set()
        self.on = False
        sys.addaudithook(self._note)  # for ever, so there is one

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
            address = arguments[1]
            self.seen.add(address[1] if isinstance(address, tuple) and address[0] == "127.0.0.1" else address)
        elif event == "socket.getaddrinfo" and arguments[0] not in ("127.0.0.1", b"127.0.0.1"):
            self.seen.add(arguments[0])


@lru_cache(maxsize=1)
def watch() -> Watch:
    return Watch()


@pytest.fixture
def connections() -> Iterator[set[Any]]:
    """Ports of this machine that this process connects to, and everything else that it does, as it is."""
    watch().seen.clear()
    watch().on = True
    yield watch().seen
    watch().on = False


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("broken", [False, True])
async def test_private_mode_opens_no_connection_but_the_devices(
    connections: set[Any], stream: bool, broken: bool
) -> None:
    class Remote:
        """A budget on another machine."""

        async def reserve(self, estimate: Any, *, score: float | None = None) -> Any:
            raise AssertionError("private requests must not ask the budget")

        async def keep(self) -> None:
            raise AssertionError("private requests must not tell the budget")

    async with ChatServer() as device, ChatServer() as cloud:
        if broken:
            device.script.extend([_gone] * 9)
        sides = [OpenAICompatibleBackend(name, server.url, "m", max_retries=0) for name, server in
                 (("small", device), ("large", cloud))]  # fmt: skip
        made = service(*sides, budget=Remote(), on_device_error="cloud")
        # asyncio's own loop: uvloop would connect without asking Python's sockets.
        with running(Gateway(made), loop="asyncio") as url:
            async with httpx.AsyncClient(base_url=url) as client:
                ports = {server.server.port for server in (device, cloud)}
                connections.clear()
                headers = {"x-selfroute-mode": "private"}
                answer = await client.post("/v1/chat/completions", json=ask(HARD, stream=stream), headers=headers)
                assert connections & ports == {device.server.port}
                assert connections - ports <= {int(url.rpartition(":")[2])}
                assert answer.status_code == (502 if broken else 200)
    assert not cloud.requests


async def _gone(server: Any, request: Any, body: Any) -> Any:
    from aiohttp import web

    return web.Response(status=500)


async def test_the_watch_of_the_private_test_sees_a_cloud_that_is_asked(connections: set[Any]) -> None:
    async with ChatServer() as cloud:
        backend = OpenAICompatibleBackend("large", cloud.url, "m")
        with running(Gateway(service(device_fn, backend, strategy=AlwaysCloud())), loop="asyncio") as url:
            async with httpx.AsyncClient(base_url=url) as client:
                await client.post("/v1/chat/completions", json=ask(EASY))
        assert cloud.server.port in connections

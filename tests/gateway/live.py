"""A gateway on a free loopback port, and what the tests put behind it."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn
from openai import AsyncOpenAI, OpenAI

from selfroute.backends.base import Backend
from selfroute.backends.function import FunctionBackend
from selfroute.gateway.app import Gateway
from selfroute.gateway.guard import Guard
from selfroute.gateway.service import Service
from selfroute.handoff import HANDOFF_TEXT
from selfroute.prices import Price, Prices
from selfroute.prompts import TEMPLATES
from selfroute.strategies.base import Strategy
from selfroute.strategies.self_route import SelfRoute
from selfroute.types import Completion, Delta, Message, Sampling, Usage

TEMPLATE = TEMPLATES["think"]
PRICES = Prices(device=Price(completion_usd=1), cloud=Price(prompt_usd=3, completion_usd=15))
EASY, HARD = "an easy question", "a hard question"
DEVICE_TEXT = "<think>that is simple</think>\n<answer>four, says the device</answer>"
ASKING_TEXT = f"<think>no idea</think>\n{HANDOFF_TEXT}"
CLOUD_TEXT = "four, says the cloud"


def device_fn(messages: Sequence[Message], sampling: Sampling) -> str:
    """Hands off hard questions where that is offered."""
    offered = HANDOFF_TEXT in messages[0].content and HANDOFF_TEXT not in sampling.forbid
    return ASKING_TEXT if offered and "hard" in messages[-1].content else DEVICE_TEXT


def cloud_fn(messages: Sequence[Message], sampling: Sampling) -> str:
    return CLOUD_TEXT


class Slow(Backend):
    """Writes a word every `pause_s`, and says when somebody closed it before its end."""

    def __init__(self, name: str, text: str, pause_s: float = 0.01) -> None:
        self.name = name
        self.text, self.pause_s = text, pause_s
        self.running = self.closed = 0
        self.closed_at = 0.0
        self.written = 0

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        self.running += 1
        done = False
        try:
            for word in self.text.split(" "):
                await asyncio.sleep(self.pause_s)
                self.written += 1
                yield Delta(word + " ")
            yield Delta(finish_reason="stop", usage=Usage(1, self.text.count(" ") + 1))
            done = True
        finally:
            self.running -= 1
            if not done:
                self.closed += 1
                self.closed_at = time.monotonic()


def service(
    device: Any = device_fn,
    cloud: Any = cloud_fn,
    *,
    strategy: Strategy | None = None,
    guard: dict[str, Any] | None = None,
    **options: Any,
) -> Service:
    """A pair; functions become backends, backends are taken as they are."""
    sides = [
        Guard(name, FunctionBackend(name, side) if callable(side) else side, **(guard or {}))
        for name, side in (("small", device), ("large", cloud))
        if side is not None
    ]
    first, second = sides[0], sides[1] if len(sides) > 1 else None
    return Service(
        strategy=strategy or SelfRoute(), device=first, cloud=second, template=TEMPLATE, prices=PRICES, **options
    )


@contextmanager
def running(app: Any, **options: Any) -> Iterator[str]:
    """Serve an app in a thread; gives its address."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, lifespan="on", log_level="error", access_log=False, **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.002)
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        sock.close()
    assert not thread.is_alive()


@contextmanager
def gateway(made: Service | None = None, **options: Any) -> Iterator[Live]:
    app = Gateway(made or service(), **options)
    with running(app) as url:
        yield Live(app, url)


class Live:
    """A running gateway and ways to talk to it."""

    def __init__(self, app: Gateway, url: str) -> None:
        self.app, self.url = app, url

    def client(self, key: str = "none", **options: Any) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=30, **options)

    def async_client(self, key: str = "none", **options: Any) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=30, **options)


def ask(question: str, **fields: Any) -> dict[str, Any]:
    return {"model": "selfroute", "messages": [{"role": "user", "content": question}], **fields}


def logprob_device(messages: Sequence[Message], sampling: Sampling) -> Completion:
    """A device whose tokens carry log-probabilities."""
    from selfroute.types import Token

    texts = ["<think>", "hm", "</think>", "<answer>", "fo", "ur", "</answer>"]
    tokens = tuple(Token(text, -0.25, {text: -0.25, "other": -2.0}) for text in texts)
    return Completion("".join(texts), Usage(5, len(texts)), "stop", tokens if sampling.top_logprobs is not None else ())

"""A real chat-completions server for tests, well-behaved by default and misbehaving on request."""

import asyncio
import json
from collections import deque

from aiohttp import web
from aiohttp.test_utils import TestServer

from selfroute.types import Message


def echo(messages):
    """What every test backend answers: more than a few words, different for different conversations."""
    said = " / ".join(message.content for message in messages)
    return f"You said {said} and that is {len(said)} characters"


class ChatServer:
    """Handles the next request with the next behaviour of `script`, and behaves well when the script is over.

    Attributes:
        requests: bodies received, in order.
        headers: their headers.
        script: behaviours still to come; a behaviour is an async function of (server, request, body).
        disconnected: set when a client leaves an endless answer.
    """

    def __init__(self):
        self.requests, self.headers, self.script = [], [], deque()
        self.in_flight = self.most_in_flight = 0
        self.disconnected = asyncio.Event()
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.handle)
        self.server = TestServer(app, host="127.0.0.1")

    async def __aenter__(self):
        await self.server.start_server()
        return self

    async def __aexit__(self, *exc_info):
        await self.server.close()

    @property
    def url(self):
        return str(self.server.make_url("/v1"))

    async def handle(self, request):
        body = await request.json()
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            behave = self.script.popleft() if self.script else answer
            return await behave(self, request, body)
        finally:
            self.in_flight -= 1


def chunk(delta, finish_reason=None, **more):
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason, **more}]}


def decode(body, text):
    """Words of `text` as tokens, cut as asked."""
    for stop in body.get("stop", ()):
        text = text.partition(stop)[0]
    words = [word + " " for word in text.split(" ")]
    words[-1] = words[-1][:-1]
    kept = words[: body.get("max_tokens")]
    return kept, "stop" if kept == words else "length"


async def answer(server, request, body):
    words, reason = decode(body, echo([Message(**message) for message in body["messages"]]))
    usage = {"prompt_tokens": len(body["messages"]), "completion_tokens": len(words)}
    events = [chunk({"role": "assistant", "content": ""})]
    for word in words:
        logprobs = {"content": [{"token": word, "logprob": -0.5, "top_logprobs": [{"token": word, "logprob": -0.5}]}]}
        events.append(chunk({"content": word}, logprobs=logprobs if body.get("logprobs") else None))
    events.append(chunk({}, reason))
    if body.get("stream_options", {}).get("include_usage"):
        events.append({"choices": [], "usage": usage})
    return await stream(*events)(server, request, body)


async def respond(request, content_type="text/event-stream"):
    response = web.StreamResponse(headers={"Content-Type": content_type})
    response.enable_chunked_encoding()
    await response.prepare(request)
    return response


def stream(*events, done=True, pause_s=0.0, linger_s=0.0):
    """Each event in a write of its own; the response itself ends `linger_s` after the answer."""

    async def behave(server, request, body):
        response = await respond(request)
        for event in events:
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
            await asyncio.sleep(pause_s)
        if done:
            await response.write(b"data: [DONE]\n\n")
        await asyncio.sleep(linger_s)
        return response

    return behave


def raw(data, *, pieces=1, content_type="text/event-stream"):
    """These bytes, in so many writes."""

    async def behave(server, request, body):
        response = await respond(request, content_type)
        size = max(1, -(-len(data) // pieces))
        for start in range(0, len(data), size):
            await response.write(data[start : start + size])
            await asyncio.sleep(0)
        return response

    return behave


def status(code, body="", **headers):
    async def behave(server, request, _):
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(status=code, text=text, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return behave


def cut(*events):
    """Some events, and then the connection is gone."""

    async def behave(server, request, body):
        response = await respond(request)
        for event in events:
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        await asyncio.sleep(0.01)
        request.transport.abort()
        return response

    return behave


def silent(seconds):
    async def behave(server, request, body):
        await asyncio.sleep(seconds)
        return await answer(server, request, body)

    return behave


async def endless(server, request, body):
    """Writes until the client leaves."""
    response = await respond(request)
    try:
        while True:
            await response.write(b"data: " + json.dumps(chunk({"content": "more "})).encode() + b"\n\n")
            await asyncio.sleep(0.002)
    finally:
        server.disconnected.set()

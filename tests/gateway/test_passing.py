"""Embeddings and plain completions reach one side's server, and its answer comes back as it is."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from tests.gateway.live import cloud_fn, device_fn, gateway, service
from tests.strategies.pair import Ledger

from selfroute.backends.openai_compatible import OpenAICompatibleBackend
from selfroute.budget.base import NoCloud
from selfroute.gateway.request import Limits

USED = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}


class Server:
    """A server of embeddings and plain completions."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.fails = 0
        self.broken = False
        app = web.Application()
        app.router.add_post("/v1/embeddings", self.embeddings)
        app.router.add_post("/v1/completions", self.completions)
        self.server = TestServer(app, host="127.0.0.1")

    @property
    def url(self) -> str:
        return str(self.server.make_url("/v1"))

    async def body(self, request: web.Request) -> dict[str, Any]:
        body = await request.json()
        self.asked.append((request.path, body))
        if self.fails:
            raise web.HTTPBadRequest(text=json.dumps({"error": {"message": "no such model"}}))
        return dict(body)

    async def embeddings(self, request: web.Request) -> web.Response:
        body = await self.body(request)
        data = [{"object": "embedding", "index": 0, "embedding": [0.1, -2.5e-7, 3]}]
        usage = {"prompt_tokens": 5, "total_tokens": 5}
        return web.json_response({"object": "list", "model": body["model"], "data": data, "usage": usage})

    async def completions(self, request: web.Request) -> web.StreamResponse:
        body = await self.body(request)
        head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": body["model"]}
        choice = {"index": 0, "logprobs": None, "finish_reason": None}
        if not body.get("stream"):
            choices = [{**choice, "text": "one two", "finish_reason": "stop"}]
            return web.json_response({**head, "choices": choices, "usage": USED})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        pieces = [{**head, "choices": [{**choice, "text": text}]} for text in ("one \ud83d", "\ude00 two")]
        end = [{**head, "choices": [{**choice, "text": "", "finish_reason": "stop"}]}]
        if self.broken:
            end = [{"error": {"message": "overloaded"}}]
        for each in [*pieces, *end, {**head, "choices": [], "usage": USED}]:
            await response.write(b"data: " + json.dumps(each).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    await made.server.start_server()
    yield made
    await made.server.close()


def remote(server: Server, name: str = "large", **options: Any) -> OpenAICompatibleBackend:
    return OpenAICompatibleBackend(name, server.url, f"{name}-model", api_key_env=None, max_retries=0, **options)


async def test_texts_become_vectors_of_the_model_that_the_client_names(server: Server) -> None:
    with gateway(service(remote(server, "small"), cloud_fn)) as live:
        async with live.async_client() as client:
            raw = await client.embeddings.with_raw_response.create(model="nomic-embed", input=["a", "b"])
            own = await client.embeddings.create(model="selfroute", input="a", encoding_format="float")
    assert raw.parse().data[0].embedding == own.data[0].embedding == [0.1, -2.5e-7, 3]
    assert (raw.headers["x-selfroute-source"], raw.headers["x-selfroute-reason"]) == ("device", "capability")
    assert [(path, body["model"], body["input"]) for path, body in server.asked] == [
        ("/v1/embeddings", "nomic-embed", ["a", "b"]),
        ("/v1/embeddings", "small-model", "a"),
    ]


async def test_a_prompt_is_gone_on_with_whole_and_streamed(server: Server) -> None:
    with gateway(service(remote(server, "small"), cloud_fn)) as live:
        async with live.async_client() as client:
            whole = await client.completions.create(model="gpt-x", prompt="zero", suffix="three", max_tokens=9)
            pieces = await client.completions.create(model="gpt-x", prompt="zero", stream=True)
            text = "".join([each.choices[0].text async for each in pieces])
            counted = await client.completions.create(
                model="gpt-x", prompt="zero", stream=True, stream_options={"include_usage": True}
            )
            usage = [each.usage async for each in counted][-1]
        records = live.app.activity.last(9)
    assert (whole.choices[0].text, text) == ("one two", "one 😀 two")
    assert usage is not None and usage.total_tokens == 8
    assert [(r["source"], r["mode"], r["device_tokens"]) for r in records] == [("device", "device", 8)] * 3
    first = server.asked[0][1]
    assert (first["model"], first["suffix"], first["max_tokens"]) == ("small-model", "three", 9)


@pytest.mark.parametrize(
    ("mode", "device_is_server", "source"),
    [("auto", True, "device"), ("auto", False, "cloud"), ("cloud", True, "cloud"), ("private", True, "device")],
)
async def test_which_side_is_asked(server: Server, mode: str, device_is_server: bool, source: str) -> None:
    device = remote(server, "small") if device_is_server else device_fn
    with gateway(service(device, remote(server))) as live:
        async with live.async_client() as client:
            raw = await client.embeddings.with_raw_response.create(
                model="e", input="a", extra_headers={"x-selfroute-mode": mode}
            )
    assert raw.headers["x-selfroute-source"] == source


async def test_a_device_that_lacks_them_leaves_them_to_the_cloud(server: Server) -> None:
    with gateway(service(remote(server, "small", lacks=["embeddings"]), remote(server))) as live:
        async with live.async_client() as client:
            asked = client.embeddings.with_raw_response.create, client.completions.with_raw_response.create
            vectors = await asked[0](model="e", input="a")
            text = await asked[1](model="e", prompt="a")
    assert [raw.headers["x-selfroute-source"] for raw in (vectors, text)] == ["cloud", "device"]


async def test_the_cloud_is_asked_under_the_budget(server: Server) -> None:
    ledger = Ledger()
    with gateway(service(device_fn, remote(server), budget=ledger)) as live:
        async with live.async_client() as client:
            await client.completions.create(model="m", prompt="zero", max_tokens=7)
            async for _ in await client.completions.create(model="m", prompt="zero", stream=True):
                pass
        (record, _) = live.app.activity.last(2)
    assert [usage.completion_tokens for usage, _ in ledger.settled] == [3, 3] and not ledger.is_open
    assert record["cost_usd"] == pytest.approx((5 * 3 + 3 * 15) / 1e6) == pytest.approx(ledger.settled[0][1])
    with gateway(service(device_fn, remote(server), budget=NoCloud())) as live:
        async with live.async_client() as client:
            with pytest.raises(openai.RateLimitError) as caught:
                await client.embeddings.create(model="m", input="a")
    assert caught.value.code == "budget_exceeded" and len(server.asked) == 2


async def test_what_nobody_has_is_refused_and_private_requests_do_not_leave(server: Server) -> None:
    with gateway(service(device_fn, remote(server))) as live:
        async with live.async_client() as client:
            with pytest.raises(openai.BadRequestError, match="no model that may answer has /v1/embeddings") as caught:
                await client.embeddings.create(model="selfroute-private", input="a")
    assert caught.value.code == "unsupported_by_backend" and not server.asked


async def test_a_failure_is_told_and_nobody_stands_in(server: Server) -> None:
    server.fails, server.broken = 1, False
    with gateway(service(remote(server, "small"), remote(server))) as live:
        async with live.async_client() as client:
            with pytest.raises(openai.APIStatusError, match="no such model"):
                await client.embeddings.create(model="m", input="a")
            server.fails, server.broken = 0, True
            got: list[str] = []
            with pytest.raises(openai.APIError, match="overloaded"):
                async for each in await client.completions.create(model="m", prompt="zero", stream=True):
                    got.append(each.choices[0].text)
    assert len(server.asked) == 2 and "".join(got) == "one 😀 two"


@pytest.mark.parametrize(
    ("address", "fields", "param"),
    [
        ("embeddings", {}, "input"),
        ("embeddings", {"input": "a", "model": 7}, "model"),
        ("completions", {}, "prompt"),
        ("completions", {"prompt": "a", "max_tokens": "9"}, "max_tokens"),
        ("completions", {"prompt": "a", "n": 99}, "n"),
        ("completions", {"prompt": "a", "stream": "yes"}, "stream"),
    ],
)
async def test_a_wrong_field_is_named(server: Server, address: str, fields: dict[str, Any], param: str) -> None:
    with gateway(service(remote(server, "small"), None)) as live:
        async with live.async_client() as client:
            with pytest.raises(openai.BadRequestError) as caught:
                await client.post(f"/{address}", body=fields, cast_to=object)
    assert caught.value.param == param and not server.asked


async def test_more_than_may_be_written_is_cut_down(server: Server) -> None:
    with gateway(service(remote(server, "small"), None), limits=Limits(max_tokens=50, default_tokens=20)) as live:
        async with live.async_client() as client:
            await client.completions.create(model="m", prompt="a", max_tokens=10**6)
            await client.completions.create(model="m", prompt="a")
    assert [body["max_tokens"] for _, body in server.asked] == [50, 20]

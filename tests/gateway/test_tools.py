"""Tools, schemas, images and fields nobody knows yet: they reach a model that has them, unchanged, or are refused."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from tests.backends.chat_server import ChatServer, chunk, status, stream
from tests.gateway.live import DEVICE_TEXT, EASY, ask, device_fn, gateway, service
from tests.strategies.pair import Ledger

from selfroute.backends.openai_compatible import OpenAICompatibleBackend
from selfroute.budget.base import NoCloud

TOOLS: list[Any] = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


def part(index: int, *, name: str | None = None, arguments: str = "") -> dict[str, Any]:
    function = {"arguments": arguments} | ({"name": name} if name else {})
    begin = {"id": f"call_{index}", "type": "function"} if name else {}
    return {"index": index, **begin, "function": function}


# Two calls at once, their arguments in pieces, as providers stream them.
PARALLEL = stream(
    chunk({"role": "assistant", "content": None, "tool_calls": [part(0, name="weather")]}),
    chunk({"tool_calls": [part(0, arguments='{"city": "')]}),
    chunk({"tool_calls": [part(0, arguments='Oslo"}')]}),
    chunk({"tool_calls": [part(1, name="weather", arguments='{"city": ')]}),
    chunk({"tool_calls": [part(1, arguments='"Rome"}')]}),
    chunk({}, "tool_calls"),
)


def remote(url: str, name: str = "large", **options: Any) -> OpenAICompatibleBackend:
    return OpenAICompatibleBackend(name, url, "m", max_retries=0, **options)


def calls(message: Any) -> list[tuple[str, str, dict[str, str]]]:
    return [(call.id, call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls]


WANTED = [("call_0", "weather", {"city": "Oslo"}), ("call_1", "weather", {"city": "Rome"})]


@pytest.mark.parametrize("side", ["device", "cloud"])
async def test_parallel_calls_whole_and_streamed(side: str) -> None:
    async with ChatServer() as server:
        server.script.extend([PARALLEL] * 2)
        backend = remote(server.url, "small" if side == "device" else "large")
        made = service(backend, device_fn) if side == "device" else service(device_fn, backend)
        with gateway(made) as live:
            async with live.async_client() as client:
                body = ask(EASY, tools=TOOLS, tool_choice="required", parallel_tool_calls=True)
                whole = await client.chat.completions.create(**body)
                async with client.chat.completions.stream(**body) as streamed:
                    joined = await streamed.get_final_completion()
    for answer in (whole, joined):
        assert answer.choices[0].finish_reason == "tool_calls"
        assert calls(answer.choices[0].message) == WANTED
        assert not answer.choices[0].message.content
    assert whole.selfroute["source"] == side
    assert [request["tools"] for request in server.requests] == [TOOLS] * 2
    assert server.requests[0]["tool_choice"] == "required"


async def test_a_request_with_tools_goes_to_the_side_that_has_them() -> None:
    async with ChatServer() as cloud:
        with gateway(service(device_fn, remote(cloud.url))) as live:
            async with live.async_client() as client:
                answer = await client.chat.completions.create(**ask(EASY, tools=TOOLS))
                plain = await client.chat.completions.create(**ask(EASY, tools=[], tool_choice="auto"))
    assert (answer.selfroute["source"], answer.selfroute["reason"]) == ("cloud", "capability")
    assert (plain.selfroute["source"], plain.selfroute["reason"]) == ("device", "answered")


async def test_a_device_that_has_them_decides_for_itself() -> None:
    async with ChatServer() as device, ChatServer() as cloud:
        device.script.append(stream(chunk({"content": "no need to look"}, "stop")))
        with gateway(service(remote(device.url, "small"), remote(cloud.url))) as live:
            async with live.async_client() as client:
                answer = await client.chat.completions.create(**ask(EASY, tools=TOOLS))
    assert not cloud.requests
    assert answer.choices[0].message.content == "no need to look"
    assert answer.selfroute["score"] is None  # a server without log-probabilities gives no score, and an answer
    assert (answer.selfroute["source"], answer.selfroute["reason"]) == ("device", "answered")


async def test_a_conversation_with_tool_results_and_parts_survives_unchanged() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}}
    messages = [
        {"role": "developer", "content": "be brief", "name": "boss"},
        {"role": "user", "content": [{"type": "text", "text": "what is this?"}, image]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function",
         "function": {"name": "look", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
    ]  # fmt: skip
    async with ChatServer() as cloud:
        cloud.script.append(stream(chunk({"content": "a cat"}, "stop")))
        with gateway(service(device_fn, remote(cloud.url))) as live:
            async with live.async_client() as client:
                fields = {"logit_bias": {"5": 1}, "brand_new": {"deep": [1, None]}, "user": "ann"}
                schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
                await client.chat.completions.create(
                    model="m", messages=messages, response_format=schema, extra_body=fields, top_p=0.5
                )
    (sent,) = cloud.requests
    assert sent["messages"] == messages
    assert {name: sent[name] for name in fields} == fields
    assert sent["response_format"] == schema and sent["top_p"] == 0.5
    assert "temperature" not in sent  # the server's own default stands


async def test_a_request_cannot_name_the_server_that_is_asked() -> None:
    async with ChatServer() as cloud, ChatServer() as other:
        with gateway(service(device_fn, remote(cloud.url))) as live:
            headers = {"x-selfroute-mode": "cloud", "x-base-url": other.url, "x-forwarded-host": other.url}
            async with live.async_client(default_headers=headers) as client:
                fields = dict.fromkeys(("base_url", "api_base", "url", "endpoint", "proxy"), other.url)
                await client.chat.completions.create(**ask(EASY) | {"model": other.url}, extra_body=fields)
    assert not other.requests and [request["model"] for request in cloud.requests] == ["m"]


@pytest.mark.parametrize(
    ("mode", "fields", "name"),
    [("device", {"tools": TOOLS}, "tools"), ("private", {"functions": [{"name": "f"}]}, "functions"),
     ("auto", {"brand_new": 1}, "brand_new"), ("cloud", {"tools": TOOLS}, "tools")],
)  # fmt: skip
@pytest.mark.parametrize("streamed", [False, True])
def test_what_nobody_has_is_a_clear_400(mode: str, fields: dict[str, Any], name: str, streamed: bool) -> None:
    with (
        gateway(service()) as live,
        live.client(default_headers={"x-selfroute-mode": mode}) as client,
        pytest.raises(openai.BadRequestError, match=f"has no {name}") as caught,
    ):
        client.chat.completions.create(**ask(EASY), extra_body=fields, stream=streamed)
    assert (caught.value.code, caught.value.param) == ("unsupported_by_backend", name)


async def test_a_server_that_lacks_a_field_is_not_asked_for_it() -> None:
    async with ChatServer() as device, ChatServer() as cloud:
        made = service(remote(device.url, "small", lacks=["tools"]), remote(cloud.url))
        with gateway(made) as live:
            async with live.async_client() as client:
                answer = await client.chat.completions.create(**ask(EASY, tools=TOOLS))
    assert answer.selfroute["source"] == "cloud" and not device.requests


async def test_tools_without_a_budget_are_refused_and_without_a_cloud_an_error() -> None:
    with gateway(service(device_fn, remote("http://127.0.0.1:9/v1"), budget=NoCloud())) as live:
        async with live.async_client() as client:
            with pytest.raises(openai.RateLimitError, match="used up") as refused:
                await client.chat.completions.create(**ask(EASY, tools=TOOLS))
    assert refused.value.code == "budget_exceeded"
    ledger = Ledger()
    async with ChatServer() as cloud:
        cloud.script.append(status(500))
        with gateway(service(device_fn, remote(cloud.url), budget=ledger)) as live:
            async with live.async_client() as client:
                with pytest.raises(
                    openai.InternalServerError, match="small cannot stand in: it has no tools"
                ) as broken:
                    await client.chat.completions.create(**ask(EASY, tools=TOOLS))
    assert broken.value.code == "upstream_error" and not ledger.is_open
    assert DEVICE_TEXT not in str(broken.value)

"""What clients really send, and what they expect back: kinds that public bug reports describe."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import time
import zlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import httpx2 as httpx
import openai
import pytest
from tests.backends.chat_server import ChatServer, chunk, stream
from tests.gateway.live import CLOUD_TEXT, EASY, HARD, Slow, ask, device_fn, gateway, service

from selfroute.backends.openai_compatible import OpenAICompatibleBackend
from selfroute.gateway.access import Access
from selfroute.gateway.request import Limits
from selfroute.types import Message, Sampling

PAGE = "https://app.example.com"
CHAT = "/v1/chat/completions"


def remote(url: str) -> OpenAICompatibleBackend:
    return OpenAICompatibleBackend("large", url, "m", api_key_env=None, max_retries=0)


# --- pages of other origins -----------------------------------------------------------------------------------------


def test_a_preflight_of_a_listed_page_is_answered_without_a_key() -> None:
    access = Access({"app": "0" * 64}, origins=[PAGE])
    asked = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,x-stainless-os",
        "Access-Control-Request-Private-Network": "true",
    }
    with gateway(access=access) as live, httpx.Client(base_url=live.url) as client:
        answer = client.options(CHAT, headers=asked)
        nowhere = client.options("/v1/nothing", headers=asked)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["access-control-allow-headers"] == "authorization,x-stainless-os"
    assert answer.headers["access-control-allow-methods"] == "POST"
    assert answer.headers["access-control-allow-private-network"] == "true"
    assert nowhere.status_code == 404 and nowhere.headers["access-control-allow-origin"] == PAGE


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"n": 0}], ids=["whole", "stream", "error"])
def test_a_listed_page_may_read_every_answer(fields: dict[str, Any]) -> None:
    with gateway(access=Access(origins=[PAGE])) as live, httpx.Client(base_url=live.url) as client:
        answer = client.post(CHAT, json=ask(EASY, **fields), headers={"Origin": PAGE})
    assert answer.headers["access-control-allow-origin"] == PAGE and answer.headers["vary"] == "Origin"
    readable = answer.headers["access-control-expose-headers"]
    assert "x-selfroute-source" in readable and "x-request-id" in readable


def test_other_pages_stay_out() -> None:
    with gateway(access=Access(origins=[PAGE])) as live, httpx.Client(base_url=live.url) as client:
        for send in (client.options, client.get):
            answer = send("/v1/models", headers={"Origin": "https://elsewhere.example"})
            assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("access", "allowed"),
    [
        (Access(local_only=True), False),
        (Access(local_only=True, hosts=["host.docker.internal"]), True),
        (Access(local_only=True, origins=["http://host.docker.internal:3000"]), True),
    ],
)
def test_a_name_that_the_operator_lists_is_this_machine(access: Access, allowed: bool) -> None:
    with gateway(access=access) as live, httpx.Client(base_url=live.url) as client:
        answer = client.get("/v1/models", headers={"Host": "host.docker.internal:8000"})
    assert answer.status_code == (200 if allowed else 403)


# --- addresses, bodies, ids -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [f"{CHAT}/", "/v1//chat/completions", "/chat/completions", "//chat//completions//"])
def test_addresses_as_people_type_them(path: str) -> None:
    with gateway() as live, httpx.Client() as client:
        assert client.post(f"{live.url}{path}", json=ask(EASY)).status_code == 200
        assert client.get(f"{live.url}/models/").json()["object"] == "list"


@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_compressed_body_is_read(coding: str, pack: Any) -> None:
    with gateway() as live, httpx.Client(base_url=live.url) as client:
        packed = pack(json.dumps(ask(EASY)).encode())
        answer = client.post(CHAT, content=packed, headers={"Content-Encoding": coding})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("coding", "data", "code"),
    [
        ("br", b"x", "unsupported_encoding"),
        ("gzip", b"{}", "invalid_json"),
        ("gzip", gzip.compress(b"{}")[:-4], "invalid_json"),
        ("gzip", gzip.compress(b" " * 10_000_000), "body_too_large"),
    ],
    ids=["another", "not packed", "cut", "bomb"],
)
def test_a_body_that_cannot_be_decompressed_is_refused_as_such(coding: str, data: bytes, code: str) -> None:
    with gateway() as live, httpx.Client(base_url=live.url) as client:
        answer = client.post(CHAT, content=data, headers={"Content-Encoding": coding})
    assert answer.json()["error"]["code"] == code


def test_the_request_id_is_the_trace_id_in_answers_and_errors() -> None:
    with gateway() as live, live.client() as client:
        answer = client.chat.completions.with_raw_response.create(**ask(EASY))
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**ask(EASY, n=0))
    assert answer.headers["x-request-id"] == answer.headers["x-selfroute-trace-id"]
    assert caught.value.request_id


# --- how much may be written ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "limits", "sent"),
    [
        ({}, {}, {}),
        ({"max_tokens": -1}, {}, {}),
        ({"max_tokens": 50}, {}, {"max_tokens": 50}),
        ({"max_completion_tokens": 50}, {}, {"max_completion_tokens": 50}),
        ({"max_tokens": 10**6}, {"max_tokens": 900}, {"max_tokens": 900}),
        ({"max_completion_tokens": 10**6}, {"max_tokens": 900}, {"max_completion_tokens": 900}),
        ({}, {"default_tokens": 70}, {"max_tokens": 70}),
    ],
)
async def test_a_limit_is_sent_where_client_or_operator_set_one(
    fields: dict[str, int], limits: dict[str, int], sent: dict[str, int]
) -> None:
    async with ChatServer() as cloud:
        with gateway(service(device_fn, remote(cloud.url)), limits=Limits(**limits)) as live:
            async with live.async_client() as client:
                await client.chat.completions.create(**ask(HARD, **fields))
    (asked,) = cloud.requests
    assert {name: asked[name] for name in ("max_tokens", "max_completion_tokens") if name in asked} == sent


# --- histories ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "turn",
    [
        {"content": None},
        {},
        {"content": None, "tool_calls": []},
        {"content": None, "refusal": "I cannot help with that."},
        {"content": "four", "reasoning_content": "2+2", "annotations": [], "audio": None, "function_call": None},
        {"content": None, "reasoning": "2+2"},
    ],
)
def test_an_answer_that_comes_back_is_taken_and_its_thoughts_stay_here(turn: dict[str, Any]) -> None:
    seen: list[Sequence[Message]] = []

    def cloud(messages: Sequence[Message], sampling: Sampling) -> str:
        seen.append(messages)
        return CLOUD_TEXT

    history = [{"role": "user", "content": HARD}, {"role": "assistant", **turn}, {"role": "user", "content": HARD}]
    with gateway(service(device_fn, cloud)) as live, live.client() as client:
        answer = client.chat.completions.create(model="selfroute", messages=history)  # type: ignore[arg-type]
    assert answer.selfroute["reason"] == "hand-off"  # type: ignore[attr-defined]
    (_, before, _), *_ = seen
    assert before.content == (turn.get("content") or turn.get("refusal") or "")
    assert "2+2" not in str(before)


@pytest.mark.parametrize(
    ("turn", "sent"),
    [
        ({"content": "<think>2+2</think>\n\nfour"}, "four"),
        ({"content": "<think>2+2</think><think>2+2 again</think>four"}, "four"),
        ({"content": "<think>2+2 and no end"}, ""),
        ({"content": "I see <think>a tag</think> here"}, "I see <think>a tag</think> here"),
        ({"content": "four", "thinking": "2+2"}, "four"),
        ({"content": "four", "reasoning_details": [{"text": "2+2"}]}, "four"),
        ({"content": "four", "thinking_blocks": [{"thinking": "2+2"}]}, "four"),
        ({"content": "four", "provider_specific_fields": {"reasoning": "2+2"}}, "four"),
        (
            {"content": [{"type": "thinking", "thinking": "2+2"}, {"type": "text", "text": "<think>2+2</think>four"}]},
            [{"type": "text", "text": "four"}],
        ),
        ({"content": [{"type": "reasoning", "text": "2+2"}]}, []),
    ],
)
async def test_thoughts_stay_here_whatever_their_dress(turn: dict[str, Any], sent: Any) -> None:
    history: list[Any] = [{"role": "user", "content": HARD}, {"role": "assistant", **turn}]
    history.append({"role": "user", "content": HARD})
    async with ChatServer() as cloud:
        cloud.script.append(stream(chunk({"content": "four"}, "stop")))
        with gateway(service(device_fn, remote(cloud.url))) as live:
            async with live.async_client() as client:
                await client.chat.completions.create(model="selfroute-cloud", messages=history)
    assert cloud.requests[0]["messages"][1] == {"role": "assistant", "content": sent}


_A_CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
_A_TOOL = {"type": "function", "function": {"name": "f"}}
_CALLED = {"role": "assistant", "content": None, "tool_calls": [_A_CALL]}


@pytest.mark.parametrize(
    ("turn", "sent"),
    [
        (
            {"role": "tool", "tool_call_id": "c1", "content": None},
            {"role": "tool", "tool_call_id": "c1", "content": ""},
        ),
        ({"role": "tool", "tool_call_id": "c1"}, {"role": "tool", "tool_call_id": "c1", "content": ""}),
        ({"role": "function", "name": "f", "content": "1"}, {"role": "function", "name": "f", "content": "1"}),
        ({"role": "system", "content": None}, {"role": "system", "content": ""}),
        ({"role": "developer", "content": "be brief"}, {"role": "developer", "content": "be brief"}),
        ({"role": "user", "content": ""}, {"role": "user", "content": ""}),
        ({"role": "user", "content": "x", "name": None, "tool_calls": None}, {"role": "user", "content": "x"}),
        (_CALLED, _CALLED),
        ({"role": "assistant", "tool_calls": [_A_CALL, _A_CALL]}, {"role": "assistant", "tool_calls": [_A_CALL] * 2}),
    ],
)
async def test_turns_as_clients_write_them_go_on(turn: dict[str, Any], sent: dict[str, Any]) -> None:
    async with ChatServer() as cloud:
        cloud.script.append(stream(chunk({"content": "four"}, "stop")))
        with gateway(service(device_fn, remote(cloud.url))) as live:
            async with live.async_client() as client:
                messages: list[Any] = [{"role": "user", "content": EASY}, turn]
                await client.chat.completions.create(model="selfroute-cloud", messages=messages)
    assert cloud.requests[0]["messages"][1] == sent


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"n": 1.0, "seed": 7.0, "max_tokens": 50.0}, {"seed": 7, "max_tokens": 50}),
        ({"stop": "end"}, {"stop": ["end"]}),
        ({"stop": ""}, {}),
        ({"stop": []}, {}),
        ({"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}, {}),
        ({"tools": None, "tool_choice": "none", "parallel_tool_calls": False}, {}),
        ({"stream_options": {"include_usage": True, "include_obfuscation": False}}, {}),
        (dict.fromkeys(["n", "stop", "seed", "tools", "user", "logprobs", "top_logprobs", "logit_bias"]), {}),
        ({"tools": [_A_TOOL], "tool_choice": "required"},
         {"tools": [_A_TOOL], "tool_choice": "required"}),
    ],
)  # fmt: skip
async def test_fields_as_clients_write_them_are_read(fields: dict[str, Any], sent: dict[str, Any]) -> None:
    async with ChatServer() as cloud:
        cloud.script.append(stream(chunk({"content": "four"}, "stop")))
        with gateway(service(device_fn, remote(cloud.url))) as live:
            async with httpx.AsyncClient(base_url=live.url) as client:
                answer = await client.post(CHAT, json=ask(EASY, model="selfroute-cloud", **fields))
    assert answer.status_code == 200, answer.text
    (asked,) = cloud.requests
    plain = {"model", "messages", "stream", "stream_options"}
    assert {name: value for name, value in asked.items() if name not in plain} == sent


# --- streams that wait ----------------------------------------------------------------------------------------------


async def test_a_silent_stream_shows_that_it_is_there_and_no_proxy_holds_it_back() -> None:
    slow = Slow("small", "<answer>one two</answer>", pause_s=1.6)
    with gateway(service(slow, None), limits=Limits(keep_alive_s=0.4)) as live:
        async with httpx.AsyncClient(base_url=live.url) as client:
            began, lines = time.monotonic(), list[tuple[float, str]]()
            async with client.stream("POST", CHAT, json=ask(EASY, stream=True)) as answer:
                assert answer.headers["x-accel-buffering"] == "no"
                async for line in answer.aiter_lines():
                    lines.append((time.monotonic() - began, line))
        async with live.async_client() as official:
            chunks = [each async for each in await official.chat.completions.create(**ask(EASY, stream=True))]
    waiting = [at for at, line in lines if line.startswith(":")]
    assert waiting and waiting[0] < 1.2 and max(b - a for (a, _), (b, _) in pairwise(lines)) < 1.2
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said.strip() == "one two"


async def test_a_stream_that_fails_at_once_keeps_its_status() -> None:
    def refused(messages: Sequence[Message], sampling: Sampling) -> str:
        raise ConnectionError("boom")

    with gateway(service(refused, None), limits=Limits(keep_alive_s=0.4)) as live:
        async with httpx.AsyncClient(base_url=live.url) as client:
            answer = await client.post(CHAT, json=ask(EASY, stream=True))
    assert answer.status_code == 500


async def test_pieces_of_a_burst_are_whole_events_in_order() -> None:
    words = " ".join(f"w{i}" for i in range(3000))
    with gateway(service(lambda *_: f"<answer>{words}</answer>", None)) as live:
        async with live.async_client() as client:
            pieces = await client.chat.completions.create(**ask(EASY, stream=True, max_tokens=9000))
            said = "".join([each.choices[0].delta.content or "" async for each in pieces if each.choices])
    assert said == words


async def test_a_client_that_reads_slowly_gets_all_of_a_burst() -> None:
    words = " ".join(f"word-{i}" for i in range(20_000))
    body = json.dumps(ask(EASY, stream=True, max_tokens=16000)).encode()
    with gateway(service(lambda *_: f"<answer>{words}</answer>", None)) as live:
        host, port = live.url.removeprefix("http://").split(":")
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
        reader, writer = await asyncio.open_connection(sock=sock, limit=4096)
        head = f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await asyncio.sleep(0.5)
        data = await reader.read()
        writer.close()
    assert data.rstrip().endswith(b"0") and b"data: [DONE]" in data and data.count(b'{"content":') > 15_000


# --- odd answers ----------------------------------------------------------------------------------------------------


def both_ways(cloud: ChatServer, *events: Any) -> list[dict[str, str]]:
    """What the official client makes of an answer of the cloud, whole and streamed, by chat and by responses."""
    cloud.script.extend([stream(*events)] * 4)
    found: list[dict[str, str]] = []
    with gateway(service(device_fn, remote(cloud.url)), log_content=True) as live, live.client() as client:
        options: dict[str, Any] = {"extra_headers": {"x-selfroute-mode": "cloud"}}
        message: Any = client.chat.completions.create(**ask(EASY), **options).choices[0].message
        found.append(_said(message.content, getattr(message, "reasoning_content", ""), message.tool_calls))
        with client.chat.completions.stream(**ask(EASY), **options) as chat:
            deltas = [event.chunk.choices[0].delta for event in chat if event.type == "chunk" and event.chunk.choices]
            joined: Any = chat.get_final_completion().choices[0].message
        thoughts = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
        found.append(_said(joined.content, thoughts, joined.tool_calls))
        found.append(_output(client.responses.create(model="m", input=EASY, **options)))
        with client.responses.stream(model="m", input=EASY, **options) as events_:
            list(events_)
            found.append(_output(events_.get_final_response()))
    return found


def _said(content: str | None, thoughts: str, calls: Any) -> dict[str, str]:
    arguments = "".join(call.function.arguments for call in calls or [])
    return {"content": content or "", "thoughts": thoughts or "", "arguments": arguments}


def _output(response: Any) -> dict[str, str]:
    items = {item.type: item for item in response.output}
    thoughts = items["reasoning"].content[0].text if "reasoning" in items else ""
    arguments = items["function_call"].arguments if "function_call" in items else ""
    return {"content": response.output_text, "thoughts": thoughts, "arguments": arguments}


def _call(arguments: str, **more: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": 0, **more, "function": {"name": "f", "arguments": arguments}}]}


@pytest.mark.parametrize(("pieces", "text"), [(["a\ud83d", "\ude00"], "a😀"), (["\ude00b\ud83d"], "\ufffdb\ufffd")])
async def test_half_a_character_is_joined_or_replaced_wherever_it_goes(
    pieces: list[str], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    deltas = [
        *({"reasoning_content": piece} for piece in pieces),
        *({"content": piece} for piece in pieces),
        *(_call(piece, id="x") for piece in pieces),
    ]
    async with ChatServer() as cloud:
        with caplog.at_level("INFO", "selfroute.gateway"):
            events = [*(chunk(delta) for delta in deltas), chunk({}, "tool_calls")]
            found = await asyncio.to_thread(both_ways, cloud, *events)
    assert found == [{"content": text, "thoughts": text, "arguments": text}] * 4
    logged = [json.loads(record.message)["answer"] for record in caplog.records]
    assert logged == [text] * 4


async def test_reasoning_behind_content_stays_reasoning() -> None:
    deltas: list[dict[str, str]] = [
        {"reasoning": "a"}, {"content": "4 "}, {"reasoning_content": "b"}, {"content": " <think>"}, {"reasoning": "c"},
    ]  # fmt: skip
    async with ChatServer() as cloud:
        found = await asyncio.to_thread(both_ways, cloud, *(chunk(delta) for delta in deltas), chunk({}, "stop"))
    assert found == [{"content": "4  <think>", "thoughts": "abc", "arguments": ""}] * 4


# --- the Responses API ----------------------------------------------------------------------------------------------

WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}


async def calls(server: ChatServer, request: Any, body: Any) -> Any:
    pieces = [
        {
            "tool_calls": [
                {"index": 0, "id": "c1", "type": "function", "function": {"name": "weather", "arguments": ""}}
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"in":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"Rome"}'}}]},
    ]
    return await stream(*(chunk(piece) for piece in pieces), chunk({}, "tool_calls"))(server, request, body)


@pytest.mark.parametrize("streamed", [False, True])
async def test_functions_go_out_and_their_results_come_back(streamed: bool) -> None:
    async with ChatServer() as cloud:
        cloud.script.extend([calls, stream(chunk({"content": "Sunny."}, "stop"))])
        with gateway(service(device_fn, remote(cloud.url))) as live:
            async with live.async_client() as client:
                asked: list[Any] = [{"role": "user", "content": "weather?"}]
                if streamed:
                    async with client.responses.stream(model="m", input=asked, tools=[WEATHER]) as events:  # type: ignore[list-item]
                        kinds = [event.type async for event in events]
                        first: Any = await events.get_final_response()
                    assert "response.function_call_arguments.done" in kinds
                else:
                    first = await client.responses.create(model="m", input=asked, tools=[WEATHER])  # type: ignore[list-item]
                (call,) = first.output
                assert (call.type, call.name, call.call_id, call.arguments) == (
                    "function_call",
                    "weather",
                    "c1",
                    '{"in":"Rome"}',
                )
                result = {"type": "function_call_output", "call_id": "c1", "output": "sunny"}
                await client.responses.create(model="m", input=[*asked, call, result], tools=[WEATHER])  # type: ignore[list-item]
    sent = cloud.requests[1]["messages"]
    assert sent[1]["tool_calls"][0]["id"] == "c1" and sent[1]["content"] is None
    assert sent[2] == {"role": "tool", "tool_call_id": "c1", "content": "sunny"}
    assert cloud.requests[0]["tools"][0]["function"]["name"] == "weather"


def test_its_own_output_is_taken_back_and_fields_of_stateless_clients_are_harmless() -> None:
    more: dict[str, Any] = {"store": False, "include": ["reasoning.encrypted_content"], "truncation": "auto"}
    with gateway() as live, live.client() as client:
        question = [{"role": "user", "content": EASY}]
        first = client.responses.create(model="m", input=question, **more)  # type: ignore[call-overload]
        assert [item.type for item in first.output] == ["reasoning", "message"]
        again = client.responses.create(model="m", input=[*question, *first.output, *question], **more)  # type: ignore[call-overload]
    assert again.output_text == first.output_text


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"input": [{"type": None, "role": "user", "content": "hi"}]}, {}),
        ({"instructions": ""}, {}),
        ({"reasoning": {"effort": None, "summary": "auto"}}, {}),
        ({"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}, {}),
        (dict.fromkeys(["previous_response_id", "conversation", "metadata", "text", "tools", "include", "prompt"]), {}),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "mode": "required",
                                                 "tools": [{"type": "function", "name": "weather"}]}},
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {
                "mode": "required", "tools": [{"type": "function", "function": {"name": "weather"}}]}}},
        ),
    ],
)  # fmt: skip
async def test_fields_of_responses_as_clients_write_them_are_read(fields: dict[str, Any], sent: dict[str, Any]) -> None:
    async with ChatServer() as cloud:
        cloud.script.append(stream(chunk({"content": "four"}, "stop")))
        with gateway(service(device_fn, remote(cloud.url))) as live:
            async with httpx.AsyncClient(base_url=live.url) as client:
                answer = await client.post("/v1/responses", json={"model": "selfroute-cloud", "input": "hi", **fields})
    assert answer.status_code == 200, answer.text
    (asked,) = cloud.requests
    assert asked["messages"] == [{"role": "user", "content": "hi"}]
    plain = {"model", "messages", "stream", "stream_options", "tools"}
    assert {name: value for name, value in asked.items() if name not in plain} == sent

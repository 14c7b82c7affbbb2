"""The OpenAI-compatible backend against a real server on loopback, well-behaved and not."""

import asyncio
import json
import logging
import socket
import time
import traceback
from contextlib import aclosing
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.backends.chat_server import ChatServer, chunk, cut, echo, endless, raw, silent, status, stream

from selfroute.backends import openai_compatible
from selfroute.backends.base import complete, complete_all
from selfroute.backends.openai_compatible import OpenAICompatibleBackend
from selfroute.errors import (
    BackendStatusError,
    BackendTimeout,
    BackendUnavailable,
    ConfigError,
    SelfRouteError,
    UnsupportedByBackend,
)
from selfroute.types import Message, Sampling, Token, Usage

ASK = [Message("system", "be kind"), Message("user", "hello")]
KEY = "sk-planted-0123456789abcdef"


@pytest.fixture
async def server():
    async with ChatServer() as running:
        yield running


@pytest.fixture
async def backend(server):
    async with OpenAICompatibleBackend("cloud", server.url, "big-model", timeout_s=5) as open_backend:
        yield open_backend


@pytest.fixture
def quick_retries(monkeypatch):
    monkeypatch.setattr(openai_compatible, "_BACKOFF_S", 0.001)


def sse(*events):
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


async def test_the_request_carries_conversation_and_sampling(server, backend):
    sampling = Sampling(temperature=0.7, top_p=0.9, max_tokens=33, seed=5, stop=("END",), top_logprobs=2)
    await complete(backend, ASK, sampling)
    assert server.requests == [
        {
            "model": "big-model",
            "messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}],
            "temperature": 0.7,
            "top_p": 0.9,
            "max_tokens": 33,
            "seed": 5,
            "stop": ["END"],
            "logprobs": True,
            "top_logprobs": 2,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]


async def test_defaults_are_left_to_the_server(server, backend):
    await complete(backend, ASK, Sampling())
    assert server.requests[0].keys() == {"model", "messages", "temperature", "max_tokens", "stream", "stream_options"}


async def test_extra_fields_are_added_and_none_leaves_a_field_out(server):
    extra = {"reasoning_effort": "low", "stream_options": None}
    async with OpenAICompatibleBackend("cloud", server.url, "m", extra_body=extra) as backend:
        answer = await complete(backend, ASK, Sampling())
    assert server.requests[0]["reasoning_effort"] == "low" and "stream_options" not in server.requests[0]
    # Without usage from the server: 7 + 5 and the answer's characters, at 4 per token.
    assert answer.usage == Usage(3, -(-len(answer.text) // 4))


async def test_a_raw_message_and_further_fields_are_sent_as_they_are(server):
    parts = {"role": "user", "content": [{"type": "text", "text": "hello", "cache_control": {}}], "name": "ann"}
    tools = [{"type": "function", "function": {"name": "f"}}]
    sampling = Sampling(extra={"tools": tools, "temperature": None, "max_tokens": None, "max_completion_tokens": 9})
    server.script.append(stream(chunk({"content": "hi"}, "stop")))
    async with OpenAICompatibleBackend("cloud", server.url, "m", extra_body={"seed": 7}) as backend:
        await complete(backend, [Message("user", "hello", parts)], sampling)
    sent = server.requests[0]
    assert (sent["messages"], sent["tools"], sent["max_completion_tokens"], sent["seed"]) == ([parts], tools, 9, 7)
    assert not sent.keys() & {"temperature", "max_tokens"}


async def test_what_the_server_lacks_is_refused_before_it_is_asked(server):
    async with OpenAICompatibleBackend("cloud", server.url, "m", lacks=["tools"]) as backend:
        with pytest.raises(UnsupportedByBackend, match="cloud has no tools"):
            await complete(backend, ASK, Sampling(extra={"tools": [{}]}))
    assert not server.requests


async def test_tool_calls_come_beside_the_text_streamed_and_whole(server, backend):
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    streamed = {"index": 0, **call}
    server.script += [
        stream(chunk({"reasoning": "hm"}), chunk({"tool_calls": [streamed]}), chunk({}, "tool_calls")),
        raw(
            json.dumps(
                {"choices": [{"message": {"content": None, "tool_calls": [call]}, "finish_reason": "tool_calls"}]}
            ).encode(),
            content_type="application/json",
        ),
    ]
    for text in ("<think>hm</think>", ""):
        deltas = [delta async for delta in backend.stream(ASK, Sampling())]
        assert "".join(delta.text for delta in deltas) == text
        assert [delta.extra for delta in deltas if delta.extra] == [{"tool_calls": [streamed]}]
        assert deltas[-1].finish_reason == "tool_calls"


async def test_log_probabilities_arrive_as_tokens(server, backend):
    words = [
        {
            "token": "yes",
            "logprob": -0.1,
            "top_logprobs": [{"token": "yes", "logprob": -0.1}, {"token": "no", "logprob": -2}],
        },
        {"token": "�", "logprob": -3, "top_logprobs": [{"token": "�", "logprob": -3}, {"token": "�", "logprob": -4}]},
    ]
    server.script.append(stream(chunk({"content": "yes"}, logprobs={"content": words}), chunk({}, "stop")))
    answer = await complete(backend, ASK, Sampling(top_logprobs=2))
    assert answer.tokens == (Token("yes", -0.1, {"yes": -0.1, "no": -2}), Token("�", -3, {"�": -3}))


async def test_missing_log_probabilities_are_an_error(server, backend):
    server.script.append(stream(chunk({"content": "yes"}), chunk({}, "stop")))
    with pytest.raises(UnsupportedByBackend, match="no log-probabilities"):
        await complete(backend, ASK, Sampling(top_logprobs=0))


async def test_forbidden_text_is_not_supported(server, backend):
    with pytest.raises(UnsupportedByBackend, match="<unknown>"):
        await complete(backend, ASK, Sampling(forbid=("<unknown>",)))
    assert not server.requests


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
async def test_reasoning_is_put_back_into_the_text(server, backend, field):
    server.script.append(
        stream(
            chunk({field: "let me "}), chunk({field: "think"}), chunk({"content": "4"}), chunk({"content": "2"}, "stop")
        )
    )
    assert (await complete(backend, ASK, Sampling())).text == "<think>let me think</think>42"


async def test_reasoning_without_an_answer_is_closed_unless_it_was_cut(server, backend):
    server.script += [stream(chunk({"reasoning": "hm"}, reason)) for reason in ("stop", "length")]
    assert (await complete(backend, ASK, Sampling())).text == "<think>hm</think>"
    assert (await complete(backend, ASK, Sampling())).text == "<think>hm"


async def test_a_server_that_does_not_stream_is_fine(server, backend):
    message = {"role": "assistant", "content": "whole", "reasoning_content": "why"}
    body = {
        "choices": [{"message": message, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 4, "completion_tokens": 2},
    }
    data = json.dumps(body, indent=1).encode()
    server.script.append(raw(data, pieces=5, content_type="application/json; charset=utf-8"))
    answer = await complete(backend, ASK, Sampling())
    assert (answer.text, answer.usage, answer.finish_reason) == ("<think>why</think>whole", Usage(4, 2), "length")


async def test_content_in_parts_is_joined(server, backend):
    server.script.append(stream(chunk({"content": [{"type": "text", "text": "a"}, {"text": "b"}]}, "stop")))
    assert (await complete(backend, ASK, Sampling())).text == "ab"


@pytest.mark.parametrize("pieces", [1, 3, 1000])
async def test_any_split_and_any_dialect_of_the_stream_is_read(server, backend, pieces):
    data = (
        ": waiting\r\n\r\n"
        'event: message\r\nid: 1\r\ndata:{"choices":[{"delta":{"content":"grüß"}}]}\r\n\r\n'
        'data: {"choices":[{"delta":{"content":" 😀"}}]}\n'
        'data: {"choices":[{"delta":{"content":null},"finish_reason":"stop"}]}'
    ).encode()
    server.script.append(raw(data, pieces=pieces))
    assert (await complete(backend, ASK, Sampling())).text == "grüß 😀"


async def test_done_is_an_end_without_a_reason_and_its_rest_is_ignored(server, backend):
    server.script.append(raw(sse(chunk({"content": "hi"})) + b"data: [DONE]\n\nwhatever\n\n"))
    answer = await complete(backend, ASK, Sampling())
    assert (answer.text, answer.finish_reason) == ("hi", "stop")


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (raw(b"data: {not json}\n\n"), "a malformed event: {not json}"),
        (raw(b"data: [1]\n\n"), "a malformed event"),
        (raw(b"data: " + b"[" * 20_000 + b"\n\n"), "a malformed event"),
        (raw(sse({"choices": {"a": 1}})), "a malformed event"),
        (raw(sse({"choices": [None]})), "a malformed event"),
        (raw(sse(chunk({"content": "x"}, logprobs={"content": [{"token": "x"}]}))), "a malformed event"),
        (raw(b"<!doctype html>\n<p>hi", content_type="text/html"), "not a stream of events, check base_url: <!doctype"),
        (raw(b"not json", content_type="application/json"), "a malformed event: not json"),
        (raw(sse({"error": {"message": "model crashed"}})), "the server reported an error: model crashed"),
        (raw(b'{"error": "overloaded"}\n'), "the server reported an error: overloaded"),
        (raw(b""), "ended unfinished after 0 characters"),
        (stream(chunk({"content": "12345"}), done=False), "ended unfinished after 5 characters"),
        (cut(chunk({"content": "12345"})), "cut off after 5 characters"),
        (cut(), "cut off after 0 characters"),
    ],
)
async def test_a_broken_answer_says_what_happened(server, behaviour, message):
    server.script.append(behaviour)
    async with OpenAICompatibleBackend("cloud", server.url, "m", timeout_s=5, max_retries=0) as backend:
        with pytest.raises(BackendUnavailable) as caught:
            await complete(backend, ASK, Sampling())
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"cloud: {server.url}: ") and "\n" not in str(caught.value)
    assert caught.value.backend == "cloud" and caught.value.retryable


async def test_a_refused_connection_is_unavailable():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with OpenAICompatibleBackend("cloud", f"http://127.0.0.1:{port}/v1", "m", max_retries=0) as backend:
        with pytest.raises(BackendUnavailable, match="is the server running"):
            await complete(backend, ASK, Sampling())


async def test_something_that_is_not_http_is_unavailable():
    async def babble(reader, writer):
        await reader.read(10)
        writer.write(b"SSH-2.0-babble\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(babble, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        async with OpenAICompatibleBackend("cloud", f"http://127.0.0.1:{port}/v1", "m", max_retries=0) as backend:
            with pytest.raises(BackendUnavailable, match="the request failed"):
                await complete(backend, ASK, Sampling())


async def test_a_slow_answer_times_out_in_time(server):
    server.script.append(silent(3))
    async with OpenAICompatibleBackend("cloud", server.url, "m", timeout_s=0.1) as backend:
        started = time.perf_counter()
        with pytest.raises(BackendTimeout, match=r"no whole answer within 0\.1 s") as caught:
            await complete(backend, ASK, Sampling())
    assert time.perf_counter() - started < 1
    assert caught.value.retryable and len(server.requests) == 1


async def test_an_answer_that_never_ends_times_out(server):
    server.script.append(endless)
    async with OpenAICompatibleBackend("cloud", server.url, "m", timeout_s=0.1) as backend:
        with pytest.raises(BackendTimeout):
            await complete(backend, ASK, Sampling())
        await asyncio.wait_for(server.disconnected.wait(), 2)


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("code", [408, 429, 500, 503])
async def test_what_may_pass_is_tried_again(server, backend, code):
    server.script += [status(code), cut(), raw(b'data: {"error": {"message": "overloaded"}}\n\n')]
    assert (await complete(backend, ASK, Sampling())).text == echo(ASK)
    assert len(server.requests) == 4


@pytest.mark.usefixtures("quick_retries")
async def test_it_gives_up_after_the_last_retry(server, backend):
    server.script += [status(500, {"error": {"message": "broken"}})] * 10
    with pytest.raises(BackendStatusError, match="HTTP 500: broken") as caught:
        await complete(backend, ASK, Sampling())
    assert caught.value.status_code == 500 and caught.value.retryable
    assert len(server.requests) == 4


@pytest.mark.parametrize("code", [301, 400, 401, 403, 404, 422])
async def test_what_will_not_pass_is_tried_once(server, backend, code):
    server.script.append(status(code, {"detail": "no such luck"}))
    with pytest.raises(BackendStatusError, match="no such luck") as caught:
        await complete(backend, ASK, Sampling())
    assert caught.value.status_code == code and not caught.value.retryable
    assert len(server.requests) == 1


@pytest.mark.usefixtures("quick_retries")
async def test_nothing_is_tried_again_after_the_first_text(server, backend):
    server.script.append(cut(chunk({"content": "half an"})))
    with pytest.raises(BackendUnavailable, match="cut off after 7 characters"):
        await complete(backend, ASK, Sampling())
    assert len(server.requests) == 1


async def test_retry_after_is_honoured(server, backend):
    server.script.append(status(429, Retry_After="0.3"))
    started = time.perf_counter()
    assert (await complete(backend, ASK, Sampling())).text == echo(ASK)
    assert time.perf_counter() - started >= 0.3


@pytest.mark.parametrize("wait", ["3600", pytest.param(formatdate(time.time() + 3600, usegmt=True), id="a date")])
async def test_a_pause_longer_than_the_time_limit_is_not_taken(server, backend, wait):
    server.script.append(status(429, Retry_After=wait))
    started = time.perf_counter()
    with pytest.raises(BackendStatusError, match="HTTP 429"):
        await complete(backend, ASK, Sampling())
    assert time.perf_counter() - started < 1 and len(server.requests) == 1


@given(st.text())
def test_any_retry_after_gives_a_pause_or_none(value):
    pause_s = openai_compatible._retry_after_s(value)
    assert pause_s is None or pause_s >= 0


def test_pauses_grow_and_differ():
    pauses = [[openai_compatible._backoff_s(attempt) for _ in range(50)] for attempt in range(6)]
    assert all(0.25 * 2**attempt <= pause <= 0.5 * 2**attempt for attempt in range(5) for pause in pauses[attempt])
    assert max(pauses[5]) <= 8 and len(set(pauses[0])) > 40


async def test_no_more_requests_are_in_flight_than_allowed(server):
    server.script += [silent(0.02)] * 9
    async with OpenAICompatibleBackend("cloud", server.url, "m", concurrency=3) as backend:
        answers = await complete_all(backend, [ASK] * 9, Sampling())
    assert [answer.text for answer in answers] == [echo(ASK)] * 9
    assert server.most_in_flight == 3


async def test_the_connection_is_used_again(server, backend):
    ports = set()
    handle = server.handle

    async def watch(request):
        ports.add(request.transport.get_extra_info("peername"))
        return await handle(request)

    server.server.app.router._resources[0]._routes["POST"]._handler = watch
    server.script += [stream(chunk({"content": "hi"}, "stop"), linger_s=0.02)] * 3
    for _ in range(3):
        await complete(backend, ASK, Sampling())
    assert len(ports) == 1


async def test_a_server_that_does_not_hang_up_does_not_hold_up_the_answer(server, backend):
    server.script.append(stream(chunk({"content": "hi"}, "stop"), linger_s=3))
    async with asyncio.timeout(1):
        assert (await complete(backend, ASK, Sampling())).text == "hi"


async def test_leaving_early_frees_the_place_and_the_server(server):
    server.script.append(endless)
    async with OpenAICompatibleBackend("cloud", server.url, "m", concurrency=1) as backend:
        async with aclosing(backend.stream(ASK, Sampling())) as deltas:
            assert (await anext(deltas)).sent
            assert (await anext(deltas)).text == "more "
        await asyncio.wait_for(server.disconnected.wait(), 2)
        assert (await complete(backend, ASK, Sampling())).text == echo(ASK)


async def test_a_closed_backend_opens_again(server, backend):
    await complete(backend, ASK, Sampling())
    await backend.aclose()
    await backend.aclose()
    assert (await complete(backend, ASK, Sampling())).text == echo(ASK)


# Keys


def everything_shown(error):
    """All that a log, a trace or a debugger would show of an error and of those behind it."""
    texts = ["".join(traceback.format_exception(error))]
    while error is not None:
        texts += [str(error), repr(error), repr(vars(error))]
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


@pytest.mark.parametrize(
    "behaviour",
    [
        status(401, {"error": {"message": f"Incorrect API key provided: {KEY}."}}),
        status(403, f"who is {KEY}"),
        status(500, "x" * 190 + KEY),
        raw(f"data: {'x' * 185}{KEY}\n\n".encode()),
        raw(sse({"error": {"message": f"bad key {KEY}"}})),
        raw(KEY.encode()),
        cut(),
        silent(1),
    ],
)
async def test_the_key_is_never_shown(server, monkeypatch, caplog, behaviour):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MY_CLOUD_KEY", KEY)
    server.script.append(behaviour)
    backend = OpenAICompatibleBackend(
        "cloud", server.url, "m", api_key_env="MY_CLOUD_KEY", max_retries=0, timeout_s=0.3
    )
    async with backend:
        with pytest.raises(SelfRouteError) as caught:
            await complete(backend, ASK, Sampling())
        assert server.headers[0]["Authorization"] == f"Bearer {KEY}"  # so that there is something to hide
        shown = everything_shown(caught.value) + repr(backend) + str(backend) + repr(vars(backend)) + caplog.text
    # Not even a piece of it, as a cut message might show.
    assert KEY[:12] not in shown


@pytest.mark.parametrize("code", [401, 403])
async def test_a_refused_key_names_the_variable(server, monkeypatch, code):
    monkeypatch.setenv("MY_CLOUD_KEY", KEY)
    server.script.append(status(code))
    async with OpenAICompatibleBackend("cloud", server.url, "m", api_key_env="MY_CLOUD_KEY") as backend:
        with pytest.raises(BackendStatusError, match="check the key in MY_CLOUD_KEY"):
            await complete(backend, ASK, Sampling())


async def test_a_missing_key_says_what_to_export():
    backend = OpenAICompatibleBackend("cloud", "https://api.example.com/v1", "m")
    with pytest.raises(ConfigError, match="export OPENAI_API_KEY="):
        await complete(backend, ASK, Sampling())


async def test_loopback_needs_no_key(server, backend):
    await complete(backend, ASK, Sampling())
    assert "Authorization" not in server.headers[0]


async def test_no_variable_sends_no_key(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    async with OpenAICompatibleBackend("cloud", server.url, "m", api_key_env=None) as backend:
        await complete(backend, ASK, Sampling())
    assert "Authorization" not in server.headers[0]


async def test_a_key_is_read_at_the_request_and_trimmed(server, backend, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    await complete(backend, ASK, Sampling())
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


async def test_a_key_that_cannot_be_a_header_is_refused_without_showing_it(backend, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\nX-Evil: 1")
    with pytest.raises(ConfigError, match="the key in OPENAI_API_KEY") as caught:
        await complete(backend, ASK, Sampling())
    assert KEY not in everything_shown(caught.value)


def test_a_key_in_place_of_the_variable_is_refused_without_showing_it():
    with pytest.raises(ConfigError, match="not be the key itself") as caught:
        OpenAICompatibleBackend("cloud", "https://api.example.com/v1", "m", api_key_env=KEY)
    assert KEY not in str(caught.value)


def test_a_key_in_the_address_is_refused_without_showing_it():
    with pytest.raises(ConfigError, match="user or password") as caught:
        OpenAICompatibleBackend("cloud", f"https://user:{KEY}@api.example.com/v1", "m")
    assert KEY not in everything_shown(caught.value)


# Arguments


@pytest.mark.parametrize(
    "base_url", ["", "api.example.com/v1", "ftp://api.example.com", "http://", None, "http://[::1"]
)
def test_an_address_that_is_none_is_refused(base_url):
    with pytest.raises(ConfigError, match="base_url is"):
        OpenAICompatibleBackend("cloud", base_url, "m")


@pytest.mark.parametrize(
    "options",
    [
        {"timeout_s": 0},
        {"timeout_s": float("inf")},
        {"timeout_s": "60"},
        {"connect_timeout_s": -1},
        {"max_retries": -1},
        {"concurrency": 0},
        {"concurrency": True},
        {"extra_body": {"x": object()}},
    ],
)
def test_a_wrong_option_is_named(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        OpenAICompatibleBackend("cloud", "http://127.0.0.1/v1", "m", **options)


@pytest.mark.parametrize("base_url", ["http://h/v1", "http://h/v1/", "http://h/v1/chat/completions", "http://h/v1?a=b"])
def test_addresses_are_understood(base_url):
    backend = OpenAICompatibleBackend("cloud", base_url, "m")
    assert backend.base_url == "http://h/v1"
    assert str(backend._url).startswith("http://h/v1/chat/completions")


def test_what_changes_the_model_changes_its_identity():
    identities = {
        OpenAICompatibleBackend("cloud", url, model, extra_body=extra).identity
        for url in ("http://a/v1", "http://b/v1")
        for model in ("m", "n")
        for extra in (None, {"reasoning_effort": "low"})
    }
    assert len(identities) == 8


def test_a_proxy_of_the_environment_is_used_but_not_for_loopback(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "internal.example.com")
    urls = [
        "https://api.example.com/v1",
        "https://internal.example.com/v1",
        "http://localhost/v1",
        "http://127.0.0.2/v1",
    ]
    proxies = [openai_compatible._proxy(openai_compatible._endpoint(url)) for url in urls]
    assert proxies == ["http://proxy:3128", None, None, None]


async def test_own_headers_are_sent_and_their_values_shown_nowhere(server, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("ORG_KEY", KEY)
    options = {"api_key_env": None, "headers": {"X-Title": "my app"}, "headers_env": {"X-Org-Key": "ORG_KEY"}}
    server.script.append(status(403, {"error": {"message": f"{KEY} may not"}}))
    async with OpenAICompatibleBackend("cloud", server.url, "m", max_retries=0, **options) as backend:
        with pytest.raises(BackendStatusError) as caught:
            await complete(backend, ASK, Sampling())
        await complete(backend, ASK, Sampling())
        shown = everything_shown(caught.value) + repr(backend) + repr(vars(backend)) + caplog.text
    assert [headers.get("X-Title") for headers in server.headers] == ["my app", "my app"]
    assert [headers.get("X-Org-Key") for headers in server.headers] == [KEY, KEY]
    assert KEY not in shown and "my app" not in repr(backend)
    assert "X-Title=***, X-Org-Key=***" in repr(backend)


async def test_an_own_header_may_stand_in_for_the_key(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    monkeypatch.setenv("BASIC", "Basic abc")
    options = {"headers_env": {"authorization": "BASIC"}}
    async with OpenAICompatibleBackend("cloud", server.url, "m", **options) as backend:
        await complete(backend, ASK, Sampling())
    assert [v for k, v in server.headers[-1].items() if k.lower() == "authorization"] == ["Basic abc"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"headers": {"x y": "1"}}, "headers: 'x y' is no header that can be set; write e.g. X-Title"),
        ({"headers": {"Host": "elsewhere"}}, "headers: 'Host' is no header that can be set; write e.g. X-Title"),
        ({"headers": {"X-A": "a\r\nX-B: b"}}, "headers.X-A: its value holds characters that no header has"),
        ({"headers_env": {"X-A": KEY}}, "headers_env.X-A is not the name of an environment variable; it must not be"),
    ],
)
def test_a_header_that_cannot_be_sent_is_named(options, message):
    with pytest.raises(ConfigError) as caught:
        OpenAICompatibleBackend("cloud", "http://127.0.0.1:1/v1", "m", **options)
    assert message in str(caught.value) and KEY not in str(caught.value)


def test_a_header_without_its_value_is_named_before_the_first_request(monkeypatch):
    monkeypatch.delenv("ORG_KEY", raising=False)
    options = {"api_key_env": None, "headers_env": {"X-Org-Key": "ORG_KEY"}}
    with pytest.raises(ConfigError, match="cloud: no value for the header X-Org-Key; export ORG_KEY=…"):
        OpenAICompatibleBackend("cloud", "https://api.example.com/v1", "m", **options).check()

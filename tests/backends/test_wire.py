"""What servers on the other side of an OpenAI-compatible endpoint really send: every dress, and what it costs."""

import json

import pytest
from tests.backends.chat_server import ChatServer, chunk, cut, raw, status, stream

from selfroute.backends import openai_compatible
from selfroute.backends.base import complete
from selfroute.backends.openai_compatible import OpenAICompatibleBackend
from selfroute.errors import BackendStatusError, BackendUnavailable, ContextLengthExceeded
from selfroute.prices import Price
from selfroute.types import Message, Sampling, Usage

ASK = [Message("user", "hello")]
ANSWER = [chunk({"role": "assistant", "content": ""}), chunk({"content": "hé "}), chunk({"content": "you"}, "stop")]
TEXT = "hé you"


@pytest.fixture
async def server():
    async with ChatServer() as running:
        yield running


@pytest.fixture
async def backend(server, monkeypatch):
    monkeypatch.setattr(openai_compatible, "_BACKOFF_S", 0.001)
    async with OpenAICompatibleBackend("cloud", server.url, "big-model", timeout_s=5) as open_backend:
        yield open_backend


def written(event):
    return json.dumps(event, ensure_ascii=False)


def dressed(end="\n", *, before="", between="", indent=None):
    """The answer as bytes, with these line ends, and with lines before it and between its events."""
    lines = [before] if before else []
    for event in ANSWER:
        text = json.dumps(event, indent=indent, ensure_ascii=False)
        lines += [f"data: {line}" for line in text.split("\n")] + ["", *([between, ""] if between else [])]
    return (end.join([*lines, "data: [DONE]", "", ""])).encode()


DRESSES = {
    "carriage returns": dressed("\r"),
    "both line ends": dressed("\r\n"),
    "a byte order mark": b"\xef\xbb\xbf" + dressed(),
    "several data lines": dressed(indent=1),
    "comments": dressed(before=": hello\n", between=": keep-alive"),
    "pings that are no JSON": dressed(before="event: ping\ndata: ping\n", between="event: ping\ndata: now"),
    "named events": b"".join(
        b"event: chat.completion.chunk\nid: 7\nretry: 3\ndata:" + written(event).encode() + b"\n\n" for event in ANSWER
    ),
    "no empty lines": b"".join(b"data: " + written(event).encode() + b"\n" for event in ANSWER),
}


@pytest.mark.parametrize("pieces", [1, 7, 400])
@pytest.mark.parametrize("dress", DRESSES)
async def test_every_form_of_the_standard_and_of_servers_is_read(server, backend, dress, pieces):
    server.script.append(raw(DRESSES[dress], pieces=pieces))
    answer = await complete(backend, ASK, Sampling())
    assert (answer.text, answer.finish_reason, len(server.requests)) == (TEXT, "stop", 1)


@pytest.mark.parametrize("content_type", ["application/octet-stream", "text/plain"])
async def test_a_wrong_content_type_is_no_hindrance(server, backend, content_type):
    server.script.append(raw(dressed(), content_type=content_type))
    assert (await complete(backend, ASK, Sampling())).text == TEXT


ERRORS = {
    "an error event": b'event: error\ndata: {"message": "overloaded"}\n\n',
    "an error object": b'data: {"error": {"message": "overloaded"}}\n\n',
    "an error object by itself": b'{"error": {"message": "overloaded"}}\n\n',
    "a finish reason": b"data: " + json.dumps(chunk({}, "error")).encode() + b"\n\ndata: [DONE]\n\n",
}


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("dress", ERRORS)
async def test_an_error_inside_a_stream_never_ends_as_an_answer(server, backend, dress, begun):
    written_before = b"data: " + json.dumps(ANSWER[1]).encode() + b"\n\n" if begun else b""
    server.script += [raw(written_before + ERRORS[dress])] * 9
    with pytest.raises(BackendUnavailable, match=r"reported an error"):
        await complete(backend, ASK, Sampling())


PAID = {
    "unreadable": raw(b"data: {oops\n\n"),
    "a piece without text, and a cut": cut(ANSWER[0]),
    "no end": stream(ANSWER[0], done=False),
    "something else": raw(b'data: "hello"\n\n'),
}
UNPAID = {
    "nothing": raw(b""),
    "a cut at once": cut(),
    "an error": raw(ERRORS["an error event"]),
    "a busy server": status(503),
}


@pytest.mark.parametrize("behaviour", PAID.values(), ids=PAID)
async def test_what_has_been_written_is_paid_once(server, backend, behaviour):
    server.script += [behaviour] * 9
    seen = []
    with pytest.raises(BackendUnavailable):
        async for delta in backend.stream(ASK, Sampling()):
            seen.append(delta.sent)
    assert seen[:1] == [True] and False in seen  # a reader can tell that something came
    assert len(server.requests) == 1


@pytest.mark.parametrize("behaviour", UNPAID.values(), ids=UNPAID)
async def test_what_has_not_been_written_is_asked_for_again(server, backend, behaviour):
    server.script += [behaviour, stream(*ANSWER)]
    seen = [delta async for delta in backend.stream(ASK, Sampling())]
    assert "".join(delta.text for delta in seen) == TEXT and len(server.requests) == 2


QUOTA = {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}


async def test_a_quota_that_is_used_up_is_not_tried_again(server, backend):
    server.script += [status(429, QUOTA)] * 9
    with pytest.raises(BackendStatusError, match="quota") as caught:
        await complete(backend, ASK, Sampling())
    assert len(server.requests) == 1 and not caught.value.retryable


OVERFLOWS = [
    (400, {"error": {"message": "too long", "code": "context_length_exceeded"}}),
    (400, {"error": {"message": "This model's maximum context length is 8192 tokens."}}),
    (
        400,
        {"error": {"type": "exceed_context_size_error", "message": "it exceeds the available context size"}},
    ),
    (413, {"error": {"message": "prompt is too long: 250000 tokens > 200000 maximum"}}),
    (422, {"detail": "Input has too many tokens"}),
]


@pytest.mark.parametrize(("code", "body"), OVERFLOWS)
async def test_a_conversation_that_does_not_fit_is_named_so(server, backend, code, body):
    server.script.append(status(code, body))
    with pytest.raises(ContextLengthExceeded):
        await complete(backend, ASK, Sampling())
    assert len(server.requests) == 1


async def test_another_bad_request_is_not(server, backend):
    server.script.append(status(400, {"error": {"message": "temperature must be below 2"}}))
    with pytest.raises(BackendStatusError):
        await complete(backend, ASK, Sampling())


def call(name, arguments, *, id=None, **index):
    function = {"arguments": arguments, **({"name": name} if name else {})}
    return {"function": function, **({"id": id, "type": "function"} if id else {}), **index}


TWO_CALLS = {
    "their own indexes": [call("a", "1", id="x", index=0), call("b", "2", id="y", index=1), call("", "3", index=1)],
    "always 0": [call("a", "1", id="x", index=0), call("b", "2", id="y", index=0), call("", "3", id="y", index=0)],
    "null": [call("a", "1", id="x", index=None), call("b", "2", id="y", index=None), call("", "3", index=None)],
    "none": [call("a", "1", id="x"), call("b", "2", id="y"), call("", "3")],
}


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("indexes", TWO_CALLS)
async def test_parallel_tool_calls_stay_apart(server, backend, indexes, together):
    *first, last = TWO_CALLS[indexes]
    deltas = [first, [last]] if together else [[each] for each in TWO_CALLS[indexes]]
    events = [chunk({"tool_calls": calls}) for calls in deltas]
    server.script.append(stream(*events, chunk({}, "tool_calls")))
    seen = [each async for each in backend.stream(ASK, Sampling())]
    calls = [each for delta in seen if delta.extra for each in delta.extra["tool_calls"]]
    arguments = {}
    for each in calls:
        arguments[each["index"]] = arguments.get(each["index"], "") + each["function"]["arguments"]
    assert arguments == {0: "1", 1: "23"}


async def test_cached_and_reasoning_tokens_are_kept_and_priced(server, backend):
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "prompt_tokens_details": {"cached_tokens": 80},
        "completion_tokens_details": {"reasoning_tokens": 30},
    }
    server.script.append(stream(*ANSWER, {"choices": [], "usage": usage}))
    used = (await complete(backend, ASK, Sampling())).usage
    assert used == Usage(100, 50, cached_tokens=80, reasoning_tokens=30)
    plain = Price(prompt_usd=1, completion_usd=10)
    assert plain.cost_usd(used) == pytest.approx((100 + 500) / 1e6)
    own = Price(prompt_usd=1, completion_usd=10, cached_prompt_usd=0.1, reasoning_usd=5)
    assert own.cost_usd(used) == pytest.approx((20 + 8 + 200 + 150) / 1e6)


@pytest.mark.parametrize("details", [None, 7, {}, *({"cached_tokens": it} for it in (None, -1, "1"))])
async def test_strange_details_count_as_none(server, backend, details):
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": details}
    server.script.append(stream(*ANSWER, {"choices": [], "usage": usage}))
    assert (await complete(backend, ASK, Sampling())).usage == Usage(3, 2)

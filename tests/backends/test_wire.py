"""What servers on the other side of an OpenAI-compatible endpoint really send: every dress, and what it costs."""

import asyncio
import json

import pytest
from tests.backends.chat_server import ChatServer, chunk, cut, raw, respond, status, stream

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
    "no data fields": b"".join(written(event).encode() + b"\n" for event in ANSWER),
    "fields that nobody knows": dressed(before="x-served-by: 7", between="took: 3ms"),
}


@pytest.mark.parametrize("pieces", [1, 7, 400])
@pytest.mark.parametrize("dress", DRESSES)
async def test_every_form_of_the_standard_and_of_servers_is_read(server, backend, dress, pieces):
    server.script.append(raw(DRESSES[dress], pieces=pieces))
    answer = await complete(backend, ASK, Sampling())
    assert (answer.text, answer.finish_reason, len(server.requests)) == (TEXT, "stop", 1)


WHOLE = {"choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}]}


@pytest.mark.parametrize("content_type", ["application/octet-stream", "text/plain", "application/json"])
@pytest.mark.parametrize(
    "body",
    [dressed(), json.dumps(WHOLE).encode(), json.dumps(WHOLE, indent=2).encode()],
    ids=["stream", "whole", "lines"],
)
async def test_a_wrong_content_type_is_no_hindrance(server, backend, content_type, body):
    server.script.append(raw(body, content_type=content_type))
    assert (await complete(backend, ASK, Sampling())).text == TEXT


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n"])
async def test_what_has_come_is_there_at_once_and_the_end_is_not_waited_for(server, backend, end):
    """A server that leaves out empty lines, and keeps its connection open when all is said."""
    go = asyncio.Event()

    async def behave(server, request, body):
        response = await respond(request)
        for event in ANSWER[:2]:
            await response.write(b"data: " + written(event).encode() + b"\n")
        await go.wait()
        await response.write(b"data: " + written(ANSWER[2]).encode() + b"\ndata: [DONE]" + end)
        await asyncio.sleep(30)
        return response

    server.script.append(behave)
    async with asyncio.timeout(3):
        seen = []
        async for delta in backend.stream(ASK, Sampling()):
            seen.append(delta.text)
            if delta.text == "hé ":
                go.set()
    assert "".join(seen) == TEXT


@pytest.mark.parametrize("reason", ["stop", "length"])
async def test_an_answer_that_has_ended_is_whole_though_the_connection_is_cut(server, backend, reason):
    server.script.append(cut(*ANSWER[:2], chunk({}, reason)))
    answer = await complete(backend, ASK, Sampling())
    assert (answer.text, answer.finish_reason, len(server.requests)) == ("hé ", reason, 1)


ERRORS = {
    "an error event": b'event: error\ndata: {"message": "overloaded"}\n\n',
    "an error object": b'data: {"error": {"message": "overloaded"}}\n\n',
    "an error object by itself": b'{"error": {"message": "overloaded"}}\n\n',
    "an error over lines by itself": b'{\n  "error": {\n    "message": "overloaded"\n  }\n}\n',
    "an error that is text": b'data: {"error": "overloaded"}\n\ndata: [DONE]\n\n',
    "an error event of text": b"event: error\ndata: overloaded\n\n",
    "an error of vLLM": b'data: {"object": "error", "message": "overloaded", "code": 500}\n\ndata: [DONE]\n\n',
    "an error of a framework": b'data: {"detail": "overloaded"}\n\ndata: [DONE]\n\n',
    "an error of a choice": b'data: {"choices": [{"delta": {}, "error": {"message": "overloaded"}}]}\n\n',
    "an error beside no choice": b'data: {"choices": [], "error": {"message": "overloaded"}}\n\ndata: [DONE]\n\n',
    "an error behind the end": b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n'
    b'data: {"error": {"message": "overloaded"}}\n\n',
    "an answer given up": b'data: {"choices": [{"delta": {}, "finish_reason": "abort"}]}\n\ndata: [DONE]\n\n',
    "a finish reason": b"data: " + json.dumps(chunk({}, "error")).encode() + b"\n\ndata: [DONE]\n\n",
}


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("dress", ERRORS)
async def test_an_error_inside_a_stream_never_ends_as_an_answer(server, backend, dress, begun):
    written_before = b"data: " + json.dumps(ANSWER[1]).encode() + b"\n\n" if begun else b""
    server.script += [raw(written_before + ERRORS[dress])] * 9
    with pytest.raises(BackendUnavailable, match=r"reported an error"):
        await complete(backend, ASK, Sampling())


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"message": "overloaded"}}',
        b'{"error": "overloaded"}',
        b'{"detail": "overloaded"}',
        b'{\n "object": "error",\n "message": "overloaded"\n}',
    ],
)
@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream", "text/html"])
async def test_an_error_in_place_of_an_answer_is_one_whatever_its_status_says(server, backend, body, content_type):
    server.script += [raw(body, content_type=content_type)] * 9
    with pytest.raises(BackendUnavailable, match="overloaded"):
        await complete(backend, ASK, Sampling())


@pytest.mark.parametrize("body", [b"data: [DONE]\n\n", b'data: {"choices": []}\n\ndata: [DONE]\n\n', b"{}"])
async def test_an_end_without_an_answer_is_none(server, backend, body):
    server.script += [raw(body)] * 9
    with pytest.raises(BackendUnavailable, match="unfinished"):
        await complete(backend, ASK, Sampling())


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("stop", "stop"),
        ("eos", "stop"),
        ("end_turn", "stop"),
        ("STOP", "stop"),
        ("something new", "stop"),
        (7, "stop"),
        ("max_tokens", "length"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("tool_use", "tool_calls"),
        ("", "stop"),
        (None, "stop"),
    ],
)
async def test_why_an_answer_ended_is_said_in_one_language(server, backend, said, reason):
    server.script.append(stream(chunk({"content": "x"}), chunk({}, said)))
    assert (await complete(backend, ASK, Sampling())).finish_reason == reason


async def test_an_answer_that_calls_functions_ends_so(server, backend):
    server.script.append(stream(chunk({"tool_calls": [call("a", "{}", id="x", index=0)]}), chunk({}, "stop")))
    assert (await complete(backend, ASK, Sampling())).finish_reason == "tool_calls"


USED = {"prompt_tokens": 7, "completion_tokens": 2}


@pytest.mark.parametrize(
    "events",
    [
        [*ANSWER, {"choices": [], "usage": USED}],
        [*ANSWER, {"usage": USED}],
        [*ANSWER[:2], ANSWER[2] | {"usage": USED}],
        [each | {"usage": {**USED, "completion_tokens": at}} for at, each in enumerate(ANSWER)],
        [ANSWER[0] | {"usage": USED}, *ANSWER[1:]],
        [*ANSWER[:2], ANSWER[2] | {"usage": USED}, {"choices": [], "usage": dict.fromkeys(USED, 0)}],
        [*ANSWER[:2], ANSWER[2] | {"usage": USED}, {"choices": [], "usage": None}],
        [*ANSWER[:2], chunk({"content": "you"}, "stop", usage=USED)],
        [*ANSWER, {"choices": [], "usage": {"input_tokens": 7, "output_tokens": 2}}],
        [*ANSWER, {"choices": [], "usage": {"prompt_tokens": 7.0, "completion_tokens": 2.0}}],
    ],
    ids=["alone", "bare", "last", "every", "first", "zeros behind", "null behind", "in the choice", "other", "floats"],
)  # fmt: skip
async def test_usage_is_found_wherever_it_stands(server, backend, events):
    server.script.append(stream(*events))
    answer = await complete(backend, ASK, Sampling())
    assert (answer.text, answer.usage) == (TEXT, Usage(7, 2))


@pytest.mark.parametrize("count", [-5, True, "9", None, 0, float("nan"), 1e400, [1]])
async def test_counts_that_are_none_are_estimated(server, backend, count):
    server.script.append(
        stream(*ANSWER, {"choices": [], "usage": {"prompt_tokens": count, "completion_tokens": count}})
    )
    assert (await complete(backend, ASK, Sampling())).usage == Usage(2, 2)


async def test_a_count_that_no_ledger_could_book_is_cut_down(server, backend):
    server.script.append(stream(*ANSWER, {"choices": [], "usage": {"prompt_tokens": 10**30, "completion_tokens": 1}}))
    assert (await complete(backend, ASK, Sampling())).usage == Usage(2**53, 1)


THOUGHTS = {
    "reasoning_content": {"reasoning_content": "hm"},
    "reasoning": {"reasoning": "hm"},
    "thinking": {"thinking": "hm"},
    "two names": {"reasoning_content": "hm", "reasoning": "hm"},
    "an empty name": {"reasoning_content": "", "reasoning": "hm"},
    "with details": {"reasoning": "hm", "reasoning_details": []},
    "parts": {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]},
    "tags": {"content": "<think>hm</think>"},
}


@pytest.mark.parametrize("thought", THOUGHTS.values(), ids=THOUGHTS)
@pytest.mark.parametrize(
    "answer", ["four", [{"type": "text", "text": "four"}], ["four"]], ids=["text", "parts", "texts"]
)
async def test_thoughts_have_many_names(server, backend, thought, answer):
    server.script.append(stream(chunk(thought), chunk({"content": answer}), chunk({}, "stop")))
    assert (await complete(backend, ASK, Sampling())).text == "<think>hm</think>four"


async def test_a_last_chunk_that_holds_the_whole_message_again_says_nothing_new(server, backend):
    again = {"choices": [{"delta": {}, "message": {"content": TEXT}, "finish_reason": "stop"}]}
    server.script.append(stream(*ANSWER[:2], chunk({"content": "you"}), again))
    assert (await complete(backend, ASK, Sampling())).text == TEXT


HALVES = {
    "two deltas": (["a\ud83d", "\ude00b"], "a😀b"),
    "three deltas": (["\ud83d", "", "\ude00"], "😀"),
    "never completed": (["a\ud83d"], "a\ufffd"),
    "not completed by the next": (["a\ud83d", "b"], "a\ufffdb"),
    "a second half alone": (["\ude00b"], "\ufffdb"),
    "two first halves": (["\ud83d", "\ud83d", "\ude00"], "\ufffd😀"),
}


@pytest.mark.parametrize("pieces", HALVES.values(), ids=HALVES)
@pytest.mark.parametrize("field", ["content", "reasoning_content"])
async def test_halves_of_characters_are_joined_or_replaced(server, backend, field, pieces):
    written, text = pieces
    server.script.append(stream(*(chunk({field: piece}) for piece in written), chunk({}, "stop")))
    said = (await complete(backend, ASK, Sampling())).text
    assert said == (text if field == "content" else f"<think>{text}</think>")


async def test_a_thought_that_ends_in_half_a_character_ends_before_the_answer(server, backend):
    server.script.append(stream(chunk({"reasoning": "\ud83d"}), chunk({"content": "\ude00 four"}, "stop")))
    assert (await complete(backend, ASK, Sampling())).text == "<think>\ufffd</think>\ufffd four"


@pytest.mark.parametrize("pieces", HALVES.values(), ids=HALVES)
async def test_halves_in_arguments_and_refusals_too(server, backend, pieces):
    written, text = pieces
    calls = [[call("f", "", id="x", index=0), call("g", "", id="y", index=1)]]
    calls += [[call("", piece, index=0), call("", piece, index=1)] for piece in written]
    server.script.append(stream(*(chunk({"tool_calls": each}) for each in calls), chunk({}, "tool_calls")))
    server.script.append(stream(*(chunk({"refusal": piece}) for piece in written), chunk({}, "stop")))
    arguments = {0: "", 1: ""}
    async for delta in backend.stream(ASK, Sampling()):
        for each in delta.extra.get("tool_calls", ()):
            arguments[each["index"]] += each["function"]["arguments"]
    refusal = [delta.extra.get("refusal", "") async for delta in backend.stream(ASK, Sampling())]
    assert arguments == {0: text, 1: text} and "".join(refusal) == text


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

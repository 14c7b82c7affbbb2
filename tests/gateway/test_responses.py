"""`/v1/responses` for text, as the official client sees it."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from tests.backends.chat_server import ChatServer, chunk, cut, stream
from tests.gateway.live import CLOUD_TEXT, EASY, HARD, Live, device_fn, gateway, service

from selfroute.backends.openai_compatible import OpenAICompatibleBackend


def test_a_whole_answer(pair: Live) -> None:
    with pair.client() as client:
        answer = client.responses.create(model="m", input=HARD, metadata={"a": "b"})
    assert answer.output_text == CLOUD_TEXT
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert (answer.status, answer.metadata, answer.store) == ("completed", {"a": "b"}, False)
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens > 0
    assert answer.selfroute["reason"] == "hand-off"


async def test_events_in_their_order(pair: Live) -> None:
    async with pair.async_client() as client:
        events = [event async for event in await client.responses.create(model="m", input=HARD, stream=True)]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events if not event.type.endswith(".delta")]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == CLOUD_TEXT == events[-1].response.output_text
    assert events[-1].response.selfroute["source"] == "cloud"


def test_the_clients_own_stream_helper_understands_it(pair: Live) -> None:
    with pair.client() as client, client.responses.stream(model="m", input=EASY) as streamed:
        assert streamed.get_final_response().output_text == "four, says the device"


def test_instructions_history_and_length() -> None:
    seen: list[Any] = []

    def device(messages: Any, sampling: Any) -> str:
        seen.append((messages, sampling))
        return "one two three"

    with gateway(service(device)) as live, live.client() as client:
        answer = client.responses.create(
            model="m",
            instructions="be brief",
            max_output_tokens=2,
            input=[
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": [{"type": "output_text", "text": "b"}]},
                {"role": "user", "content": [{"type": "input_text", "text": "c"}]},
            ],
        )
    messages, sampling = seen[0]
    assert [(m.role, m.content) for m in messages[1:]] == [("user", "a"), ("assistant", "b"), ("user", "c")]
    assert messages[0].content.endswith("be brief") and sampling.max_tokens == 2
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (answer.output[0].status, answer.output_text, answer.temperature) == ("incomplete", "one two", None)


async def test_schema_and_image_go_to_the_cloud_in_chats_form() -> None:
    async with ChatServer() as cloud:
        cloud.script.append(stream(chunk({"content": "{}"}, "stop")))
        backend = OpenAICompatibleBackend("large", cloud.url, "m")
        with gateway(service(device_fn, backend)) as live:
            async with live.async_client() as client:
                await client.responses.create(
                    model="m",
                    input=[{"role": "user", "content": [{"type": "input_image", "image_url": "data:,x"}]}],
                    text={"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
                    reasoning={"effort": "low"},
                )
    (sent,) = cloud.requests
    assert sent["messages"][0]["content"] == [{"type": "image_url", "image_url": {"url": "data:,x"}}]
    assert sent["response_format"]["json_schema"] == {"name": "n", "schema": {"type": "object"}}
    assert sent["reasoning_effort"] == "low"


async def test_a_stream_that_breaks_off_ends_in_failed() -> None:
    async with ChatServer() as cloud:
        cloud.script.append(cut(chunk({"content": "half"})))
        backend = OpenAICompatibleBackend("large", cloud.url, "m", max_retries=0)
        with gateway(service(device_fn, backend)) as live:
            async with live.async_client() as client:
                events = [event async for event in await client.responses.create(model="m", input=HARD, stream=True)]
    assert events[-1].type == "response.failed" and "broke off" in events[-1].response.error.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": 5}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0]"),
        ({"instructions": 5}, "instructions"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"background": True}, "background"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"text": "plain"}, "text"),
        ({"top_logprobs": 3}, "top_logprobs"),
    ],
)
def test_what_it_cannot_do_is_named(pair: Live, fields: dict[str, Any], param: str) -> None:
    with pair.client() as client, pytest.raises(openai.BadRequestError) as caught:
        client.post("/responses", cast_to=object, body={"model": "m", "input": "x", **fields})
    assert caught.value.param == param
    if "reference" in str(fields) or param == "previous_response_id":
        assert "store: false" in str(caught.value)

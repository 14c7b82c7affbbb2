"""`/v1/chat/completions` as the official client sees it, sync and async, whole and streamed."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from tests.gateway.live import CLOUD_TEXT, DEVICE_TEXT, EASY, HARD, Live, ask, gateway, logprob_device, service

from selfroute.types import Completion, Message, Usage


def said(chunks: list[Any], field: str = "content", index: int = 0) -> str:
    return "".join(
        getattr(choice.delta, field, None) or ""
        for chunk in chunks
        for choice in chunk.choices
        if choice.index == index
    )


def test_a_whole_answer_says_who_why_and_how_much(pair: Live) -> None:
    with pair.client() as client:
        easy, hard = (client.chat.completions.create(**ask(question)) for question in (EASY, HARD))
    message = easy.choices[0].message
    assert (message.role, message.content, message.reasoning_content) == (
        "assistant",
        "four, says the device",
        "that is simple",
    )
    assert easy.choices[0].finish_reason == "stop"
    assert (easy.selfroute["source"], easy.selfroute["reason"]) == ("device", "answered")
    assert hard.choices[0].message.content == CLOUD_TEXT
    assert (hard.selfroute["source"], hard.selfroute["reason"]) == ("cloud", "hand-off")
    both = [hard.selfroute[side]["completion_tokens"] for side in ("device", "cloud")]
    assert all(both) and hard.usage.completion_tokens == sum(both)
    assert hard.selfroute["cost_usd"] == pytest.approx((both[0] + 15 * both[1] + 3 * 3) / 1e6)


def test_the_headers_agree_with_the_body(pair: Live) -> None:
    with pair.client() as client:
        raw = client.chat.completions.with_raw_response.create(**ask(HARD))
    about = raw.parse().selfroute
    assert raw.headers["x-selfroute-source"] == about["source"] == "cloud"
    assert raw.headers["x-selfroute-reason"] == about["reason"] == "hand-off"
    assert float(raw.headers["x-selfroute-cost-usd"]) == pytest.approx(about["cost_usd"], abs=1e-8)
    assert raw.headers["x-selfroute-trace-id"] == about["trace_id"] == raw.parse().id.removeprefix("chatcmpl-")


def test_a_hand_over_in_mid_stream(pair: Live) -> None:
    with pair.client() as client:
        chunks = list(client.chat.completions.create(**ask(HARD), stream=True, stream_options={"include_usage": True}))
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert [bool(choice.delta.role) for choice in choices] == [True] + [False] * (len(choices) - 1)
    assert said(chunks) == CLOUD_TEXT
    assert said(chunks, "reasoning_content") == "no idea"
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
    assert [bool(chunk.usage) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].choices == [] and chunks[-1].selfroute["source"] == "cloud"
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_pair_for_single_questions_sees_the_last_one_alone() -> None:
    seen: list[list[Message]] = []

    def device(messages: Any, sampling: Any) -> str:
        seen.append(list(messages))
        return DEVICE_TEXT

    turns = [("system", "be brief"), ("user", "first"), ("assistant", "1"), ("user", "second")]
    body = ask("") | {"messages": [{"role": role, "content": text} for role, text in turns]}
    for last in (False, True):
        with gateway(service(device, last_turn=last)) as live, live.client() as client:
            client.chat.completions.create(**body)
    whole, alone = ([(m.role, m.content) for m in messages if m.role != "system"] for messages in seen)
    assert whole == turns[1:] and alone == turns[-1:]
    assert all("be brief" in messages[0].content for messages in seen)


async def test_the_async_client_streams_the_same(pair: Live) -> None:
    async with pair.async_client() as client:
        stream = await client.chat.completions.create(**ask(EASY), stream=True)
        chunks = [chunk async for chunk in stream]
        whole = await client.chat.completions.create(**ask(EASY))
    assert said(chunks) == whole.choices[0].message.content == "four, says the device"
    assert said(chunks, "reasoning_content") == whole.choices[0].message.reasoning_content
    assert not any(chunk.usage for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].selfroute["source"] == "device"


async def test_many_at_once_are_kept_apart() -> None:
    async def echo(messages: Any, sampling: Any) -> str:
        await asyncio.sleep(0.001)
        return f"<answer>{messages[-1].content}</answer>"

    with gateway(service(echo)) as live:
        async with live.async_client() as client:
            asked = [f"question {i}" for i in range(40)]
            answers = await asyncio.gather(*(client.chat.completions.create(**ask(question)) for question in asked))
    assert [answer.choices[0].message.content for answer in answers] == asked


def test_several_choices_each_decide_for_themselves(pair: Live) -> None:
    with pair.client() as client:
        whole = client.chat.completions.create(**ask(HARD, n=3))
        chunks = list(client.chat.completions.create(**ask(HARD, n=3), stream=True))
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert [choice.message.content for choice in whole.choices] == [CLOUD_TEXT] * 3
    assert [about["source"] for about in whole.selfroute["choices"]] == ["cloud"] * 3
    for index in range(3):
        assert said(chunks, index=index) == CLOUD_TEXT
    ends = [choice.index for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert sorted(ends) == [0, 1, 2]
    assert whole.usage.completion_tokens == 3 * (whole.usage.completion_tokens // 3)


def test_choices_with_a_seed_are_different_samples() -> None:
    made = service(lambda messages, sampling: f"<answer>{sampling.seed}</answer>")
    with gateway(made) as live, live.client() as client:
        whole = client.chat.completions.create(**ask(EASY, n=3, seed=7))
    assert [choice.message.content for choice in whole.choices] == ["7", "8", "9"]


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_length_stop_and_seed_reach_the_model(field: str) -> None:
    seen = []

    def device(messages: Any, sampling: Any) -> str:
        seen.append(sampling)
        return "one two three four five"

    with gateway(service(device)) as live, live.client() as client:
        cut = client.chat.completions.create(**ask(EASY, seed=3, temperature=0.5, top_p=0.9, **{field: 2}))
        stopped = client.chat.completions.create(**ask(EASY, stop=["three"]))
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == ("one two", "length")
    assert (stopped.choices[0].message.content.strip(), stopped.choices[0].finish_reason) == ("one two", "stop")
    assert (seen[0].seed, seen[0].temperature, seen[0].top_p, seen[0].max_tokens) == (3, 0.5, 0.9, 2)


def test_log_probabilities_of_the_answer_alone() -> None:
    with gateway(service(logprob_device)) as live, live.client() as client:
        whole = client.chat.completions.create(**ask(EASY, logprobs=True, top_logprobs=1))
        chunks = list(client.chat.completions.create(**ask(EASY, logprobs=True), stream=True))
        none = client.chat.completions.create(**ask(EASY))
    tokens = whole.choices[0].logprobs.content
    assert [(token.token, token.logprob, len(token.top_logprobs)) for token in tokens] == [
        ("fo", -0.25, 1),
        ("ur", -0.25, 1),
    ]
    streamed = [c.logprobs.content for chunk in chunks for c in chunk.choices if c.logprobs]
    assert [token.token for each in streamed for token in each] == ["fo", "ur"]
    assert none.choices[0].logprobs is None


def test_reasoning_of_the_cloud_is_told_apart() -> None:
    with gateway(service(cloud=lambda *_: "<think>let me see</think>\n\n<b>four</b>")) as live, live.client() as client:
        whole = client.chat.completions.create(**ask(HARD))
        chunks = list(client.chat.completions.create(**ask(HARD), stream=True))
    assert whole.choices[0].message.content == said(chunks) == "<b>four</b>"
    assert whole.choices[0].message.reasoning_content == said(chunks, "reasoning_content") == "no idealet me see"


def test_tags_of_the_cloud_are_stripped_where_the_config_says_so() -> None:
    made = service(cloud=lambda *_: "<think>hm</think><answer>four</answer>", strip_cloud_tags=True)
    with gateway(made) as live, live.client() as client:
        assert client.chat.completions.create(**ask(HARD)).choices[0].message.content == "four"


def test_where_only_the_device_may_answer_an_empty_answer_is_one() -> None:
    alone = {"extra_headers": {"x-selfroute-mode": "device"}}
    with gateway(service(lambda *_: Completion("", Usage(3, 0)))) as live, live.client() as client:
        whole = client.chat.completions.create(**ask(EASY), **alone)
        chunks = list(client.chat.completions.create(**ask(EASY), **alone, stream=True))
    assert whole.choices[0].message.content == said(chunks) == ""
    assert [bool(chunk.choices[0].delta.role) for chunk in chunks] == [True, False]


def test_any_model_name_is_taken_and_echoed(pair: Live) -> None:
    with pair.client() as client:
        answer = client.chat.completions.create(**ask(EASY) | {"model": "gpt-4o"})
        names = [model.id for model in client.models.list()]
        assert client.models.retrieve("selfroute").owned_by == "selfroute"
        assert client.models.retrieve("vendor/gpt-9:free").id == "vendor/gpt-9:free"
        with pytest.raises(openai.NotFoundError, match="there is no model 'selfroute-moon'"):
            client.models.retrieve("selfroute-moon")
    assert answer.model == "gpt-4o"
    assert names == ["selfroute", "selfroute-cloud", "selfroute-device", "selfroute-private"]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "invalid_value"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0]", "invalid_value"),
        ({"messages": [{"role": "user", "content": "x"}] * 600}, "messages", "limit_exceeded"),
        ({"temperature": 3}, "temperature", "limit_exceeded"),
        ({"temperature": "hot"}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"n": 10**9}, "n", "limit_exceeded"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens", "invalid_value"),
        ({"n": 99}, "n", "limit_exceeded"),
        ({"n": True}, "n", "invalid_value"),
        ({"stop": ["a", ""]}, "stop", "invalid_value"),
        ({"seed": 2**70}, "seed", "invalid_value"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"stream": "yes"}, "stream", "invalid_value"),
        ({"stream_options": []}, "stream_options", "invalid_value"),
    ],
)
def test_a_wrong_field_is_named(pair: Live, fields: dict[str, Any], param: str, code: str) -> None:
    with pair.client() as client, pytest.raises(openai.BadRequestError) as caught:
        client.post("/chat/completions", cast_to=object, body=ask(EASY) | fields)
    assert (caught.value.param, caught.value.code, caught.value.type) == (param, code, "invalid_request_error")
    assert caught.value.response.headers["x-selfroute-reason"] == code

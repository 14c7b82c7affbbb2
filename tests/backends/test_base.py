"""What a request asks for beyond text, and who can give it."""

from __future__ import annotations

import pytest

from selfroute.backends.base import complete, lacking, request_fields
from selfroute.backends.function import FunctionBackend
from selfroute.backends.openai_compatible import OpenAICompatibleBackend
from selfroute.backends.recorded import RecordedBackend
from selfroute.errors import UnsupportedByBackend
from selfroute.types import Message, Sampling

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


@pytest.mark.parametrize(
    ("raw", "fields"),
    [
        (None, []),
        ({"role": "user", "content": "x", "name": "ann"}, []),
        ({"role": "user", "content": [{"type": "text", "text": "x"}]}, []),
        ({"role": "user", "content": [{"type": "text", "text": "x"}, IMAGE]}, ["image_url"]),
        ({"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}, ["tool_calls"]),
        ({"role": "tool", "content": "4", "tool_call_id": "1"}, ["tool_call_id"]),
    ],
)
def test_what_a_message_holds_beside_text(raw: dict[str, object] | None, fields: list[str]) -> None:
    assert request_fields([Message("user", "x", raw)], Sampling()) == fields


@pytest.mark.parametrize(
    ("name", "value", "asks"),
    [
        ("tools", [{"type": "function"}], True),
        ("tools", [], False),
        ("tool_choice", "auto", False),
        ("tool_choice", "required", True),
        ("response_format", {"type": "text"}, False),
        ("response_format", {"type": "json_object"}, True),
        ("presence_penalty", 0, False),
        ("presence_penalty", 0.5, True),
        ("user", "ann", False),
        ("temperature", None, False),
        ("anything_new", False, True),
    ],
)
def test_which_fields_change_an_answer(name: str, value: object, asks: bool) -> None:
    assert request_fields([], Sampling(extra={name: value})) == ([name] if asks else [])


def test_a_chat_endpoint_takes_everything_but_what_it_lacks() -> None:
    asks = Sampling(extra={"tools": [{}], "logit_bias": {"1": 2}})
    server = OpenAICompatibleBackend("server", "http://127.0.0.1:9/v1", "m", lacks=["tools"])
    assert lacking(server, [], asks) == ["tools"]
    assert lacking(FunctionBackend("plain", lambda *_: ""), [], asks) == ["tools", "logit_bias"]


async def test_a_recording_refuses_what_it_cannot_honour(tmp_path) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text('{"prompt": "x", "text": "y"}\n')
    backend = RecordedBackend("recorded", file)
    assert (await complete(backend, [Message("user", "x")], Sampling(extra={"user": "ann"}))).text == "y"
    with pytest.raises(UnsupportedByBackend, match="recorded has no tools"):
        await complete(backend, [Message("user", "x")], Sampling(extra={"tools": [{}]}))

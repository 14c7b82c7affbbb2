"""What a request asks for beyond text and who can give it; a stream put together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.backends.base import Fold, complete, lacking, request_fields
from selfroute.backends.function import FunctionBackend
from selfroute.backends.openai_compatible import OpenAICompatibleBackend
from selfroute.backends.recorded import RecordedBackend
from selfroute.errors import UnsupportedByBackend
from selfroute.types import Completion, Delta, Message, Sampling, Token, Usage

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


# --- folding deltas --------------------------------------------------------------------------------------------

deltas = st.builds(
    Delta,
    st.text(max_size=3),
    st.lists(st.builds(Token, st.text(max_size=2), st.floats(-5, 0)), max_size=2).map(tuple),
)
lasts = st.builds(
    Delta,
    st.text(max_size=3),
    finish_reason=st.sampled_from(["stop", "length", "tool_calls"]),
    usage=st.builds(Usage, st.integers(0, 9), st.integers(0, 9)),
    seconds=st.none() | st.floats(0, 9),
    usd=st.none() | st.floats(0, 9),
)


@given(st.lists(deltas), lasts)
def test_a_fold_is_the_stream_put_together(earlier: list[Delta], last: Delta) -> None:
    fold = Fold()
    for delta in earlier:
        fold.add(delta)
        assert fold.finish_reason is None and fold.usage is None
    assert fold.used == Usage(0, sum(bool(delta.text) for delta in earlier))
    fold.add(last)
    assert fold.finish_reason == last.finish_reason and fold.used == last.usage
    answer = fold.completion(measured_s=99)
    assert answer.text == fold.text == "".join(delta.text for delta in [*earlier, last])
    assert answer.tokens == tuple(token for delta in earlier for token in delta.tokens)
    assert (answer.usage, answer.finish_reason, answer.usd) == (last.usage, last.finish_reason, last.usd)
    assert answer.seconds == (99 if last.seconds is None else last.seconds)


def test_a_stream_that_says_nothing_is_an_empty_answer() -> None:
    assert Fold().completion(measured_s=0.5) == Completion("", Usage(), "stop", (), 0.5)

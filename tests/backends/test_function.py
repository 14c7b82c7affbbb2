"""FunctionBackend streams what a function says, as a model would."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.backends.base import complete, complete_all, run_sync
from selfroute.backends.function import FunctionBackend, replay
from selfroute.errors import BackendUnavailable
from selfroute.types import Completion, Message, Sampling, Token, Usage

ASK = [Message("user", "two words")]


def say(text: str) -> FunctionBackend:
    return FunctionBackend("device", lambda messages, sampling: text)


async def test_words_count_as_tokens():
    assert (await complete(say("one two  three\n"), ASK, Sampling())).usage == Usage(2, 3)


async def test_the_function_sees_the_conversation_and_the_sampling():
    backend = FunctionBackend("device", lambda messages, sampling: f"{messages[0].content} {sampling.seed}")
    assert (await complete(backend, ASK, Sampling(seed=7))).text == "two words 7"


async def test_an_async_function_is_awaited():
    async def late(messages, sampling):
        await asyncio.sleep(0)
        return "late"

    assert (await complete(FunctionBackend("device", late), ASK, Sampling())).text == "late"


@pytest.mark.parametrize(
    ("sampling", "text", "reason"),
    [
        (Sampling(max_tokens=2), "one two", "length"),
        (Sampling(max_tokens=3), "one two three", "stop"),
        (Sampling(stop=("three", " two")), "one", "stop"),
        (Sampling(stop=("",)), "one two three", "stop"),
    ],
)
async def test_a_text_is_cut_as_a_decoder_would(sampling, text, reason):
    completion = await complete(say("one two three"), ASK, sampling)
    assert (completion.text, completion.finish_reason) == (text, reason)


async def test_a_completion_is_streamed_as_it_is():
    made = Completion("ab cd", Usage(5, 2), "length", (Token("ab", -0.5, {"ab": -0.5}), Token(" cd", -1.0)), 2.5)
    assert await complete(FunctionBackend("device", lambda *_: made), ASK, Sampling(max_tokens=1)) == made


async def test_what_the_function_raises_is_raised():
    def fail(messages, sampling):
        raise BackendUnavailable("cloud: it is down", backend="cloud")

    with pytest.raises(BackendUnavailable, match="it is down"):
        await complete(FunctionBackend("cloud", fail), ASK, Sampling())


async def test_complete_all_puts_errors_in_their_places():
    def fail_on_b(messages, sampling):
        if messages[0].content == "b":
            raise BackendUnavailable("cloud: it is down", backend="cloud")
        return messages[0].content

    prompts = [[Message("user", text)] for text in "abc"]
    a, b, c = await complete_all(FunctionBackend("cloud", fail_on_b), prompts, Sampling(), concurrency=2)
    assert (a.text, c.text) == ("a", "c")
    assert isinstance(b, BackendUnavailable)


async def test_run_sync_works_inside_a_running_loop():
    assert run_sync(complete(say("hello"), ASK, Sampling())).text == "hello"


@given(st.text())
def test_joined_deltas_are_the_text(text):
    deltas = list(replay(Completion(text, Usage(1, 2), "length")))
    assert "".join(delta.text for delta in deltas) == text
    assert [delta.finish_reason for delta in deltas] == [None] * (len(deltas) - 1) + ["length"]

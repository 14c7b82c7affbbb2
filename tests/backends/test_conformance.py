"""The contract that every backend keeps. A new one joins with a line in `OPENERS`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest
from tests.backends.chat_server import ChatServer, echo

from selfroute.backends.base import Backend, complete, complete_all
from selfroute.backends.cache import AnswerCache, cached
from selfroute.backends.function import FunctionBackend
from selfroute.backends.openai_compatible import OpenAICompatibleBackend
from selfroute.backends.recorded import RecordedBackend, record
from selfroute.errors import BackendError, UnsupportedByBackend
from selfroute.types import Completion, Message, Sampling, Usage

HELLO = [Message("user", "hello")]
FINE = [Message("system", "be kind"), Message("user", "the assistant says fine")]
UNICODE = [Message("user", "grüß dich 你好 👩‍👩‍👧 \u2028 \x00 مرحبا")]
EMPTY: list[Message] = []
CONVERSATIONS = [HELLO, FINE, UNICODE]
SHORT = Sampling(max_tokens=12)


class Opener:
    """Opens a backend for one test, and closes it and all it needs at the end."""

    def __init__(self, folder: Path, request: pytest.FixtureRequest, stack: AsyncExitStack) -> None:
        self.folder = folder
        self.request = request
        self.stack = stack

    async def function(self, sampling: Sampling) -> Backend:
        return FunctionBackend("function", lambda messages, sampling: echo(messages))

    async def recorded(self, sampling: Sampling) -> Backend:
        """A recording holds the answers to one sampling."""
        path, source = self.folder / "answers.jsonl", await self.function(sampling)
        items = [(str(number), messages) for number, messages in enumerate([*CONVERSATIONS, EMPTY])]
        done = [row.outcome async for row in record(source, items, path, sampling)]
        assert len(done) == len(items)
        return RecordedBackend("recorded", path)

    async def cached_miss(self, sampling: Sampling) -> Backend:
        cache = AnswerCache(self.folder / "answers.db")
        self.stack.callback(cache.close)
        return cached(await self.function(sampling), cache)

    async def cached_hit(self, sampling: Sampling) -> Backend:
        backend = await self.cached_miss(sampling)
        await complete_all(backend, CONVERSATIONS, sampling)
        return backend

    async def openai_compatible(self, sampling: Sampling) -> Backend:
        server = await self.stack.enter_async_context(ChatServer())
        backend = OpenAICompatibleBackend("cloud", server.url, "m", timeout_s=5, max_retries=0)
        return await self.stack.enter_async_context(backend)

    async def transformers(self, sampling: Sampling) -> Backend:
        from selfroute.backends.transformers import TransformersBackend

        model, tokenizer = (self.request.getfixturevalue(name) for name in ("tiny_model", "tiny_tokenizer"))
        return self.stack.enter_context(TransformersBackend("tiny", model, tokenizer))

    async def llama_cpp(self, sampling: Sampling) -> Backend:
        backend: Backend = self.request.getfixturevalue("smollm2")
        return backend

    async def cached_transformers(self, sampling: Sampling) -> Backend:
        cache = AnswerCache(self.folder / "answers.db")
        self.stack.callback(cache.close)
        return cached(await self.transformers(sampling), cache)


OPENERS = {
    "function": Opener.function,
    "recorded": Opener.recorded,
    "cached, miss": Opener.cached_miss,
    "cached, hit": Opener.cached_hit,
    "openai_compatible": Opener.openai_compatible,
    "transformers": Opener.transformers,
    "llama_cpp": Opener.llama_cpp,
    "cached transformers": Opener.cached_transformers,
}
# A function gets the sampling and decides for itself what to do about forbidden text.
LEFT_TO_THE_FUNCTION = ("function", "cached, miss", "cached, hit")
ECHOING = [kind for kind in OPENERS if "transformers" not in kind and kind != "llama_cpp"]

Open = Callable[..., Awaitable[Backend]]


@pytest.fixture(params=OPENERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def open_backend(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:
        opener = Opener(tmp_path, request, stack)

        async def open_one(sampling: Sampling = SHORT) -> Backend:
            return await OPENERS[kind](opener, sampling)

        yield open_one


def words(answer: Completion) -> tuple[str, str, Usage]:
    """What must be equal between two equal requests; the seconds need not."""
    return answer.text, answer.finish_reason, answer.usage


async def test_it_has_a_name(open_backend: Open) -> None:
    backend = await open_backend()
    assert isinstance(backend.name, str) and backend.name


async def test_only_the_last_delta_carries_the_end(open_backend: Open) -> None:
    backend = await open_backend()
    deltas = [delta async for delta in backend.stream(HELLO, SHORT)]
    *earlier, last = deltas
    assert last.finish_reason in ("stop", "length") and isinstance(last.usage, Usage)
    assert last.usage.completion_tokens > 0
    assert all(delta.finish_reason is None and delta.usage is None for delta in earlier)


@pytest.mark.parametrize("messages", CONVERSATIONS, ids=["hello", "fine", "unicode"])
async def test_the_joined_stream_is_the_plain_answer(open_backend: Open, messages: Sequence[Message]) -> None:
    backend = await open_backend()
    text = "".join([delta.text async for delta in backend.stream(messages, SHORT)])
    answer = await complete(backend, messages, SHORT)
    assert answer.text == text and answer.seconds >= 0


async def test_an_empty_conversation_is_answered_or_refused(open_backend: Open) -> None:
    """Chat templates may refuse it; then the error is one of ours and says that asking again is of no use."""
    backend = await open_backend()
    try:
        assert (await complete(backend, EMPTY, SHORT)).usage.completion_tokens > 0
    except BackendError as error:
        assert error.backend == backend.name and not error.retryable


@pytest.mark.parametrize("kind", ECHOING, indirect=True)
async def test_unicode_passes_unharmed(open_backend: Open) -> None:
    backend = await open_backend(Sampling(max_tokens=100))
    answer = await complete(backend, UNICODE, Sampling(max_tokens=100))
    assert answer.text == echo(UNICODE)


async def test_it_streams_in_more_than_one_piece(open_backend: Open) -> None:
    backend = await open_backend()
    assert len([delta async for delta in backend.stream(HELLO, SHORT) if delta.text]) > 1


@pytest.mark.parametrize("max_tokens", [1, 3])
async def test_max_tokens_is_kept(open_backend: Open, max_tokens: int) -> None:
    sampling = Sampling(max_tokens=max_tokens)
    answer = await complete(await open_backend(sampling), FINE, sampling)
    assert 0 < answer.usage.completion_tokens <= max_tokens
    assert answer.finish_reason == "length"


async def test_tokens_are_reported_only_on_request(open_backend: Open) -> None:
    assert (await complete(await open_backend(), HELLO, SHORT)).tokens == ()


async def test_streams_at_once_do_not_mix(open_backend: Open) -> None:
    backend = await open_backend()
    alone = [await complete(backend, messages, SHORT) for messages in (HELLO, FINE)]
    together = await asyncio.gather(*(complete(backend, messages, SHORT) for messages in (HELLO, FINE) * 3))
    assert [words(answer) for answer in together] == [words(answer) for answer in alone] * 3


async def test_streams_read_in_turns_do_not_mix(open_backend: Open) -> None:
    backend = await open_backend()
    alone = [await complete(backend, messages, SHORT) for messages in (HELLO, FINE)]
    texts = ["", ""]
    async with aclosing(backend.stream(HELLO, SHORT)) as first, aclosing(backend.stream(FINE, SHORT)) as second:
        for _ in range(50):
            for place, stream in enumerate((first, second)):
                texts[place] += delta.text if (delta := await anext(stream, None)) else ""
    assert texts == [answer.text for answer in alone]


async def test_equal_streams_read_in_turns_do_not_wait_for_each_other(open_backend: Open) -> None:
    backend = await open_backend()
    async with asyncio.timeout(5), aclosing(backend.stream(HELLO, SHORT)) as one:
        first = await anext(one)
        other = await complete(backend, HELLO, SHORT)
        assert first.text + "".join([delta.text async for delta in one]) == other.text


async def test_complete_all_keeps_the_order(open_backend: Open) -> None:
    backend = await open_backend()
    alone = [words(await complete(backend, messages, SHORT)) for messages in CONVERSATIONS]
    answers = await complete_all(backend, CONVERSATIONS, SHORT)
    assert [words(answer) for answer in answers if isinstance(answer, Completion)] == alone


async def test_leaving_early_is_prompt_and_harmless(open_backend: Open) -> None:
    backend = await open_backend()
    whole = await complete(backend, HELLO, SHORT)
    started = time.perf_counter()
    async with aclosing(backend.stream(HELLO, SHORT)) as deltas:
        await anext(deltas)
    assert time.perf_counter() - started < 1
    assert words(await complete(backend, HELLO, SHORT)) == words(whole)


async def test_cancelling_is_prompt_and_harmless(open_backend: Open) -> None:
    backend = await open_backend()
    waiting = asyncio.create_task(complete(backend, FINE, SHORT))
    await asyncio.sleep(0)  # it has begun
    waiting.cancel()
    started = time.perf_counter()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert time.perf_counter() - started < 1
    assert (await complete(backend, FINE, SHORT)).text


@pytest.mark.parametrize("kind", [kind for kind in OPENERS if kind not in LEFT_TO_THE_FUNCTION], indirect=True)
async def test_forbidden_text_is_not_begun_or_refused(open_backend: Open) -> None:
    backend = await open_backend()
    text = (await complete(backend, HELLO, SHORT)).text
    forbidden = next(character for character in text if character.isascii() and character.isalnum())
    try:
        answer = await complete(backend, HELLO, Sampling(max_tokens=12, forbid=(forbidden,)))
    except UnsupportedByBackend as error:
        assert backend.name in str(error)
    else:
        assert forbidden not in answer.text

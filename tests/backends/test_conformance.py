"""Every backend keeps the contract of `selfroute.testing`. A new one joins with a line in `OPENERS`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.backends.chat_server import ChatServer, echo

from selfroute.backends.base import Backend, complete, complete_all
from selfroute.backends.best_of import BestOfN
from selfroute.backends.cache import AnswerCache, cached
from selfroute.backends.clouds import Cloud, Clouds
from selfroute.backends.function import FunctionBackend
from selfroute.backends.openai_compatible import OpenAICompatibleBackend
from selfroute.backends.rate_limited import RateLimited
from selfroute.backends.recorded import RecordedBackend, record
from selfroute.bandits.beliefs import Beliefs
from selfroute.bandits.catalogue import thompson
from selfroute.gateway.guard import Guard
from selfroute.testing import BACKEND_CASES, CONVERSATIONS, EMPTY, SHORT
from selfroute.types import Delta, Message, Sampling

HELLO, _, UNICODE = CONVERSATIONS


class Shared(Backend):
    """A backend of several tests, which is not closed after one of them."""

    inner: Backend

    def __init__(self, inner: Backend) -> None:
        self.inner, self.name = inner, inner.name

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        return self.inner.stream(messages, sampling)

    async def aclose(self) -> None:
        pass


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

    async def rate_limited(self, sampling: Sampling) -> Backend:
        return RateLimited(await self.function(sampling), requests_per_minute=1e6)

    async def guard(self, sampling: Sampling) -> Backend:
        return Guard("function", await self.function(sampling))

    async def clouds(self, sampling: Sampling) -> Backend:
        each = [Cloud(backend=FunctionBackend(name, lambda messages, sampling: echo(messages))) for name in ("a", "b")]
        return Clouds(each, Beliefs(thompson(arms=["a", "b"])))

    async def best_of_n(self, sampling: Sampling) -> Backend:
        """The first answer is never accepted, and stands all the same."""
        return BestOfN(await self.function(sampling), 2, accept=lambda text: False)

    async def openai_compatible(self, sampling: Sampling) -> Backend:
        server = await self.stack.enter_async_context(ChatServer())
        backend = OpenAICompatibleBackend("cloud", server.url, "m", timeout_s=5, max_retries=0)
        return await self.stack.enter_async_context(backend)

    async def transformers(self, sampling: Sampling) -> Backend:
        from selfroute.backends.transformers import TransformersBackend

        model, tokenizer = (self.request.getfixturevalue(name) for name in ("tiny_model", "tiny_tokenizer"))
        return self.stack.enter_context(TransformersBackend("tiny", model, tokenizer))

    async def llama_cpp(self, sampling: Sampling) -> Backend:
        return Shared(self.request.getfixturevalue("smollm2"))

    async def cached_transformers(self, sampling: Sampling) -> Backend:
        cache = AnswerCache(self.folder / "answers.db")
        self.stack.callback(cache.close)
        return cached(await self.transformers(sampling), cache)


OPENERS = {
    "function": Opener.function,
    "recorded": Opener.recorded,
    "cached, miss": Opener.cached_miss,
    "cached, hit": Opener.cached_hit,
    "rate limited": Opener.rate_limited,
    "guard": Opener.guard,
    "clouds": Opener.clouds,
    "best of n": Opener.best_of_n,
    "openai_compatible": Opener.openai_compatible,
    "transformers": Opener.transformers,
    "llama_cpp": Opener.llama_cpp,
    "cached transformers": Opener.cached_transformers,
}
ECHOING = [kind for kind in OPENERS if "transformers" not in kind and kind != "llama_cpp"]

# A function gets the sampling and decides for itself what to do about it.
_LACKING = "fields_that_it_lacks_are_refused_before_anything_is_written"
_LEFT_TO_THE_FUNCTION = {
    "tokens_are_reported_on_request_or_refused",
    "forbidden_text_is_not_begun_or_refused",
    _LACKING,
}
OVER_FUNCTIONS = ("function", "cached, miss", "cached, hit", "rate limited", "guard", "clouds", "best of n")
NOT_APPLICABLE: dict[str, set[str]] = dict.fromkeys(OVER_FUNCTIONS, _LEFT_TO_THE_FUNCTION) | {
    # It refuses fields by itself, and `usage` counts the answers that it does not give as well.
    "best of n": {*_LEFT_TO_THE_FUNCTION, "max_tokens_is_kept"} - {_LACKING},
    "recorded": {"max_tokens_is_kept", "stop_strings_end_the_answer"},  # a recording holds the answers to one sampling
}
CASES = [(kind, case) for kind in OPENERS for case in BACKEND_CASES if case not in NOT_APPLICABLE.get(kind, ())]

Open = Callable[..., Awaitable[Backend]]


@pytest.fixture
async def open_backend(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:
        opener = Opener(tmp_path, request, stack)

        async def open_one(sampling: Sampling = SHORT) -> Backend:
            return await OPENERS[kind](opener, sampling)

        yield open_one


@pytest.mark.parametrize(("kind", "case"), CASES)
async def test_it_keeps_the_contract(open_backend: Open, case: str) -> None:
    backend = await open_backend()
    await BACKEND_CASES[case](backend)
    await backend.aclose()


@pytest.mark.parametrize("kind", ECHOING)
async def test_unicode_passes_unharmed(open_backend: Open) -> None:
    backend = await open_backend(Sampling(max_tokens=100))
    answer = await complete(backend, UNICODE, Sampling(max_tokens=100))
    assert answer.text == echo(UNICODE)


@pytest.mark.parametrize("kind", [kind for kind in OPENERS if kind != "best of n"])
async def test_it_streams_in_more_than_one_piece(open_backend: Open) -> None:
    backend = await open_backend()
    assert len([delta async for delta in backend.stream(HELLO, SHORT) if delta.text]) > 1


@pytest.mark.parametrize("max_tokens", [1, 3])
@pytest.mark.parametrize("kind", ["recorded"])
async def test_a_recording_says_that_an_answer_was_cut(open_backend: Open, max_tokens: int) -> None:
    sampling = Sampling(max_tokens=max_tokens)
    answer = await complete(await open_backend(sampling), HELLO, sampling)
    assert (answer.usage.completion_tokens, answer.finish_reason) == (max_tokens, "length")

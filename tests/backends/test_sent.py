"""When a request leaves: after its turn has come, before anything is on its way, and never for what is known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest
from tests.backends.chat_server import ChatServer, endless, status

from selfroute.backends.base import Backend, complete
from selfroute.backends.best_of import BestOfN
from selfroute.backends.cache import AnswerCache, cached
from selfroute.backends.function import FunctionBackend
from selfroute.backends.openai_compatible import OpenAICompatibleBackend
from selfroute.backends.rate_limited import RateLimited
from selfroute.errors import BackendStatusError, ConfigError
from selfroute.types import Delta, Message, Sampling

ASK = [Message("user", "hello")]
HELLO = "a word or two"


def hello() -> FunctionBackend:
    return FunctionBackend("hello", lambda messages, sampling: HELLO)


class Queued(Backend):
    """Says when it sends, and remembers whether it was let."""

    name = "queued"
    announces = True

    def __init__(self) -> None:
        self.left = 0

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        yield Delta(sent=True)
        self.left += 1
        async for delta in hello().stream(messages, sampling):
            yield delta


async def read(backend: Backend) -> list[Delta]:
    return [delta async for delta in backend.stream(ASK, Sampling())]


def told(deltas: Sequence[Delta]) -> list[bool]:
    return [delta.sent for delta in deltas]


def test_a_backend_that_does_not_say_so_sends_at_once() -> None:
    assert Queued().announces and not hello().announces
    assert not BestOfN(Queued(), 2, bool).announces  # it makes several requests, and says nothing of them


@pytest.fixture
def cache(tmp_path: Path) -> AnswerCache:
    return AnswerCache(tmp_path / "answers.sqlite")


@pytest.mark.parametrize("inner", [Queued, hello])
async def test_wrappers_say_it_once_whatever_is_behind_them(inner: type[Queued], cache: AnswerCache) -> None:
    for backend in (RateLimited(inner(), requests_per_minute=6000), cached(inner(), cache, identity=inner.__name__)):
        deltas = await read(backend)
        assert told(deltas) == [True] + [False] * (len(deltas) - 1)
        assert "".join(delta.text for delta in deltas) == HELLO
    assert (await complete(BestOfN(inner(), 2, bool), ASK, Sampling())).text == HELLO


async def test_what_is_known_is_not_sent(cache: AnswerCache) -> None:
    backend = cached(Queued(), cache)
    assert any(told(await read(backend)))
    assert not any(told(await read(backend)))


async def test_all_who_wait_for_one_answer_are_told(cache: AnswerCache) -> None:
    backend = cached(Queued(), cache)
    assert [told(deltas).count(True) for deltas in await asyncio.gather(*(read(backend) for _ in range(5)))] == [1] * 5


async def test_nothing_leaves_a_cache_before_a_reader_knows(cache: AnswerCache) -> None:
    inner = Queued()
    async with aclosing(cached(inner, cache).stream(ASK, Sampling())) as deltas:
        assert (await anext(deltas)).sent
        await asyncio.sleep(0.02)  # a slow ledger
        assert inner.left == 0
        assert (await anext(deltas)).text and inner.left == 1


async def test_a_request_that_waits_for_its_turn_is_not_sent() -> None:
    async with ChatServer() as server, OpenAICompatibleBackend("cloud", server.url, "m", concurrency=1) as backend:
        server.script.append(endless)
        first, second = (backend.stream(ASK, Sampling()) for _ in range(2))
        async with aclosing(first), aclosing(second):
            assert (await anext(first)).sent
            assert len(server.requests) == 0
            assert (await anext(first)).text
            waiting = asyncio.ensure_future(anext(second))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            await first.aclose()
            assert (await waiting).sent
            assert len(server.requests) == 1


async def test_one_request_is_sent_once_however_often_it_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfroute.backends.openai_compatible._BACKOFF_S", 0.001)
    async with ChatServer() as server, OpenAICompatibleBackend("cloud", server.url, "m", max_retries=2) as backend:
        server.script.extend([status(503)] * 2)
        assert told(await read(backend)).count(True) == 1
        server.script.extend([status(503)] * 3)
        with pytest.raises(BackendStatusError):
            await read(backend)


async def test_without_a_key_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    async with OpenAICompatibleBackend("cloud", "https://host.test/v1", "m", api_key_env="NO_SUCH_KEY") as backend:
        with pytest.raises(ConfigError, match="no key"):
            await anext(backend.stream(ASK, Sampling()))

"""What a backend can do more than stream, and what a wrapper lets through of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pytest

from selfroute.backends.base import (
    Backend,
    BatchBackend,
    capability,
    complete,
    complete_all,
    find_capability,
    lacking,
)
from selfroute.backends.best_of import BestOfN
from selfroute.backends.cache import AnswerCache, cached
from selfroute.backends.function import FunctionBackend
from selfroute.backends.openai_compatible import OpenAICompatibleBackend
from selfroute.backends.rate_limited import RateLimited
from selfroute.errors import ConfigError, UnsupportedByBackend
from selfroute.gateway.guard import Guard
from selfroute.types import Completion, Delta, Message, Sampling, Usage

ASK = [Message("user", "hello")]
TOOLS = Sampling(extra={"tools": [{"type": "function"}]})


@runtime_checkable
class Sessions(Protocol):
    """A capability that a plain stream has no words for."""

    def open_session(self) -> str: ...


class Plain(Backend):
    """One method, as the contract asks; counts what is asked of it."""

    name = "plain"

    def __init__(self) -> None:
        self.streams = self.closed = self.left = 0

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        self.streams += 1
        try:
            yield Delta("some")
            yield Delta(" words", finish_reason="stop", usage=Usage(1, 2))
        finally:
            self.left += 1

    async def aclose(self) -> None:
        self.closed += 1


class Able(Plain):
    """The same with every capability."""

    name = "able"
    identity = "able/1"
    lacks = frozenset({"tools"})

    def __init__(self) -> None:
        super().__init__()
        self.batches = 0

    def generate_batch(self, prompts: Sequence[Sequence[Message]], sampling: Sampling) -> list[Completion]:
        self.batches += 1
        return [Completion("in a batch", Usage(1, 3)) for _ in prompts]

    def open_session(self) -> str:
        return "open"

    def check(self) -> None:
        raise ConfigError("able: no key")


@pytest.fixture
def wrap(tmp_path: Path) -> Iterator[dict[str, Callable[[Backend], Backend]]]:
    cache = AnswerCache(tmp_path / "answers.db")
    yield {
        "cache": lambda backend: cached(backend, cache),
        "rate limit": lambda backend: RateLimited(backend, requests_per_minute=1e9),
        "guard": lambda backend: Guard("guarded", backend),
        "best of n": lambda backend: BestOfN(backend, 1, accept=lambda text: True),
    }
    cache.close()


WRAPPERS = ("cache", "rate limit", "guard", "best of n")
every_wrapper = pytest.mark.parametrize("name", WRAPPERS)
# Who gives a capability that the wrapped backend has: the backend itself, the wrapper in its place, or nobody.
GIVEN_BY = {
    ("cache", Sessions): "backend",
    ("cache", BatchBackend): "wrapper",
    ("rate limit", Sessions): "backend",
    ("rate limit", BatchBackend): None,
    ("guard", Sessions): "backend",
    ("guard", BatchBackend): None,
    ("best of n", Sessions): None,
    ("best of n", BatchBackend): "wrapper",
}


@pytest.mark.parametrize(("name", "kind"), GIVEN_BY)
def test_what_each_wrapper_lets_through(wrap: Any, name: str, kind: type[Any]) -> None:
    inner = Able()
    outer = wrap[name](inner)
    expected = {"backend": inner, "wrapper": outer, None: None}[GIVEN_BY[name, kind]]
    assert find_capability(outer, kind) is expected
    if expected is None:
        with pytest.raises(UnsupportedByBackend, match=f"{outer.name} has no {kind.__name__}; use a backend"):
            capability(outer, kind)
    else:
        assert capability(outer, kind) is expected


@every_wrapper
def test_no_wrapper_claims_what_nobody_has(wrap: Any, name: str) -> None:
    outer = wrap[name](Plain())
    assert find_capability(outer, Sessions) is None
    batches = find_capability(outer, BatchBackend)
    assert batches is (outer if name == "best of n" else None)  # which answers them one by one


def test_wrappers_around_wrappers_hide_nothing(wrap: Any) -> None:
    inner = Able()
    stack = wrap["guard"](wrap["cache"](wrap["rate limit"](inner)))
    assert capability(stack, Sessions) is inner
    assert find_capability(stack, BatchBackend) is None
    assert find_capability(wrap["cache"](wrap["rate limit"](inner)), BatchBackend) is None, "past the rate"
    assert find_capability(wrap["cache"](wrap["best of n"](inner)), Sessions) is None


async def test_a_batch_does_not_go_past_a_rate_limit(wrap: Any) -> None:
    inner = Able()
    answers = await complete_all(wrap["rate limit"](inner), [ASK] * 3, Sampling())
    assert [answer.text for answer in answers if isinstance(answer, Completion)] == ["some words"] * 3
    assert (inner.batches, inner.streams) == (0, 3)


def test_a_class_is_a_capability_too() -> None:
    endpoint = OpenAICompatibleBackend("cloud", "http://127.0.0.1:9/v1", "m")
    limited = RateLimited(endpoint, requests_per_minute=9)
    assert find_capability(limited, OpenAICompatibleBackend) is endpoint
    assert find_capability(Plain(), OpenAICompatibleBackend) is None


@every_wrapper
def test_what_a_wrapper_does_not_say_the_inner_one_says(wrap: Any, name: str) -> None:
    outer = wrap[name](Able())
    assert outer.identity.startswith("able/1")
    assert lacking(outer, ASK, TOOLS) == ["tools"]
    with pytest.raises(ConfigError, match="able: no key"):
        outer.check()
    wrap[name](Plain()).check()


@every_wrapper
async def test_closing_reaches_the_inner_one(wrap: Any, name: str) -> None:
    inner = Plain()
    await wrap[name](inner).aclose()
    assert inner.closed == 1


@every_wrapper
async def test_a_reader_that_leaves_lets_the_inner_one_go(wrap: Any, name: str) -> None:
    inner = Plain()
    async with aclosing(wrap[name](inner).stream(ASK, Sampling())) as deltas:
        while (await anext(deltas)).sent:  # that the request leaves is no piece of the answer
            pass
    assert (inner.streams, inner.left) == (1, 1)


async def test_best_of_n_refuses_what_it_would_lose() -> None:
    class AllFields(Plain):
        lacks = frozenset()

    inner = AllFields()
    with pytest.raises(UnsupportedByBackend, match="plain has no tools"):
        await complete(BestOfN(inner, 2, accept=lambda text: True), ASK, TOOLS)
    with pytest.raises(UnsupportedByBackend, match="plain has no tools"):
        BestOfN(inner, 2, accept=lambda text: True).generate_batch([ASK], TOOLS)
    assert inner.streams == 0


async def test_a_cache_passes_tool_calls_on_and_forgets_them(wrap: Any) -> None:
    class Caller(Plain):
        lacks = frozenset()

        async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
            self.streams += 1
            yield Delta(extra={"tool_calls": [{"index": 0}]})
            yield Delta(finish_reason="tool_calls", usage=Usage(1, 2))

    inner = Caller()
    outer = wrap["cache"](inner)
    for _ in range(2):
        assert [delta.extra for delta in [d async for d in outer.stream(ASK, TOOLS)] if delta.extra]
    assert inner.streams == 2


async def test_a_model_that_is_still_loading_can_do_nothing_yet() -> None:
    inner = Able()
    guard = Guard("device", lambda: inner)
    assert (guard.identity, guard.lacks, find_capability(guard, Sessions)) == ("device", None, None)
    guard.check()
    await guard.aclose()
    await guard.load()
    assert (guard.identity, guard.lacks, find_capability(guard, Sessions)) == ("able/1", frozenset({"tools"}), inner)


# --- what is a backend -----------------------------------------------------------------------------------------


async def test_one_method_makes_a_backend() -> None:
    class Mine(Backend):
        name = "mine"

        async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
            yield Delta("hi", finish_reason="stop", usage=Usage(1, 1))

    mine = Mine()
    assert (mine.identity, mine.lacks, mine.inner) == ("mine", None, None)
    assert (await complete(mine, ASK, Sampling())).text == "hi"
    mine.check()
    await mine.aclose()


def test_a_class_without_that_method_cannot_be_made() -> None:
    class Nothing(Backend):
        name = "nothing"

    with pytest.raises(TypeError, match="stream"):
        Nothing()  # type: ignore[abstract]


class Duck:
    """Has all that a backend has, and is none."""

    name, stream, aclose = "duck", Plain.stream, Plain.aclose


@every_wrapper
def test_what_only_looks_like_a_backend_is_refused_where_it_is_taken(wrap: Any, name: str) -> None:
    with pytest.raises(ConfigError, match=r"is no backend; derive Duck from selfroute\.Backend, or wrap a function"):
        wrap[name](Duck())


async def test_and_where_many_prompts_are_asked() -> None:
    for refuse in (lambda duck: find_capability(duck, BatchBackend), lambda duck: capability(duck, Sessions)):
        with pytest.raises(ConfigError, match="is no backend"):
            refuse(Duck())
    with pytest.raises(ConfigError, match="is no backend"):
        await complete_all(Duck(), [ASK], Sampling())  # type: ignore[arg-type]


def test_a_function_has_a_wrapper_of_its_own() -> None:
    with pytest.raises(ConfigError, match="is no backend"):
        RateLimited(lambda messages, sampling: "hi", requests_per_minute=1)  # type: ignore[arg-type]
    assert RateLimited(FunctionBackend("f", lambda m, s: "hi"), requests_per_minute=1).name == "f"

"""Every backend that keeps answers open keeps one contract, and alternates as though each call began anew."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.gateway.live import running
from tests.gateway.test_inside import vllm
from tests.strategies.inside.pair import model

from selfroute.backends.base import Backend
from selfroute.backends.linked import Linked
from selfroute.backends.openai_compatible import OpenAICompatibleBackend
from selfroute.backends.rate_limited import RateLimited
from selfroute.gateway.app import Gateway
from selfroute.gateway.guard import Guard
from selfroute.gateway.service import SingleService
from selfroute.testing.sessions import SESSION_CASES, alternate

Make = Callable[[], Backend]
OFTEN = 1e6  # requests per minute
STEPS = st.lists(
    st.tuples(st.sampled_from(("write", "read", "score", "drop", "leave")), st.integers(1, 5)), min_size=1, max_size=10
)


def in_process() -> Backend:
    return model("small", seed=1)


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """A `selfroute cloud` on loopback."""
    with running(Gateway(SingleService(backend=Guard("small", in_process())))) as url:
        yield url


@pytest.fixture(scope="module")
def resending(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server that keeps nothing, and its tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizer")
    with model("small", seed=1) as plain:
        plain.tokenizer.save_pretrained(folder)
        with running(vllm(plain.model)) as url:
            yield url, folder


def remote(url: str, **options: Any) -> Backend:
    return OpenAICompatibleBackend("small", f"{url}/v1", "small", api_key_env=None, max_retries=0, **options)


@pytest.fixture(params=["transformers", "linked", "guarded and spared", "selfroute cloud", "vllm"])
def make(request: pytest.FixtureRequest) -> Make:
    kinds: dict[str, Callable[[], Make]] = {
        "transformers": lambda: in_process,
        "linked": lambda: lambda: Linked(in_process()),
        "guarded and spared": lambda: lambda: Guard("small", RateLimited(in_process(), requests_per_minute=OFTEN)),
        "selfroute cloud": lambda: _far(request.getfixturevalue("served"), sessions="selfroute"),
        "vllm": lambda: _resent(*request.getfixturevalue("resending")),
    }
    return kinds[request.param]()


def _far(url: str, **options: Any) -> Make:
    return lambda: remote(url, **options)


def _resent(url: str, folder: Path) -> Make:
    return _far(url, sessions="vllm", tokenizer=str(folder))


@pytest.mark.parametrize("case", SESSION_CASES)
async def test_sessions_keep_their_contract(make: Make, case: str) -> None:
    await held(make(), SESSION_CASES[case])


@pytest.mark.slow
@pytest.mark.parametrize("case", SESSION_CASES)
async def test_sessions_of_llama_cpp_keep_their_contract(smollm2: Any, case: str) -> None:
    await SESSION_CASES[case](smollm2)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_alternations_are_answers_written_anew(make: Make, steps: list[tuple[str, int]]) -> None:
    asyncio.run(held(make(), lambda backend: alternate(backend, steps)))


async def held(backend: Backend, case: Callable[[Backend], Awaitable[None]]) -> None:
    try:
        await case(backend)
    finally:
        await backend.aclose()


async def test_a_cloud_that_forgets_between_calls_is_asked_anew(served: str) -> None:
    """What the server has forgotten is sent again, at every place of an alternation."""
    from selfroute.backends.completions import Kept

    calls = itertools.count()
    send = Kept._send

    async def forgetting(self: Kept, limit: int, every: int | None, until: Any) -> dict[str, Any]:
        if self._id is not None and next(calls) % 2:
            await self._ask({"prompt": [], "max_tokens": 0, "selfroute": {"session": self._id, "close": True}})
        return await send(self, limit, every, until)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Kept, "_send", forgetting)
        steps = [
            ("write", 3),
            ("drop", 1),
            ("write", 2),
            ("score", 2),
            ("write", 1),
            ("read", 2),
            ("write", 2),
            ("drop", 2),
            ("write", 1),
        ]
        await held(remote(served, sessions="selfroute"), lambda backend: alternate(backend, steps))
    assert next(calls) > 3

"""Sessions and cut answers keep to what stands around their backend: a guard's breaker and limit, a provider's rate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from tests.strategies.inside.pair import SAMPLING, Faulty, ask, first_part, model, sides

from selfroute.backends.base import Backend, capability, complete
from selfroute.backends.layers import Sending
from selfroute.backends.rate_limited import RateLimited
from selfroute.backends.sessions import Sessions
from selfroute.backends.transformers import TransformersBackend
from selfroute.errors import BackendError, BackendTimeout, BackendUnavailable
from selfroute.gateway.guard import Guard
from selfroute.strategies.base import answer
from selfroute.strategies.inside.early_exit import EarlyExit


@pytest.fixture(scope="module")
def plain() -> Iterator[TransformersBackend]:
    with model("plain", seed=1) as made:
        yield made


def failing(call: int, result: Any) -> Any:
    raise BackendError("plain: out of order", backend="plain")


class Slow(Faulty):
    """Each call takes a while."""

    def session(self, *args: Any, **options: Any) -> Any:
        made: Any = super().session(*args, **options)
        write = made.write

        async def late(*args: Any, **options: Any) -> Any:
            await asyncio.sleep(0.4)
            return await write(*args, **options)

        made.write = late
        return made


async def test_failures_of_sessions_open_the_breaker_for_all(plain: Any) -> None:
    guard = Guard("plain", Faulty(plain, failing), failures=2, rest_s=60)
    sessions = [capability(guard, Sessions).session(ask(number), SAMPLING) for number in range(3)]
    for session in sessions[:2]:
        with pytest.raises(BackendError, match="out of order"):
            await session.write(1)
    with pytest.raises(BackendUnavailable, match="failed 2 times in a row, last: plain: out of order; next try in"):
        await sessions[2].write(1)
    with pytest.raises(BackendUnavailable, match="failed 2 times"):
        async for _ in guard.stream(ask(1), SAMPLING):
            raise AssertionError("the model was asked")
    assert (guard.health().state, guard.health().failed, guard.health().in_flight) == ("resting", 2, 0)
    for session in sessions:  # closing asks nobody
        await session.close()


async def test_a_session_counts_as_one_answer(plain: Any) -> None:
    guard = Guard("plain", plain)
    session = capability(guard, Sessions).session(ask(1), SAMPLING)
    for _ in range(3):
        await session.write(2)
    await session.read(list(session.ids[:2]), every=True)
    health = guard.health()
    assert (health.state, health.answered, health.failed) == ("ready", 1, 0) and health.first_token_s is not None
    await session.close()


async def test_a_session_s_call_has_the_limit_of_a_first_piece(plain: Any) -> None:
    guard = Guard("plain", Slow(plain, lambda call, result: result), first_token_s=0.1)
    session = capability(guard, Sessions).session(ask(1), SAMPLING)
    with pytest.raises(BackendTimeout, match=r"nothing within 0\.1 s"):
        await session.write(1)
    assert guard.health().failed == 1
    await session.close()


async def test_a_session_s_calls_wait_for_their_turn(plain: Any) -> None:
    spared = RateLimited(plain, requests_per_minute=60 / 0.15)
    guard = Guard("plain", spared, first_token_s=0.1)  # a turn in our own queue is no failure
    session = capability(guard, Sessions).session(ask(1), SAMPLING)
    began = time.monotonic()
    await session.write(1)
    await session.read([5])  # asks nobody yet
    await session.drop(1)
    await session.write(1)
    await session.read([6], every=True)
    assert 0.3 <= time.monotonic() - began < 0.9
    assert guard.health().failed == 0
    await session.close()


async def test_what_sessions_give_and_write_is_the_model_s(plain: Any) -> None:
    around, own = capability(Guard("plain", RateLimited(plain, requests_per_minute=1e6)), Sessions), plain
    assert (around.gives, around.vocabulary) == (own.gives, own.vocabulary)
    made, expected = around.session(ask(2), SAMPLING), own.session(ask(2), SAMPLING)
    written, alone = await made.write(12), await expected.write(12)
    assert [token.token_id for token in written] == [token.token_id for token in alone]
    assert (made.ids, made.vocabulary) == (expected.ids, expected.vocabulary) and made.used.completion_tokens == 12
    await made.close()
    with pytest.raises(BackendError, match="closed"):
        await made.write(1)
    await expected.close()


def test_a_backend_without_sessions_has_none_around_either() -> None:
    from selfroute.backends.function import FunctionBackend

    silent = FunctionBackend("silent", lambda messages, sampling: "hello")
    assert Guard("g", RateLimited(silent, requests_per_minute=60)).offer(Sessions) is None
    assert Guard("later", lambda: silent).offer(Sessions) is None


# --- answers of a model that is cut in two -------------------------------------------------------------------------


class FaultyTail(Backend):
    """A cloud whose layers fail while they are told to, and take a while."""

    inner: TransformersBackend
    fails = False
    takes_s = 0.0

    def __init__(self, inner: TransformersBackend) -> None:
        self.inner, self.name, self.asked = inner, inner.name, 0

    async def stream(self, messages: Any, sampling: Any) -> Any:
        async for delta in self.inner.stream(messages, sampling):
            yield delta

    def tail(self, first: int) -> Any:
        inner = self.inner.tail(first)
        cloud = self

        class Failing:
            name, whole, first = inner.name, inner.whole, inner.first

            async def carry(self, data: bytes) -> bytes:
                cloud.asked += 1
                await asyncio.sleep(cloud.takes_s)
                if cloud.fails:
                    raise BackendError("plain: out of order", backend="plain")
                return await inner.carry(data)

        return Failing()


@pytest.fixture(scope="module")
def exits(plain: Any) -> Iterator[Any]:
    with first_part(plain, (1,)) as made:
        yield made


WHOLE = EarlyExit(thresholds=(1.01,), sending=Sending(codec="fp32", upload="late"))


async def test_failures_of_layers_open_the_breaker_and_the_device_goes_on(plain: Any, exits: Any) -> None:
    cloud = FaultyTail(plain)
    guard = Guard("plain", cloud, failures=2, rest_s=0.3)
    cloud.fails = True
    alone = (await complete(exits, ask(1), SAMPLING)).text
    trace = await answer(WHOLE, sides(exits, guard), ask(1), SAMPLING)
    assert (trace.text, trace.source, guard.health().state) == (alone, "device", "resting")
    asked = cloud.asked
    trace = await answer(WHOLE, sides(exits, guard), ask(1), SAMPLING)
    assert trace.text == alone and "failed 2 times in a row, last: plain: out of order" in (trace.error or "")
    with pytest.raises(BackendUnavailable, match="failed 2 times"):
        await complete(guard, ask(1), SAMPLING)
    assert cloud.asked == asked  # while it rests nobody is asked
    cloud.fails = False
    await asyncio.sleep(0.35)
    trace = await answer(WHOLE, sides(exits, guard), ask(1), SAMPLING)
    assert trace.text == (await complete(plain, ask(1), SAMPLING)).text
    assert (guard.health().state, guard.health().answered) == ("ready", 1)  # of many messages, one answer
    assert guard.health().in_flight == 0 and len(plain.tail(1)) == 0


async def test_a_message_of_layers_has_the_limit_of_a_first_piece(plain: Any, exits: Any) -> None:
    cloud = FaultyTail(plain)
    cloud.takes_s = 0.4
    guard = Guard("plain", cloud, first_token_s=0.1)
    trace = await answer(WHOLE, sides(exits, guard), ask(1), SAMPLING)
    assert trace.source == "device" and "nothing within 0.1 s" in (trace.error or "")
    assert guard.health().failed >= 1


async def test_messages_of_layers_wait_for_their_turn(plain: Any, exits: Any) -> None:
    guard = Guard("plain", RateLimited(plain, requests_per_minute=60 / 0.1), first_token_s=0.05)
    began = time.monotonic()
    trace = await answer(WHOLE, sides(exits, guard), ask(1), replace(SAMPLING, max_tokens=4))
    assert time.monotonic() - began >= 0.3  # four questions, the first at once
    assert trace.text == (await complete(plain, ask(1), replace(SAMPLING, max_tokens=4))).text
    assert guard.health().failed == 0

"""Drafts of the device, checked by the cloud: the cloud's own answer, greedy and sampled."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.strategies.inside.pair import SAMPLING, Faulty, ask, other_word, sides

from selfroute.backends.base import complete
from selfroute.errors import BackendUnavailable, ConfigError
from selfroute.strategies.base import answer
from selfroute.strategies.inside.speculative import Speculative
from selfroute.testing import RecordingBudget
from selfroute.types import Sampling


@pytest.mark.parametrize("block", [1, 4])
async def test_greedy_is_the_clouds_answer(device: Any, cloud: Any, block: int) -> None:
    strategy, pair = Speculative(block=block), sides(device, cloud)
    together = await asyncio.gather(*(answer(strategy, pair, ask(i), SAMPLING) for i in range(6)))
    for i, trace in enumerate(together):
        alone = await complete(cloud, ask(i), SAMPLING)
        assert (trace.text, trace.end.finish_reason) == (alone.text, alone.finish_reason)
        assert (await answer(strategy, pair, ask(i), SAMPLING)).text == alone.text
    assert any(segment.part == "void" for trace in together for segment in trace.segments)
    assert any(segment.source == "device" and segment.part == "answer" for t in together for segment in t.segments)


@pytest.mark.parametrize("top_p", [1.0, 0.8])
async def test_sampled_is_what_the_cloud_writes_with_that_luck(device: Any, cloud: Any, top_p: float) -> None:
    warm = Sampling(max_tokens=30, temperature=1.0, top_p=top_p, seed=11)
    for i in range(4):
        trace = await answer(Speculative(), sides(device, cloud), ask(i), warm)
        session, speller = cloud.session(ask(i), warm, luck=11), cloud.speller()
        for token in await session.write(30):
            speller.push(token.token_id)
        speller.finish()
        assert trace.text == speller.take(last=True)[0]


async def test_sampled_has_the_clouds_distribution(device: Any, cloud: Any) -> None:
    """First two words of many answers: as far from the cloud's as the cloud's from each other."""
    warm = Sampling(max_tokens=2, temperature=1.0)
    count = 300

    async def texts(ask_once: Callable[[], Awaitable[Any]]) -> Counter[str]:
        return Counter([each.text for each in await asyncio.gather(*(ask_once() for _ in range(count)))])

    drafted = await texts(lambda: answer(Speculative(), sides(device, cloud), ask(1), warm))
    first, second, alone = [await texts(lambda s=side: complete(s, ask(1), warm)) for side in (cloud, cloud, device)]
    assert _apart(drafted, first, count) < 1.3 * _apart(first, second, count)
    assert _apart(alone, first, count) > 1.3 * _apart(first, second, count)


def _apart(one: Counter[str], other: Counter[str], count: int) -> float:
    """Total variation between two sets of texts."""
    return sum(abs(one[key] - other[key]) for key in one.keys() | other.keys()) / (2 * count)


async def test_a_refusal_leaves_the_device_alone(device: Any, cloud: Any) -> None:
    trace = await answer(Speculative(max_cloud_tokens=0), sides(device, cloud), ask(2), SAMPLING)
    assert trace.text == (await complete(device, ask(2), SAMPLING)).text
    assert trace.source == "device" and trace.error is None


def _lost(call: int, result: Any) -> Any:
    if call == 2:
        raise BackendUnavailable("cloud: connection lost", backend="cloud")
    return result


def _foreign(call: int, result: Any) -> Any:
    return [other_word([view], 999)[0] for view in result] if call == 2 else result


@pytest.mark.parametrize(("fault", "said"), [(_lost, "connection lost"), (_foreign, "token 999 is outside")])
async def test_a_cloud_that_fails_leaves_the_rest_to_the_device(device: Any, cloud: Any, fault: Any, said: str) -> None:
    budget = RecordingBudget()
    trace = await answer(Speculative(), sides(device, Faulty(cloud, fault), budget=budget), ask(2), SAMPLING)
    assert said in (trace.error or "") and trace.reason == "cloud-error"
    ids = device.tokenizer(trace.text)["input_ids"]
    standing = [segment for segment in trace.segments if segment.part == "answer"]
    last = max(i for i, segment in enumerate(standing) if segment.source == "cloud")
    before = len(device.tokenizer("".join(segment.text for segment in standing[: last + 1]))["input_ids"])
    session = device.session(ask(2), SAMPLING)
    await session.read(ids[:before])
    rest = [token.token_id for token in await session.write(40 - before)]
    assert ids[before:] == [token for token in rest if token]
    assert budget.open == 0 and len(budget.spent) == 1


async def test_one_lease_covers_all_that_is_read(device: Any, cloud: Any) -> None:
    budget = RecordingBudget()
    trace = await answer(Speculative(block=6), sides(device, cloud, budget=budget), ask(2), SAMPLING)
    [estimate], [(used, _)] = budget.estimates, budget.spent
    assert used == trace.usage("cloud")
    assert used.prompt_tokens <= estimate.usage.prompt_tokens
    assert used.completion_tokens <= estimate.usage.completion_tokens
    assert used.calls == 1


def test_a_block_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="block: 0 is below 1"):
        Speculative(block=0)

"""Calls are counted where they are made, and a run that was killed counts on."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfroute.backends.base import complete
from selfroute.backends.cache import AnswerCache, cached
from selfroute.backends.function import FunctionBackend
from selfroute.errors import BackendUnavailable, BudgetExceeded, ConfigError
from selfroute.prices import Price
from selfroute.tuning.meter import Asking, Limits, Meter, Metered
from selfroute.types import Message, Sampling

PRICE = Price(prompt_usd=1e6, completion_usd=1e6)  # a dollar a token


def ask(text: str = "one two") -> list[Message]:
    return [Message("user", text)]


def device() -> FunctionBackend:
    return FunctionBackend("device", lambda messages, sampling: "yes indeed")


async def test_calls_and_tokens_of_each_side_are_counted_apart() -> None:
    meter = Meter(Limits())
    for side, times in (("device", 3), ("cloud", 1)):
        for _ in range(times):
            await complete(Metered(device(), meter, side, price=PRICE), ask(), Sampling())  # type: ignore[arg-type]
    assert meter.facts()["device"] == {"calls": 3, "prompt_tokens": 6, "completion_tokens": 6, "usd": 12.0}
    assert meter.facts()["cloud"]["calls"] == 1 and meter.usd == 16.0


async def test_what_the_cache_answers_is_no_call(tmp_path: Path) -> None:
    meter = Meter(Limits(device=1))
    asking = Asking(cached(Metered(device(), meter, "device"), AnswerCache(tmp_path / "answers.sqlite")), Sampling())
    for _ in range(3):
        assert (await asking(ask())).text == "yes indeed"
    assert (asking.asked, meter.counted["device"].calls) == (3, 1) and asking.longest == 2
    with pytest.raises(BudgetExceeded, match="device calls of tuning"):
        await asking(ask("another"))


async def test_a_dollar_is_held_before_it_is_spent() -> None:
    meter = Meter(Limits(usd=100.0))
    with pytest.raises(BudgetExceeded, match="usd of tuning"):
        await complete(Metered(device(), meter, "cloud", price=PRICE), ask(), Sampling(max_tokens=200))
    assert meter.counted["cloud"].calls == 0
    await complete(Metered(device(), meter, "cloud", price=PRICE), ask(), Sampling(max_tokens=2))
    assert meter.usd == 4.0


async def test_a_call_that_fails_counts_and_holds_nothing() -> None:
    def fails(messages: object, sampling: object) -> str:
        raise BackendUnavailable("gone", backend="device")

    meter = Meter(Limits(device=2, usd=1000.0))
    for _ in range(2):
        with pytest.raises(BackendUnavailable):
            await complete(Metered(FunctionBackend("device", fails), meter, "device", price=PRICE), ask(), Sampling())
    assert meter.counted["device"].calls == 2 and meter.usd == 0.0
    with pytest.raises(BudgetExceeded):
        await complete(Metered(device(), meter, "device", price=PRICE), ask(), Sampling())


async def test_a_killed_run_counts_on(tmp_path: Path) -> None:
    file = tmp_path / "calls.jsonl"
    meter = Meter(Limits(device=3), file=file)
    await complete(Metered(device(), meter, "device"), ask(), Sampling())
    meter.begin("device", 0.0)  # and killed
    meter.close()
    with file.open("a") as opened:
        opened.write('{"side": "dev')
    again = Meter(Limits(device=3), file=file)
    assert again.counted["device"].calls == 2 and again.counted["device"].completion_tokens == 2
    await complete(Metered(device(), again, "device"), ask(), Sampling())
    with pytest.raises(BudgetExceeded, match="3 of 3 spent"):
        again.begin("device", 0.0)
    again.close()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "calls.jsonl"
    file.write_text('{"side": "moon", "calls": 1}\n')
    with pytest.raises(ConfigError, match=r"calls\.jsonl:1: no line of counted calls"):
        Meter(Limits(), file=file)

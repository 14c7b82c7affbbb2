"""What a run says of the calls to come, and what then comes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tests.backends.chat_server import ChatServer

from selfroute.assemble.evaluating import evaluate_recipe, record_rows
from selfroute.assemble.paid_calls import announce, in_words
from selfroute.assemble.training import train_recipe
from selfroute.backends.openai_compatible import OpenAICompatibleBackend
from selfroute.config import EvaluateRecipe, Spec, TrainRecipe, build, make_task
from selfroute.errors import ConfigError
from selfroute.prices import Price
from selfroute.types import Message, Sampling

PROMPTS = [[Message("user", "x" * 400)], [Message("user", "y" * 400)]]
PRICE = Price(prompt_usd=10_000, completion_usd=20_000)


def cloud(url: str) -> Any:
    return {"openai": {"base_url": url, "model": "m", "api_key_env": None, "max_retries": 0}}


def test_the_cost_is_typical_and_at_most() -> None:
    line = in_words("cloud 'm'", PROMPTS, Sampling(max_tokens=1000), of=2, price=PRICE)
    # Each prompt is 100 tokens by characters, and at most 400 of text and 32 of the template.
    assert line == ("cloud 'm': up to 2 paid calls, about 12.24 USD with answers of 256 tokens, at most 48.64 USD")


def test_every_answer_of_a_call_counts() -> None:
    line = in_words("m", PROMPTS, Sampling(max_tokens=100), of=2, price=PRICE, each=8)
    assert line.endswith("about 34.00 USD with answers of 100 tokens, at most 40.64 USD")


def test_no_more_calls_than_will_be_made_and_no_known_answer_twice() -> None:
    line = in_words("m", PROMPTS, Sampling(max_tokens=100), of=5, most=1, price=PRICE)
    assert line == (
        "m: up to 1 paid calls (3 more answers are known), about 3.00 USD with answers of 100 tokens, at most 6.32 USD"
    )


def test_without_prices_the_calls_are_counted() -> None:
    assert in_words("m", PROMPTS, Sampling(), of=2) == (
        "m: up to 2 paid calls; what they cost is not known without prices"
    )


def test_only_models_behind_endpoints_are_paid(capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    announce(said.append, "cloud", Spec("embedded", "cloud"), PROMPTS, Sampling())
    announce(None, "cloud", Spec("openai", options=cloud("http://127.0.0.1:1/v1")["openai"]), PROMPTS, Sampling())
    assert said == []


def evaluation(url: str, out: Path, **more: Any) -> EvaluateRecipe:
    values = {"task": "countdown", "limit": 6, "router_rows": 1, "device": "embedded:device", "cloud": cloud(url)}
    values |= {"strategies": ["always_device", "always_cloud"], "out": str(out), "max_tokens": 64, **more}
    return build(EvaluateRecipe, values, where="test")


def calls_in(said: list[str]) -> list[str]:
    """The lines about paid calls, beside those that say how models are asked."""
    return [line for line in said if "paid calls" in line]


async def test_an_evaluation_says_what_it_then_asks(tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("as_of: 2026-11-01\nmodels:\n  device: {prompt_usd: 0}\n  m: {completion_usd: 1000000}\n")
    said: list[str] = []
    async with ChatServer() as server:
        await evaluate_recipe(evaluation(server.url, tmp_path / "out", prices=str(prices)), say=said.append)
        assert len(server.requests) == 6
        # Six answers of at most 64 tokens, at a dollar each.
        line = "cloud 'm': up to 6 paid calls, about 384.00 USD with answers of 64 tokens, at most 384.00 USD"
        assert calls_in(said) == [line]
        await evaluate_recipe(evaluation(server.url, tmp_path / "out", prices=str(prices)), say=said.append)
        assert calls_in(said)[1].startswith("cloud 'm': up to 0 paid calls (6 more answers are known)")
        assert len(server.requests) == 6


async def test_train_rows_of_a_strategy_that_is_fitted_count(tmp_path: Path) -> None:
    said: list[str] = []
    recipe = evaluation("http://127.0.0.1:1/v1", tmp_path, strategies=["prompt_router"], router_rows=40)
    with pytest.raises(ConfigError):  # the cloud is dead, and was to be asked first for train rows
        await evaluate_recipe(recipe, say=said.append)
    assert calls_in(said) == ["cloud 'm': up to 46 paid calls; what they cost is not known without prices"]


@pytest.mark.parametrize(("ahead", "calls"), [(False, 24), (True, 50)])
def test_a_training_says_how_many_rows_it_may_ask_for(ahead: bool, calls: int, tmp_path: Path) -> None:
    values = {"task": {"countdown": {"limit": 50}}, "cloud": cloud("http://127.0.0.1:1/v1"), "steps": 3}
    values |= {"prompts_per_step": 8, "group_size": 4, "ask_ahead": ahead, "out": str(tmp_path)}
    said: list[str] = []
    with pytest.raises(ConfigError, match="cloud 'm' does not answer"):
        train_recipe(build(TrainRecipe, values, where="test"), say=said.append)
    assert said == [f"cloud 'm': up to {calls} paid calls; what they cost is not known without prices"]


async def test_a_recording_counts_what_its_file_lacks(tmp_path: Path) -> None:
    task = make_task(Spec("countdown", options={"limit": 5}))
    rows, said = list(task.rows("test")), list[str]()
    async with ChatServer() as server:
        for part in (rows[:2], rows):
            model = OpenAICompatibleBackend("m", server.url, "m", api_key_env=None)
            options: Any = {"as_device": False, "concurrency": 2, "max_tokens": 32, "say": said.append}
            await record_rows(
                model, task, part, tmp_path / "r.jsonl", on_progress=lambda *_: None, price=Price(), **options
            )
        assert len(server.requests) == 5
    assert [re.split(", about", line)[0] for line in said] == [
        "m: up to 2 paid calls",
        "m: up to 3 paid calls (2 more answers are known)",
    ]

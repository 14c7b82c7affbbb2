"""The models in the package: they are there, small, recorded, and do what the documentation says of them."""

from __future__ import annotations

import asyncio
import json
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import openai
import pytest
from tests.gateway.live import running
from typer.testing import CliRunner

from selfroute.assemble.serving import make_gateway
from selfroute.backends.base import capability, complete, complete_all, run_sync
from selfroute.backends.embedded import asset_path, embedded, provenance
from selfroute.backends.exits import ExitBackend
from selfroute.backends.layers import Sending
from selfroute.backends.sessions import Sessions
from selfroute.commands.main import app
from selfroute.config.serving import load_serve_recipe
from selfroute.grading import judge
from selfroute.handoff import parse
from selfroute.prompts import TEMPLATES, PromptTemplate
from selfroute.strategies.base import Sides, answer, check_sides
from selfroute.strategies.inside.early_exit import EarlyExit
from selfroute.tasks.base import Row
from selfroute.tasks.chain import Chain
from selfroute.tasks.countdown import Countdown
from selfroute.types import Completion, Message, Sampling

NAMES = ("device", "device-gapg", "cloud")
TASK = Countdown(seed=11, limit=60)
ROWS = list(TASK.rows("validation"))
TEMPLATE = TEMPLATES["think"]
RECIPES = Path(__file__).parents[2] / "recipes" / "countdown"


def answers(name: str, prompts: list[list[Message]]) -> list[str]:
    found = run_sync(complete_all(embedded(name), prompts, Sampling(max_tokens=512)))
    assert all(isinstance(answer, Completion) for answer in found)
    return [answer.text for answer in found if isinstance(answer, Completion)]


def right(rows: list[Row], texts: list[str]) -> float:
    return sum(bool(judge(TASK, row, text)[0]) for row, text in zip(rows, texts, strict=True)) / len(rows)


@cache
def alone() -> list[str]:
    """What the device answers where it may not ask."""
    return answers(
        "device", [TEMPLATE.device_messages(TEMPLATE.conversation(r.question), offer_handoff=False) for r in ROWS]
    )


def offered() -> list[list[Message]]:
    return [TEMPLATE.device_messages(TEMPLATE.conversation(row.question)) for row in ROWS]


def test_the_pair_is_small_and_says_how_it_was_made() -> None:
    folder = asset_path("device").parent
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 30_000_000
    for name in NAMES:
        record = provenance(name)
        assert {"seed", "steps", "commit", "hardware", "held_out"} <= record.keys()
        assert 0.5 < record["held_out"]["alone"]["accuracy"] <= 1
    assert provenance("cloud")["held_out"]["alone"]["accuracy"] >= 0.9


async def test_the_exits_of_the_chain_cloud_begin_its_answers() -> None:
    chain = [asset_path(name) for name in ("chain-device", "chain-cloud", "chain-exits")]
    assert sum(file.stat().st_size for folder in chain for file in folder.iterdir()) < 8_000_000
    device, whole = embedded("chain-exits"), embedded("chain-cloud")
    assert isinstance(device, ExitBackend) and device.exits == (1, 2)
    record = provenance("chain-exits")
    assert set(record["exits"]) == {"1", "2"} and 0.5 < record["held_out"]["alone"]["accuracy"] < 0.8
    row = next(iter(Chain(seed=3, limit=1).rows("test")))
    messages = [Message("user", f"{row.question}. Let me solve this step by step.")]
    sides = Sides(device=device, cloud=whole, template=PromptTemplate("", "", "{question}"))
    sending = Sending(codec="fp32", upload="late")
    for threshold in (0.99, 1.01):
        strategy = EarlyExit(thresholds=(threshold,), sending=sending)
        check_sides(strategy, sides)
        trace = await answer(strategy, sides, messages, Sampling(max_tokens=100))
        assert trace.text == (await complete(whole, messages, Sampling(max_tokens=100))).text
        assert (trace.usage("device").completion_tokens > 20) == (threshold < 1)


def test_the_chain_pair_shares_a_tokenizer_and_says_how_it_was_made() -> None:
    device, cloud = (embedded(f"chain-{side}") for side in ("device", "cloud"))
    ours, theirs = (capability(side, Sessions).vocabulary for side in (device, cloud))
    assert ours == theirs
    sizes = [file.stat().st_size for side in ("device", "cloud") for file in asset_path(f"chain-{side}").iterdir()]
    assert sum(sizes) < 8_000_000
    alone = [provenance(f"chain-{side}")["held_out"]["alone"]["accuracy"] for side in ("device", "cloud")]
    assert 0.35 <= alone[0] <= 0.65 and alone[1] >= 0.97


def test_on_chain_the_cloud_knows_what_the_device_does_not() -> None:
    task = Chain(seed=11, limit=60)
    rows = list(task.rows("validation"))
    asked = [TEMPLATE.conversation(row.question) for row in rows]
    alone = [TEMPLATE.device_messages(prompt, offer_handoff=False) for prompt in asked]
    for name, prompts, least in (("chain-cloud", asked, 0.95), ("chain-device", alone, 0.85)):
        texts = answers(name, prompts)
        known = [
            (r, t) for r, t in zip(rows, texts, strict=True) if name == "chain-cloud" or r.fields["kind"] == "known"
        ]
        assert sum(task.verify(row, text).correct for row, text in known) / len(known) >= least


def test_the_demo_of_chain_shows_both_writers() -> None:
    result = CliRunner().invoke(app, ["demo", "--task", "chain"])
    assert result.exit_code == 0, result.output
    assert result.output.count("the cloud wrote") == 6 and "right" in result.output


def test_the_cloud_is_clearly_stronger_than_the_device() -> None:
    cloud = right(ROWS, answers("cloud", [TEMPLATE.conversation(row.question) for row in ROWS]))
    assert cloud >= 0.8
    assert cloud > right(ROWS, alone()) + 0.1


def test_training_taught_the_device_to_ask_where_it_fails() -> None:
    before, after, forced = answers("device", offered()), answers("device-gapg", offered()), alone()
    solvable = [judge(TASK, row, text)[0] for row, text in zip(ROWS, forced, strict=True)]
    # Before, it asks for what it can solve as it does for the rest.
    asked = [parse(text).wants_cloud for text in before]
    assert abs(mean(a for a, s in zip(asked, solvable, strict=True) if s) - mean(asked)) < 0.2
    kept = [(row, text) for row, text in zip(ROWS, after, strict=True) if not parse(text).wants_cloud]
    assert len(ROWS) * 0.5 < len(kept) < len(ROWS) * 0.9
    assert right([row for row, _ in kept], [text for _, text in kept]) > right(ROWS, forced) + 0.1


async def test_the_gateway_serves_the_trained_policy() -> None:
    """As it comes, `selfroute serve` with no argument, to the official client: both sides answer, most are right."""
    rows = ROWS[:24]
    with running(make_gateway(load_serve_recipe(None))) as url:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=120) as client:

            async def ask(row: Row) -> tuple[Any, str]:
                asked = [{"role": "user", "content": row.question}]
                made = await client.chat.completions.create(model="selfroute", messages=asked, stream=True, seed=0)
                chunks = [chunk async for chunk in made]
                text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
                return chunks[-1].selfroute, text

            answers = await asyncio.gather(*(ask(row) for row in rows))
    assert {(about["source"], about["reason"]) for about, _ in answers} == {
        ("device", "answered"),
        ("cloud", "hand-off"),
    }
    assert 0.1 < mean(about["source"] == "cloud" for about, _ in answers) < 0.6
    assert not any("assistance" in text or "<" in text for _, text in answers)
    assert right(rows, [f"<answer>{text}</answer>" for _, text in answers]) >= 0.6


@pytest.mark.slow
def test_the_evaluation_recipe_runs_on_the_shipped_models(tmp_path: Path) -> None:
    arguments = ["limit=30", "router_rows=60", "seed=7", f"out={tmp_path}"]
    result = CliRunner().invoke(app, ["evaluate", str(RECIPES / "evaluate.yaml"), *arguments])
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary["n"] == 30
    assert {"self_route", "before_gapg", "prompt_router"} <= {entry["name"] for entry in summary["strategies"]}
    for name in ("records.jsonl", "report.html", "curve.png"):
        assert (tmp_path / name).stat().st_size > 1000

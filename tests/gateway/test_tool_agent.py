"""Agents with tools behind a running gateway, asked by the official client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.backends.chat_server import ChatServer
from tests.gateway.live import Live, ask, gateway, service
from tests.strategies.search.test_tool_agent import FIRST, GOOD, ROW, calling, cloud, device, opened, saying

from selfroute.assemble.serving import make_service
from selfroute.config.serving import load_serve_recipe
from selfroute.handoff import HANDOFF_TEXT
from selfroute.strategies.search.tool_agent import ToolAgent


def forecast(city: str) -> str:
    """Say what the weather is."""
    return f"rain in {city}"


@pytest.fixture
def agent() -> Iterator[Live]:
    made = service(device(*GOOD), cloud(), strategy=ToolAgent(open=opened()))
    with gateway(made) as live:
        yield live


def test_an_episode_is_one_answer_of_one_request(agent: Live) -> None:
    with agent.client() as client:
        answer: Any = client.chat.completions.create(**ask(ROW.question))
    assert answer.choices[0].message.content == ROW.gold
    assert (answer.selfroute["source"], answer.selfroute["reason"]) == ("device", "answered")
    assert f"<tool>lookup {FIRST}</tool><result>" in answer.choices[0].message.reasoning_content


def test_a_stream_tells_calls_as_reasoning_and_ends_in_the_answer(agent: Live) -> None:
    with agent.client() as client:
        chunks = list(client.chat.completions.create(**ask(ROW.question), stream=True))
    deltas: list[Any] = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == ROW.gold
    assert "<result>" in "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)


def test_a_hand_off_and_a_question_of_the_device_reach_the_cloud() -> None:
    for turns, text in (
        ((GOOD[0], HANDOFF_TEXT), "<answer>cloud</answer>"),
        (("<tool>ask_cloud Why?", "<answer>{0}</answer>"), "cloud"),
    ):
        made = service(device(*turns), cloud(), strategy=ToolAgent(open=opened(), ask_cloud=True))
        with gateway(made) as live, live.client() as client:
            answer: Any = client.chat.completions.create(**ask(ROW.question))
        assert answer.choices[0].message.content == text
        assert answer.selfroute["cost_usd"] > 0


async def test_own_tools_behind_a_server_that_marks_its_calls(tmp_path: Path) -> None:
    """From a configuration file: the way of `selfroute serve`."""
    async with ChatServer() as server:
        server.script.extend([calling("forecast", json.dumps({"city": "Oslo"})), saying("<answer>rain</answer>")])
        box = {"toolbox": {"tools": [{"call": f"{__name__}:forecast", "timeout_s": 5, "cache_s": 60}]}}
        config = {
            "device": {"openai": {"base_url": server.url, "model": "m", "api_key_env": None}},
            "cloud": {"openai": {"base_url": server.url, "model": "m", "api_key_env": None}},
            "strategy": {"tool_agent": {"task": box, "native": True}},
        }
        (tmp_path / "serve.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        made = make_service(load_serve_recipe(tmp_path / "serve.yaml"))
        with gateway(made) as live:
            async with live.async_client() as client:
                answer: Any = await client.chat.completions.create(**ask("Will it rain?"))
    assert answer.choices[0].message.content == "rain"
    assert [tool["function"]["name"] for tool in server.requests[0]["tools"]] == ["forecast"]
    assert server.requests[1]["messages"][-1]["content"] == "rain in Oslo"

"""`selfroute tune --engine ray`: actors that make their models from the recipe, and ask them over the network."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.backends.chat_server import ChatServer, chunk, stream

from selfroute.assemble.tuning import tune_recipe
from selfroute.config import TuneRecipe, build
from selfroute.prompts import find_template

ray = pytest.importorskip("ray", reason="needs the ray extra")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), str(root / "src")])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": path}})
    yield
    ray.shutdown()


class Pupil(ChatServer):
    """Adds up where it is told to be careful."""

    async def handle(self, request: Any) -> Any:
        body = await request.json()
        self.requests.append(body)
        first, _, second = body["messages"][-1]["content"].removesuffix("?").partition(" + ")
        is_careful = "careful" in body["messages"][0]["content"]
        text = str(int(first) + int(second) + (0 if is_careful else 1))
        usage = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 1}}
        return await stream(chunk({"content": text}), chunk({}, "stop"), usage)(self, request, body)


async def test_a_recipe_is_tuned_by_actors(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    rows = [{"question": f"{i} + {i % 7}?", "answer": str(i + i % 7)} for i in range(40)]
    (data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    async with Pupil() as pupil:
        recipe = build(
            TuneRecipe,
            {
                "task": {"jsonl": {"path": str(data), "verifier": "exact", "template": "plain"}},
                "device": {"openai": {"base_url": pupil.url, "model": "pupil", "api_key_env": None}},
                "slots": {"care": ["", "Be careful."], "tone": ["Be kind.", "Be brief."]},
                "workers": {"a": {}, "b": {}},
                "step": {"sentences": 0.2},
                "batch": 4, "max_calls": 240, "updates": 30, "engine": "ray", "out": str(tmp_path / "out"),
            },
            where="x",
        )  # fmt: skip
        summary = await tune_recipe(recipe)
        assert set(summary["programs"]) == {"a", "b", "consensus"}
        assert summary["calls"]["device"]["calls"] == len(pupil.requests) <= 240
    for file in summary["programs"].values():
        assert "Be careful." in find_template(f"tuned:{file}").system
    counted = [len((tmp_path / "out" / name / "calls.jsonl").read_text().splitlines()) for name in "ab"]
    assert 0 < max(counted) <= 2 * 120, "each has an equal part of the budget, and keeps its count by itself"

"""`selfroute train` with `algorithm: split_policy`, from a recipe to answers of a model that is cut by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from selfroute.assemble.splitting import default_places
from selfroute.commands.main import app
from selfroute.strategies.inside.choosers import PolicyFolder
from selfroute.train.imitation.tokenizer import build_tokenizer
from selfroute.train.imitation.warmup import build_model


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small model that knows nothing, with the embedded tokenizer."""
    folder = tmp_path_factory.mktemp("whole")
    torch.manual_seed(2)
    build_model(build_tokenizer(), hidden_size=32, layers=3).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return f"transformers:{folder}"


def train(out: Path, whole: str, *words: str) -> Any:
    recipe = {
        "algorithm": "split_policy", "task": "chain", "model": whole, "losses": [0.2, 0.6], "rows": 4,
        "max_tokens": 8, "fit_steps": 20, "steps": 60, "out": str(out),
    }  # fmt: skip
    file = out.parent / "split.yaml"
    file.write_text(json.dumps(recipe))
    return CliRunner().invoke(app, ["train", str(file), *words])


@pytest.mark.parametrize("method", ["argmax", "a2c", "threshold", "fixed"])
def test_a_recipe_makes_a_policy(tmp_path: Path, whole: str, method: str) -> None:
    result = train(tmp_path / "out", whole, f"method={method}")
    assert result.exit_code == 0, result.output
    assert "strategy={split: {policy:" in " ".join(result.output.split())
    made = PolicyFolder.load(tmp_path / "out" / "checkpoint")
    assert (made.method, made.places, made.whole.layers) == (method, (1, 2), 3)
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["measurements"] == 4 and len(run["choices"]) == 2 and set(run["choices"]) <= {1, 2}
    assert len((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()) == 4
    again = train(tmp_path / "out", whole)
    assert again.exit_code == 2 and "already holds a run" in again.output


def test_an_evaluation_runs_policies_and_places_beside_each_other(tmp_path: Path, whole: str) -> None:
    train(tmp_path / "out", whole)
    link = {"channel": {"kind": "packet_drop"}, "weather": {"good": 0.0, "bad": 0.0}}
    policy = {"policy": str(tmp_path / "out" / "checkpoint"), "points": [0.0, 5.0], **link}
    recipe = {
        "task": "chain", "device": whole, "cloud": whole, "limit": 3, "max_tokens": 10,
        "strategies": ["always_device", "always_cloud"],
        "entrants": {"policy": {"split": policy}, "places": {"split": {"place": 1, "points": [1, 2], **link}}},
        "axes": ["cloud_tokens", "layer_tokens", "bytes", "seconds"], "out": str(tmp_path / "evaluated"),
    }  # fmt: skip
    (tmp_path / "evaluate.yaml").write_text(json.dumps(recipe))
    result = CliRunner().invoke(app, ["evaluate", str(tmp_path / "evaluate.yaml")])
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in (tmp_path / "evaluated" / "records.jsonl").read_text().splitlines()]
    ran = {point: [r for r in records if (r["strategy"], r.get("point")) == ("places", point)] for point in (1.0, 2.0)}
    for place, found in ran.items():
        for record in found:
            assert record["source"] == "cloud" and record["up_bytes"] > 0
            assert record["device_layer_tokens"] == place * record["cloud_prompt_tokens"]
    assert {r.get("point") for r in records if r["strategy"] == "policy"} == {0.0, 5.0}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["layers=[1, 3]"], "layers: 3 is no place to cut a model of 3 layers; write 2"),
        (["channel={kind: outage}"], "channel.kind: outage loses whole tokens"),
        (["channel={kind: packet_drop, arq: true}"], "channel.arq: nothing is lost"),
        (["losses=[0.2, 1.2]"], "losses: 1.2 is no loss of a link, which is 0 to 1; write 1"),
        (["losses=[0.3, 0.2]"], "losses: [0.3, 0.2] do not rise above 0"),
        (["measurements=3"], "measurements: 2 losses at 2 places are 4, and 3 are allowed"),
        (["method=pp0"], "ppo"),
        (["model=recorded:none.jsonl"], "none.jsonl"),
        (["--dry-run"], "its measurements take a minute"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(tmp_path: Path, whole: str, words: list[str], message: str) -> None:
    result = train(tmp_path / "out", whole, *words)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


def test_places_of_a_deep_model_are_spread() -> None:
    assert default_places(4) == (1, 2, 3)
    assert default_places(30) == (1, 7, 12, 18, 23, 29)

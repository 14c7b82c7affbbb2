"""`selfroute train` with `algorithm: exits`, from a recipe to a device that leaves early."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from selfroute.backends.exits import exits
from selfroute.commands.main import app
from selfroute.errors import ConfigError
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
        "algorithm": "exits", "task": "chain", "model": whole, "layers": [1, 2], "rows": 16, "validation_rows": 6,
        "steps": 5, "batch": 64, "log_steps": 2, "max_tokens": 12, "out": str(out),
    }  # fmt: skip
    file = out.parent / "exits.yaml"
    file.write_text(json.dumps(recipe))
    return CliRunner().invoke(app, ["train", str(file), *words])


def test_a_recipe_makes_a_device_that_an_evaluation_takes(tmp_path: Path, whole: str) -> None:
    result = train(tmp_path / "out", whole)
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "strategy=early_exit" in said and "device=exits:" in said and "cloud=transformers:" in said
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert set(run["exits"]) == {"1", "2"} and run["places"] > 0
    assert len((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()) == 6
    again = train(tmp_path / "out", whole)
    assert again.exit_code == 2 and "already holds a run" in again.output
    recipe = {
        "task": "chain", "device": f"exits:{tmp_path / 'out' / 'checkpoint'}", "cloud": whole, "limit": 4,
        "max_tokens": 10, "strategies": ["always_device", "always_cloud"],
        "entrants": {"exits": {"early_exit": {"points": [0.0, 1.01]}}},
        "axes": ["cloud_tokens", "layer_tokens", "bytes", "seconds"], "out": str(tmp_path / "evaluated"),
    }  # fmt: skip
    (tmp_path / "evaluate.yaml").write_text(json.dumps(recipe))
    result = CliRunner().invoke(app, ["evaluate", str(tmp_path / "evaluate.yaml")])
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in (tmp_path / "evaluated" / "records.jsonl").read_text().splitlines()]
    ran = {point: [r for r in records if r["strategy"] == "exits" and r["point"] == point] for point in (0.0, 1.01)}
    assert all(r["source"] == "device" for r in ran[0.0]) and all(r["source"] == "cloud" for r in ran[1.01])
    for record in ran[1.01]:
        assert record["cloud_layer_tokens"] == 2 * record["cloud_prompt_tokens"] > 0 and record["up_bytes"] > 0


def test_the_device_holds_its_own_layers_alone(tmp_path: Path, whole: str) -> None:
    train(tmp_path / "out", whole, "layers=[2]")
    device = exits(tmp_path / "out" / "checkpoint")
    assert device.exits == (2,) and len(device.model.model.layers) == 2 and device.whole.layers == 3
    about = tmp_path / "out" / "checkpoint" / "exits.json"
    for text in ("{}", "no json", '{"exits": [2], "whole": {"weights": "0"}}'):
        about.write_text(text)
        with pytest.raises(ConfigError, match=r"exits.json' cannot be read"):
            exits(about.parent)
    with pytest.raises(ConfigError, match=r"has no exits.json; give a folder that algorithm: exits made"):
        exits(tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["layers=[1, 3]"], "layers: 3 is no place for an exit of a model of 3 layers; write 2"),
        (["model=recorded:none.jsonl"], "none.jsonl"),
        (["--dry-run"], "exits take seconds once the model is loaded"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(tmp_path: Path, whole: str, words: list[str], message: str) -> None:
    result = train(tmp_path / "out", whole, *words)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()

"""`selfroute train` with `algorithm: reward_model`, from a recipe to a strategy that hands off by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from selfroute.commands.main import app
from selfroute.scores.reward_model import RewardModel
from selfroute.train.imitation.tokenizer import build_tokenizer
from selfroute.train.imitation.warmup import build_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small model that knows nothing, with the embedded tokenizer."""
    import torch

    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    build_model(build_tokenizer(), hidden_size=32, layers=1).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return str(folder)


def train(out: Path, model: str, /, *words: str, **options: Any) -> Any:
    recipe = {
        "algorithm": "reward_model", "task": "shop", "pairs": {"walks": {"rows": 24, "held_out_rows": 24}},
        "model": model, "steps": 2, "pairs_per_step": 4, "out": str(out), **options,
    }  # fmt: skip
    file = out.parent / "reward.yaml"
    file.write_text(json.dumps(recipe))
    return CliRunner().invoke(app, ["train", str(file), *words])


def test_walks_become_a_reward_that_can_be_resumed(tmp_path: Path, model: str) -> None:
    result = train(tmp_path / "out", model, "save_steps=1")
    assert result.exit_code == 0, result.output
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert run["ordered_by_environment"] is False and run["pairs_from"] == "walks" and run["task"] == "shop"
    assert run["pairs"] > 10 and run["quality"]["n"] > 5 and "untold" in run["dropped"]
    assert RewardModel.load(tmp_path / "out/checkpoint")("buy", "it") is not None
    again = train(tmp_path / "out", model)
    assert again.exit_code == 2 and "already holds a run" in again.output
    further = train(tmp_path / "out", model, "--resume", "steps=3", "save_steps=1")
    assert further.exit_code == 0, further.output
    assert json.loads((tmp_path / "out/run.json").read_text())["resumed_from"] == "checkpoint-2"


def test_answers_become_a_reward_by_which_a_strategy_hands_off(tmp_path: Path, model: str) -> None:
    (tmp_path / "answers.jsonl").write_text(
        "".join(
            json.dumps({"question": f"{a}+{b}", "good": f"{a + b}", "bad": f"{a + b + 1}"}) + "\n"
            for a in range(1, 9)
            for b in range(1, 5)
        )
    )
    pairs = {"file": {"path": str(tmp_path / "answers.jsonl"), "held_out": 0.3, "ordered": True}}
    result = train(tmp_path / "out", model, task=None, pairs=pairs)
    assert result.exit_code == 0, result.output
    reward = str(tmp_path / "out/checkpoint")
    evaluation = {
        "task": "countdown", "device": f"transformers:{model}", "cloud": f"transformers:{model}", "limit": 12,
        "max_tokens": 8, "strategies": ["always_device", "always_cloud"], "out": str(tmp_path / "evaluated"),
        "entrants": {"best": {"planned": {"reward": reward, "threshold": 0.0, "attempts": 3}}},
    }  # fmt: skip
    (tmp_path / "evaluate.yaml").write_text(json.dumps(evaluation))
    result = CliRunner().invoke(app, ["evaluate", str(tmp_path / "evaluate.yaml")])
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in (tmp_path / "evaluated/records.jsonl").read_text().splitlines()]
    scores = {record["score"] for record in records if record["strategy"] == "best"}
    assert len(scores) > 6 and None not in scores
    words = ["calibrate", str(tmp_path / "evaluated"), "--strategy", "best", "--share", "0.3"]
    result = CliRunner().invoke(app, [*words, "--serve", str(tmp_path / "serve.yaml")])
    assert result.exit_code == 0, result.output
    assert "planned" in (tmp_path / "serve.yaml").read_text() and reward in (tmp_path / "serve.yaml").read_text()


def test_a_devices_answers_are_ordered_by_the_verifier(tmp_path: Path, model: str) -> None:
    pairs = {"answers": {"device": "embedded:device", "rows": 12, "held_out_rows": 12, "samples": 3, "max_tokens": 120}}
    result = train(tmp_path / "out", model, task="countdown", pairs=pairs)
    assert result.exit_code == 0, result.output
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert run["ordered_by_environment"] is True and run["pairs"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "countdown"}, "has no environment to walk in"),
        ({"task": None}, "pairs: walks needs one"),
        ({"pairs": "wlaks"}, "did you mean 'walks'?"),
        ({"pairs": {"walks": {"row": 3}}}, "did you mean 'rows'?"),
        ({"pairs": {"file": {"path": "nowhere.jsonl"}}}, "no file 'nowhere.jsonl'"),
        ({"pairs": {"answers": {}}}, "option 'device' is missing"),
        ({"pairs_per_pass": 3}, "pairs_per_pass: 3 does not divide"),
        ({"model": "nowhere"}, "model: 'nowhere' does not exist"),
        ({"steps": 0}, "steps: 0 is not at least 1"),
    ],
)
def test_what_cannot_be_learned_is_refused(tmp_path: Path, model: str, options: Any, message: str) -> None:
    result = train(tmp_path / "out", model, **options)
    assert result.exit_code == 2 and message in " ".join(result.output.split()), result.output
    assert not (tmp_path / "out").exists()

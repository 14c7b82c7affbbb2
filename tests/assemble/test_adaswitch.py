"""`selfroute train` with `algorithm: adaswitch`, from a recipe to steps that change hands in an evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.assemble.test_heads import pair
from typer.testing import CliRunner

from selfroute.commands.main import app
from selfroute.scores.steps import Tags

__all__ = ["pair"]


def train(out: Path, pair: dict[str, str], *words: str) -> Any:
    recipe = {
        "algorithm": "adaswitch", "task": "chain", "model": pair["device"].removeprefix("transformers:"),
        "cloud": pair["cloud"], "practice_rows": 8, "practice_steps": 2, "exam_rows": 6, "samples": 1, "steps": 2,
        "batch_tokens": 512, "validation_rows": 4, "max_tokens": 12, "max_step_tokens": 6, "out": str(out),
    }  # fmt: skip
    file = out.parent / "steps.yaml"
    file.write_text(json.dumps(recipe))
    return CliRunner().invoke(app, ["train", str(file), *words])


def test_a_recipe_makes_a_device_that_tags_its_steps(tmp_path: Path, pair: dict[str, str]) -> None:
    result = train(tmp_path / "out", pair)
    assert result.exit_code == 0, result.output
    folder = tmp_path / "out" / "checkpoint"
    tags = Tags.load(folder)
    assert (tags.right, tags.wrong, tags.step_end) == ("y", "n", ";")
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["algorithm"] == "adaswitch" and run["examined"] == 6 and 0 <= run["wrong"] <= 1
    assert len((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()) == 2
    again = train(tmp_path / "out", pair)
    assert again.exit_code == 2 and "already holds a run" in again.output
    assert "has been trained to its end" in train(tmp_path / "out", pair, "--resume").output

    def evaluate(**changes: Any) -> Any:
        options = {"checker": "tag", "tags": str(folder), "points": [0.2, -1.0], "max_step_tokens": 6} | changes
        recipe = {
            "task": "chain", "device": f"transformers:{folder}", "cloud": pair["cloud"], "limit": 4, "max_tokens": 12,
            "strategies": ["always_device", "always_cloud"], "entrants": {"steps": {"step_level": options}},
            "axes": ["cloud_tokens", "bytes", "round_trips", "seconds"], "out": str(tmp_path / "evaluated"),
        }  # fmt: skip
        (tmp_path / "evaluate.yaml").write_text(json.dumps(recipe))
        return CliRunner().invoke(app, ["evaluate", str(tmp_path / "evaluate.yaml")])

    marks = {"checker": "random", "threshold": 0.5, "tags": None, "step_end": "|"}
    wrong = evaluate(**marks)
    assert wrong.exit_code == 2
    assert "step_end '|' of steps never occurs in answers to chain; write ';'" in " ".join(wrong.output.split())
    result = evaluate()
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in (tmp_path / "evaluated" / "records.jsonl").read_text().splitlines()]
    asked = [record for record in records if record["strategy"] == "steps" and record["point"] == -1.0]
    assert len(asked) == 4
    assert all(record["up_bytes"] > 0 and record["down_bytes"] > 0 and record["cloud_tokens"] > 0 for record in asked)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task=gsm8k"], "task: 'gsm8k' judges no steps; use one of chain"),
        (["wrong=y"], "wrong: 'y' is the tag of right steps too"),
        (["right=</think>"], "right: '</think>' begins steps of chain; take a tag that does not"),
        (["wrong=nope"], "tokens of the device; take a tag that is one"),
        (["model=nowhere"], "model: 'nowhere' does not exist"),
        (["cloud=embedded:cloud"], "needs a cloud with Sessions"),
        (["cleanshare=0.5"], "unknown key 'cleanshare'; did you mean 'clean_share'?"),
        (["--resume"], "nothing to resume"),
        (["--dry-run"], "how much there is to learn is known after its exam"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    tmp_path: Path, pair: dict[str, str], words: list[str], message: str
) -> None:
    result = train(tmp_path / "out", pair, *words)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "out" / "config.yaml").exists()

"""Two recordings as a device-cloud pair: recorded, evaluated with cross-fitting, and refused where they are wrong."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from selfroute.commands.main import app
from selfroute.evaluation.records import read_records


def selfroute(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def recording(path: Path, *, model: str, right: float, n: int = 80) -> Path:
    """Answers whose arithmetic is wrong where their result is."""
    rng = random.Random(model)
    rows = []
    for number in range(n):
        correct = rng.random() < right
        total = 2 * number + (0 if correct else 3)
        output = json.dumps({"reasoning": f"{number} + {number} = {total}", "answer": str(total)})
        row = {"id": f"q{number}", "question": f"What is {number} twice?", "gold": str(2 * number), "model": model}
        rows.append(json.dumps(row | {"output": output}))
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path, Path]:
    device = recording(tmp_path / "device.jsonl", model="small", right=0.5)
    cloud = recording(tmp_path / "cloud.jsonl", model="large", right=0.95)
    recipe = tmp_path / "pair.yaml"
    recipe.write_text(
        f"task: {{recorded: {{answers: [{device}, {cloud}]}}}}\n"
        f"device: {{recorded: {device}}}\ncloud: {{recorded: {cloud}}}\n"
        "folds: 4\nstrategies: [always_device, prompt_length, tfidf_ridge, answer_features]\n"
        f"out: {tmp_path / 'out'}\n",
        encoding="utf-8",
    )
    return recipe, device, cloud


def test_cross_fitted_strategies_in_one_command(pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    recipe, _, _ = pair
    result = selfroute("evaluate", str(recipe))
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    apgr = {row["name"]: row["apgr"] for row in summary["strategies"]}
    assert summary["n"] == 80
    assert apgr["answer_features"] > 0.7 > apgr["tfidf_ridge"]
    records = read_records(tmp_path / "out" / "records.jsonl")
    assert {r.score is None for r in records if r.strategy in ("tfidf_ridge", "answer_features")} == {False}
    assert not [r for r in records if r.error]


def test_a_train_split_of_the_same_recordings(pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    recipe, _, _ = pair
    result = selfroute("evaluate", str(recipe), "folds=null", "task.recorded.test_share=0.5", f"out={tmp_path / 'two'}")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "two" / "summary.json").read_text(encoding="utf-8"))["n"] < 60


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["folds=null"], "split 'train' is empty"),
        (["folds=1"], "folds: 1 is not at least 2"),
        (["folds=200"], "folds: 200 of 80 different questions"),
        (["strategies=[self_consistency]"], "a recording holds one answer"),
        (["strategies=[mean_logprob]"], "log-probabilities"),
        (["strategies=[tfidf_rigde]"], "did you mean 'tfidf_ridge'"),
        (["task.recorded.answers=[nowhere.jsonl]"], "no recording 'nowhere.jsonl'"),
        (["limit=3", "folds=2"], "train questions should go to the cloud"),
    ],
)
def test_what_cannot_work_is_one_line(pair: tuple[Path, Path, Path], overrides: list[str], message: str) -> None:
    recipe, _, _ = pair
    result = selfroute("evaluate", str(recipe), *overrides)
    lines = [line for line in result.output.splitlines() if not line.startswith(("preparing", "evaluating"))]
    assert result.exit_code in (1, 2)
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0], result.output


def test_two_recordings_of_different_sets(pair: tuple[Path, Path, Path]) -> None:
    recipe, device, cloud = pair
    cloud.write_text("\n".join(cloud.read_text(encoding="utf-8").splitlines()[1:]) + "\n", encoding="utf-8")
    result = selfroute("evaluate", str(recipe))
    assert result.exit_code == 2
    assert f"{cloud}:1: id 'q1' where {device}:1 has 'q0'" in " ".join(result.output.split())


@pytest.mark.parametrize("side", ["device", "cloud"])
@pytest.mark.parametrize("strategies", ["[always_device]", "[tfidf_ridge]"])
def test_a_recording_that_misses_a_prompt(
    pair: tuple[Path, Path, Path], tmp_path: Path, side: str, strategies: str
) -> None:
    recipe, device, cloud = pair
    rows = (device if side == "device" else cloud).read_text(encoding="utf-8").splitlines()
    short = tmp_path / "short.jsonl"
    short.write_text("\n".join(rows[:-1]) + "\n", encoding="utf-8")
    out = tmp_path / "out"
    result = selfroute("evaluate", str(recipe), f"{side}.recorded={short}", f"strategies={strategies}", f"out={out}")
    assert result.exit_code == 1, result.output
    error = result.output.splitlines()[-1]
    assert error.startswith("error: ") and str(short) in error and "has no answer to" in error
    assert not (out / "summary.json").exists()


def test_record_writes_down_what_an_answer_costs(pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    words = ["record", "countdown", "limit=2", "--limit", "2", "--backend", "embedded:cloud", "--out", str(out)]
    result = selfroute(*words, "--max-tokens", "8", "--completion-usd", "1000000")
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["usd"] for row in rows] == [row["usage"]["completion_tokens"] for row in rows]

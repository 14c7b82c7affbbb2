"""`selfroute train` with `algorithm: reward_head`, from a recipe to a head that decides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from selfroute.commands.main import app
from selfroute.scores.tokens import TokenHead
from selfroute.train.imitation.tokenizer import build_tokenizer
from selfroute.train.imitation.warmup import build_model


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two small models that know nothing, with the embedded tokenizer."""
    import torch

    made = {}
    for seed, side in enumerate(("device", "cloud")):
        folder = tmp_path_factory.mktemp(side)
        torch.manual_seed(seed)
        build_model(build_tokenizer(), hidden_size=32, layers=1).save_pretrained(folder)
        build_tokenizer().save_pretrained(folder)
        made[side] = f"transformers:{folder}"
    return made


def train(out: Path, pair: dict[str, str], *words: str) -> Any:
    recipe = {
        "algorithm": "reward_head", "task": "chain", **pair, "rows": 24, "validation_rows": 8, "epochs": 2, "width": 8,
        "max_tokens": 12, "share": 0.3, "out": str(out),
    }  # fmt: skip
    file = out.parent / "head.yaml"
    file.write_text(json.dumps(recipe))
    return CliRunner().invoke(app, ["train", str(file), *words])


def test_a_recipe_makes_a_head_with_a_threshold(tmp_path: Path, pair: dict[str, str]) -> None:
    result = train(tmp_path / "out", pair)
    assert result.exit_code == 0, result.output
    head = TokenHead.load(tmp_path / "out" / "checkpoint")
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert head.kind == "rel" and head.threshold == run["threshold"] is not None
    assert run["places"] > 0 and 0 <= run["share"] <= 1 and 0 <= run["calibration_error"] <= 1
    assert len((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()) == 2
    again = train(tmp_path / "out", pair)
    assert again.exit_code == 2 and "already holds a run" in again.output
    scorer = {"scorer": "reward_head", "head": str(tmp_path / "out" / "checkpoint")}
    recipe = {
        "task": "chain", **pair, "limit": 6, "max_tokens": 12, "strategies": ["always_device", "always_cloud"],
        "entrants": {"head": {"token_level": scorer | {"points": [0.5]}}},
        "axes": ["cloud_tokens", "bytes", "round_trips", "seconds"], "out": str(tmp_path / "evaluated"),
    }  # fmt: skip
    (tmp_path / "evaluate.yaml").write_text(json.dumps(recipe))
    result = CliRunner().invoke(app, ["evaluate", str(tmp_path / "evaluate.yaml")])
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in (tmp_path / "evaluated" / "records.jsonl").read_text().splitlines()]
    asked = [record for record in records if record["strategy"] == "head" and record.get("cloud_calls")]
    assert all(record["up_bytes"] > 0 and record["down_bytes"] > 0 for record in asked)
    whole = [record for record in records if record["strategy"] == "always_cloud"]
    assert all(record["up_bytes"] > 0 for record in whole)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["kind=rell"], "kind: 'rell' is not one of rel, prob, accept, pair, co_llm, citer; did you mean 'rel'?"),
        (["cloud=embedded:cloud"], "needs a cloud with Sessions"),
        (["--dry-run"], "a head takes seconds once its pair is loaded"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    tmp_path: Path, pair: dict[str, str], words: list[str], message: str
) -> None:
    result = train(tmp_path / "out", pair, *words)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.evaluation.test_recompute import world
from typer.testing import CliRunner

from selfroute.commands.main import app
from selfroute.errors import ConfigError
from selfroute.evaluation.counting.scores import read_scores
from selfroute.evaluation.records import append
from selfroute.prices import Price, Prices

PRICES = "as_of: 2026-11-01\nmodels: {device: {prompt_usd: 0}, cloud: {completion_usd: 10}}\n"


def log(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def records(path: Path) -> Path:
    with path.open("w", encoding="utf-8") as file:
        for record in world():
            append(file, record)
    return path


def calibrate(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["calibrate", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def traces(path: Path, n: int = 200, shift: float = 0.0, seed: int = 0) -> Path:
    scores = np.random.default_rng(seed).normal(shift, 1, n)
    rows = [
        {"score": float(s), "source": "cloud" if s > 0.5 else "device", "usd": 0.002 if s > 0.5 else 0.0001}
        for s in scores
    ]
    return log(path, rows)


def test_scores_of_a_log_and_of_records(tmp_path: Path) -> None:
    found = read_scores(traces(tmp_path / "t.jsonl"))
    assert len(found.score) == 200 and found.strategy == "" and found.skipped == 0
    assert found.kept_usd is not None and found.kept_usd == pytest.approx(0.0001)
    own = read_scores(records(tmp_path / "r.jsonl"), strategy="sees", prices=Prices(cloud=Price(completion_usd=10)))
    assert len(own.score) == 199  # one row failed for some strategy
    assert own.sent_usd is not None and own.sent_usd.max() == pytest.approx(139 * 10 / 1e6)


def test_a_log_that_wraps_its_traces_is_read(tmp_path: Path) -> None:
    rows = [{"trace": {"score": 0.5, "strategy": "a"}}, {"trace": {"score": None, "strategy": "a"}}]
    found = read_scores(log(tmp_path / "t.jsonl", rows))
    assert (found.score.tolist(), found.strategy, found.skipped) == ([0.5], "a", 1)


def test_a_share_becomes_a_threshold_with_its_band(tmp_path: Path) -> None:
    told = calibrate(traces(tmp_path / "t.jsonl"), "--share", 0.25, "--next", 400, "--out", tmp_path / "c.json")
    assert "threshold 0." in told and "call share 25.0 % of 200 requests; " in told
    assert "of the next 400 requests, 95 times out of 100" in told
    made = json.loads((tmp_path / "c.json").read_text())
    assert made["calls"] == 50 and made["share_low"] < 0.25 < made["share_high"]
    assert not list(tmp_path.glob(".*"))


def test_drift_is_said_in_a_sentence(tmp_path: Path) -> None:
    past = traces(tmp_path / "t.jsonl")
    same = traces(tmp_path / "same.jsonl", seed=3)
    assert "No drift: " in calibrate(past, "--share", 0.3, "--check", same)
    harder = traces(tmp_path / "new.jsonl", shift=1.0, seed=2)
    assert "The share has drifted: " in calibrate(past, "--share", 0.3, "--check", harder)


def test_money_becomes_a_threshold(tmp_path: Path) -> None:
    told = calibrate(traces(tmp_path / "t.jsonl"), "--usd-per-1000", 0.5)
    assert "cost $0.4" in told
    (tmp_path / "p.yaml").write_text(PRICES)
    told = calibrate(
        records(tmp_path / "r.jsonl"), "--strategy", "sees", "--usd-per-1000", 0.3, "--prices", tmp_path / "p.yaml"
    )
    assert "cost $0.2" in told or "cost $0.3" in told


def test_ties_are_said(tmp_path: Path) -> None:
    rows = [{"score": s} for s in [3, 2, 2, 2, 1, 1, 1, 1, 1, 1]]
    assert "one score lower would send 40.0 %" in calibrate(log(tmp_path / "t.jsonl", rows), "--share", 0.3)
    assert "ties: 3 requests score exactly" in calibrate(tmp_path / "t.jsonl", "--share", 0.4)
    assert "send none; no threshold" in calibrate(tmp_path / "t.jsonl", "--share", 0.0)


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ('{"score": 1}\n', [], "give either --share"),
        ('{"score": 1}\n', ["--share", "2"], "--share: 2 is not in"),
        ("", ["--share", "0.3"], "is empty"),
        ("a,b\n", ["--share", "0.3"], ":1 is no JSON"),
        ('{"score": 1}\n{"x": 2}\n', ["--share", "0.3"], ":2 has no 'score'"),
        ('{"score": 1}\n{"score": NaN}\n', ["--share", "0.3"], ":2: score is nan, not a finite number or null"),
        ('{"score": null}\n', ["--share", "0.3"], "no request has a score"),
        ('{"score": 1, "strategy": "a"}\n{"score": 1, "strategy": "b"}\n', ["--share", "0.3"],
         "holds several strategies; choose one with --strategy: a, b"),
        ('{"score": 1, "strategy": "a"}\n', ["--share", "0.3", "--strategy", "z"], "has no strategy 'z'"),
        ('{"score": 1}\n', ["--usd-per-1000", "1"], "does not tell what a request costs"),
    ],
)  # fmt: skip
def test_bad_input_ends_in_one_line(tmp_path: Path, content: str, arguments: list[str], message: str) -> None:
    (tmp_path / "t.jsonl").write_text(content)
    result = CliRunner().invoke(app, ["calibrate", str(tmp_path / "t.jsonl"), *arguments])
    assert result.exit_code == 2
    lines = result.output.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]


def test_a_strategy_without_scores_names_those_that_have_some(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'asks' has no scores; choose --strategy from: sees, coarse"):
        read_scores(records(tmp_path / "r.jsonl"), strategy="asks")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no .*none\.jsonl.; name the folder of an evaluation"):
        read_scores(tmp_path / "none.jsonl")

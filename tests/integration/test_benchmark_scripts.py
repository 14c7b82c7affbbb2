"""Benchmarks that share parts with others still run, on sizes that say nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.scripts import load_script, scripts_of

pytestmark = pytest.mark.slow


def test_time_of_a_step_of_an_objective(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "steps.json"
    small = ["--prompts", "2", "--group", "2", "--tokens", "12", "--pairs", "1", "--ways", "vargrad_tb"]
    monkeypatch.setattr("sys.argv", ["run.py", *small, "--out", str(out)])
    with scripts_of("benchmarks"):
        load_script("benchmarks/objectives/run.py").main()
    assert {len(steps) for steps in json.loads(out.read_text())["steps"].values()} == {1}
    assert "vargrad_tb" in capsys.readouterr().out


def test_sums_with_a_calculator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with scripts_of("benchmarks"):
        script = load_script("benchmarks/objectives/arithmetic.py")
        for name, value in {"IMITATED": 3, "STEPS": 1, "SFT_STEPS": 1, "PROMPTS": 2, "GROUP": 2, "VOTES": 2}.items():
            monkeypatch.setattr(script, name, value)
        monkeypatch.setattr("sys.argv", f"arithmetic.py all --out {tmp_path} --seeds 0 --count 2".split())
        script.main()
    cells = json.loads((tmp_path / "arithmetic.json").read_text())
    assert [cell["arm"] for cell in cells] == ["begun", "sft", "vargrad_tb", "grpo"]
    assert "| grpo | 0" in script.page(cells)

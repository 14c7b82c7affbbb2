"""The page of `benchmarks/pretrained/run.py`: what is kept of a seed, and what it says of several."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.scripts import load_script

from selfroute.assemble.evaluating import evaluate_recipe
from selfroute.config import EvaluateRecipe, build

pytestmark = pytest.mark.docs
ROWS, SHARES = 40, (0.1, 0.3, 0.5)


@pytest.fixture(scope="module")
def script() -> Any:
    return load_script("benchmarks/pretrained/results_page.py")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seed on whose warm device two strategies have run, on test problems and on others."""
    place = tmp_path_factory.mktemp("seed-1")
    for part, first in (("test", 100), ("shift", 500)):
        asyncio.run(evaluate_recipe(recipe(place, part, first)))
    return place


def recipe(place: Path, part: str, first: int) -> EvaluateRecipe:
    """Doubles; the device has every second one wrong, the cloud every tenth."""
    numbers = range(first, first + 2 * ROWS)
    rows = [{"question": f"Twice {n}", "answer": 2 * n} for n in numbers]
    write(place / part / "test.jsonl", rows[:ROWS])
    write(place / part / "train.jsonl", rows[ROWS:])
    for side, every in (("device", 2), ("cloud", 10)):
        answers = [
            {
                "prompt": f"Twice {n}",
                "text": f"\\boxed{{{2 * n + (n % every == 0)}}}",
                "usage": {"prompt_tokens": 3, "completion_tokens": 5},
            }
            for n in numbers
        ]
        write(place / f"{side}-{part}.jsonl", answers)
    values = {
        "task": {"jsonl": {"path": str(place / part), "verifier": "numeric", "template": "plain"}},
        "device": f"recorded:{place}/device-{part}.jsonl",
        "cloud": f"recorded:{place}/cloud-{part}.jsonl",
        "strategies": ["always_device", "random_offload", "prompt_length"],
        "out": str(place / f"warm-{part}"),
    }
    return build(EvaluateRecipe, values, where="evaluate")


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def kept(script: Any, place: Path) -> dict[str, Any]:
    """As it comes back from its file."""
    found: dict[str, Any] = json.loads(json.dumps(script.measured(place, ("warm", "GAPG"), SHARES, 1)))
    return found


def test_what_is_kept_of_a_seed_is_what_was_evaluated(script: Any, place: Path) -> None:
    seed = kept(script, place)
    assert (seed["n"], seed["shares"], [*seed["devices"]]) == (ROWS, list(SHARES), ["warm"])
    (device, cloud), *_ = script.ends_of({1: seed}, "warm")
    assert (device.mean(), cloud.mean()) == (0.5, 0.9)
    assert [*seed["devices"]["warm"]["strategies"]] == ["random_offload", "prompt_length"], "an end is no strategy"
    drawn = seed["devices"]["warm"]["strategies"]["random_offload"]
    at_half = script.unpacked(drawn["right"][2], ROWS)
    assert at_half.shape == (ROWS,) and 0.5 < at_half.mean() < 0.95
    kept_wrong, sent_right, in_vain, asks, _, own, _ = drawn["errors"]
    assert own == 0.5 and 0 < kept_wrong < 0.5 and kept_wrong + sent_right + in_vain < 1
    sent, right, *_ = drawn["shift"]
    assert 0 <= sent <= 1 and 0.4 < right < 1
    assert all(-1 < gain < 1 for gain in drawn["gains"]) and drawn["tokens"] == 5 * (1 - asks)
    # Twelve characters long all of them, and half of them wrong, whatever their length.
    by_length = seed["devices"]["warm"]["strategies"]["prompt_length"]["wrong_by_score"]
    assert by_length and all(0.2 < rate < 0.8 for rate in by_length)


def test_the_page_has_what_every_seed_has(script: Any, place: Path) -> None:
    seed = kept(script, place)
    page = script.page({1: seed, 2: seed}, "What it means.")
    assert "device alone 50.0 ± 0.0, cloud alone 90.0 ± 0.0, either" in page and "What it means." in page
    assert "| warm | random_offload |" in page and "| warm | *perfect* | 60.0 ± 0.0 |" in page
    assert "not trained on every seed" in page and "## Other kinds and difficulties" in page
    with pytest.raises(ValueError, match="nothing has been evaluated on every seed"):
        script.page({1: seed, 2: {**seed, "devices": {}}}, "")


def test_a_policy_stands_beside_the_best_of_the_others(script: Any, place: Path) -> None:
    seed = kept(script, place)
    strategies = seed["devices"]["warm"]["strategies"]
    strategies |= {"warm": strategies["random_offload"], "GAPG": {**strategies["random_offload"]}}
    strategies["GAPG"]["right"] = [script.packed([True] * ROWS) for _ in SHARES]
    page = script.page({1: seed, 2: seed}, "")
    assert "| GAPG | the warm policy | 10 % | warm | +" in page
    assert re.search(r"\| GAPG \| the best on the warm device \| 50 % \| (prompt_length|random_offload) \| \+", page)

"""The page of `benchmarks/strategies/run.py`: means and spreads over seeds, and sentences that follow from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.scripts import load_script

from selfroute.config import EvaluateRecipe, load_recipe

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.docs


@pytest.fixture(scope="module")
def script() -> Any:
    return load_script("benchmarks/strategies/run.py")


def entry(name: str, right: float, gain: float, fixed: bool = False) -> dict[str, Any]:
    return {
        **{"name": name, "fixed": fixed, "overall_accuracy": right, "oracle_gain": gain, "apgr": 0.5, "auroc": 0.5},
        **{"solve_rate": None, "raw_call_share": 0.3, "raw_overall_accuracy": right, "device_tokens": 1000},
        **{"usd_per_1000_at_share": None},
    }


def run(seed: int, right: dict[str, tuple[float, float]]) -> tuple[dict[str, Any], dict[str, Any]]:
    bounds = {f"{side}_accuracy": 0.5 for side in ("device", "cloud", "either", "random", "oracle")}
    entries = [entry("always_device", 0.5, 0.0, fixed=True), *(entry(name, *value) for name, value in right.items())]
    about = {"command": f"selfroute evaluate r.yaml seed={seed}", "commit": "abc123", "identity": {}}
    return {"seed": seed, "n": 100, **bounds, "strategies": entries}, about


def test_a_row_is_the_mean_and_spread_over_seeds(script: Any) -> None:
    first = {"prompt_length": (0.70, 0.1), "tfidf_ridge": (0.60, 0.3), "self_route": (0.8, 0.5)}
    second = {"prompt_length": (0.74, 0.1), "tfidf_ridge": (0.62, -0.3), "self_route": (0.7, 0.5)}
    page = script.page({"before": [run(1, first), run(2, second)], "after": []})
    assert "| prompt_length | the prompt | 72.0 ± 2.8 | 0.10 ± 0.00 |" in page
    assert "| tfidf_ridge | the prompt, fitted | 61.0 ± 1.4 |" in page
    assert "always_device" not in page, "a bound has no place in the ranking"
    assert page.index("| self_route |") < page.index("| prompt_length |") < page.index("| tfidf_ridge |")
    assert "ahead of every fitted prompt router: prompt_length." in page
    assert "ahead of every fitted cascade: none." in page
    assert "within two standard errors of 0): tfidf_ridge." in page
    assert "Ahead of self_route at the share: none." in page
    assert "selfroute evaluate r.yaml seed=2  # commit abc123" in page


def test_every_strategy_of_the_recipe_has_its_place(script: Any) -> None:
    recipe = load_recipe(EvaluateRecipe, ROOT / script.RECIPE, [])
    placed = {*script.PROMPT, *script.AFTER, *script.DURING, "always_device", "always_cloud", "random_offload"}
    assert {*recipe.strategies, *recipe.policies} == placed

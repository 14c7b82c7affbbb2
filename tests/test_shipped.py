"""Recipes by name, without a clone around."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfroute.config import EvaluateRecipe, load_recipe, load_values
from selfroute.errors import ConfigError
from selfroute.evaluation.counting.costs import load_prices
from selfroute.shipped import recipe_file, shipped_recipes

ROOT = Path(__file__).resolve().parents[1]


def test_every_recipe_has_a_name() -> None:
    found = shipped_recipes()
    assert set(found.values()) == {path.resolve() for path in ROOT.glob("recipes/**/*.yaml")}
    assert found["countdown/gapg"] == ROOT / "recipes" / "countdown" / "gapg.yaml"


@pytest.mark.parametrize("name", ["countdown/gapg", "countdown/gapg.yaml", "recipes/countdown/gapg.yaml"])
def test_a_name_is_enough(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_values(name, ["seed=7"])["seed"] == 7
    assert recipe_file(name).name == "gapg.yaml"


def test_a_file_of_ones_own_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "countdown").mkdir()
    (tmp_path / "countdown" / "evaluate.yaml").write_text("task: gsm8k\n")
    assert load_recipe(EvaluateRecipe, "countdown/evaluate.yaml").task.name == "gsm8k"


def test_a_price_table_has_a_name_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (model, *_) = load_values("prices")["models"]
    assert load_prices(Path("recipes/prices.yaml"), device=[model], cloud=[model]).cloud_model == model


def test_a_name_that_is_none_is_told_with_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"'countdown/gpag' does not exist; did you mean 'countdown/gapg'\?; "):
        load_values("countdown/gpag")

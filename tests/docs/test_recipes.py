"""Every recipe in recipes/ parses, and starts with the command that runs it."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from selfroute.assemble.serving import make_service
from selfroute.config import (
    CompareRecipe,
    EvaluateRecipe,
    PlaceRecipe,
    TuneRecipe,
    algorithm_of,
    at,
    build,
    load_recipe,
    load_values,
    make_task,
    parse_overrides,
)
from selfroute.config.comparing import check_comparison
from selfroute.config.serving import load_serve_recipe

ROOT = Path(__file__).resolve().parents[2]
# The price table is read by recipes and is none; tests/evaluation/counting/test_costs.py reads it.
RECIPES = sorted(path.relative_to(ROOT) for path in ROOT.glob("recipes/**/*.yaml") if path.name != "prices.yaml")
pytestmark = pytest.mark.docs


def command_of(path: Path) -> list[str]:
    first = (ROOT / path).read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# selfroute "), f"{path} must start with the command that runs it"
    return shlex.split(first.removeprefix("# "))


def test_there_are_recipes() -> None:
    assert {"evaluate", "gapg", "warmup", "llama-server"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", [path for path in RECIPES if path.parts[1] == "serve"], ids=str)
def test_a_serving_recipe_is_right(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    comments = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# selfroute ")]
    assert any(str(path) in line for line in comments), f"{path} must start with the command that runs it"
    make_service(load_serve_recipe(path))


@pytest.mark.parametrize(
    "path", [path for path in RECIPES if path.parts[1] not in ("atlas", "serve", "placement", "tuning")], ids=str
)
def test_the_command_of_a_recipe_loads_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    program, command, named, *overrides = command_of(path)
    assert (program, Path(named)) == ("selfroute", path)
    values = load_values(named, overrides)
    train = at(algorithm_of(values).options)
    recipe = build({"evaluate": EvaluateRecipe, "train": train}[command], values, where=named)
    if recipe.task.name == "recorded" and not (ROOT / ".." / "shared" / "data").is_dir():
        pytest.skip("needs ../shared/data")  # the rest of the recipe is right
    assert make_task(recipe.task, seed=recipe.seed).template
    assert set(parse_overrides(overrides)) <= set(values), "the command shows keys that the recipe leaves out"


@pytest.mark.parametrize("path", [path for path in RECIPES if path.parts[1] == "atlas"], ids=str)
def test_the_command_of_a_comparison_loads_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    program, command, named, *overrides = command_of(path)
    assert (program, command, Path(named)) == ("selfroute", "compare", path)
    recipe = load_recipe(CompareRecipe, named, overrides)
    check_comparison(recipe)
    assert recipe.axes and recipe.prices is not None


@pytest.mark.parametrize("path", [path for path in RECIPES if path.parts[1] == "placement"], ids=str)
def test_the_command_of_a_placement_loads_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    program, command, named, *overrides = command_of(path)
    assert (program, command, Path(named)) == ("selfroute", "place", path)
    assert load_recipe(PlaceRecipe, named, overrides) == load_recipe(PlaceRecipe, named)


@pytest.mark.parametrize("path", [path for path in RECIPES if path.parts[1] == "tuning"], ids=str)
def test_the_command_of_a_tuning_loads_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    command = next(line for line in path.read_text(encoding="utf-8").splitlines() if "selfroute tune" in line)
    assert str(path) in command
    assert load_recipe(TuneRecipe, path).slots

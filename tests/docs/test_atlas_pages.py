"""The pages of `benchmarks/atlas/run.py`: of what is kept of each comparison."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.scripts import load_script

from selfroute.config import CompareRecipe, load_recipe

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("chain", "countdown", "smollm2")
pytestmark = pytest.mark.docs


@pytest.fixture(scope="module")
def script() -> Any:
    return load_script("benchmarks/atlas/run.py")


def kept(name: str) -> dict[str, Any]:
    table: dict[str, Any] = json.loads((ROOT / f"benchmarks/atlas/{name}.json").read_text(encoding="utf-8"))
    return table


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_what_its_table_makes(script: Any, name: str) -> None:
    page = (ROOT / f"docs/results/atlas-{name}.md").read_text(encoding="utf-8")
    assert page == script.page(name), "python benchmarks/atlas/run.py --write"


@pytest.mark.parametrize("name", NAMES)
def test_a_table_is_of_its_recipe_on_three_seeds(name: str) -> None:
    recipe, table = load_recipe(CompareRecipe, ROOT / f"recipes/atlas/{name}.yaml", []), kept(name)
    assert table["seeds"] == list(recipe.seeds) and table["n"] == [recipe.limit] * 3
    assert table["shares"] == list(recipe.shares) and [part["axis"] for part in table["axes"]] == list(recipe.axes)
    named = [each["name"] for key in ("entries", "left_out") for each in table[key]]
    assert set(named) == set(recipe.entries), "every entry is in the table or left out by name"
    assert all(ran["commit"] for each in table["entries"] for ran in each["ran"])

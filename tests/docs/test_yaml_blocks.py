"""Every block of YAML on a page is a recipe, or fits into one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from selfroute.config import CompareRecipe, EvaluateRecipe, PlaceRecipe, TuneRecipe, algorithm_of, at, build
from selfroute.config.serving import load_serve_recipe
from selfroute.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
FILES = {"train": "countdown/gapg", "evaluate": "countdown/evaluate", "tune": "tuning/sums", "place": "placement/r1",
         "compare": "atlas/chain"}  # fmt: skip
pytestmark = pytest.mark.docs


def blocks() -> list[Any]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.finditer(r"```(\w*)\n(.*?)```", text, re.DOTALL):
            if block.group(1) == "yaml" and isinstance(values := yaml.safe_load(block.group(2)), dict):
                line = text[: block.start()].count("\n") + 1
                found.append(pytest.param(values, id=f"{page.relative_to(ROOT)}:{line}"))
    return found


def served(values: Mapping[str, Any], folder: Path) -> None:
    file = folder / "serve.yaml"
    # What `selfroute tune` writes is not there.
    file.write_text(re.sub(r"tuned:\S+", "plain", yaml.safe_dump(values)), encoding="utf-8")
    load_serve_recipe(file)


@pytest.mark.parametrize("values", blocks())
def test_a_block_is_a_recipe_or_fits_into_one(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", str(values)):
        monkeypatch.setenv(name, "x")
    # A block that names no task is a part of a recipe.
    read = {kind: yaml.safe_load((ROOT / f"recipes/{file}.yaml").read_text()) for kind, file in FILES.items()}
    whole = {kind: values if "task" in values else base | values for kind, base in read.items()}
    kinds: dict[str, Callable[[], Any]] = {
        "serve": lambda: served(values, tmp_path),
        "train": lambda: build(at(algorithm_of(whole["train"]).options), whole["train"], where="page"),
        "evaluate": lambda: build(EvaluateRecipe, whole["evaluate"], where="page"),
        "tune": lambda: build(TuneRecipe, whole["tune"], where="page"),
        "place": lambda: build(PlaceRecipe, whole["place"], where="page"),
        "compare": lambda: build(CompareRecipe, whole["compare"], where="page"),
    }
    errors = []
    for kind, made in kinds.items():
        try:
            made()
        except ConfigError as error:
            errors.append(f"{kind}: {error}")
        else:
            return
    pytest.fail("\n".join(errors))

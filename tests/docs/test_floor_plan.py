"""The floor plan of CONTRIBUTING is the one that import-linter checks, and every room stands on it once."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.docs


def contract() -> list[list[str]]:
    """The floors of the layers contract, top first; import-linter puts what may be missing in brackets."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = next(one["layers"] for one in settings["contracts"] if one["id"] == "layers")
    return [re.findall(r"\w+", layer) for layer in layers]


def plan() -> list[list[str]]:
    """The floors of the page: its block without a language."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    (floors,) = [content for language, content in blocks if not language]
    return [line.split(" | ") for line in floors.splitlines()]


def test_the_floor_plan_is_that_of_the_import_contracts() -> None:
    assert plan() == contract()


def test_every_room_stands_on_one_floor() -> None:
    source = ROOT / "src" / "selfroute"
    found = {path.stem for path in source.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    rooms = [room for floor in contract() for room in floor]
    assert len(rooms) == len(set(rooms))
    assert set(rooms) == found - {"__init__"}

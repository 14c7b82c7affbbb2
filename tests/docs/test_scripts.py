"""Scripts that no other test runs, because they take minutes, still load against the package as it is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.scripts import load_script

ROOT = Path(__file__).resolve().parents[2]
FOUND = (path.relative_to(ROOT) for folder in ("benchmarks", "recipes") for path in ROOT.glob(f"{folder}/**/*.py"))
# Environments that a benchmark makes for others lie in hidden folders.
SCRIPTS = sorted(path for path in FOUND if not any(part.startswith(".") for part in path.parts))
pytestmark = pytest.mark.docs


@pytest.mark.parametrize("path", SCRIPTS, ids=str)
def test_a_script_finds_what_it_imports(path: Path) -> None:
    assert load_script(path).__doc__, f"{path} says nowhere what it does"


def test_scripts_of_one_name_are_each_their_own_and_none_stays_known() -> None:
    before = set(sys.modules)
    folders = ("benchmarks/pretrained", "benchmarks/strategies", "benchmarks/pretrained")
    first, other, again = (load_script(f"{folder}/run.py") for folder in folders)
    assert [Path(str(script.__file__)).parent.name for script in (first, other, again)] == [
        Path(f).name for f in folders
    ]
    assert first is not again
    assert {"run", "survey", "families"} & (set(sys.modules) - before) == set()

"""Scripts that no other test runs, because they take minutes, still load against the package as it is."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOUND = (path.relative_to(ROOT) for folder in ("benchmarks", "recipes") for path in ROOT.glob(f"{folder}/**/*.py"))
# Environments that a benchmark makes for others lie in hidden folders.
SCRIPTS = sorted(path for path in FOUND if not any(part.startswith(".") for part in path.parts))
pytestmark = pytest.mark.docs


@pytest.mark.parametrize("path", SCRIPTS, ids=str)
def test_a_script_finds_what_it_imports(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str((ROOT / path).parent))  # as when it is run
    spec = importlib.util.spec_from_file_location(f"script_{path.stem}", ROOT / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    assert module.__doc__, f"{path} says nowhere what it does"

"""The rule of the root conftest.py: with CI=true, a skip for a missing part is a failure."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

TESTS = """
import pytest

def test_good(): pass

def test_missing(): pytest.skip("needs chromium")

@pytest.mark.gpu
def test_gpu(): pytest.skip("no accelerator")

@pytest.mark.clients
def test_clients(): pytest.skip("no such client")

@pytest.mark.skipif(True, reason="needs ../shared/data")
def test_outside(): pass

@pytest.mark.xfail(reason="known")
def test_known(): assert False
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    gpu\n    data\n    clients\n")
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "test_module.py").write_text("import pytest\npytest.importorskip('surely_not_installed')\n")
    return tmp_path


def run(suite: Path, ci: str, *options: str) -> str:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]
    environment = os.environ | {"CI": ci, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, cwd=suite, env=environment, capture_output=True, text=True, check=False).stdout


def test_on_a_laptop_a_missing_part_is_a_skip(suite: Path) -> None:
    assert "1 passed, 5 skipped, 1 xfailed" in run(suite, "")


def test_in_ci_a_missing_part_is_a_failure_named(suite: Path) -> None:
    output = run(suite, "true")
    assert "test_module.py was skipped, which counts as a failure when CI=true" in output
    (suite / "test_module.py").unlink()
    output = run(suite, "true")
    assert "1 failed, 1 passed, 3 skipped, 1 xfailed" in output
    assert "test_it.py::test_missing was skipped" in output
    assert "needs chromium" in output


def test_a_run_of_the_clients_alone_needs_them(suite: Path) -> None:
    (suite / "test_module.py").unlink()
    assert "test_clients was skipped, which counts as a failure" in run(suite, "true", "-m", "clients")

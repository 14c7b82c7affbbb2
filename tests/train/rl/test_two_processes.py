"""Two processes make the steps that one makes."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.train import two_processes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    two_processes.both(folder)
    return folder


@pytest.mark.parametrize("way", ["filter", "no_filter", "held_out", "passes", "tokens", "constraint"])
def test_two_processes_are_one(trained: Path, way: str) -> None:
    one, two, start = two_processes.weights(trained, way)
    moved = one - start
    assert moved.norm() > 1e-3
    assert (two - one).norm() / moved.norm() < 1e-6

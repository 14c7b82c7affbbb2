"""The public names: they exist, the two lists in the package root agree, and importing them loads no torch."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import selfroute

HEAVY = {"torch", "transformers", "trl", "sklearn", "matplotlib", "datasets", "pandas"}


def run(code: str) -> str:
    """Run code in a fresh interpreter; returns what it printed."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def loaded(code: str) -> set[str]:
    """The heavy libraries that a fresh interpreter has loaded after `code`."""
    printed = run(f"import json, sys\n{code}\nprint('\\n' + json.dumps(sorted(sys.modules)))")
    return HEAVY & set(json.loads(printed.strip().splitlines()[-1]))


@pytest.mark.parametrize("name", selfroute.__all__)
def test_every_public_name_exists(name: str) -> None:
    assert getattr(selfroute, name) is not None
    assert name in dir(selfroute)


def test_names_for_type_checkers_are_the_names_at_run_time() -> None:
    tree = ast.parse(Path(selfroute.__file__).read_text(encoding="utf-8"))
    typed = {
        alias.asname: node.module
        for block in ast.walk(tree)
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == {name: f"selfroute.{module}" for name, module in selfroute._MODULE_OF.items()}


@pytest.mark.parametrize("module", sorted(set(selfroute._MODULE_OF.values())))
def test_a_public_name_is_public_in_its_module_too(module: str) -> None:
    inner = import_module(f"selfroute.{module}")
    names = {name for name, place in selfroute._MODULE_OF.items() if place == module}
    assert names <= set(inner.__all__)


def test_no_public_name_hides_a_module() -> None:
    folder = Path(selfroute.__file__).parent
    assert not {path.stem for path in folder.iterdir()} & set(selfroute.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = selfroute.Nothing


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded("import selfroute") == set()


def test_importing_the_package_is_quick() -> None:
    # Processor time: a busy machine must not fail the test.
    code = "import time; start = time.process_time(); import selfroute; print(time.process_time() - start)"
    assert min(float(run(code)) for _ in range(3)) < 0.3


def test_the_light_rooms_load_nothing_heavy() -> None:
    modules = [
        "errors",
        "types",
        "handoff",
        "prompts",
        "prices",
        "grading",
        "rewards.hierarchical",
        "config",
        *(f"assemble.{part}" for part in ("dry_run", "evaluating", "exporting", "placing", "serving", "training")),
        "commands.main",
        "testing",
    ]
    modules += [f"{room}.base" for room in ("budget", "tasks", "backends", "strategies")]
    assert loaded("import " + ", ".join(f"selfroute.{module}" for module in modules)) == set()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--help"],
        ["export", "--help"],
        ["place", "--help"],
        ["tasks"],
        ["strategies"],
        ["backends"],
        ["algorithms"],
        ["env"],
    ],
)
def test_light_commands_load_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
import selfroute.commands.main
try:
    selfroute.commands.main.app({arguments!r}, prog_name='selfroute')
except SystemExit as end:
    assert not end.code, end.code
"""
    assert loaded(code) == set()

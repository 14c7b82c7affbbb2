"""Commands in README, docs and help exist, and their options and recipe keys are right."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from selfroute.commands.main import app
from selfroute.commands.serve import _file_and_overrides
from selfroute.config import (
    CompareRecipe,
    EvaluateRecipe,
    PlaceRecipe,
    Spec,
    TuneRecipe,
    algorithm_of,
    at,
    build,
    load_values,
)
from selfroute.config.serving import load_serve_recipe
from selfroute.config.tables import BACKENDS
from selfroute.shipped import recipe_file

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
GROUP = typer.main.get_command(app)
pytestmark = pytest.mark.docs


def commands(page: Path) -> Iterator[list[str]]:
    """The `selfroute …` and `make …` lines of a page's code blocks."""
    # Blocks of all languages, or the end of one of Python would begin the next.
    blocks = re.findall(r"```(\w*)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    shell = [block for language, block in blocks if language in ("", "sh", "bash", "console", "text")]
    for line in [line for block in shell for line in block.replace("\\\n", " ").splitlines()]:
        if re.match(r"(\$ )?(selfroute|make) ", line):
            yield shlex.split(line.removeprefix("$ "), comments=True)


def check_serving(parsed: dict[str, Any]) -> None:
    """The recipe of `serve`, `cloud`, `ask` and `chat` is right; in `serve` and `cloud` with KEY=VALUE behind it."""
    given = parsed.get("config")
    if isinstance(given, list | tuple):
        if given and given[0].endswith(".yaml") and not given[0].startswith("recipes/"):
            return  # a file that the reader writes
        file, overrides = _file_and_overrides(given)
        load_serve_recipe(file and ROOT / file, overrides)
    elif given is not None and (ROOT / given).is_file():
        load_serve_recipe(ROOT / given)


def check_selfroute(words: list[str]) -> None:
    name, *arguments = words
    assert name in GROUP.commands, f"selfroute has no command '{name}'"  # type: ignore[attr-defined]
    if "…" in arguments:
        return
    command = GROUP.commands[name]  # type: ignore[attr-defined]
    parsed = command.make_context(name, list(arguments)).params
    check_serving(parsed)
    recipe = parsed.get("recipe")
    if recipe is not None and (file := _file_of(recipe)).is_file():
        values = load_values(file, parsed["overrides"] or [])
        train = at(algorithm_of(values).options)
        kinds = {
            "compare": CompareRecipe,
            "evaluate": EvaluateRecipe,
            "place": PlaceRecipe,
            "train": train,
            "tune": TuneRecipe,
        }
        check_models(build(kinds[name], values, where=str(recipe)))


def check_models(recipe: Any) -> None:
    """The backends that a recipe names exist."""
    specs = [getattr(recipe, name, None) for name in ("device", "cloud")]
    for spec in [*specs, *getattr(recipe, "policies", {}).values()]:
        if isinstance(spec, Spec):
            BACKENDS.find(spec.name, where="page")


def _file_of(recipe: Path) -> Path:
    """From the root a path, or the name of a recipe that comes along."""
    return ROOT / recipe if (ROOT / recipe).is_file() else recipe_file(recipe)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for program, *words in commands(page):
        if program == "make":
            target = next(word for word in words if "=" not in word)
            assert target in targets, f"make has no target '{target}'"
        elif not words[0].startswith("-"):
            check_selfroute(words)


RUNS = ("train", "evaluate", "tune", "place")


def values_of(words: list[str]) -> dict[str, Any] | None:
    """What a line of `RUNS` with a recipe that comes along runs."""
    if words[0] not in RUNS:
        return None
    parsed = GROUP.commands[words[0]].make_context(words[0], words[1:]).params  # type: ignore[attr-defined]
    file = _file_of(parsed["recipe"])
    return load_values(file, parsed["overrides"] or []) if file.is_file() else None


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from texts(each)
    elif isinstance(value, str):
        yield value


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "commands.md"], ids=lambda page: page.name)
def test_what_a_command_reads_was_made_above_it(page: Path) -> None:
    """Checkpoints that a shipped recipe reads, and strategies that `calibrate` names of an evaluation on the page."""
    made: dict[str, dict[str, Any]] = {}
    for program, *words in commands(page):
        if program != "selfroute" or "…" in words:
            continue
        if (values := values_of(words)) is not None:
            read = {found for text in texts(values) for found in re.findall(r"(out/[^\s:]+)/checkpoint", text)}
            assert read <= made.keys(), f"{words}: nothing above makes {sorted(read - made.keys())}"
            made[str(values.get("out"))] = values
        elif words[0] == "calibrate":
            parsed = GROUP.commands["calibrate"].make_context("calibrate", words[1:]).params  # type: ignore[attr-defined]
            if (of := made.get(str(parsed["results"]))) is not None and parsed["strategy"]:
                names = {*of.get("strategies", ()), *of.get("policies", {}), *of.get("entrants", {})}
                assert parsed["strategy"] in names


@pytest.mark.parametrize("name", sorted(GROUP.commands))  # type: ignore[attr-defined]
def test_help_shows_an_example_that_works(name: str) -> None:
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0
    assert f"selfroute {name}" in result.output
    epilog = GROUP.commands[name].epilog  # type: ignore[attr-defined]
    for example in re.findall(r"\[bold\](.*?)\[/bold\]", epilog):
        program, *words = shlex.split(example)
        assert program == "selfroute"
        check_selfroute(words)


def test_the_readme_names_the_test_command() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in text
    assert "make test" in text


def test_the_version_is_in_the_changelog_and_the_citation() -> None:
    import selfroute

    assert f"## {selfroute.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"version: {selfroute.__version__}" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_constraints_pin_everything_exactly() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9.]+", pin) for pin in pins), "no ranges, no local versions"
    assert "torch==2.13.0" in pins

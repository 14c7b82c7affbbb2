"""The recipes that come along, and a project that runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from selfroute.commands.main import app
from selfroute.config import EvaluateRecipe, TrainRecipe, load_recipe, make_task
from selfroute.config.serving import load_serve_recipe
from selfroute.shipped import shipped_recipes

GROUP = typer.main.get_command(app)


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def test_recipes_are_listed_with_their_command_and_a_sentence() -> None:
    result = invoke("recipes")
    lines = [line.split(maxsplit=2) for line in result.stdout.splitlines()]
    assert result.stdout.startswith("Recipes that come along")
    assert lines[1][:2] == ["name", "command"]
    found = {name: (command, words) for name, command, words in lines[1:] if name in shipped_recipes()}
    assert set(found) == set(shipped_recipes())
    assert found["countdown/gapg"][0] == "train"
    assert found["placement/toy"][0] == "place"
    assert all(words.strip() and command in GROUP.commands for command, words in found.values())


def test_a_recipe_is_shown_as_it_is() -> None:
    assert invoke("recipes", "countdown/gapg").stdout == shipped_recipes()["countdown/gapg"].read_text()
    wrong = invoke("recipes", "countdown/gpag")
    assert wrong.exit_code == 2
    assert wrong.stderr.startswith("error: no recipe 'countdown/gpag' comes along; did you mean 'countdown/gapg'?; ")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    result = invoke("init", "mine")
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines()[-1] == "next: cd mine && selfroute train train.yaml"
    monkeypatch.chdir(tmp_path / "mine")
    return tmp_path / "mine"


def test_a_project_has_recipes_that_are_right(project: Path) -> None:
    train = load_recipe(TrainRecipe, "train.yaml")
    evaluate = load_recipe(EvaluateRecipe, "evaluate.yaml")
    serve = load_serve_recipe(Path("serve.yaml"))
    checkpoint = train.out / "checkpoint"
    assert evaluate.policies["after"].value == serve.device.value == str(checkpoint)
    assert evaluate.task == train.task
    rows = {split: {row.question for row in make_task(train.task).rows(split)} for split in ("train", "test")}
    assert len(rows["train"]) > 200 and len(rows["test"]) == 60
    assert not rows["train"] & rows["test"]
    assert all(path.read_text().startswith("# selfroute ") for path in project.glob("*.yaml"))


def test_a_project_overwrites_nothing(project: Path) -> None:
    (project / "data" / "train.jsonl").write_text(json.dumps({"question": "mine", "answer": 1}))
    again = invoke("init", ".")
    assert again.exit_code == 2
    assert again.stderr == "error: '.' is not empty, and nothing is overwritten; name a new folder\n"
    assert "mine" in (project / "data" / "train.jsonl").read_text()
    onto_a_file = invoke("init", "train.yaml")
    assert onto_a_file.exit_code == 2
    assert "'train.yaml' cannot be written: " in onto_a_file.stderr


@pytest.mark.slow
def test_a_project_runs(project: Path) -> None:
    steps = ("steps=1", "prompts_per_step=4", "save_steps=1")
    assert invoke("train", "train.yaml", *steps).exit_code == 0
    evaluated = invoke("evaluate", "evaluate.yaml", "limit=8", "router_rows=60")
    assert evaluated.exit_code == 0, evaluated.output
    checked = invoke("serve", "serve.yaml", "--check")
    assert checked.exit_code == 0, checked.output

"""The commands to begin with: the recipes that come along, and a project of one's own."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from selfroute.commands.terminal import example, listing, next_step, say
from selfroute.errors import ConfigError

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(epilog=example("selfroute recipes", "selfroute recipes countdown/gapg"))(recipes)
    app.command(epilog=example("selfroute init my-project"))(init)


def recipes(name: Annotated[str | None, typer.Argument(help="Show this one's text.")] = None) -> None:
    """List the recipes that come along, or show one; commands take them by name.

    To change one, write it to a file of your own: selfroute recipes countdown/gapg > mine.yaml
    """
    from selfroute.bounds import suggest
    from selfroute.shipped import recipe_file, shipped_recipes

    if name is None:
        title = "Recipes that come along; commands take them by name"
        files = shipped_recipes().items()
        rows = [(known, *_described(file.read_text(encoding="utf-8"))) for known, file in files]
        say(listing(title, ("name", "command", "what it does"), rows))
        next_step("selfroute recipes NAME")
        return
    file = recipe_file(name)
    if file not in shipped_recipes().values():
        raise ConfigError(
            f"no recipe '{name}' comes along{suggest(name, shipped_recipes())}; `selfroute recipes` lists them"
        )
    text = file.read_text(encoding="utf-8")
    typer.echo(text, nl=False)
    next_step(f"selfroute {_described(text)[0]} {name}")


def init(folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder.")]) -> None:
    """Write a small project that runs: example rows, and recipes to train, evaluate and serve."""
    from selfroute.assemble.project import write_project

    for file in write_project(folder):
        say(f"written: {file}")
    next_step(f"cd {shlex.quote(str(folder))} && selfroute train train.yaml")


def _described(text: str) -> tuple[str, str]:
    """The command that runs a recipe, and the first sentence of what it says about itself."""
    head: list[str] = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        head.append(line.removeprefix("#").strip())
    command = next((line.split()[1] for line in head if line.startswith("selfroute ")), "")
    words = " ".join(line for line in head if not line.startswith("selfroute "))
    return command, words.strip().split(". ")[0].split("; ")[0].rstrip(".")

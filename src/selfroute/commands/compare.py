"""The command that compares many ways to split the work, each with what is trained for it, on several seeds."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from selfroute.commands.terminal import example, next_step, note, progress, say

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(
        epilog=example(
            "selfroute compare recipes/atlas/chain.yaml",
            "selfroute compare recipes/atlas/chain.yaml limit=24 seeds=[1] out=out/look",
            "selfroute compare recipes/atlas/chain.yaml --no-train",
        )
    )(compare)


def compare(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="Recipe; `selfroute recipes` lists some.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Replace keys of the recipe, e.g. limit=24 seeds=[1]."),
    ] = None,
    train: Annotated[bool, typer.Option("--train/--no-train", help="Train the parts that are missing.")] = True,
) -> None:
    """Compare many ways to split the work on several seeds, along every resource, and train what they need."""
    from selfroute import config
    from selfroute.assemble.comparing import compare_recipe
    from selfroute.evaluation.report.compared import comparison_page

    config.check_kind(recipe, "compare")
    given = [*(overrides or []), *([] if train else ["train=false"])]
    loaded = config.load_recipe(config.CompareRecipe, recipe, given)
    command = shlex.join(["selfroute", "compare", str(recipe), *(overrides or []), *([] if train else ["--no-train"])])
    table = compare_recipe(loaded, source=str(recipe), command=command, say=note, watch=progress)
    say(comparison_page(table))
    say(f"table: {loaded.out / 'table.json'}")
    next_step(f"selfroute report {shlex.quote(str(loaded.out / f'seed-{loaded.seeds[0]}' / 'joined'))}")

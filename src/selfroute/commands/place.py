"""The command that plans the cluster behind the cloud."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from selfroute.commands.terminal import example, next_step, progress, say

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(
        epilog=example(
            "selfroute place recipes/placement/r1.yaml",
            "selfroute place recipes/placement/slots.yaml load.generated.own=1 out=out/own",
            "selfroute place recipes/placement/cap.yaml cap=1.02",
        )
    )(place)


def place(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="Recipe; `selfroute recipes` lists some.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Replace keys of the recipe, e.g. unit=seconds slots.redundant=32."),
    ] = None,
) -> None:
    """Place the experts of a mixture model on the ranks of a cluster."""
    from selfroute import config
    from selfroute.assemble.placing import place_recipe

    config.check_kind(recipe, "place")
    loaded = config.load_recipe(config.PlaceRecipe, recipe, overrides or [])
    command = shlex.join(["selfroute", "place", str(recipe), *(overrides or [])])
    with progress("placing") as on_progress:
        summary = place_recipe(loaded, command=command, on_progress=on_progress)

    from selfroute.planning.report.table import plan_table
    from selfroute.planning.report.words import headline

    say(plan_table(summary))
    for sentence in headline(summary):
        say(sentence)
    for name in summary["files"]:
        say(f"written: {loaded.out / name}")
    say(f"report: {loaded.out / 'report.html'}")
    if (extra := summary["network_s_per_token"]) is not None:
        next_step(f"selfroute report EVALUATION network.cloud_extra_s_per_token={extra:.4g}")

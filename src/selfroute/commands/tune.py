"""The command that tunes a prompt where weights cannot be trained."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from selfroute.commands.terminal import example, note, progress, say

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["add_to"]

_SHOWN = 60  # characters of a choice in the terminal


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(
        epilog=example(
            "selfroute tune recipes/tuning/sums.yaml",
            "selfroute tune recipes/tuning/sums.yaml max_calls=4000 --resume",
            "selfroute tune recipes/tuning/sums.yaml method=ridge out=out/ridge",
        )
    )(tune)


def tune(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="Recipe; `selfroute recipes` lists some.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Replace keys of the recipe, e.g. max_calls=4000 step.draws=4."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in `out`.")] = False,
    engine: Annotated[Literal["local", "ray"] | None, typer.Option(help="Who runs the workers.")] = None,
) -> None:
    """Tune a device's prompt, sentences and demonstrations, by feedback alone."""
    from selfroute import config
    from selfroute.assemble.tuning import tune_recipe

    config.check_kind(recipe, "tune")
    given = [*(overrides or []), *(["resume=true"] if resume else []), *([f"engine={engine}"] if engine else [])]
    loaded = config.load_recipe(config.TuneRecipe, recipe, given)
    command = shlex.join(["selfroute", "tune", str(recipe), *(overrides or [])])
    with progress("tuning") as on_progress:
        summary = asyncio.run(tune_recipe(loaded, command=command, say=note, on_progress=on_progress))
    for name, file in summary["programs"].items():
        say(f"{name}: tuned:{file}")
        say(_table(json.loads(Path(file).read_text(encoding="utf-8"))["program"]["slots"]))
    for side, counted in summary["calls"].items():
        say(_counted(side, counted))


def _table(slots: list[Mapping[str, Any]]) -> Table:
    from rich.table import Table

    shown = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("slot", "chosen", "probability", "choice"):
        shown.add_column(column, justify="right" if column == "probability" else "left", overflow="fold")
    for slot in slots:
        for number, one in enumerate(slot["choices"]):
            is_chosen = number == slot["chosen"]
            shown.add_row(
                "" if number else slot["name"],
                "→" if is_chosen else "",
                f"{one['probability']:.2f}",
                _text(one["choice"]),
            )
    return shown


def _text(choice: str | Mapping[str, str] | None) -> str:
    if not choice:
        return "(none)"
    text = choice if isinstance(choice, str) else f"{choice['question']} → {choice['reply']}"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _counted(side: str, counted: Mapping[str, float]) -> str:
    usd = f", {counted['usd']:.4f} USD" if counted["usd"] else ""
    return f"{side}: {counted['calls']:,} calls, {counted['cached']:,} answers from the cache{usd}"

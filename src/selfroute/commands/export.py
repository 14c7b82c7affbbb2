"""The command that takes a trained model to where it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfroute.commands.terminal import example, next_step, progress, say
from selfroute.errors import ConfigError

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(
        epilog=example(
            "selfroute export out/mine --out out/mine/export",
            "selfroute export out/mine/checkpoint --out device --format gguf --type q8_0 --name policy",
            "selfroute export embedded:device-gapg --out out/embedded --format hf,gguf",
        )
    )(export)


def export(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A run of `selfroute train`, a model folder, or embedded:device-gapg."),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    format: Annotated[
        list[str] | None, typer.Option(metavar="hf|gguf", help="Repeat it or join by commas; both without it.")
    ] = None,
    type: Annotated[
        list[str] | None, typer.Option(metavar="f16|q8_0", help="Of the weights in GGUF; as --format.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the GGUF files; by default the run's.")] = None,
    system: Annotated[
        str | None, typer.Option(help="System prompt of the Modelfile; by default that of the training.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer in the Modelfile; by default as in the training.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what an export has written there before.")] = False,
) -> None:
    """Write a trained model for transformers, llama.cpp and Ollama."""
    from rich.table import Table

    from selfroute.assemble.exporting import export_model
    from selfroute.assemble.training import serving_line

    with progress("exporting") as on_progress:
        made = export_model(
            model, out, formats=_listed(format, "--format", "hf,gguf"), types=_listed(type, "--type", "f16,q8_0"),
            name=name, system=system, max_tokens=max_tokens, force=force, on_progress=on_progress,
        )  # fmt: skip
    shown = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("file", "for"):
        shown.add_column(column, overflow="fold")
    shown.add_column("MB", justify="right")
    for one in made.files:
        shown.add_row(one.path.name, one.what, f"{one.size / 1e6:,.1f}" if one.size >= 1e5 else "<0.1")
    say(shown)
    for note in made.notes:
        say(f"note: {note}")
    say(f"exported: {out}")
    places = {".gguf": "llama_cpp", "": "transformers"}
    servable = [one.path for one in made.files if one.path.suffix in places and one.path.name != "Modelfile"]
    next_step(*(serving_line(f"{places[path.suffix]}:{path}", Path(model)) for path in servable))


def _listed(given: list[str] | None, option: str, default: str) -> list[str]:
    """Values that may be repeated or joined by commas, each once."""
    values = [value.strip().lower() for text in given or [default] for value in text.split(",")]
    if "" in values:
        raise ConfigError(f"{option}: '{','.join(given or [])}' has an empty value; write {default}")
    return list(dict.fromkeys(values))

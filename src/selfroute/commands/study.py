"""The commands of the study of exploration: play and judge agents, and write an algorithm's decisions to learn from."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from selfroute.commands.terminal import example, next_step, progress, say
from selfroute.commands.values import spec_of
from selfroute.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from selfroute.assemble.studying import Studied

__all__ = ["add_to"]

Setting = Annotated[str, typer.Argument(help="bernoulli-5-easy and the like, or films-10, films-30 with a context.")]
Shown = Annotated[Literal["raw", "summary", "guided"], typer.Option("--context", help="What a model is shown.")]
Names = Annotated[str, typer.Option(help="Of the arms: video (letters) or clothes.")]
MovieLens = Annotated[Path | None, typer.Option(help="Folder of MovieLens 1M or 100K, for films-K.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(
        epilog=example(
            "selfroute study bernoulli-5-easy --policy ucb --policy thompson --policy greedy",
            "selfroute study bernoulli-5-easy --policy ucb --model smollm2 --context guided --shots 5 --steps 30",
            "selfroute study films-10 --policy linucb --policy uniform",
        )
    )(study)
    app.command(
        epilog=example(
            "selfroute distil bernoulli-5-easy --out out/decisions.jsonl",
            "selfroute distil bernoulli-5-easy bernoulli-5-hard --policy 'ucb: {alpha: 0.15}' --context summary "
            "--runs 20 --out out/decisions.jsonl",
        )
    )(distil)


def study(
    setting: Setting,
    policy: Annotated[list[str] | None, typer.Option(help="A policy, or {policy: {option: value}}.")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A model; `selfroute backends` shows how to write it.")
    ] = None,
    shown: Shown = "summary",
    shots: Annotated[int, typer.Option(min=0, help="Examples of an algorithm's run in the prompt.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each agent.")] = 30,
    steps: Annotated[int | None, typer.Option(min=2, help="Shorter or longer than the paper's runs.")] = None,
    names: Names = "video",
    movielens: MovieLens = None,
    seed: Annotated[int, typer.Option(help="Of the first run.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON.")] = None,
) -> None:
    """Play policies and models in a setting of EVOLvE on the same seeds, and judge how they explore."""
    from selfroute import config
    from selfroute.assemble.studying import environment_maker, judge, policy_runs
    from selfroute.environment import commit

    policies = {text: spec_of(text, "--policy") for text in policy or []}
    models = {text: spec_of(text, "--model") for text in model or []}
    if not policies and not models:
        raise ConfigError("give --policy or --model at least once, e.g. --policy ucb")
    make = environment_maker(setting, names=names, steps=steps, movielens=movielens)
    loads = {text: config.prepare_backend(spec, where="--model") for text, spec in models.items()}
    studied = {text: policy_runs(spec, make, seeds, seed=seed, where="--policy") for text, spec in policies.items()}
    with progress("asking") as on_progress:
        for text, load in loads.items():
            options = {"shown": shown, "shots": shots, "seed": seed, "on_progress": on_progress}
            studied[text] = asyncio.run(_played(load(), make, seeds, options))
    found = judge(studied, len(make(seed).arms))
    say(_table(found))
    if out is not None:
        from selfroute.evaluation.files import write_text

        about = {"setting": setting, "names": names, "context": shown, "shots": shots, "seed": seed, "commit": commit()}
        write_text(out, json.dumps({**about, "steps": make(seed).horizon, "agents": found}, indent=2) + "\n")
        say(f"written: {out}")
    teacher = min(policies, key=lambda text: found[text]["regret"], default="ucb")
    next_step(shlex.join(["selfroute", "distil", setting, "--policy", teacher, "--out", "decisions.jsonl"]))


async def _played(backend: Any, make: Any, seeds: int, options: Mapping[str, Any]) -> Studied:
    from selfroute.assemble.studying import model_runs

    try:
        return await model_runs(backend, make, seeds, **options)
    finally:
        if aclose := getattr(backend, "aclose", None):
            await aclose()


def _table(found: Mapping[str, Mapping[str, Any]]) -> Table:
    from rich.table import Table

    shown = Table(box=None, padding=(0, 2, 0, 0))
    shown.add_column("agent", overflow="fold", min_width=12)
    for column in ("β", "regret", "best arm", "suffix fail", "greedy", "wins", "unread"):
        shown.add_column(column, justify="right", no_wrap=True)
    for name, one in found.items():
        spread = "" if one["regret_sd"] is None else f" ± {one['regret_sd']:.1f}"
        shown.add_row(
            name,
            f"{one['beta']:.3f}",
            f"{one['regret']:.1f}{spread}",
            *(f"{one[key]:.0%}" for key in ("best_share", "suffix_fail", "greedy_frequency")),
            "–" if one["win_rate"] is None else f"{one['win_rate']:.0%}",
            "–" if one["unreadable"] is None else str(one["unreadable"]),
        )
    return shown


def distil(
    settings: Annotated[list[str], typer.Argument(metavar="SETTING…", help="One or several settings, as for study.")],
    policy: Annotated[str, typer.Option(help="The teacher; linucb suits films-K.")] = "ucb",
    shown: Shown = "guided",
    runs: Annotated[int, typer.Option(min=1, help="Of each setting; the paper has 50.")] = 50,
    steps: Annotated[int | None, typer.Option(min=2, help="Shorter or longer than the paper's runs.")] = None,
    names: Names = "video",
    movielens: MovieLens = None,
    seed: Annotated[int, typer.Option(help="Of the first run; study on others.")] = 10_000,
    out: Annotated[Path, typer.Option(help="JSONL of prompts and completions.")] = Path("decisions.jsonl"),
) -> None:
    """Write an algorithm's decisions as chat data, for a small model to learn from with TRL's SFTTrainer."""
    from selfroute.assemble.studying import environment_maker, write_demonstrations

    spec = spec_of(policy, "--policy")
    makes = [environment_maker(one, names=names, steps=steps, movielens=movielens, train=True) for one in settings]
    with progress("writing") as on_progress:
        count = write_demonstrations(out, makes, spec, shown=shown, runs=runs, seed=seed, on_progress=on_progress)
    say(f"{count} decisions: {out}")
    next_step(f"selfroute study {settings[0]} --policy {shlex.quote(policy)} --model MODEL --context {shown}")

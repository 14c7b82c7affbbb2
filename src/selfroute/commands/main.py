"""The commands. Each reads its arguments and calls one function of the rooms below."""

from __future__ import annotations

import asyncio
import os
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from typer.core import TyperGroup

from selfroute.commands import begin, compare, export, measure, place, replay, study, tune
from selfroute.commands.disk import of_a_disk
from selfroute.commands.extras import check_extras, not_installed
from selfroute.commands.serve import EXAMPLES, ask, chat, cloud, key, serve
from selfroute.commands.terminal import example as _example
from selfroute.commands.terminal import listing, next_step, say, training_view, visible
from selfroute.commands.terminal import progress as _progress
from selfroute.commands.values import spec_of
from selfroute.errors import ConfigError, SelfRouteError
from selfroute.shipped import recipe_file

if TYPE_CHECKING:
    from selfroute.config import Entry
    from selfroute.config.entries import AlgorithmEntry

__all__ = ["app", "main"]

# Commands that go on where they were, and what to add to the same line for that.
RESUMABLE = {"demo": "", "train": " --resume", "evaluate": "", "compare": "", "record": "", "tune": " --resume"}
LIBRARIES = ("torch", "transformers", "trl", "accelerate", "datasets", "scikit-learn", "scipy", "matplotlib",
             "math-verify", "aiohttp", "uvicorn", "typer", "rich", "PyYAML", "xllamacpp", "gguf", "redis", "ray",
             "ortools", "optuna", "gepa")  # fmt: skip


UsageError: Any = typer.BadParameter.__base__  # of click's, which typer brings along under changing names


class _Group(TyperGroup):
    """Turns the errors of the error tree into one line and an exit code."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        given = list(args)
        try:
            return super().make_context(info_name, args, parent, **extra)
        except UsageError as error:
            if not given:  # the help is what was asked for
                raise
            _fail(_usage(error, None), 2, error)

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except SelfRouteError as error:
            if os.environ.get("SELFROUTE_DEBUG") == "1":
                raise
            _fail(f"error: {' '.join(str(error).split())}", 2 if isinstance(error, ConfigError) else 1, error)
        except ModuleNotFoundError as error:
            if os.environ.get("SELFROUTE_DEBUG") == "1":
                raise
            _fail(f"error: {not_installed(error, ctx.invoked_subcommand)}", 2, error)
        except UsageError as error:
            _fail(_usage(error, ctx.invoked_subcommand), 2, error)
        except BrokenPipeError:
            raise  # whoever reads has left
        except Exception as error:
            line = of_a_disk(error)
            if line is None or os.environ.get("SELFROUTE_DEBUG") == "1":
                raise
            _fail(f"error: {line}{_how_to_go_on(ctx.invoked_subcommand)}", 1, error)
        except KeyboardInterrupt as error:
            typer.echo("", err=True, nl=sys.stderr.isatty())  # behind the ^C of the terminal
            _fail(f"interrupted{_how_to_go_on(ctx.invoked_subcommand)}", 130, error)


def _usage(error: Any, command: str | None) -> str:
    message = error.format_message().rstrip(".")
    end = "" if message.endswith("?") else ";"
    return f"error: {message}{end} see: selfroute {f'{command} ' if command else ''}--help"


def _fail(line: str, code: int, cause: BaseException) -> NoReturn:
    typer.echo(visible(line), err=True)
    raise typer.Exit(code) from cause


def _how_to_go_on(command: str | None) -> str:
    if command not in RESUMABLE:
        return ""
    arguments = [a for a in sys.argv[1:] if a != "--resume"]
    return f"; finished work is kept, go on with: {shlex.join(['selfroute', *arguments])}{RESUMABLE[command]}"


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Share LLM work between a small model on the device and a large one in the cloud.",
    epilog="Start with: [bold]selfroute demo[/bold]",
)

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="Recipe; `selfroute recipes` lists some.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Replace keys of the recipe, e.g. seed=7 reward.cloud=0.25."),
]
Options = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Options of the task, e.g. path=data.jsonl verifier=numeric."),
]
DemoTask = Literal["countdown", "chain"]
SplitName = Annotated[str, typer.Option(help="train, validation or test.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Most rows; all of them without it.")]


def _version(value: bool) -> None:
    if value:
        typer.echo(_version_of("selfroute"))
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass


@app.command(epilog=_example("selfroute demo", "selfroute demo --out out/first", "selfroute demo --task chain"))
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("out/demo"),
    seed: Annotated[int, typer.Option(help="Of the training and of the problems.")] = 1,
    task: Annotated[DemoTask, typer.Option(help="chain shows tokens changing hands, untrained.")] = "countdown",
) -> None:
    """Train the embedded device model on Countdown at a 30 % cloud share, compare, and write a report."""
    check_extras("demo")
    if task == "chain":
        from selfroute.commands.demo_chain import demo_chain

        demo_chain(seed=seed)
        return
    from selfroute.commands.demo import demo as run_demo

    run_demo(out=out, progress=_progress, seed=seed)


@app.command(
    epilog=_example(
        "selfroute train recipes/countdown/gapg.yaml",
        "selfroute train recipes/countdown/gapg.yaml share=0.2 reward.cloud=0.25 out=out/fifth",
        "selfroute train recipes/countdown/gapg.yaml --resume",
        "selfroute train recipes/countdown/warmup.yaml role=cloud out=out/cloud",
        "selfroute train recipes/paper/countdown-qwen2.5-3b.yaml --dry-run",
    )
)
def train(
    recipe: RecipeFile,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in the folder.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Build all but the weights, predict the memory, write nothing.")
    ] = False,
    processes: Annotated[int, typer.Option(min=1, help="That --dry-run predicts for.")] = 1,
) -> None:
    """Train a device model, or make one from nothing, as a recipe says."""
    from selfroute import config

    config.check_kind(recipe, "train")
    arguments = [*(overrides or []), *(["resume=true"] if resume else [])]
    values = config.load_values(recipe, arguments)
    algorithm = config.algorithm_of(values)
    if dry_run:
        _dry_run(recipe, values, processes)
        resumed = ["--resume"] if resume else []
        next_step(shlex.join(["selfroute", "train", str(recipe), *(overrides or []), *resumed]))
        return
    loaded = config.build(config.at(algorithm.options), values, where=str(recipe))
    with training_view() as on_progress:
        out = config.at(algorithm.place)(loaded, on_progress=on_progress, say=_note)
    say(f"trained model: {out}")
    next_step(*(_after_training(out, algorithm.leaves) if algorithm.leaves else _after_fitting(out, algorithm)))


def _after_training(out: Path, kind: str) -> list[str]:
    """What to type once a model is there.

    Args:
        kind: of backend that it is.
    """
    from selfroute.assemble.training import serving_line

    return [
        serving_line(f"{kind}:{out}", out.parent),
        f"selfroute export {out.parent} --out {out.parent / 'export'}",
        f"selfroute evaluate RECIPE.yaml 'policies={{mine: {kind}:{out}}}'",
    ]


def _after_fitting(out: Path, algorithm: AlgorithmEntry) -> list[str]:
    """What to type once there is what a strategy needs beside its models."""
    strategy = algorithm.strategy.replace("FOLDER", str(out))
    return [shlex.join(["selfroute", "serve", "RECIPE.yaml", f"strategy={strategy}"])]


def _dry_run(recipe: Path, values: Mapping[str, Any], processes: int) -> None:
    from selfroute import config

    algorithm = config.algorithm_of(values)
    if algorithm.no_dry_run:
        raise ConfigError(f"--dry-run: {algorithm.no_dry_run}; start it without this option")
    loaded = config.build(config.at(algorithm.options), values, where=str(recipe))
    found = config.at(algorithm.dry_run)(loaded, beside=recipe_file(recipe).parent, processes=processes)
    memory = [("", f"{size / 2**30:8.2f} GiB  {name}") for name, size in found.memory]
    say(listing("", ("", ""), [*found.facts, ("memory", "of one process, predicted"), *memory]))
    for note in found.notes:
        say(f"note: {note}")
    say("dry run: every key is right; nothing was loaded, asked or written")


@app.command(
    epilog=_example(
        "selfroute evaluate recipes/countdown/evaluate.yaml",
        "selfroute evaluate recipes/countdown/evaluate.yaml seed=7 limit=400 out=out/seed7",
        "selfroute evaluate recipes/countdown/evaluate.yaml policies.mine.transformers=out/train/checkpoint",
        "selfroute evaluate recipes/countdown/evaluate.yaml solve_samples=8 prices=recipes/prices.yaml --engine ray",
    )
)
def evaluate(
    recipe: RecipeFile,
    overrides: Overrides = None,
    engine: Annotated[
        str | None, typer.Option(help="local: this process; ray: a Ray cluster, as engine= in the recipe.")
    ] = None,
) -> None:
    """Compare ways of splitting work between device and cloud at the same call share."""
    from selfroute import config
    from selfroute.assemble.evaluating import evaluate_recipe

    config.check_kind(recipe, "evaluate")
    arguments = [*(overrides or []), *([f"engine={engine}"] if engine else [])]
    loaded = config.load_recipe(config.EvaluateRecipe, recipe, arguments)
    command = shlex.join(["selfroute", "evaluate", str(recipe), *arguments])
    with (
        _progress("preparing") as on_prepare,
        _progress("evaluating") as on_progress,
        _progress("counting") as on_count,
    ):
        steps = {"on_prepare": on_prepare, "on_progress": on_progress, "on_count": on_count}
        summary = asyncio.run(evaluate_recipe(loaded, command=command, say=_note, **steps))

    from selfroute.evaluation.report.table import summary_table

    say(summary_table(summary))
    say(f"report: {loaded.out / 'report.html'}")
    next_step(f"selfroute calibrate {shlex.quote(str(loaded.out))} --share {loaded.share:g} --serve my.yaml")


@app.command(
    epilog=_example(
        "selfroute record countdown --backend embedded:cloud --limit 200 --out cloud.jsonl",
        "selfroute record gsm8k path=data/gsm8k --backend 'openai: {base_url: https://api.example.com/v1, model: m}' "
        "--out cloud.jsonl",
    )
)
def record(
    task: Annotated[str, typer.Argument(help="Name of a task; `selfroute tasks` lists them.")],
    options: Options = None,
    backend: Annotated[str, typer.Option(help="Model to ask.")] = "embedded:cloud",
    out: Annotated[Path, typer.Option(help="JSONL file; a second run goes on where it was.")] = Path("answers.jsonl"),
    split: SplitName = "test",
    limit: Limit = None,
    as_device: Annotated[
        bool, typer.Option("--as-device", help="Ask with the device's system prompt instead of the cloud's none.")
    ] = False,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight.")] = 8,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of one answer.")] = 512,
    prompt_usd: Annotated[float | None, typer.Option(min=0, help="USD per million prompt tokens.")] = None,
    completion_usd: Annotated[float | None, typer.Option(min=0, help="USD per million completion tokens.")] = None,
) -> None:
    """Store a model's answers to a task, to be replayed as `recorded:FILE`."""
    from selfroute import config
    from selfroute.assemble.evaluating import record_rows
    from selfroute.assemble.pieces import first_rows
    from selfroute.assemble.prompting import Carried, recorded_prompt

    task_spec = _task_spec(task, options)
    made = config.make_task(task_spec)
    spec = spec_of(backend, "--backend")
    model = config.make_backend(spec, where="--backend")
    asked = recorded_prompt(spec, made_by=task_spec) if as_device else Carried(None)
    for line in filter(None, [asked.line]):
        _note(line)
    price = None
    if prompt_usd is not None or completion_usd is not None:
        from selfroute.prices import Price

        price = Price(prompt_usd=prompt_usd or 0.0, completion_usd=completion_usd or 0.0)
    rows = first_rows(made, split, limit)
    with _progress("recording") as on_progress:
        failed = asyncio.run(
            record_rows(
                model, made, rows, out, as_device=as_device, trained=asked.prompt, concurrency=concurrency,
                max_tokens=max_tokens, on_progress=on_progress, price=price,
                say=_note if config.BACKENDS[spec.name].remote else None,
            )
        )  # fmt: skip
    say(f"{len(rows) - len(failed)} of {len(rows)} answers are in {out}")
    if not failed:
        next_step(
            f"selfroute evaluate RECIPE.yaml {'device' if as_device else 'cloud'}={shlex.quote(f'recorded:{out}')}"
        )
    if failed:
        raise SelfRouteError(f"{len(failed)} rows got no answer, first: {failed[0]}; run the same command to go on")


@app.command(epilog=_example("selfroute tasks", "selfroute tasks --check jsonl path=mine.jsonl verifier=numeric"))
def tasks(
    options: Options = None,
    check: Annotated[str | None, typer.Option(metavar="NAME", help="Check a task's gold answers and verifier.")] = None,
    split: SplitName = "test",
) -> None:
    """List the tasks, or check one: every gold answer must pass, other spellings of it too, and spoilt ones must not.

    A gold answer that fails is an error. Error rates of the verifier on up to 200 rows are shown, with examples.
    """
    from selfroute import config

    if check is None:
        if options:
            raise ConfigError(f"'{options[0]}': options need a task to check; write selfroute tasks --check NAME …")
        _list(config.TASKS, "Tasks: what is asked, and how answers are judged.", then="selfroute tasks --check NAME")
        return
    from selfroute.commands.check import rates_in_lines
    from selfroute.tasks.check import check as check_task
    from selfroute.tasks.check import error_rates

    task = config.make_task(_task_spec(check, options))
    with _progress("checking") as on_progress:
        count = check_task(task, split, on_progress=on_progress)
    say(f"{task.name}: all {count} gold answers of '{split}' pass their verifier")
    with _progress("trying other spellings") as on_progress:
        rates = error_rates(task, split, on_progress=on_progress)
    for line in rates_in_lines(rates, verifier=getattr(task, "judged_by", "")):
        say(line)
    next_step(
        f"selfroute record {shlex.join([check, *(options or [])])} --split {split} --backend MODEL --out cloud.jsonl"
    )


@app.command(epilog=_example("selfroute strategies"))
def strategies() -> None:
    """List the ways to split work between device and cloud."""
    from selfroute import config

    title = "Strategies: how a request is split between device and cloud. As `strategy` of a serving recipe, or among "
    _list(
        config.STRATEGIES,
        title + "the `strategies` of an evaluation.",
        then="selfroute fit RECIPE.yaml --strategy NAME --serve my.yaml",
    )


@app.command(epilog=_example("selfroute backends"))
def backends() -> None:
    """List the kinds of models, with how to write them in a recipe."""
    from selfroute import config

    title = "Backends: kinds of models. As `device` or `cloud` of a recipe, and after --backend, --device and --cloud."
    _list(config.BACKENDS, title, written=True, then="selfroute serve device=MODEL cloud=MODEL --check")


@app.command(epilog=_example("selfroute algorithms"))
def algorithms() -> None:
    """List the ways to train."""
    from selfroute import config

    title = "Algorithms: ways to train. As `algorithm` of a training recipe."
    _list(config.ALGORITHMS, title, then="selfroute recipes")


@app.command(epilog=_example("selfroute env"))
def env() -> None:
    """Show versions and devices, for a bug report."""
    rows = [
        ("selfroute", _version_of("selfroute")),
        ("python", platform.python_version()),
        ("platform", platform.platform()),
        ("cores", str(os.cpu_count())),
        ("gpu", ", ".join(_gpus()) or "none found"),
        *((name, _version_of(name)) for name in LIBRARIES),
    ]
    for name, value in rows:
        say(f"{name:<14}{value}")


begin.add_to(app)
measure.add_to(app)
compare.add_to(app)
replay.add_to(app)
study.add_to(app)
export.add_to(app)
place.add_to(app)
tune.add_to(app)


# --- Helpers -----------------------------------------------------------------------------------------------------


def _note(line: str) -> None:
    """What is worth knowing before the work, beside the progress and out of the way of results."""
    say(line, stderr=True)


def _task_spec(name: str, options: list[str] | None) -> Any:
    from selfroute import config

    spec = spec_of(name, "task")
    return config.Spec(spec.name, spec.value, {**spec.options, **config.parse_overrides(options or [])})


def _list(entries: Mapping[str, Entry], title: str, *, then: str, written: bool = False) -> None:
    """Everything of a table with its sentence.

    Args:
        then: the next command.
        written: say how a recipe writes it as well.
    """
    heads = ("name", "what it is" + (", and how a recipe writes it" if written else ""))
    rows = [(name, entry.described() + (f"\n{entry.written}" if written else "")) for name, entry in entries.items()]
    say(listing(title, heads, rows))
    next_step(then)


def _version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _gpus() -> Iterator[str]:
    """Accelerators, found without loading torch."""
    import subprocess

    try:
        found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        found = None
    if found is not None and found.returncode == 0:
        yield from (line.split(" (UUID")[0] for line in found.stdout.splitlines() if line.startswith("GPU"))
    if sys.platform == "darwin" and platform.machine() == "arm64":
        yield "Apple GPU (mps)"


for _command in (serve, cloud, ask, chat, key):
    app.command(epilog=_example(*EXAMPLES[_command.__name__]))(_command)


def main() -> None:
    """Entry point of the `selfroute` command."""
    app(prog_name="selfroute")


if __name__ == "__main__":
    main()

"""Writes the reference pages from the code: commands, keys of recipes, names, headers, reasons, metrics, errors.

    python docs/make_reference.py

A test fails while a page and the code differ.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from selfroute import errors as tree
from selfroute.commands.main import app
from selfroute.config import (
    ALGORITHMS,
    BACKENDS,
    CLUSTERS,
    LEDGERS,
    LOADS,
    OBJECTIVES,
    ORACLES,
    PAIRS,
    POLICIES,
    STRATEGIES,
    TASKS,
    TUNERS,
    AdaSwitchRecipe,
    Bounds,
    Choice,
    CompareRecipe,
    Entry,
    EntryOptions,
    EvaluateRecipe,
    ExitsRecipe,
    HeadRecipe,
    ReportOptions,
    RewardRecipe,
    Spec,
    SplitPolicyRecipe,
    StrategyEntry,
    Table,
    TrainRecipe,
    TuneRecipe,
    WarmupRecipe,
    WorkerOptions,
    at,
    to_values,
)
from selfroute.config.serving import ServeRecipe
from selfroute.gateway.errors import CODES
from selfroute.gateway.exchange import ASKS, HEADERS, REASONS
from selfroute.gateway.metrics import METRICS
from selfroute.train.imitation.writers import TraceStyle

DOCS = Path(__file__).parent
_WORDS = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    Path: "path",
    Spec: "name, or name with options",
}
KEY, THING = ("key", "value", "default", "meaning"), ("name", "written", "what it is", "options")
REPLACED = "; on the command line `key.nested=value` replaces them."
# Keys that several recipes have, said once; what a recipe's docstring says of one goes before.
SHARED = {
    "algorithm": "how to train, a name of `selfroute algorithms`",
    "cloud": "model in the cloud; `selfroute backends` shows how to write one",
    "layers": "of the network",
    "learning_rate": "step size at its height",
    "max_new_tokens": "most tokens of one attempt",
    "network": "keys of `selfroute.network.link.Network`, e.g. `network.rtt_s=0.2`",
    "out": "folder of the results",
    "resamples": "bootstrap samples behind each interval",
    "resume": "go on from the newest checkpoint in `out`; `--resume` sets it",
    "seed": "of problems and draws",
    "split": "train, validation or test",
    "steps": "optimiser steps",
    "task": "prompts and verifier, a name of `selfroute tasks` or `{name: {option: value}}`",
    "temperature": "of the attempts",
}


# --- pages ---------------------------------------------------------------------------------------------------------


def serving_page() -> str:
    return page(
        "Serving: reference",
        "The guide: [Serving](serving.md).",
        section("Configuration", f"Keys of `CONFIG.yaml`{REPLACED}", KEY, keys(ServeRecipe)),
        section(
            "Headers",
            "On every answer; of a stream that is not over, source, reason and cost are `pending`, and the last "
            "chunk's `selfroute` object has them.",
            ("header", "meaning"),
            code_first(HEADERS.items()),
        ),
        section(
            "Request headers",
            "Where [several clouds](several-clouds.md) are chosen by them.",
            ("header", "meaning"),
            code_first(ASKS.items()),
        ),
        section(
            "Reasons",
            "`error` and `budget` stand in the `selfroute` object.",
            ("reason", "meaning"),
            code_first(REASONS.items()),
        ),
        section(
            "Metrics",
            "At `/metrics`. Counters end in `_total`.",
            ("metric", "kind", "labels", "meaning"),
            metrics(),
        ),
        section(
            "Errors",
            'In OpenAI\'s shape: `{"error": {"message", "type", "param", "code"}}`.',
            ("code", "status", "type", "meaning"),
            errors(),
        ),
    )


def training_page() -> str:
    traces = {f"traces.{name}": meaning for name, meaning in attributes(TraceStyle).items()}
    return page(
        "Training: reference",
        "The guides: [GAPG](gapg.md), [train your own](train-your-own.md).",
        section("Training", f"Keys of a recipe of `selfroute train`{REPLACED}", KEY, keys(TrainRecipe)),
        section(
            "Warm-up",
            "Keys of a recipe with `algorithm: warm_up`.",
            KEY,
            keys(WarmupRecipe, shared=SHARED | traces),
        ),
        section(
            "Heads of tokens",
            "Keys of a recipe with `algorithm: reward_head`; the scores are used by `token_level`.",
            KEY,
            keys(HeadRecipe),
        ),
        section(
            "Reward models",
            "Keys of a recipe with `algorithm: reward_model`; see [learned rewards](learned-rewards.md).",
            KEY,
            keys(RewardRecipe),
        ),
        section(
            "Exits",
            "Keys of a recipe with `algorithm: exits`; see [early exit](early-exit.md).",
            KEY,
            keys(ExitsRecipe),
        ),
        section(
            "Policies of cuts",
            "Keys of a recipe with `algorithm: split_policy`; see [split](split.md).",
            KEY,
            keys(SplitPolicyRecipe),
        ),
        section(
            "Steps",
            "Keys of a recipe with `algorithm: adaswitch`; see [steps](step-level.md).",
            KEY,
            keys(AdaSwitchRecipe),
        ),
        section(
            "Tuning",
            f"Keys of a recipe of `selfroute tune`{REPLACED} The guide: [tuning](tuning.md).",
            KEY,
            keys(TuneRecipe),
        ),
        section("Workers of a tuning", "Keys of each of its `workers`.", KEY, keys(WorkerOptions)),
    )


def evaluation_page() -> str:
    return page(
        "Evaluation: reference",
        "The guide: [Evaluation](evaluation.md).",
        section("Evaluation", f"Keys of a recipe of `selfroute evaluate`{REPLACED}", KEY, keys(EvaluateRecipe)),
        section(
            "Report",
            "What `selfroute report FOLDER key=value …` counts anew; the rest, and what is null, is as in the run.",
            KEY,
            keys(ReportOptions, shared=SHARED | attributes(EvaluateRecipe)),
        ),
        section(
            "Comparison",
            f"Keys of a recipe of `selfroute compare`{REPLACED}",
            KEY,
            keys(CompareRecipe),
        ),
        section("Entries of a comparison", "Keys of each of its `entries`.", KEY, keys(EntryOptions)),
    )


def names_page() -> str:
    return page(
        "Names: reference",
        "What a recipe can name; `selfroute strategies`, `tasks`, `backends` and `algorithms` list the same. An option "
        "without a default must be given.",
        section(
            "Strategies",
            "What is fitted learns from train rows. The options are those of serving; an evaluation fits, and sets "
            "share and threshold itself.",
            ("name", "decides by", "what it does", "options"),
            strategies(),
        ),
        section("Tasks", "See [tasks](tasks.md).", THING, things(TASKS)),
        section("Backends", "See [backend](concepts.md#backend).", THING, things(BACKENDS)),
        section(
            "Algorithms",
            "Their options: [training](train-reference.md).",
            ("name", "offers the hand-off", "what it does"),
            algorithms(),
        ),
        section("Objectives", "Of [training](objectives.md).", THING, things(OBJECTIVES)),
        section("Ledgers", "Of [the budget](budget.md).", THING, things(LEDGERS)),
        section("Policies", "Of [several clouds](several-clouds.md).", THING, things(POLICIES)),
        section("Oracles", "Of [attribute control](attribute-control.md).", THING, things(ORACLES)),
        section("Pairs", "Of [learned rewards](learned-rewards.md).", THING, things(PAIRS)),
        section("Methods", "Of [tuning](tuning.md).", THING, things(TUNERS)),
        section("Clusters", "Of [placement](placement.md).", THING, things(CLUSTERS)),
        section("Loads", "Of [placement](placement.md).", THING, things(LOADS)),
    )


def commands_page() -> str:
    made: Any = typer.main.get_command(app)
    return page(
        "Commands: reference",
        "`selfroute COMMAND --help` says the same in the terminal.",
        *(command(name, each) for name, each in made.commands.items()),
        section(
            "How a command ends",
            "What goes wrong is one line on standard error, and `SELFROUTE_DEBUG=1` shows the traceback with it.",
            ("exit code", "when"),
            code_first({
                "0": "it did what was asked",
                "1": "something failed on the way: a model, a file, the network",
                "2": "an argument, a key or a file is wrong, or a library is missing; nothing was begun",
                "130": "it was interrupted; where work can go on, the last line says how",
            }.items()),
        ),
        section(
            "Errors in Python",
            "From `selfroute.errors`. A command ends with 2 for a `ConfigError` and with 1 for every other.",
            ("error", "is a", "raised when"),
            raised(),
        ),
    )  # fmt: skip


PAGES = {
    "commands.md": commands_page,
    "serving-reference.md": serving_page,
    "train-reference.md": training_page,
    "evaluate-reference.md": evaluation_page,
    "names.md": names_page,
}


def page(title: str, about: str, *sections: str) -> str:
    return "\n\n".join([f"# {title}", f"Made by `python docs/make_reference.py`. {about}", *sections]) + "\n"


def section(title: str, about: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return f"## {title}\n\n{about}\n\n{table(head, rows)}"


# --- tables --------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)


def code_first(items: Any) -> Iterator[Sequence[str]]:
    for name, meaning in items:
        yield f"`{name}`", meaning


def metrics() -> Iterator[Sequence[str]]:
    for name, kind, labels, meaning in METRICS:
        yield f"`{name}`", kind.__name__.lower(), ", ".join(labels), meaning.rstrip(".")


def command(name: str, made: Any) -> str:
    """Its section: how it is written, what it does, examples, arguments and options."""
    written_so = " ".join(["selfroute", name, *(["[OPTIONS]"] if has_options(made) else []), *map(argument, of(made))])
    examples = re.findall(r"\[bold\](.*?)\[/bold\]", (made.epilog or "").replace("\\[", "["))
    shown = ["", "```sh", *examples, "```"] if examples else []
    rows = [parameter_row(each) for each in made.params]
    arguments = ["", table(("argument", "default", "meaning"), rows)] if rows else []
    lines = [f"## {name}", "", one_paragraph(made.help), "", f"`{written_so}`", *shown, *arguments]
    return "\n".join(lines)


def has_options(made: Any) -> bool:
    return any(each.param_type_name == "option" for each in made.params)


def of(made: Any) -> list[Any]:
    return [each for each in made.params if each.param_type_name == "argument"]


def argument(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    return name if parameter.required or name.startswith("[") else f"[{name}]{'...' if parameter.nargs < 0 else ''}"


def parameter_row(parameter: Any) -> Sequence[str]:
    is_option = parameter.param_type_name == "option"
    names = [*parameter.opts, *parameter.secondary_opts] if is_option else [argument(parameter)]
    default = parameter.default
    shown = "–" if callable(default) or default is None or default is False else code(written(default))
    return ", ".join(f"`{name}`" for name in names), shown, one_line(parameter.help or "")


def one_paragraph(text: str) -> str:
    return " ".join(text.split())


def raised() -> Iterator[Sequence[str]]:
    for name in tree.__all__:
        kind = getattr(tree, name)
        first = (inspect.getdoc(kind) or "").split("\n\n")[0]
        yield f"`{name}`", f"`{kind.__mro__[1].__name__}`", one_line(first)


def errors() -> Iterator[Sequence[str]]:
    for code, (status, kind, meaning) in CODES.items():
        yield f"`{code}`", str(status), f"`{kind}`", meaning


def strategies() -> Iterator[Sequence[str]]:
    for name, entry in STRATEGIES.items():
        yield f"`{name}`", decides_by(entry), one_line(entry.described()), options_of(entry)


def decides_by(entry: StrategyEntry) -> str:
    if entry.reads is None:
        return "the device itself" if entry.policy else "–"
    read = {"question": "the question", "answer": "the device's answer"}[entry.reads]
    return f"{read}, fitted" if entry.fitted else read


def things(entries: Table[Any]) -> Iterator[Sequence[str]]:
    for name, entry in entries.items():
        yield f"`{name}`", f"`{entry.written}`", one_line(entry.described()), options_of(entry)


def algorithms() -> Iterator[Sequence[str]]:
    for name, entry in ALGORITHMS.items():
        yield f"`{name}`", "yes" if entry.offers_handoff else "no", one_line(entry.described())


def options_of(entry: Entry) -> str:
    """What a recipe can set of a thing, each with its default."""
    if entry.options is not None:
        given = [(field.name, default_of(field)) for field in dataclasses.fields(at(entry.options))]
    else:
        parameters = inspect.signature(at(entry.place)).parameters.values()
        own = [p for p in parameters if p.name not in ("name", *entry.given)]
        given = [one for p in own for one in spread(p)]
    return ", ".join(f"`{name}`" if default == "–" else f"`{name}: {default}`" for name, default in given)


def spread(parameter: inspect.Parameter) -> list[tuple[str, str]]:
    """An argument with its default; of one that is a group of options, each of them."""
    if dataclasses.is_dataclass(parameter.default):
        fields = dataclasses.fields(parameter.default)
        return [(field.name, written(getattr(parameter.default, field.name))) for field in fields]
    return [(parameter.name, written(parameter.default))]


def keys(
    recipe: Any, prefix: str = "", inherited: str = "", shared: Mapping[str, str] = SHARED
) -> Iterator[Sequence[str]]:
    """One row per key that can be set, nested ones by their full name.

    Args:
        inherited: what is said of the group that they are in.
        shared: what is said of keys by their full name, where the recipe says nothing.
    """
    own, hints = attributes(recipe), get_type_hints(recipe, include_extras=True)
    for field in dataclasses.fields(recipe):
        hint = hints[field.name]
        meaning = own.get(field.name) or shared.get(f"{prefix}{field.name}") or inherited
        inner = options_class(hint)
        name, default = f"`{prefix}{field.name}`", code(default_of(field))
        if (each := options_of_each(hint)) is not None:
            yield name, "list of mappings", default, one_line(meaning)
            yield from keys(each, f"{prefix}{field.name}[].", "", shared)
            continue
        if inner is None:
            yield name, kind_of(hint), default, one_line(meaning)
            continue
        if type(None) in get_args(hint):
            yield name, "mapping or null", default, one_line(meaning)
        summary = " ".join((inner.__doc__ or "").split("\n\n")[0].split()).rstrip(".")
        yield from keys(inner, f"{prefix}{field.name}.", meaning or summary, shared)


def options_class(hint: Any) -> Any:
    """The dataclass of a nested group of keys, None for a plain value."""
    inside = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return next((each for each in inside if dataclasses.is_dataclass(each) and each is not Spec), None)


def options_of_each(hint: Any) -> Any:
    """The dataclass of a list's items, None for any other list and for all else."""
    items = get_args(hint) if get_origin(hint) is tuple else ()
    return next((each for each in items if dataclasses.is_dataclass(each) and each is not Spec), None)


def attributes(recipe: Any) -> dict[str, str]:
    """What the Attributes or Args sections of a class and its bases say of each name."""
    found: dict[str, str] = {}
    name: list[str] = []
    texts = [base.__dict__.get("__doc__") or "" for base in reversed(recipe.__mro__)]
    for line in "\n".join(texts).splitlines():
        entry = re.match(r"        ([a-z0-9_]+(?:, [a-z0-9_]+)*): (.*)", line)
        if entry:
            name = entry[1].split(", ")
            found |= dict.fromkeys(name, entry[2])
        elif line.startswith("            ") and name:
            found |= {each: f"{found[each]} {line.strip()}" for each in name}
        else:
            name = []
    return found


def one_line(text: str) -> str:
    """A docstring's sentence in a table; what Python calls None is null in a recipe."""
    return re.sub(r"\bNone\b", "null", " ".join(text.split()).rstrip(".").replace("|", "\\|"))


def code(text: str) -> str:
    return text if text == "–" else f"`{text}`"


def kind_of(hint: Any) -> str:
    """A type in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        bounds = [str(extra) for extra in inner[1:] if isinstance(extra, Bounds | Choice)]
        choice = any(isinstance(extra, Choice) for extra in inner[1:])
        return ", ".join([*([] if choice else [kind_of(inner[0])]), *bounds])
    if origin in (Union, types.UnionType):
        return " or ".join("null" if each is type(None) else kind_of(each) for each in inner)
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in inner)
    if origin is tuple:
        return f"list of {kind_of(inner[0])}"
    if origin is not None:
        return "mapping"
    return _WORDS.get(hint, str(hint))


def default_of(field: Any) -> str:
    factory = field.default_factory
    return written(factory() if factory is not dataclasses.MISSING else field.default)


def written(default: Any) -> str:
    """A default as a recipe has it; a dash where there is none."""
    value = to_values(default)
    if value is dataclasses.MISSING or value is inspect.Parameter.empty:
        return "–"
    if isinstance(value, Mapping) and len(value) == 1:
        ((name, inner),) = value.items()
        return name if inner is None else f"{name}:{inner}" if isinstance(inner, str) else f"{name}: …"
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    if value is None or isinstance(value, bool | dict):
        return json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    for name, made in PAGES.items():
        (DOCS / name).write_text(made(), encoding="utf-8")

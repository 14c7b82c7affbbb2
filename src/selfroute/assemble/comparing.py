"""`selfroute compare`: every entry trained and evaluated one by one on each seed, then counted together.

OUT/table.json            everything that the table says, for programs
OUT/table.md              the table
OUT/seed-N/NAME/          the evaluation of an entry, as `selfroute evaluate` writes it, and NAME.yaml, its recipe
OUT/seed-N/trained/PART/  what was trained for it, and PART.json, what `selfroute train` was told
OUT/seed-N/joined/        all entries of the seed as one evaluation; `selfroute report` makes its page
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import shlex
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from selfroute.assemble.evaluating import NOT_IN_RECORDS, counting_options, evaluate_recipe
from selfroute.config import EvaluateRecipe, ReportOptions, algorithm_of, at, build, load_recipe, load_values, to_values
from selfroute.config.comparing import (
    CompareRecipe,
    apart,
    check_comparison,
    evaluation_of,
    needs_of,
    parts_of,
    place_of,
    reported,
    slug,
    training_of,
)
from selfroute.config.entries import not_installed
from selfroute.environment import commit
from selfroute.errors import ConfigError, NotInstalled

__all__ = ["LeftOut", "compare_recipe"]

Say = Callable[[str], object]
OnProgress = Callable[[int, int], None]
Watch = Callable[[str], AbstractContextManager[OnProgress]]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An entry that is not in the table.

    Attributes:
        command: what to type so that it will be.
    """

    name: str
    why: str
    command: str


@contextmanager
def _unwatched(title: str) -> Iterator[OnProgress]:
    yield lambda done, total: None


def compare_recipe(
    recipe: CompareRecipe, *, source: str, command: str, say: Say | None = None, watch: Watch = _unwatched
) -> dict[str, Any]:
    """Run what is missing and count all together; returns what stands in `OUT/table.json`.

    Entries whose parts are not trained, or whose libraries or files are not there, are left out by name. Called again
    it goes on where it was.

    Args:
        source: the recipe's name, for the commands that are shown.
        command: how the comparison was started, for the table.
        say: gets a line before each step, and one for each entry that is left out.
        watch: opens a view of the progress under a title.

    Raises:
        ConfigError: the recipe cannot be, finished entries are of another recipe, or the first entry has not finished.
    """
    check_comparison(recipe)
    say = say or (lambda line: None)
    counting = _counting_options(recipe)
    _check_finished(recipe)
    reasons = _run_all(recipe, say, watch) if recipe.jobs == 1 else _run_in_processes(recipe, say, watch)
    places = [place_of(recipe, seed) for seed in recipe.seeds]
    done = [name for name in recipe.entries if all(_has_run(place, name) for place in places)]
    missing = [reasons.get(name, _not_run(recipe, name, source)) for name in recipe.entries if name not in done]
    for each in missing:
        say(f"left out: {each.name}: {each.why}; {each.command}")
        _check_ends(recipe, each)
    with watch("counting") as on_progress:
        summaries = [_join(place, done, counting, on_progress) for place in places]
    table = _table(recipe, done, summaries, missing, command)
    _write(recipe.out, table)
    return table


def _counting_options(recipe: CompareRecipe) -> dict[str, Any]:
    """How records are counted, as arguments of `selfroute.evaluation.counting.summary.analyse`."""
    options = ReportOptions(axes=recipe.axes, network=recipe.network, prices=recipe.prices, priced_as=recipe.priced_as)
    counting = counting_options(options, device=recipe.device, cloud=recipe.cloud)
    return {**counting, "fractions": recipe.shares, "task": recipe.task.name}


def _not_run(recipe: CompareRecipe, name: str, source: str) -> LeftOut:
    if elsewhere := recipe.entries[name].elsewhere:
        return LeftOut(name, "measured elsewhere", elsewhere)
    return LeftOut(name, "not run", shlex.join(["selfroute", "compare", source, f"only={json.dumps([name])}"]))


def _check_ends(recipe: CompareRecipe, left_out: LeftOut) -> None:
    """Stop where the entry that is left out is the first one, without which there is no table."""
    if left_out.name == next(iter(recipe.entries)):
        raise ConfigError(
            f"entries.{left_out.name}: it holds both ends and has not finished: {left_out.why}; {left_out.command}"
        )


# --- running ---------------------------------------------------------------------------------------------------------


def _has_run(place: Path, name: str) -> bool:
    return (place / slug(name) / "summary.json").is_file()


def _run_all(recipe: CompareRecipe, say: Say, watch: Watch) -> dict[str, LeftOut]:
    """Run the entries that are asked for; why each of those that are left out is."""
    left_out: dict[str, LeftOut] = {}
    for name in recipe.entries if recipe.only is None else recipe.only:
        if (found := _run_entry(recipe, name, say, watch)) is not None:
            _check_ends(recipe, found)
            left_out[name] = found
    return left_out


def _run_in_processes(recipe: CompareRecipe, say: Say, watch: Watch) -> dict[str, LeftOut]:
    """As `_run_all`, in processes that each have their part of the cores; what shares a part is run by one."""
    from joblib import Parallel, delayed, parallel_config

    each = [
        dataclasses.replace(recipe, seeds=(seed,), only=tuple(names), jobs=1)
        for names in apart(recipe)
        for seed in recipe.seeds
    ]
    left_out: dict[str, LeftOut] = {}
    threads = max(1, (os.cpu_count() or 1) // recipe.jobs)
    with (
        parallel_config(backend="loky", inner_max_num_threads=threads),
        watch("comparing") as on_progress,
        warnings.catch_warnings(),
    ):
        # loky replaces a process that has grown by 300 MB, between two entries, and calls it a possible leak.
        warnings.filterwarnings("ignore", "A worker stopped while some jobs were given", UserWarning)
        on_progress(0, len(each))
        runs = Parallel(n_jobs=recipe.jobs, return_as="generator", batch_size=1)(
            delayed(_run_alone)(one) for one in each
        )
        for done, (one, found) in enumerate(zip(each, runs, strict=True), start=1):
            say(f"seed {one.seeds[0]}: {', '.join(one.only or ())}")
            for name in found:
                _check_ends(recipe, found[name])
            left_out |= found
            on_progress(done, len(each))
    return left_out


def _run_alone(recipe: CompareRecipe) -> dict[str, LeftOut]:
    return _run_all(recipe, lambda line: None, _unwatched)


def _run_entry(recipe: CompareRecipe, name: str, say: Say, watch: Watch) -> LeftOut | None:
    """Train and evaluate one entry on every seed on which it has not finished; why it is left out, if it is."""
    entry = recipe.entries[name]
    if entry.elsewhere:
        return None  # there is nothing to run; it is named with those that have not run
    for seed in recipe.seeds:
        place = place_of(recipe, seed)
        if _has_run(place, name):
            continue
        needs = needs_of(recipe, name, place)
        if lacks := next((file for file in needs if not Path(file).exists()), None):
            return LeftOut(name, f"'{lacks}' is not there", needs[lacks])
        untrained = [part for part in parts_of(recipe, entry.evaluate) if not _is_trained(place, part)]
        if untrained and not recipe.train:
            lines = [shlex.join(_training_line(recipe, part, place, seed)) for part in untrained]
            return LeftOut(name, f"'{untrained[0]}' is not trained", " && ".join(lines))
        try:
            for part in untrained:
                _train(recipe, part, place, seed, say, watch)
            _evaluate(recipe, name, place, seed, say, watch)
        except NotInstalled as error:
            return LeftOut(name, error.what, error.command)
    return None


def _is_trained(place: Path, part: str) -> bool:
    return (place / "trained" / part / "run.json").is_file()


def _told(place: Path, part: str) -> Path:
    """File of what `selfroute train` was told for a part."""
    return place / "trained" / f"{part}.json"


def _training_line(recipe: CompareRecipe, part: str, place: Path, seed: int) -> list[str]:
    return [
        "selfroute",
        "train",
        *training_of(recipe, part, place),
        f"seed={seed}",
        f"out={place / 'trained' / part}",
    ]


def _train(recipe: CompareRecipe, part: str, place: Path, seed: int, say: Say, watch: Watch) -> None:
    line = _training_line(recipe, part, place, seed)
    _, _, file, *overrides = line
    values = load_values(file, overrides)
    algorithm = algorithm_of(values)
    options = at(algorithm.options)
    say(shlex.join(line))
    if _goes_on(place / "trained" / part, options):
        values["resume"] = True
    loaded = build(options, values, where=f"parts.{part}")
    _told(place, part).parent.mkdir(parents=True, exist_ok=True)
    _told(place, part).write_text(json.dumps(training_of(recipe, part, place)) + "\n", encoding="utf-8")
    try:
        with watch(f"training {part}") as on_progress:
            at(algorithm.place)(loaded, on_progress=lambda step, steps, _: on_progress(step, steps), say=say)
    except ModuleNotFoundError as error:
        raise not_installed(error, f"parts.{part}", algorithm) from error


def _goes_on(folder: Path, options: type) -> bool:
    """Whether a training that was interrupted has a checkpoint to go on from; one without begins anew."""
    resumable = any(option.name == "resume" for option in dataclasses.fields(options))
    if resumable and any(folder.glob("checkpoints/checkpoint-*")):
        return True
    shutil.rmtree(folder, ignore_errors=True)
    return False


def _evaluate(recipe: CompareRecipe, name: str, place: Path, seed: int, say: Say, watch: Watch) -> None:
    file = place / f"{slug(name)}.yaml"
    place.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(evaluation_of(recipe, name, place), sort_keys=False), encoding="utf-8")
    overrides = [f"seed={seed}", f"out={place / slug(name)}"]
    command = shlex.join(["selfroute", "evaluate", str(file), *overrides])
    say(command)
    loaded = load_recipe(EvaluateRecipe, file, overrides)
    with watch(f"preparing {name}") as on_prepare, watch(f"evaluating {name}") as on_progress:
        asyncio.run(evaluate_recipe(loaded, command=command, say=say, on_prepare=on_prepare, on_progress=on_progress))


# --- what has finished -----------------------------------------------------------------------------------------------


def _check_finished(recipe: CompareRecipe) -> None:
    """See that entries which have finished are those of the recipe.

    Raises:
        ConfigError: one has another task, model, limit or option, or a part another training; names it, both ways.
    """
    for seed in recipe.seeds:
        place = place_of(recipe, seed)
        for name in recipe.entries:
            if _has_run(place, name):
                _check_same(place / slug(name), {**evaluation_of(recipe, name, place), "seed": seed}, name)
        for part in recipe.parts:
            _check_told(recipe, part, place)


def _check_same(folder: Path, values: Mapping[str, Any], name: str) -> None:
    from selfroute.evaluation.provenance import read_about

    there = read_about(folder / "run.json").get("identity", {})
    here = to_values(build(EvaluateRecipe, values, where=f"entries.{name}"))
    for key in here.keys() - set(NOT_IN_RECORDS):
        # A key that the run did not know had no effect on it.
        old, new = there.get(f"config.{key}", here[key] if there else None), here[key]
        if _without_places(old) != _without_places(new):
            raise ConfigError(
                f"'{folder}' holds another evaluation: {key} is {json.dumps(old)} there and {json.dumps(new)} here; "
                f"choose another out= or delete the folder"
            )


def _check_told(recipe: CompareRecipe, part: str, place: Path) -> None:
    """See that a trained part is what the recipe says; one of which nobody noted what it was told is taken as it is."""
    folder, file = place / "trained" / part, _told(place, part)
    if not (_is_trained(place, part) and file.exists()):
        return
    there, here = json.loads(file.read_text(encoding="utf-8")), training_of(recipe, part, place)
    if _without_places(there) != _without_places(here):
        raise ConfigError(
            f"'{folder}' holds another training: {shlex.join(there)} there and {shlex.join(here)} here; choose another "
            "out= or delete the folder"
        )


def _without_places(value: Any) -> str:
    """Plain data as text; folders of trained parts by their names, so that a comparison may be moved."""
    return re.sub(r'[^":]*/trained/', "trained/", json.dumps(value, sort_keys=True))


# --- counting --------------------------------------------------------------------------------------------------------


def _join(place: Path, names: Sequence[str], counting: Mapping[str, Any], on_progress: OnProgress) -> dict[str, Any]:
    """Entries of a seed as one evaluation, counted together; its summary.

    Raises:
        ConfigError: entries were run on different problems.
    """
    from selfroute.evaluation.counting.columns import read_columns
    from selfroute.evaluation.counting.split import splits_of
    from selfroute.evaluation.counting.summary import analyse
    from selfroute.evaluation.files import replacing, write_text

    joined = place / "joined"
    joined.mkdir(exist_ok=True)
    folders = [place / slug(name) for name in names]
    abouts = {folder.name: json.loads((folder / "run.json").read_text(encoding="utf-8")) for folder in folders}
    if len({about["identity"]["rows"] for about in abouts.values()}) > 1:
        raise ConfigError(f"{place}: entries were run on different problems; delete the folders of those that differ")
    for name in ("records.jsonl", "samples.jsonl"):
        with replacing(joined / name) as partial, partial.open("wb") as file:
            for folder in folders:
                file.write((folder / name).read_bytes())
    first = abouts[folders[0].name]
    ran = {"commands": {name: [each["command"], each["commit"]] for name, each in abouts.items()}}
    write_text(joined / "run.json", json.dumps(first | ran, indent=2) + "\n")
    identity, records = first["identity"], joined / "records.jsonl"
    shared = splits_of(read_columns(records), seed=identity["seed"], where=str(records))
    summary, _ = analyse(shared, share=identity["share"], seed=identity["seed"], on_progress=on_progress, **counting)
    write_text(joined / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return summary


def _table(
    recipe: CompareRecipe,
    done: Sequence[str],
    summaries: Sequence[Mapping[str, Any]],
    left_out: Sequence[LeftOut],
    command: str,
) -> dict[str, Any]:
    from selfroute.evaluation.counting.compared import Listed, compared

    listed = {
        strategy: Listed(name, recipe.entries[name].level, free)
        for name in done
        for strategy, free in reported(recipe, name).items()
    }
    return {
        "command": command,
        "commit": commit(),
        **compared(summaries, listed),
        "entries": [
            {"name": name, "level": recipe.entries[name].level, "ran": [_ran(recipe, name, s) for s in recipe.seeds]}
            for name in done
        ],
        "left_out": [asdict(each) for each in left_out],
    }


def _ran(recipe: CompareRecipe, name: str, seed: int) -> dict[str, Any]:
    from selfroute.evaluation.provenance import read_about

    about = read_about(place_of(recipe, seed) / slug(name) / "run.json")
    return {"seed": seed, "command": about.get("command"), "commit": about.get("commit")}


def _write(out: Path, table: Mapping[str, Any]) -> None:
    from selfroute.evaluation.files import write_text
    from selfroute.evaluation.report.compared import comparison_page

    write_text(out / "table.json", json.dumps(table, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(out / "table.md", comparison_page(table))

"""`selfroute place`: a recipe to a placement, its files and its page."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from selfroute import environment
from selfroute.config import CLUSTERS, LOADS, Entry, PlaceRecipe, Spec, Table, construct, suggest, to_values
from selfroute.errors import ConfigError, SelfRouteError

if TYPE_CHECKING:
    from selfroute.planning.cluster import Cluster
    from selfroute.planning.compare import Comparison
    from selfroute.planning.load import Load
    from selfroute.planning.problem import Bools, Problem, Slots
    from selfroute.planning.shapes import Mixture

__all__ = ["place_recipe"]

Progress = Callable[[int, int, str], None]


def place_recipe(
    recipe: PlaceRecipe, *, command: str = "", on_progress: Progress = lambda done, total, what: None
) -> dict[str, Any]:
    """Place the experts of a recipe, compare, and write `plan.json`, the engines' files and `report.html`.

    Everything is computed first, and each file then written whole.

    Returns:
        The content of `plan.json`; docs/placement.md explains it.

    Raises:
        ConfigError: a recipe, load, cluster or placement that cannot be; nothing is written.
        SelfRouteError: the folder cannot be written to.
    """
    from selfroute.planning.compare import compare

    _check(recipe)
    load, mixture = _load(recipe)
    cluster = _cluster(recipe)
    problems = _problems(recipe, load, mixture, cluster)
    problem = problems[recipe.unit]
    before = _today(recipe, problem, mixture)
    found = compare(
        problems, recipe.unit, method=recipe.method, others=recipe.compare, caps=recipe.pareto, before=before,
        move_price=recipe.move_price, on_progress=on_progress,
    )  # fmt: skip
    files = _engine_files(recipe, found, mixture, before)
    summary = {
        **_plan(found, problem, mixture),
        **_circumstances(recipe, load, mixture, cluster, problem),
        **_money(recipe, cluster),
        "files": sorted(files),
        "command": command,
        "recipe": to_values(recipe),
        **environment.provenance(),
    }
    _write(recipe, summary, files)
    return summary


# --- from the recipe ---------------------------------------------------------------------------------------------


def _check(recipe: PlaceRecipe) -> None:
    """Refuse what can be refused before anything is loaded."""
    from selfroute.planning.engines import FORMATS
    from selfroute.planning.solvers import METHODS

    if recipe.method is not None:
        _check_names("method", (recipe.method,), METHODS)
    _check_names("compare", recipe.compare, METHODS)
    _check_names("formats", recipe.formats or (), FORMATS)
    if recipe.formats and recipe.slots.layer_slack != 1:
        raise ConfigError(
            f"formats: engines want equal slots, which slots.layer_slack={recipe.slots.layer_slack:g} does not give; "
            "write formats: [] or slots: {layer_slack: 1}"
        )
    if (recipe.gpu_hour_usd is None) != (recipe.tokens_per_s is None):
        raise ConfigError("gpu_hour_usd and tokens_per_s make a price together; give both, or neither")
    if recipe.move_price and recipe.today is None:
        raise ConfigError("move_price: nothing moves without today's placement; add today: linear or {sglang: FILE}")


def _check_names(key: str, names: tuple[str, ...], known: Mapping[str, Any]) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(f"{key}: '{name}' is not one of {', '.join(known)}{suggest(name, known)}")


def _made(table: Table[Entry], spec: Spec, key: str, **given: Any) -> Any:
    """What a spec names in a table; factories take of `given` what they know."""
    factory = table.resolve(spec.name, where=key)
    takes = inspect.signature(factory).parameters
    options = dict(spec.options) | ({"path": spec.value} if spec.value is not None else {})
    if "seed" in options:
        given.pop("seed", None)
    given = {name: value for name, value in given.items() if name in takes}
    return construct(factory, options, f"{key}.{spec.name}", table[spec.name], given=given)


def _load(recipe: PlaceRecipe) -> tuple[Load, Mixture]:
    from selfroute.planning.load import needed

    load: Load = _made(LOADS, recipe.load, "load", mixture=recipe.model, seed=recipe.seed)
    return load, needed(load.mixture or recipe.model)


def _cluster(recipe: PlaceRecipe) -> Cluster:
    from selfroute.planning.cluster import with_ranks

    cluster = _made(CLUSTERS, recipe.cluster, "cluster", link=recipe.links, seed=recipe.seed)
    return with_ranks(cluster, recipe.per_server, recipe.links)


def _problems(recipe: PlaceRecipe, load: Load, mixture: Mixture, cluster: Cluster) -> dict[str, Problem]:
    """The problem in every unit that the cluster knows."""
    from selfroute.planning.problem import homes_problem, sources_problem

    cluster.costs(recipe.unit, mixture.bytes_per_token)  # refuses a unit that is not known
    shared: dict[str, Any] = {
        "slots": _slots(recipe, mixture, cluster.ranks),
        "cap": recipe.cap,
        "cap_over": recipe.cap_over,
        "split": recipe.split,
    }
    if recipe.problem == "homes":
        make, shared = homes_problem, shared | {"homes": recipe.homes}
    elif recipe.homes is not None:
        raise ConfigError("homes: tokens of problem: sources start on every rank; leave homes out")
    else:
        make = sources_problem
    return {unit: make(load, mixture, cluster, unit=unit, **shared) for unit in cluster.units}


def _slots(recipe: PlaceRecipe, mixture: Mixture, ranks: int) -> Slots:
    from selfroute.planning.problem import Slots

    options = recipe.slots
    wanted = mixture.experts + options.redundant
    layer = math.ceil(options.layer_slack * wanted / ranks - 1e-9)
    total = mixture.layers * layer
    if options.total_slack is not None:
        total = min(total, math.ceil(options.total_slack * mixture.layers * wanted / ranks - 1e-9))
    return Slots(layer=layer, total=total, redundant=options.redundant, equal=options.layer_slack == 1)


def _today(recipe: PlaceRecipe, problem: Problem, mixture: Mixture) -> Bools | None:
    from pathlib import Path

    from selfroute.planning.engines import read_placement
    from selfroute.planning.solvers import METHODS

    spec = recipe.today
    if spec is None:
        return None
    if spec.value is None and not spec.options:
        _check_names("today", (spec.name,), {"linear": METHODS["linear"]})
        return METHODS[spec.name](problem)[0]
    path = Path(str(spec.value or spec.options.get("path")))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise ConfigError(
            f"today.{spec.name}: file '{path}' cannot be read; name the file the engine runs with"
        ) from None
    return read_placement(spec.name, text, mixture, problem.ranks, where=f"today.{spec.name}: {path}")


# --- to files ----------------------------------------------------------------------------------------------------


def _engine_files(recipe: PlaceRecipe, found: Comparison, mixture: Mixture, before: Bools | None) -> dict[str, str]:
    """Name of a file to its text; each has been read back and gives the same placement."""
    from selfroute.planning.engines import FORMATS, read_placement, to_slots

    formats = recipe.formats
    if formats is None:
        formats = ("sglang",) if recipe.slots.layer_slack == 1 else ()
    if not formats:
        return {}
    plan = found.rows[0].plan
    ranks = plan.assign.shape[2]
    there = None
    if before is not None and (before.sum(axis=1) == plan.assign.sum(axis=1)).all():
        there = to_slots(before)
    slots = to_slots(plan.assign, before=there)
    files = {}
    for kind in formats:
        text = FORMATS[kind].write(slots, mixture, ranks)
        again = read_placement(kind, text, mixture, ranks, where=FORMATS[kind].file)
        if (again != plan.assign).any():
            raise SelfRouteError(f"{FORMATS[kind].file} does not read back as the plan; please report this recipe")
        files[FORMATS[kind].file] = text
    return files


def _plan(found: Comparison, problem: Problem, mixture: Mixture) -> dict[str, Any]:
    """The plan, and the methods beside it."""
    methods = [
        {name: value for name, value in asdict(row.plan).items() if name != "assign"}
        | {"hops": row.costs.get("hops"), "seconds": row.costs.get("seconds")}
        | {"saved": found.saved(row), "moved": row.moved}
        for row in found.rows
    ]
    first, plan = methods[0], found.rows[0].plan
    return {
        **{name: first[name] for name in ("method", "objective", "bound", "gap", "busiest", "mean", "busiest_total")},
        **{name: first[name] for name in ("cpu_s", "hops", "seconds", "saved", "moved")},
        "network_s_per_token": None if first["seconds"] is None else first["seconds"] / mixture.top_k,
        "reference": found.reference,
        "flat": problem.is_flat and not problem.slots.redundant,
        "methods": methods,
        "left_out": dict(found.left_out),
        "pareto": [asdict(point) for point in found.pareto],
        "assign": _ranks_of(plan.assign),
    }


def _ranks_of(assign: Bools) -> list[list[int | list[int]]]:
    """The rank of every expert, layer by layer; a list of ranks where it has copies."""
    rows = [[[int(rank) for rank in expert.nonzero()[0]] for expert in layer] for layer in assign]
    return [[ranks[0] if len(ranks) == 1 else ranks for ranks in row] for row in rows]


def _circumstances(
    recipe: PlaceRecipe, load: Load, mixture: Mixture, cluster: Cluster, problem: Problem
) -> dict[str, Any]:
    slots = problem.slots
    return {
        "problem": recipe.problem,
        "unit": recipe.unit,
        "cluster": cluster.about,
        "load": load.about,
        "ranks": cluster.ranks,
        "model": asdict(mixture),
        "slots": {"layer": slots.layer, "total": slots.total, "redundant": slots.redundant, "equal": slots.equal},
        "cap": recipe.cap,
        "cap_over": recipe.cap_over,
        "split": recipe.split,
    }


def _money(recipe: PlaceRecipe, cluster: Cluster) -> dict[str, Any]:
    """USD per million tokens, only where price and speed were given."""
    if recipe.gpu_hour_usd is None or recipe.tokens_per_s is None:
        return {"usd_per_million_tokens": None}
    an_hour = 3600 * recipe.tokens_per_s
    return {"usd_per_million_tokens": 1e6 * recipe.gpu_hour_usd * cluster.ranks / an_hour}


def _write(recipe: PlaceRecipe, summary: Mapping[str, Any], files: Mapping[str, str]) -> None:
    from selfroute.evaluation.files import write_text
    from selfroute.planning.report.page import placement_html

    texts = {
        **files,
        "report.html": placement_html(summary),
        "plan.json": json.dumps(summary, ensure_ascii=False) + "\n",
    }
    try:
        recipe.out.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_text(recipe.out / name, text)
    except OSError as error:
        raise SelfRouteError(f"out: cannot write to '{recipe.out}': {error.strerror}; name another folder") from None

"""What `selfroute compare` needs: one task and pair, and what is compared on them, an entry each."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from selfroute.bounds import Count, Share, suggest
from selfroute.config.entries import at
from selfroute.config.names import algorithm_of
from selfroute.config.recipes import EvaluateRecipe
from selfroute.config.tables import STRATEGIES
from selfroute.config.values import Spec, build, load_values, to_values
from selfroute.errors import ConfigError

__all__ = [
    "CompareRecipe",
    "EntryOptions",
    "apart",
    "check_comparison",
    "evaluation_of",
    "needs_of",
    "parts_of",
    "place_of",
    "reported",
    "slug",
    "training_of",
]

Level = Literal[
    "query", "cascade", "step", "token", "layer", "planning", "tuned prompt", "several clouds", "relay", "training"
]
_PART = re.compile(r"\{([\w-]+)\}")
_SEED = "seed"  # what stands in braces for the number of a seed
# Keys of an evaluation that are the same for all entries, or that the comparison fills in.
_COMMON = ("task", "cloud", "limit", "seed", "out", "cache", "axes", "prices", "priced_as", "network")


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryOptions:
    """What is compared.

    Attributes:
        level: where it splits the work; `training` is a device that was trained to need nobody.
        evaluate: what it adds to the recipe of the evaluation, keys of `selfroute evaluate`; `{part}` stands for the
            folder of a part.
        free: whether it is a baseline that nobody has to work for; None asks its strategies.
        needs: file or folder -> the command that makes it; without it the entry is left out.
        elsewhere: the command that measures it, where an evaluation cannot; such an entry is left out.
    """

    level: Level
    evaluate: Mapping[str, Any] = field(default_factory=dict)
    free: bool | None = None
    needs: Mapping[str, str] = field(default_factory=dict)
    elsewhere: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareRecipe:
    """What `selfroute compare` needs.

    Attributes:
        device: device model of the entries that name none.
        entries: name -> what is compared; the first one holds the device alone and the cloud alone.
        evaluate: what all entries add to the recipe of the evaluation, keys of `selfroute evaluate`.
        parts: name -> what `selfroute train` is told to make it, once for each seed; `{part}` stands for the folder of
            another, here and everywhere `{seed}` for the number of the seed.
        seeds: each draws other problems, where the task draws them, and trains anew.
        limit: most rows of a seed; None takes the whole split.
        shares: of what the cloud alone spends: where entries are compared.
        axes: of what they spend, names of `selfroute.evaluation.counting.axes.AXES`.
        prices: YAML file of prices, for the axis `usd`.
        priced_as: names of `device` and `cloud` in that file, if not those of the models.
        only: entries to run; the others stay as they are. None runs all.
        train: make the parts that are missing; `--no-train` leaves out what needs them.
        jobs: processes that run entries at once, each with its part of the cores.
    """

    task: Spec
    device: Spec
    cloud: Spec
    entries: Mapping[str, EntryOptions]
    evaluate: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)
    seeds: tuple[int, ...] = (1, 2, 3)
    limit: Count | None = None
    shares: tuple[Share, ...] = (0.05, 0.1, 0.2, 0.3, 0.5)
    axes: tuple[str, ...] = ("calls", "cloud_tokens", "bytes", "seconds")
    network: Mapping[str, float] = field(default_factory=dict)
    prices: Path | None = None
    priced_as: Mapping[str, str] = field(default_factory=dict)
    only: tuple[str, ...] | None = None
    train: bool = True
    jobs: Count = 1
    out: Path = Path("out/compare")


def slug(name: str) -> str:
    """Of an entry's folder."""
    return name.replace(",", "").replace(" ", "-")


# --- what is run -----------------------------------------------------------------------------------------------------


def place_of(recipe: CompareRecipe, seed: int) -> Path:
    """Folder of everything of a seed."""
    return recipe.out / f"seed-{seed}"


def evaluation_of(recipe: CompareRecipe, name: str, place: Path) -> dict[str, Any]:
    """The recipe of an entry's evaluation as plain values, without seed and folder.

    Args:
        place: folder of everything of the seed.
    """
    values = {
        "task": to_values(recipe.task),
        "device": to_values(recipe.device),
        "cloud": to_values(recipe.cloud),
        "strategies": [],
        "limit": recipe.limit,
        **recipe.evaluate,
        **recipe.entries[name].evaluate,
        "cache": str(place / "answers.sqlite"),
    }
    filled: dict[str, Any] = _filled(values, place)
    return filled


def training_of(recipe: CompareRecipe, part: str, place: Path) -> list[str]:
    """What `selfroute train` is told to make a part of a seed, without seed and folder."""
    return [_filled(word, place) for word in shlex.split(recipe.parts[part])]


def needs_of(recipe: CompareRecipe, name: str, place: Path) -> dict[str, str]:
    """Files that an entry needs, each with the command that makes it."""
    return {_filled(file, place): _filled(command, place) for file, command in recipe.entries[name].needs.items()}


def parts_of(recipe: CompareRecipe, value: Any) -> list[str]:
    """The parts that plain values name, and before each those that it needs itself."""
    found: dict[str, None] = {}
    for part in _named(value):
        found |= dict.fromkeys([*parts_of(recipe, recipe.parts[part]), part])
    return list(found)


def apart(recipe: CompareRecipe) -> list[list[str]]:
    """The entries that are to run, in groups that have no part in common."""
    groups: list[tuple[set[str], list[str]]] = []
    for name in recipe.entries if recipe.only is None else recipe.only:
        parts, names = set(parts_of(recipe, recipe.entries[name].evaluate)), [name]
        for group in [group for group in groups if group[0] & parts]:
            groups.remove(group)
            parts, names = group[0] | parts, [*group[1], *names]
        groups.append((parts, names))
    return [names for _, names in groups]


def _named(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from (name for name in _PART.findall(value) if name != _SEED)
    elif isinstance(value, Mapping):
        yield from (name for each in value.values() for name in _named(each))
    elif isinstance(value, Sequence):
        yield from (name for each in value for name in _named(each))


def _filled(value: Any, place: Path) -> Any:
    """Plain data with folders for the names of parts, and the number of the seed whose place it is."""
    if isinstance(value, str):
        seed = place.name.removeprefix("seed-")
        return _PART.sub(lambda found: seed if found[1] == _SEED else str(place / "trained" / found[1]), value)
    if isinstance(value, Mapping):
        return {key: _filled(each, place) for key, each in value.items()}
    return [_filled(each, place) for each in value] if isinstance(value, list | tuple) else value


# --- checks ----------------------------------------------------------------------------------------------------------


def check_comparison(recipe: CompareRecipe) -> None:
    """Refuse what cannot be, before any work.

    Raises:
        ConfigError: no seed, share or entry; an unknown entry or part, parts that need each other, two entries with
            one name in the report or one folder, or a key that an evaluation or a training does not know.
    """
    for name in ("seeds", "shares", "axes", "entries"):
        if not getattr(recipe, name):
            raise ConfigError(f"{name}: there is none; give at least one")
    _check_each_once("seeds", recipe.seeds)
    for name in recipe.only or ():
        _check_known("only", name, recipe.entries)
    for name in recipe.parts:
        _check_part(recipe, name, ())
    for name in recipe.entries:
        _check_entry(recipe, name)
    _check_each_once("entries", [slug(name) for name in recipe.entries])
    _check_each_once("entries", [one for name in recipe.entries for one in reported(recipe, name)])


def _check_each_once(where: str, values: Iterable[Any]) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise ConfigError(f"{where}: '{value}' occurs more than once; name each once")
        seen.add(value)


def _check_known(where: str, name: str, known: Iterable[str]) -> None:
    known = list(known)
    if name not in known:
        told = ", ".join(f"'{each}'" if "," in each else each for each in known)
        raise ConfigError(f"{where}: unknown '{name}'{suggest(name, known)}; known: {told or 'none'}")


def _check_part(recipe: CompareRecipe, name: str, above: tuple[str, ...]) -> None:
    if not _PART.fullmatch(f"{{{name}}}") or name == _SEED:
        raise ConfigError(f"parts: '{name}' cannot stand in braces; name it by letters, digits, - and _, not '{_SEED}'")
    if name in above:
        raise ConfigError(f"parts: '{name}' needs itself, by {' → '.join((*above, name))}; leave one out")
    for inner in _named(recipe.parts[name]):
        _check_known(f"parts.{name}", inner, recipe.parts)
        _check_part(recipe, inner, (*above, name))
    file, *overrides = training_of(recipe, name, place_of(recipe, recipe.seeds[0]))
    values = load_values(file, overrides)
    build(at(algorithm_of(values).options), values, where=f"parts.{name}")


def _check_entry(recipe: CompareRecipe, name: str) -> None:
    entry, where = recipe.entries[name], f"entries.{name}"
    if "/" in name:
        raise ConfigError(f"{where}: a name is that of a folder; leave out '/'")
    if bool(entry.evaluate) == bool(entry.elsewhere):
        raise ConfigError(f"{where}: give either evaluate: {{strategies: […]}} or elsewhere: COMMAND")
    for given in (recipe.evaluate, entry.evaluate):
        if own := [key for key in given if key in _COMMON]:
            raise ConfigError(f"{where}.evaluate: '{own[0]}' is one for all entries; set it at the top of the recipe")
    for part in _named(entry.evaluate):
        _check_known(f"{where}.evaluate", part, recipe.parts)
    built = _built(recipe, name)
    for strategy in built.strategies:
        STRATEGIES.find(strategy, where=f"{where}.evaluate.strategies")
    for spec in built.entrants.values():
        STRATEGIES.find(spec.name, where=f"{where}.evaluate.entrants")


def _built(recipe: CompareRecipe, name: str) -> EvaluateRecipe:
    values = evaluation_of(recipe, name, place_of(recipe, recipe.seeds[0]))
    return build(EvaluateRecipe, values, where=f"entries.{name}")


def reported(recipe: CompareRecipe, name: str) -> dict[str, bool]:
    """The strategies of an entry by their names in the report, and whether each is a free baseline."""
    entry = recipe.entries[name]
    built = _built(recipe, name)
    own = {strategy: STRATEGIES[strategy].free for strategy in built.strategies}
    own |= {strategy: STRATEGIES[spec.name].free for strategy, spec in built.entrants.items()}
    own |= dict.fromkeys(built.policies, False)
    own |= {f"{policy}, alone": False for policy in built.policies if built.alone}
    return own if entry.free is None else dict.fromkeys(own, entry.free)

"""The recipe of a tuning: its workers and programs, and what is wrong with one before any call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from selfroute.assemble.paid_calls import CHARACTERS_PER_TOKEN
from selfroute.assemble.pieces import check_writable, first_rows, template_of
from selfroute.assemble.prompting import shown_name
from selfroute.config import (
    TUNERS,
    Spec,
    TuneRecipe,
    TunerEntry,
    WorkerOptions,
    construct,
    prepare_backend,
    suggest,
    to_values,
    window_of,
)
from selfroute.errors import ConfigError
from selfroute.handoff import parse
from selfroute.prompts import Demonstration, PromptTemplate
from selfroute.tasks.base import Row, Task, digest_of

if TYPE_CHECKING:
    from selfroute.tuning.program import Outcome as Kind
    from selfroute.tuning.program import Program

__all__ = ["Team", "base_of", "check_recipe", "check_window", "identity_of_run", "program_of", "teams_of", "tuner_of"]

# Keys that change nothing of what a run does, so that a resumed one may have others.
_FREE = (
    *("out", "resume", "cache", "concurrency", "prices", "priced_as"),
    *("max_calls", "max_cloud_calls", "max_usd", "updates"),
)
MOST_ORDERED = 4  # shots have up to 24 orders


@dataclass(slots=True)
class Team:
    """One worker, before anything runs.

    Attributes:
        given: pools of the recipe.
    """

    name: str
    rows: list[Row]
    device: Spec
    given: dict[Kind, list[Demonstration]]


def base_of(recipe: TuneRecipe, task: Task) -> PromptTemplate:
    """The words that stay."""
    base = template_of(task)
    return base if recipe.instruction is None else replace(base, system=recipe.instruction)


def teams_of(recipe: TuneRecipe, task: Task) -> list[Team]:
    """The workers with rows of their own, dealt from the train split in order.

    Raises:
        ConfigError: one would have no rows, or a pool is one of an unknown outcome.
    """
    rows = first_rows(task, "train", recipe.limit)
    if not recipe.workers:
        raise ConfigError("workers: {} names nobody; leave it out, or write {phone: {rows: 200}}")
    counts = _dealt(recipe.workers, len(rows))
    teams, start = [], 0
    for (name, options), count in zip(recipe.workers.items(), counts, strict=True):
        pools = {**_pools(recipe.pools, "pools"), **_pools(options.pools, f"workers.{name}.pools")}
        teams.append(Team(name, rows[start : start + count], options.device or recipe.device, pools))
        start += count
    return teams


def _dealt(workers: Mapping[str, WorkerOptions], rows: int) -> list[int]:
    named = sum(options.rows or 0 for options in workers.values())
    open_ = [name for name, options in workers.items() if options.rows is None]
    if named > rows:
        raise ConfigError(f"workers: they want {named:,} rows, and there are {rows:,}; give them fewer, or raise limit")
    left, counts = rows - named, []
    for name, options in workers.items():
        count = options.rows
        if count is None:
            count = left // len(open_) + (open_.index(name) < left % len(open_))
        if not count:
            raise ConfigError(f"workers.{name}.rows: {count} leaves it without rows; give it some, or leave it out")
        counts.append(count)
    return counts


def _pools(pools: Mapping[Any, Sequence[Any]], where: str) -> dict[Kind, list[Demonstration]]:
    from selfroute.tuning.program import OUTCOMES

    for kind in pools:
        if kind not in OUTCOMES:
            raise ConfigError(f"{where}: '{kind}' is not one of {', '.join(OUTCOMES)}{suggest(kind, OUTCOMES)}")
    return {kind: [Demonstration(one.question, one.reply) for one in shots] for kind, shots in pools.items()}


def check_recipe(recipe: TuneRecipe, entry: TunerEntry, base: PromptTemplate, teams: Sequence[Team]) -> None:
    """Refuse, before any call, what can be refused then."""
    check_writable(recipe.out)
    if not parse(recipe.handoff_reply).wants_cloud:
        raise ConfigError(f"handoff_reply: '{recipe.handoff_reply}' asks for nothing; leave it out, or name the cloud")
    if recipe.max_usd is not None and recipe.prices is None:
        raise ConfigError(f"max_usd: {recipe.max_usd:g} needs prices; add prices: FILE, or leave it out")
    quorum = recipe.step.quorum
    if quorum is not None and quorum > len(teams):
        raise ConfigError(
            f"step.quorum: {quorum} is more than the {len(teams)} workers; take at most that, or name more"
        )
    if recipe.step.patience < 1:
        raise ConfigError(f"step.patience: {recipe.step.patience} is below 1; a worker at work is one version behind")
    if recipe.engine == "ray" and entry.kind != "team":
        raise ConfigError(f"engine: ray runs workers, which {recipe.method.name} has none of; use engine=local")
    if recipe.cloud is not None:
        prepare_backend(recipe.cloud, where="cloud")
    _check_method(recipe, entry)
    _check_slots(recipe, entry, base, teams)
    for team in teams:
        prepare_backend(team.device, where="device")
        check_window(recipe, team, program_of(recipe, base, team.given, where=team.name, whole=False))


def _check_method(recipe: TuneRecipe, entry: TunerEntry) -> None:
    """Make the tuner once, of two choices, so that its options and its library are known to be right."""
    if entry.kind == "team":
        if recipe.method.options:
            raise ConfigError(f"method.{entry.name}: its options are the keys of step; write step: {{…}}")
    else:
        tuner_of(recipe, entry, sizes=[2])
    if entry.kind == "texts" and recipe.cloud is None:
        raise ConfigError(f"method: {entry.name} reflects with the cloud; add cloud: …")


def tuner_of(recipe: TuneRecipe, entry: TunerEntry, *, sizes: Sequence[int]) -> Any:
    """The tuner that a recipe names.

    Raises:
        ConfigError: an option is unknown or wrong, or its library is not installed.
    """
    given = {name: value for name, value in (("sizes", sizes), ("seed", recipe.seed)) if name in entry.given}
    options = dict(recipe.method.options)
    return construct(TUNERS.resolve(entry.name, where="method"), options, f"method.{entry.name}", entry, given=given)


def _check_slots(recipe: TuneRecipe, entry: TunerEntry, base: PromptTemplate, teams: Sequence[Team]) -> None:
    from selfroute.tuning.mining import check_pools
    from selfroute.tuning.program import probabilities_in

    if entry.kind != "texts" and not (recipe.slots or recipe.offer or recipe.shots):
        raise ConfigError("slots: there is nothing to choose; add slots: {manner: ['', 'Be brief.']}, offer or shots")
    if recipe.any_order and not 2 <= len(recipe.shots) <= MOST_ORDERED:
        raise ConfigError(f"any_order: {len(recipe.shots)} shots have no order to choose, or too many; show 2 to 4")
    for team in teams:
        given = {kind: pool for kind, pool in team.given.items() if kind in recipe.shots}
        check_pools(given, list(given), where=_pool_key(recipe, team))
    known = replace(program_of(recipe, base, {}, where=teams[0].name, whole=False), shots=())
    if recipe.start is not None:
        probabilities_in(recipe.start, known, where="start", whole=False)


def _pool_key(recipe: TuneRecipe, team: Team) -> str:
    return f"workers.{team.name}.pools" if recipe.workers[team.name].pools else "pools"


def program_of(
    recipe: TuneRecipe, base: PromptTemplate, pools: Mapping[Kind, Sequence[Demonstration]], *, where: str, whole: bool
) -> Program:
    """The program of a recipe with some pools.

    Args:
        where: the worker's name.
        whole: refuse a shot whose pool is empty; else it is left out.
    """
    from selfroute.tuning.mining import check_pools
    from selfroute.tuning.program import OrderSlot, Program, SentenceSlot, ShotSlot, orders, shot_name

    sentences = [SentenceSlot(name, choices) for name, choices in recipe.slots.items()]
    offers = [SentenceSlot("offer", recipe.offer, offers=True)] if recipe.offer else []
    order = [OrderSlot("order", orders(recipe.shots))] if recipe.any_order else []
    if whole:
        check_pools(pools, recipe.shots, where=f"workers.{where}.pools")
    empty = [None] if recipe.may_be_empty else []
    shots = [
        ShotSlot(shot_name(place), kind, (*pools[kind], *empty))
        for place, kind in enumerate(recipe.shots)
        if pools.get(kind)
    ]
    return Program(base=base, sentences=(*sentences, *offers, *order), shots=tuple(shots))


def check_window(recipe: TuneRecipe, team: Team, program: Program) -> None:
    """See that the longest choices of a program fit the device, by four characters to a token."""
    window = recipe.context_tokens or window_of(team.device, where="device")
    if window is None:
        return
    template = program.longest()
    asked = max((template.conversation(row.question) for row in team.rows), key=lambda turns: len(turns[0].content))
    characters = sum(len(message.content) for message in template.device_messages(asked))
    needed = characters // CHARACTERS_PER_TOKEN + recipe.max_tokens
    if needed > window:
        raise ConfigError(
            f"shots: with the longest demonstrations, prompt and answer take about {needed:,} tokens, and device "
            f"{shown_name(team.device)} holds {window:,}; show fewer or shorter ones, or give it a longer context"
        )


def identity_of_run(recipe: TuneRecipe, teams: Sequence[Team]) -> dict[str, Any]:
    """What a run depends on, key by key."""
    values = {key: value for key, value in to_values(recipe).items() if key not in _FREE}
    return {**values, "rows": {team.name: [digest_of(row)[:12] for row in team.rows] for team in teams}}

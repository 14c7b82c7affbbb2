"""Names to objects: what a recipe names, made from its entry in the tables, every option checked before."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, tzinfo
from functools import partial
from typing import TYPE_CHECKING, Any, cast, get_args, get_type_hints
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from selfroute.backends.base import Backend
from selfroute.budget.base import Budget, Unlimited
from selfroute.budget.controller import CompetingBudget, ShareController
from selfroute.budget.journal import Journal
from selfroute.budget.ledger import Ledger, LedgerBudget
from selfroute.budget.limits import Limits, ShareLimit, Unit, Window, WindowLimit
from selfroute.config.budgets import BudgetOptions
from selfroute.config.entries import AlgorithmEntry, Entry, StrategyEntry, at, not_installed
from selfroute.config.scored import strategy_options
from selfroute.config.tables import (
    ALGORITHMS,
    BACKENDS,
    LEDGERS,
    OBJECTIVES,
    ORACLES,
    PAIRS,
    POLICIES,
    STRATEGIES,
    TASKS,
)
from selfroute.config.values import Spec, build, check_keys, convert, suggest, to_values
from selfroute.config.variables import is_filled
from selfroute.errors import ConfigError
from selfroute.prompts import TrainedPrompt
from selfroute.strategies.base import Strategy
from selfroute.tasks.base import Task
from selfroute.train.rl.objectives.kinds import OBJECTIVES as OBJECTIVE_KINDS

if TYPE_CHECKING:
    from selfroute.bandits.policy import Policy
    from selfroute.scores.oracles import Oracle
    from selfroute.train.fit.pairs import Pairs
    from selfroute.train.rl.objectives.base import Objective
    from selfroute.train.rl.options import GAPGOptions

__all__ = [
    "algorithm_of",
    "asked_for",
    "construct",
    "identity_of",
    "make_backend",
    "make_budget",
    "make_journal",
    "make_ledger",
    "make_objective",
    "make_oracle",
    "make_pairs",
    "make_policy",
    "make_strategy",
    "make_task",
    "model_value",
    "policy_entry",
    "prepare_backend",
    "trained_prompt",
    "window_of",
]


def algorithm_of(values: Mapping[str, Any]) -> AlgorithmEntry:
    """The algorithm that a recipe of training names, as plain values.

    It is the first of the table where none is named, and where there is none of that name: its recipe then says so.
    """
    first = next(iter(ALGORITHMS.values()))
    return ALGORITHMS.get(str(values.get("algorithm")), first)


def policy_entry(asks: str) -> StrategyEntry:
    """The strategy that follows what a policy writes to ask for the cloud."""
    return next(entry for entry in STRATEGIES.values() if entry.policy and entry.handoff == asks)


def make_task(
    spec: Spec, *, seed: int | None = None, limit: int | None = None, template: str | None = None, where: str = "task"
) -> Task:
    """The task that a spec names.

    Args:
        seed: draws the problems of a task that draws them, unless the spec has its own; no effect on others.
        limit: as `seed`: how many problems are drawn.
        template: takes the place of the task's own; None leaves that.

    Raises:
        ConfigError: an unknown name or option, or one that the task refuses.
    """
    factory, entry = TASKS.resolve(spec.name, where=where), TASKS[spec.name]
    drawn = {"seed": seed, "limit": limit} if entry.drawn else {}
    options: dict[str, Any] = {key: value for key, value in drawn.items() if value is not None}
    options |= {"path": spec.value} if spec.value is not None else {}
    task: Task = construct(factory, options | dict(spec.options), f"{where}.{spec.name}", entry)
    if template is not None:
        task.template = template
    return task


def make_backend(spec: Spec, *, where: str = "backend") -> Backend:
    """The model that a spec names; heavy libraries are imported here, weights are loaded here.

    Raises:
        ConfigError: an unknown name or option, or a model that cannot be found.
    """
    return prepare_backend(spec, where=where)()


def prepare_backend(spec: Spec, *, where: str = "backend", name: str | None = None) -> Callable[[], Backend]:
    """Check what can be checked of a model that a spec names, and give the function that loads it.

    Args:
        name: of the model in traces and errors, unless the spec has its own; by default what the spec says of it.

    Raises:
        ConfigError: an unknown name or option, a value of the wrong type, or a file that is not there.
    """
    factory, entry = BACKENDS.resolve(spec.name, where=where), BACKENDS[spec.name]
    where = f"{where}.{spec.name}"
    options = dict(spec.options)
    parameters = inspect.signature(factory).parameters
    if spec.value is not None:
        options[_value_parameter(parameters.values())] = spec.value
    if "name" in parameters and "name" not in options:
        # The name tells answers of different models apart in traces and in the cache.
        written = options.get("model") or f"{spec.name}:{spec.value or options.get('path', '')}"
        options["name"] = str(name or written)
    load = _bind(factory, options, where)
    if entry.check is not None:
        try:
            at(entry.check)(load.keywords[_value_parameter(parameters.values())])
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
    return lambda: _installed(load, where, entry)


def model_value(spec: Spec, *, where: str = "backend") -> str | None:
    """The one value of a model, in whichever form it is written: a path, a repository, an address.

    Raises:
        ConfigError: an unknown name.
    """
    if spec.value is not None:
        return spec.value
    parameters = inspect.signature(BACKENDS.resolve(spec.name, where=where)).parameters
    value = spec.options.get(_value_parameter(parameters.values()))
    return None if value is None else str(value)


def window_of(spec: Spec, *, where: str = "backend") -> int | None:
    """Tokens that a model holds of a prompt and its answer together, without loading it; None where nobody knows.

    Raises:
        ConfigError: an unknown name, or a file that cannot be read.
    """
    place = BACKENDS.find(spec.name, where=where).window
    if place is None:
        return None
    window, value = at(place), model_value(spec, where=where)
    positional = [] if value is None else [value]
    taken = list(inspect.signature(window).parameters)[: len(positional)]
    options = {name: option for name, option in spec.options.items() if name not in taken}
    found: int | None = window(*positional, **asked_for(window, options))
    return found


def identity_of(spec: Spec, *, where: str = "backend") -> str:
    """What tells a model from others, without loading it.

    Raises:
        ConfigError: an unknown name, or a file that cannot be read.
    """
    entry, value = BACKENDS.find(spec.name, where=where), model_value(spec, where=where)
    if entry.identity is not None:
        return str(at(entry.identity)(*([] if value is None else [value])))
    return f"{spec.name}:{value}" if entry.in_process else make_backend(spec, where=where).identity


def trained_prompt(spec: Spec, *, where: str = "backend") -> TrainedPrompt | None:
    """The prompt that the model of a spec was trained with, without loading it; None for one that carries none.

    Raises:
        ConfigError: an unknown name, or a prompt that cannot be read.
    """
    entry, value = BACKENDS.find(spec.name, where=where), model_value(spec, where=where)
    if entry.prompt is None or value is None:
        return None
    try:
        found: TrainedPrompt | None = at(entry.prompt)(value)
    except ConfigError as error:
        raise ConfigError(f"{where}.{spec.name}: {error}") from None
    return found


def make_strategy(spec: Spec, *, where: str = "strategy") -> Strategy:
    """The strategy that a spec names; a fitted score is read from its file.

    Raises:
        ConfigError: an unknown name or option.
    """
    name = spec.name
    factory, entry = STRATEGIES.resolve(name, where=where), STRATEGIES[name]
    if spec.value is not None:
        raise ConfigError(f"{where}: '{name}: {spec.value}' has no option name; write {{{name}: {{…}}}}")
    where = f"{where}.{name}"
    made: Strategy = (
        construct(factory, spec.options, where, entry)
        if entry.options is None
        else factory(**strategy_options(entry, spec.options, where=where))
    )
    return made


def make_policy(spec: Spec, *, arms: Sequence[str], features: int = 0, seed: int = 0, where: str = "policy") -> Policy:
    """The bandit that a spec names.

    Args:
        arms: names of the arms.
        features: numbers in a context.
        seed: of its draws.

    Raises:
        ConfigError: an unknown name or option, or one that the policy refuses.
    """
    factory, entry = POLICIES.resolve(spec.name, where=where), POLICIES[spec.name]
    given: dict[str, Any] = {"arms": arms, "features": features, "seed": seed}
    parameters = inspect.signature(factory).parameters
    own = [name for name in parameters if name not in (*given, "learning")]
    options = dict(spec.options)
    if spec.value is not None:
        if not own or parameters[own[0]].default is not inspect.Parameter.empty:
            raise ConfigError(f"{where}: {spec.name} takes no '{spec.value}'; write {{{spec.name}: {{option: value}}}}")
        options[own[0]] = spec.value
    where = f"{where}.{spec.name}"
    if "learning" in parameters:
        given["learning"], options = _split(parameters["learning"].default, options, own, where)
    policy: Policy = construct(factory, options, where, entry, given=given)
    return policy


def _split(shared: Any, options: Mapping[str, Any], own: Sequence[str], where: str) -> tuple[Any, dict[str, Any]]:
    """Options for a dataclass that several policies share, as one of it, and the policy's own."""
    values = to_values(shared)
    check_keys(options, [*own, *values], where)
    values |= {name: value for name, value in options.items() if name in values}
    return build(type(shared), values, where=where), {k: v for k, v in options.items() if k in own}


def make_oracle(spec: Spec, *, where: str = "oracle") -> Oracle:
    """The oracle that a spec names.

    Raises:
        ConfigError: an unknown name or option, or a library that is not installed.
    """
    factory, options = ORACLES.resolve(spec.name, where=where), dict(spec.options)
    if spec.value is not None:
        options[_value_parameter(inspect.signature(factory).parameters.values())] = spec.value
    return cast("Oracle", construct(factory, options, f"{where}.{spec.name}", ORACLES[spec.name]))


def make_pairs(spec: Spec, *, task: Task | None, seed: int, where: str = "pairs") -> Pairs:
    """The pairs that a spec names, made or read.

    Raises:
        ConfigError: an unknown name or option, or pairs that cannot be made.
    """
    factory, options = PAIRS.resolve(spec.name, where=where), dict(spec.options)
    given = {"task": task, "seed": seed}
    if spec.value is not None:
        own = [p for name, p in inspect.signature(factory).parameters.items() if name not in given]
        options[_value_parameter(own)] = spec.value
    where = f"{where}.{spec.name}"
    return cast("Pairs", construct(factory, options, where, PAIRS[spec.name], given=given))


def make_objective(spec: Spec, method: GAPGOptions, *, where: str = "objective") -> Objective:
    """The objective that a spec names.

    Args:
        method: options of the method, which some objectives share.

    Raises:
        ConfigError: an unknown name or option, or one that does not go with the method's.
    """
    factory, kind = OBJECTIVES.resolve(spec.name, where=where), OBJECTIVE_KINDS[spec.name]
    where = f"{where}.{spec.name}"
    if spec.value is not None:
        raise ConfigError(f"{where}: '{spec.value}' has no option name; write {{{spec.name}: {{…}}}}")
    if method.forced_attempts and "forced_attempts" not in kind.given.values():
        raise ConfigError(f"{where}: forced_attempts needs the group estimator; set forced_attempts=0")
    if kind.sums is not method.objective_kind.sums:
        raise ConfigError(
            f"{where}: algorithm '{method.algorithm}' has the loss of another objective; take algorithm=balance, or "
            "leave objective out"
        )
    made = construct(factory, spec.options, where, OBJECTIVES[spec.name], given=kind.given_by(method))
    return cast("Objective", made)


def make_ledger(spec: Spec, *, scope: str = "default", where: str = "ledger") -> Ledger:
    """The ledger that a spec names.

    Args:
        scope: keeps apart budgets that share a ledger.

    Raises:
        ConfigError: an unknown name or option, or a file or server that cannot be reached.
    """
    ledger: Ledger = _stored(LEDGERS.resolve(spec.name, where=where), spec, scope, where)
    return ledger


def make_journal(spec: Spec, *, scope: str = "default", where: str = "state") -> Journal:
    """The journal that lies where the ledger of a spec does.

    Raises:
        ConfigError: as `make_ledger`.
    """
    journal: Journal = _stored(at(LEDGERS.find(spec.name, where=where).journal), spec, scope, where)
    return journal


def _stored(factory: Callable[..., Any], spec: Spec, scope: str, where: str) -> Any:
    parameters = list(inspect.signature(factory).parameters)
    options = dict(spec.options)
    if spec.value is not None:
        if not parameters:
            raise ConfigError(
                f"{where}: {spec.name} takes no '{spec.value}'; write {where.split('.')[-1]}: {spec.name}"
            )
        options[parameters[0]] = spec.value
    if "scope" in parameters:
        options.setdefault("scope", scope)
    return construct(factory, options, f"{where}.{spec.name}", LEDGERS[spec.name])


def make_budget(options: BudgetOptions | None, *, where: str = "budget") -> Budget:
    """The budget that a configuration describes; None is no limit at all. Close it with its `aclose`, if it has one.

    With a share, requests with a score compete for the calls; see `selfroute.budget.controller`.

    Raises:
        ConfigError: there is no limit in it, a limit is out of range, or the ledger cannot be reached.
    """
    if options is None:
        return Unlimited()
    zone = _zone(options.zone, where=f"{where}.zone")
    windows = [
        WindowLimit(unit=unit, window=window, cap=cap, zone=zone)
        for unit in get_args(Unit)
        for window in get_args(Window)
        if (cap := getattr(getattr(options, unit), "total" if window == "total" else f"per_{window}")) is not None
    ]
    share = None if options.share is None else ShareLimit(share=options.share, burst=options.burst)
    if share is None and not windows:
        raise ConfigError(f"{where}: it sets no limit; write e.g. {{share: 0.3}} or {{usd: {{per_month: 5}}}}")
    ledger = make_ledger(options.ledger, scope=options.scope, where=f"{where}.ledger")
    budget = LedgerBudget(Limits(share=share, windows=tuple(windows)), ledger)
    return budget if share is None else CompetingBudget(budget, ShareController.under(share))


def _zone(name: str, *, where: str) -> tzinfo:
    if name == "UTC":  # known without a database of zones
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # an odd name is a file name
        known = available_timezones()
        hint = suggest(name, known) if known else "; this system knows none: pip install tzdata"
        raise ConfigError(f"{where}: unknown time zone '{name}'{hint}; write e.g. Europe/Berlin") from None


def _value_parameter(parameters: Iterable[inspect.Parameter]) -> str:
    """What the one value of `{name: value}` stands for: the first argument that must be given; `name` counts last."""
    needed = [p.name for p in parameters if p.default is inspect.Parameter.empty]
    return next((name for name in needed if name != "name"), "name")


def asked_for(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that a function has arguments for."""
    parameters = inspect.signature(function).parameters
    return {name: value for name, value in given.items() if name in parameters}


def construct(
    factory: Callable[..., Any],
    options: Mapping[str, Any],
    where: str,
    entry: Entry,
    *,
    given: Mapping[str, Any] | None = None,
) -> Any:
    """Call the factory of an entry with options from a recipe beside what the program gives it.

    Raises:
        ConfigError: an option is unknown, missing, or of the wrong type; or a library is not installed.
    """
    return _installed(_bind(factory, options, where, given=given), where, entry)


def _bind(
    factory: Callable[..., Any], options: Mapping[str, Any], where: str, *, given: Mapping[str, Any] | None = None
) -> partial[Any]:
    """The factory with its arguments, all checked."""
    given = given or {}
    parameters = {name: p for name, p in inspect.signature(factory).parameters.items() if name not in given}
    check_keys(options, parameters, where)
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in options:
            raise ConfigError(f"{where}: option '{name}' is missing; write {{{where.split('.')[-1]}: {{{name}: …}}}}")
    for name, value in options.items():
        if f"{name}_env" in parameters and is_filled(value):
            raise ConfigError(
                f"{where}: {name}: what the environment says would be written into a run's folder; "
                f"name the variable in {name}_env instead"
            )
    hints = _hints(factory)
    converted = {k: convert(v, hints.get(k, Any), f"{where}: {k}") for k, v in options.items()}
    return partial(factory, **given, **converted)


def _installed(make: partial[Any], where: str, entry: Entry) -> Any:
    try:
        return make()
    except ModuleNotFoundError as error:
        raise not_installed(error, where, entry) from error


def _hints(factory: Callable[..., Any]) -> dict[str, Any]:
    function = factory.__init__ if inspect.isclass(factory) else factory
    try:
        return get_type_hints(function, include_extras=True)
    except NameError:  # types imported for checkers only: the factory checks its own values
        return {}

"""Names to objects: plain dicts from a name to the place of its factory, imported when it is first asked for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import import_module
from typing import Any, get_args, get_type_hints

from selfroute.backends.base import Backend
from selfroute.budget.base import Budget, Unlimited
from selfroute.budget.controller import CompetingBudget, ShareController
from selfroute.budget.ledger import Ledger, LedgerBudget
from selfroute.budget.limits import Limits, ShareLimit, Unit, Window, WindowLimit
from selfroute.config.recipes import BudgetOptions
from selfroute.config.values import Spec, check_keys, convert, suggest
from selfroute.errors import ConfigError
from selfroute.tasks.base import Task

__all__ = [
    "BACKENDS",
    "BACKEND_EXAMPLES",
    "CLUSTERS",
    "DRAWN_TASKS",
    "LEARNED",
    "LEDGERS",
    "LOADS",
    "SCORED",
    "STRATEGIES",
    "TASKS",
    "construct",
    "make_backend",
    "make_budget",
    "make_ledger",
    "make_task",
    "prepare_backend",
    "resolve",
]

TASKS: dict[str, str] = {
    "countdown": "selfroute.tasks.countdown:Countdown",
    "gsm8k": "selfroute.tasks.gsm8k:GSM8K",
    "math": "selfroute.tasks.hendrycks_math:HendrycksMath",
    "mmlu": "selfroute.tasks.mmlu:MMLU",
    "humaneval": "selfroute.tasks.code:HumanEval",
    "output_prediction": "selfroute.tasks.code:OutputPrediction",
    "reasoning_gym": "selfroute.tasks.reasoning_gym:ReasoningGym",
    "jsonl": "selfroute.tasks.jsonl:JsonLines",
    "recorded": "selfroute.tasks.recorded:Recorded",
}
# Tasks that draw their problems: the run's seed and limit choose them. Elsewhere `seed` moves the held-out rows,
# which must not change between training and evaluation.
DRAWN_TASKS = frozenset({"countdown", "reasoning_gym"})
BACKENDS: dict[str, str] = {
    "embedded": "selfroute.backends.embedded:embedded",
    "transformers": "selfroute.backends.transformers:TransformersBackend.load",
    "llama_cpp": "selfroute.backends.llama_cpp:LlamaCppBackend",
    "smollm2": "selfroute.backends.llama_cpp:smollm2",
    "openai": "selfroute.backends.openai_compatible:OpenAICompatibleBackend",
    "recorded": "selfroute.backends.recorded:RecordedBackend",
}
# How each kind of model is written in a recipe or after --device.
BACKEND_EXAMPLES: dict[str, str] = {
    "embedded": "embedded:device",
    "transformers": "transformers:path/or/repository",
    "llama_cpp": "llama_cpp:path/to/model.gguf",
    "smollm2": "smollm2",
    "openai": "{openai: {base_url: http://127.0.0.1:8080/v1, model: name, api_key_env: NAME}}",
    "recorded": "recorded:answers.jsonl",
}
# What can be said of a model's name or path before anything heavy is imported.
_BACKEND_CHECKS: dict[str, str] = {
    "embedded": "selfroute.backends.embedded:asset_path",
    "transformers": "selfroute.backends.transformers:check_folder",
    "llama_cpp": "selfroute.backends.llama_cpp:check_file",
}
STRATEGIES: dict[str, str] = {
    "always_device": "selfroute.strategies.always:AlwaysDevice",
    "always_cloud": "selfroute.strategies.always:AlwaysCloud",
    "random_offload": "selfroute.strategies.random_offload:RandomOffload",
    "prompt_length": "selfroute.strategies.catalogue:prompt_length",
    "prompt_router": "selfroute.strategies.prompt_router:PromptRouter",
    "tfidf_ridge": "selfroute.strategies.catalogue:tfidf_ridge",
    "embedding_knn": "selfroute.strategies.catalogue:embedding_knn",
    "embedding_logistic": "selfroute.strategies.catalogue:embedding_logistic",
    "embedding_mlp": "selfroute.strategies.catalogue:embedding_mlp",
    "matrix_factorization": "selfroute.strategies.catalogue:matrix_factorization",
    "encoder_router": "selfroute.strategies.catalogue:encoder_router",
    "answer_features": "selfroute.strategies.catalogue:answer_features",
    "quality_gap": "selfroute.strategies.catalogue:quality_gap",
    "answer_blend": "selfroute.strategies.catalogue:answer_blend",
    "frugal_cascade": "selfroute.strategies.catalogue:frugal_cascade",
    "mean_logprob": "selfroute.strategies.catalogue:mean_logprob",
    "min_logprob": "selfroute.strategies.catalogue:min_logprob",
    "entropy": "selfroute.strategies.catalogue:entropy",
    "self_consistency": "selfroute.strategies.catalogue:self_consistency",
    "self_verification": "selfroute.strategies.catalogue:self_verification",
    "self_route": "selfroute.strategies.self_route:SelfRoute",
}
# Strategies whose score is fitted, to what it reads: the question, or the device's answer too.
LEARNED: dict[str, str] = {
    "prompt_router": "question",
    "tfidf_ridge": "question",
    "embedding_knn": "question",
    "embedding_logistic": "question",
    "embedding_mlp": "question",
    "matrix_factorization": "question",
    "encoder_router": "question",
    "answer_features": "answer",
    "quality_gap": "answer",
    "answer_blend": "answer",
    "frugal_cascade": "answer",
}
# Strategies whose score is not fitted; their threshold is set on train rows.
SCORED = frozenset({"prompt_length", "mean_logprob", "min_logprob", "entropy", "self_consistency", "self_verification"})
# Networks of a cluster, and where the load of a mixture model's experts comes from.
CLUSTERS: dict[str, str] = {
    "fat_tree": "selfroute.planning.cluster:fat_tree",
    "dragonfly": "selfroute.planning.cluster:dragonfly",
    "edges": "selfroute.planning.cluster:edge_list",
    "matrix": "selfroute.planning.cluster:matrix",
}
LOADS: dict[str, str] = {
    "generated": "selfroute.planning.load:generated_load",
    "sglang": "selfroute.planning.dumps:read_sglang",
    "vllm": "selfroute.planning.dumps:read_vllm",
    "measured": "selfroute.planning.routers:load_measured",
}
LEDGERS: dict[str, str] = {
    "memory": "selfroute.budget.memory:MemoryLedger",
    "sqlite": "selfroute.budget.sqlite:SQLiteLedger",
    "redis": "selfroute.budget.redis:RedisLedger",
}


def make_task(spec: Spec, *, seed: int | None = None, limit: int | None = None, where: str = "task") -> Task:
    """The task that a spec names.

    Args:
        seed: draws the problems of a task that draws them, unless the spec has its own; no effect on others.
        limit: as `seed`: how many problems are drawn.

    Raises:
        ConfigError: an unknown name or option, or one that the task refuses.
    """
    factory = resolve(TASKS, spec.name, kind="task", where=where)
    drawn = {"seed": seed, "limit": limit} if spec.name in DRAWN_TASKS else {}
    options: dict[str, Any] = {key: value for key, value in drawn.items() if value is not None}
    options |= {"path": spec.value} if spec.value is not None else {}
    task: Task = construct(factory, options | dict(spec.options), f"{where}.{spec.name}")
    return task


def make_backend(spec: Spec, *, where: str = "backend") -> Backend:
    """The model that a spec names; heavy libraries are imported here, weights are loaded here.

    Raises:
        ConfigError: an unknown name or option, or a model that cannot be found.
    """
    return prepare_backend(spec, where=where)()


def prepare_backend(spec: Spec, *, where: str = "backend") -> Callable[[], Backend]:
    """Check what can be checked of a model that a spec names, and give the function that loads it.

    Raises:
        ConfigError: an unknown name or option, a value of the wrong type, or a file that is not there.
    """
    factory = resolve(BACKENDS, spec.name, kind="backend", where=where)
    where = f"{where}.{spec.name}"
    options = dict(spec.options)
    parameters = inspect.signature(factory).parameters
    if spec.value is not None:
        options[_value_parameter(parameters.values())] = spec.value
    if "name" in parameters and "name" not in options:
        # The name tells answers of different models apart in traces and in the cache.
        options["name"] = str(options.get("model") or f"{spec.name}:{spec.value or options.get('path', '')}")
    load = _bind(factory, options, where)
    if spec.name in _BACKEND_CHECKS:
        check = resolve(_BACKEND_CHECKS, spec.name, kind="backend", where=where)
        try:
            check(load.keywords[_value_parameter(parameters.values())])
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
    return lambda: _installed(load, where)


def make_ledger(spec: Spec, *, scope: str = "default", where: str = "ledger") -> Ledger:
    """The ledger that a spec names.

    Args:
        scope: keeps apart budgets that share a ledger.

    Raises:
        ConfigError: an unknown name or option, or a file or server that cannot be reached.
    """
    factory = resolve(LEDGERS, spec.name, kind="ledger", where=where)
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
    ledger: Ledger = construct(factory, options, f"{where}.{spec.name}")
    return ledger


def make_budget(options: BudgetOptions | None, *, where: str = "budget") -> Budget:
    """The budget that a configuration describes; None is no limit at all. Close it with its `aclose`, if it has one.

    With a share, requests with a score compete for the calls; see `selfroute.budget.controller`.

    Raises:
        ConfigError: there is no limit in it, a limit is out of range, or the ledger cannot be reached.
    """
    if options is None:
        return Unlimited()
    windows = [
        WindowLimit(unit=unit, window=window, cap=cap)
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


def _value_parameter(parameters: Iterable[inspect.Parameter]) -> str:
    """What the one value of `{name: value}` stands for: the first argument that must be given; `name` counts last."""
    needed = [p.name for p in parameters if p.default is inspect.Parameter.empty]
    return next((name for name in needed if name != "name"), "name")


def resolve(table: Mapping[str, str], name: str, *, kind: str, where: str) -> Callable[..., Any]:
    """Import the factory that `table` gives for `name`.

    Raises:
        ConfigError: the name is unknown, or the library behind it is not installed.
    """
    if name not in table:
        raise ConfigError(f"{where}: unknown {kind} '{name}'{suggest(name, table)}; known: {', '.join(table)}")
    module, _, attribute = table[name].partition(":")
    try:
        target: Any = import_module(module)
    except ModuleNotFoundError as error:
        raise _not_installed(error, f"{kind} '{name}'") from error
    for part in attribute.split("."):
        target = getattr(target, part)
    factory: Callable[..., Any] = target
    return factory


def construct(
    factory: Callable[..., Any], options: Mapping[str, Any], where: str, *, given: Mapping[str, Any] | None = None
) -> Any:
    """Call a factory with options from a recipe beside what the program gives it.

    Raises:
        ConfigError: an option is unknown, missing, or of the wrong type.
    """
    return _installed(_bind(factory, options, where, given=given), where)


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
    hints = _hints(factory)
    converted = {k: convert(v, hints.get(k, Any), f"{where}: {k}") for k, v in options.items()}
    return partial(factory, **given, **converted)


def _installed(make: partial[Any], where: str) -> Any:
    try:
        return make()
    except ModuleNotFoundError as error:
        raise _not_installed(error, where) from error


def _hints(factory: Callable[..., Any]) -> dict[str, Any]:
    function = factory.__init__ if inspect.isclass(factory) else factory
    try:
        return get_type_hints(function, include_extras=True)
    except NameError:  # types imported for checkers only: the factory checks its own values
        return {}


def _not_installed(error: ModuleNotFoundError, what: str) -> ConfigError:
    missing = (error.name or "a library").partition(".")[0]
    if missing == "selfroute":
        raise error
    extra = {
        "xllamacpp": "llamacpp",
        "redis": "redis",
        "ray": "ray",
        "reasoning_gym": "tasks",
        "math_verify": "eval",
        "matplotlib": "eval",
        "numpy": "eval",
        "scipy": "eval",
    }
    return ConfigError(
        f"{what} needs '{missing}', which is not installed; pip install 'selfroute[{extra.get(missing, 'train')}]'"
    )

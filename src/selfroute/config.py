"""Names and YAML to typed recipes and objects.

A recipe is a YAML file plus `key=value` arguments of the command line. It is checked against a frozen dataclass
before any work starts: unknown keys, wrong types and values outside their range are `ConfigError`s that name the
key, the value and the next step. Names of tasks, backends and strategies are plain dicts from a name to the
place of its factory, which is imported when it is first asked for.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from selfroute.backends.base import Backend
from selfroute.budget.base import Budget, Unlimited
from selfroute.budget.controller import CompetingBudget, ShareController
from selfroute.budget.ledger import Ledger, LedgerBudget
from selfroute.budget.limits import Limits, ShareLimit, Unit, Window, WindowLimit
from selfroute.errors import ConfigError
from selfroute.tasks.base import Task

__all__ = [
    "BACKENDS",
    "BACKEND_EXAMPLES",
    "DRAWN_TASKS",
    "LEARNED",
    "LEDGERS",
    "SCORED",
    "STRATEGIES",
    "TASKS",
    "BudgetOptions",
    "CountLimits",
    "EvaluateRecipe",
    "ReportOptions",
    "RewardOptions",
    "Spec",
    "TraceOptions",
    "TrainRecipe",
    "UsdLimits",
    "WarmupRecipe",
    "build",
    "construct",
    "load_recipe",
    "load_values",
    "make_backend",
    "make_budget",
    "make_ledger",
    "make_task",
    "parse_overrides",
    "parse_spec",
    "resolve",
    "suggest",
    "to_values",
]

T = TypeVar("T")

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
LEDGERS: dict[str, str] = {
    "memory": "selfroute.budget.memory:MemoryLedger",
    "sqlite": "selfroute.budget.sqlite:SQLiteLedger",
    "redis": "selfroute.budget.redis:RedisLedger",
}


# --- Recipes -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spec:
    """A named thing with options, as written in YAML: `name`, `name:value` or `{name: value or options}`.

    Attributes:
        name: a key of `TASKS` or `BACKENDS`.
        value: the one value of the short forms, e.g. a path; None if there is none.
        options: keyword options of the long form.
    """

    name: str
    value: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Range of a number; `low` and `high` themselves are outside if `exclusive`."""

    low: float
    high: float = float("inf")
    exclusive: bool = False
    hint: str = ""

    def check(self, name: str, value: float) -> None:
        inside = self.low < value < self.high if self.exclusive else self.low <= value <= self.high
        if not inside:
            raise ConfigError(f"{name}: {value:g} is not {self}{self.hint}")

    def __str__(self) -> str:
        if self.high == float("inf"):
            return f"{'above' if self.exclusive else 'at least'} {self.low:g}"
        return f"between {self.low:g} and {self.high:g}" + (", both excluded" if self.exclusive else "")


Share = Annotated[float, Bounds(0, 1, exclusive=True, hint="; 0.3 lets 30 % of the requests go to the cloud")]
Count = Annotated[int, Bounds(1)]
Group = Annotated[int, Bounds(2, hint="; the estimator compares the rollouts of a group")]
Bins = Annotated[int, Bounds(2)]
Folds = Annotated[int, Bounds(2)]
Positive = Annotated[float, Bounds(0, exclusive=True)]
NotNegative = Annotated[float, Bounds(0)]
Rate = Annotated[float, Bounds(0, 1)]
Algorithm = Literal["gapg", "gapg_no_filter", "task_tuning", "grpo", "dr_grpo"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardOptions:
    """Hierarchical reward: correct on the device, correct through the cloud, and for the format (0: no such part)."""

    local: Positive = 1.0
    cloud: NotNegative = 0.3
    format: NotNegative = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CountLimits:
    """Most calls or tokens per window of UTC, and in total."""

    per_minute: Annotated[int, Bounds(0)] | None = None
    per_hour: Annotated[int, Bounds(0)] | None = None
    per_day: Annotated[int, Bounds(0)] | None = None
    per_month: Annotated[int, Bounds(0)] | None = None
    total: Annotated[int, Bounds(0)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UsdLimits:
    """Most USD per window of UTC, and in total."""

    per_minute: NotNegative | None = None
    per_hour: NotNegative | None = None
    per_day: NotNegative | None = None
    per_month: NotNegative | None = None
    total: NotNegative | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetOptions:
    """Limits on cloud use; every one has to let a call pass. See docs/budget.md.

    Attributes:
        share: most cloud calls per request, which is also the target that scores compete for; None sets no limit.
        burst: calls that may run ahead of the share.
        calls: per window; likewise `tokens` (prompt and completion together) and `usd` (by the cloud's price).
        ledger: where it is kept: `memory`, `sqlite`, `sqlite:FILE`, `redis:redis://HOST:6379`, or
            `{redis: {url_env: NAME}}`.
        scope: keeps apart budgets that share a ledger.
    """

    share: Annotated[float, Bounds(0, 1)] | None = None
    burst: Count = 20
    calls: CountLimits = CountLimits()
    tokens: CountLimits = CountLimits()
    usd: UsdLimits = UsdLimits()
    ledger: Spec = Spec("sqlite")
    scope: str = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateRecipe:
    """What `selfroute evaluate` needs.

    Attributes:
        seed: of the task's problems where it draws them, of the random strategies and of the intervals.
        limit: most rows; None takes the whole split.
        share: wanted share of requests that the cloud answers.
        device: device model of the baselines.
        policies: name in the report -> device model that hands off by itself.
        alone: run each policy's model once more with the hand-off disabled.
        strategies: baselines, names of `STRATEGIES`.
        router_rows: rows of the train split that fit the strategies which learn, and set thresholds.
        folds: fit on the rows themselves in place of the train split, each judged by a fit without its fold.
        encoder: folder or hub repository of the encoder that encoder_router fine-tunes.
        embedding: sentence encoder of the embedding routers: `minilm`, or the folder of another.
        cache: SQLite file of both sides' answers, shared between runs; None keeps one in `out`.
        concurrency: requests in flight.
        max_tokens: most tokens of one answer.
        requests_per_minute: most calls a minute to each model behind an endpoint; None sets no limit.
        solve_samples: sampled answers per row and device, for its solve rate; 0 for none.
        solve_temperature: of these samples.
        prices: YAML file of prices; None leaves costs out.
        priced_as: names of `device` and `cloud` in that file, if not those of the models.
        network: speeds of the latency model, keys of `selfroute.evaluation.costs.Network`.
        routellm_bins: give APGR in RouteLLM's own way as well, from so many bins; it takes 10.
        engine: who answers rows: this process, or workers of a Ray cluster.
        workers: of the Ray engine; each holds its own models.
    """

    task: Spec
    split: str = "test"
    limit: Count | None = None
    seed: int = 0
    share: Share = 0.3
    device: Spec = Spec("embedded", "device")
    cloud: Spec = Spec("embedded", "cloud")
    policies: Mapping[str, Spec] = field(default_factory=dict)
    alone: bool = False
    strategies: tuple[str, ...] = ("always_device", "always_cloud", "random_offload", "prompt_router")
    router_rows: Count = 1000
    folds: Folds | None = None
    encoder: str = "microsoft/deberta-v3-base"
    embedding: str = "minilm"
    out: Path = Path("out/evaluate")
    cache: Path | None = None
    concurrency: Count = 256
    max_tokens: Count = 512
    requests_per_minute: Positive | None = None
    solve_samples: Annotated[int, Bounds(0)] = 0
    solve_temperature: Positive = 1.0
    prices: Path | None = None
    priced_as: Mapping[str, str] = field(default_factory=dict)
    network: Mapping[str, float] = field(default_factory=dict)
    routellm_bins: Bins | None = None
    engine: Literal["local", "ray"] = "local"
    workers: Count = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """What `selfroute report` can count anew; the rest, and what is None, is as in the run."""

    share: Annotated[float, Bounds(0, 1)] | None = None
    seed: int | None = None
    resamples: Count = 1000
    prices: Path | None = None
    priced_as: Mapping[str, str] = field(default_factory=dict)
    network: Mapping[str, float] = field(default_factory=dict)
    routellm_bins: Bins | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRecipe:
    """What `selfroute train` needs.

    Attributes:
        model: device model to train: `embedded:device`, a folder, or a repository of the hub.
        share: wanted call share; the method's cloud-device ratio is share / (1 - share).
        steps: optimiser steps.
        max_minutes: ends the run after the step in which this time is up; None sets no limit.
        prompts_per_step: prompts whose groups make one step.
        group_size: rollouts per prompt.
        save_steps: steps between checkpoints.
        rows_per_pass: rollouts in one forward and backward pass; None takes all of a step, less saves memory.
        bf16: compute in bfloat16, with weights and optimiser in float32; quicker where the processor has it.
        cache: SQLite file of cloud answers, shared between runs; None keeps one in `out`.
        ask_ahead: ask the cloud for every training row before the first step, not where a rollout asks: a model in
            the same process answers hundreds at once much faster than a few dozen in each step.
        concurrency: cloud requests in flight.
    """

    task: Spec
    model: str = "embedded:device"
    cloud: Spec = Spec("embedded", "cloud")
    ask_ahead: bool = False
    algorithm: Algorithm = "gapg"
    share: Share = 0.3
    steps: Count = 120
    max_minutes: Positive | None = None
    prompts_per_step: Count = 32
    group_size: Group = 8
    learning_rate: Positive = 3e-4
    temperature: Positive = 1.0
    reward: RewardOptions = RewardOptions()
    max_new_tokens: Count = 256
    seed: int = 0
    save_steps: Count = 20
    rows_per_pass: Count | None = None
    bf16: bool = False
    out: Path = Path("out/train")
    cache: Path | None = None
    concurrency: Count = 32
    resume: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceOptions:
    """How the written searches of the warm-up look; see `selfroute.train.traces`."""

    attempts: Count = 6
    solution_rate: Rate = 0.1
    handoff_rate: Rate = 0.03
    final_handoff_rate: Rate = 0.5
    largest: Count = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmupRecipe:
    """What `selfroute train` needs to make a small model from nothing (`algorithm: warm_up`).

    Attributes:
        role: the device learns to hand off, the cloud does not.
        hidden_size: width; with `layers` it sets the size: 128 x 5 is about 0.9 M parameters.
        batch_tokens: padded tokens per step.
        learning_rate: peak of the cosine schedule.
        start: model to go on with (`embedded:device` or a folder); None makes a new one.
        workers: processes that write traces; 0 writes them between steps.
    """

    task: Spec
    algorithm: Literal["warm_up"] = "warm_up"
    role: Literal["device", "cloud"] = "device"
    hidden_size: Count = 128
    layers: Count = 5
    steps: Count = 5500
    batch_tokens: Count = 4096
    learning_rate: Positive = 2e-3
    start: str | None = None
    traces: TraceOptions = TraceOptions()
    seed: int = 0
    workers: Annotated[int, Bounds(0)] = 0
    out: Path = Path("out/warmup")
    resume: bool = False


def load_recipe(recipe: type[T], path: Path | str, overrides: Sequence[str] = ()) -> T:
    """Read a recipe file, put `key=value` arguments over it, and check the whole.

    Args:
        recipe: one of the recipe dataclasses.
        overrides: e.g. `["seed=7", "reward.cloud=0.25"]`; values are YAML.

    Raises:
        ConfigError: the file is missing or is no mapping; a key is unknown; a value has the wrong type or range.
    """
    return build(recipe, load_values(path, overrides), where=str(path))


def load_values(path: Path | str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The recipe as plain values, not yet checked."""
    return parse_overrides(overrides, over=_read(Path(path)))


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"recipe '{path}' does not exist; examples are in recipes/") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe '{path}' cannot be read: {_one_line(error)}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"recipe '{path}' is not valid YAML: {_one_line(error)}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"recipe '{path}' must be a mapping of keys to values, not {_kind(values)}")
    return values


def parse_overrides(overrides: Iterable[str], *, over: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Put `key=value` and `key.nested=value` arguments over a mapping.

    Raises:
        ConfigError: no `=`, a value that is no YAML, or a nested key below a plain value.
    """
    values: dict[str, Any] = dict(over or {})
    for text in overrides:
        key, equals, raw = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"'{text}' is not key=value; write e.g. seed=7")
        try:
            value = yaml.safe_load(raw)
        except yaml.YAMLError as error:
            raise ConfigError(f"{text}: the value is not valid YAML: {_one_line(error)}") from None
        _put(values, key.split("."), value, text)
    return values


def _put(values: dict[str, Any], path: Sequence[str], value: Any, text: str) -> None:
    key, *rest = path
    if not rest:
        values[key] = value
        return
    inner = values.get(key, {})
    if inner == rest[0]:  # `task: countdown` with task.countdown.seed=1
        inner = {rest[0]: {}}
    if inner is None:
        inner = {}
    if not isinstance(inner, Mapping):
        whole = "{" + ": {".join(rest) + f": {text.partition('=')[2]}" + "}" * len(rest)
        raise ConfigError(f"{text}: '{key}' is {inner!r} and has no keys of its own; write '{key}={whole}'")
    values[key] = dict(inner)
    _put(values[key], rest, value, text)


# --- Plain values to typed ones ------------------------------------------------------------------------------------


def build(recipe: type[T], values: Mapping[str, Any], *, where: str) -> T:
    """Check plain values against a dataclass and make one.

    Args:
        where: what the messages name first: a file, or a key of one.

    Raises:
        ConfigError: an unknown or missing key, a wrong type, or a value outside its range.
    """
    fields = {f.name: f for f in dataclasses.fields(recipe)}  # type: ignore[arg-type]
    hints = get_type_hints(recipe, include_extras=True)
    _check_keys(values, fields, where)
    missing = [
        n for n, f in fields.items() if f.default is MISSING and f.default_factory is MISSING and n not in values
    ]
    if missing:
        raise ConfigError(f"{where}: key '{missing[0]}' is missing; add {missing[0]}: …")
    return recipe(**{key: convert(value, hints[key], f"{where}: {key}") for key, value in values.items()})


def convert(value: Any, hint: Any, name: str) -> Any:
    """A YAML value as the type a field or argument asks for.

    Raises:
        ConfigError: names `name`, the value and what was expected.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        converted = convert(value, arguments[0], name)
        for extra in arguments[1:]:
            if isinstance(extra, Bounds):
                extra.check(name, converted)
        return converted
    if origin in (Union, types.UnionType):
        return _convert_union(value, arguments, name)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(
                f"{name}: '{value}' is not one of {', '.join(map(str, arguments))}{suggest(value, arguments)}"
            )
        return value
    if origin is not None and inspect.isclass(origin):
        return _convert_container(value, origin, arguments, name)
    if dataclasses.is_dataclass(hint) and hint is not Spec:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name}: {value!r} must be a mapping, e.g. {{{_first_field(hint)}: …}}")
        return build(hint, value, where=name)  # type: ignore[arg-type]
    reader = _SCALARS.get(hint)
    return reader(value, name) if reader else value


def _convert_union(value: Any, arguments: Sequence[Any], name: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    rest = [a for a in arguments if a is not type(None)]
    if len(rest) == 1:
        return convert(value, rest[0], name)
    for argument in rest:
        try:
            return convert(value, argument, name)
        except ConfigError:
            continue
    raise _wrong(value, " or ".join(getattr(a, "__name__", str(a)) for a in rest), name)


def _convert_container(value: Any, origin: type, arguments: Sequence[Any], name: str) -> Any:
    if issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(value, "a mapping of names to values", name)
        return {str(key): convert(item, arguments[1], f"{name}.{key}") for key, item in value.items()}
    if issubclass(origin, Sequence):
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise _wrong(value, "a list, e.g. [a, b]", name)
        return tuple(convert(item, arguments[0], f"{name}[{index}]") for index, item in enumerate(value))
    return value


def _read_bool(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(value, "true or false", name)
    return value


def _read_int(value: Any, name: str) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(value, "a whole number", name)
    return value


def _read_float(value: Any, name: str) -> float:
    if isinstance(value, str):  # YAML reads 3e-4 as text
        try:
            value = float(value)
        except ValueError:
            raise _wrong(value, "a number", name) from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(value, "a number", name)
    if value != value:
        raise _wrong(value, "a number", name)
    return float(value)


def _read_str(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise _wrong(value, "text", name)
    return value


def _read_path(value: Any, name: str) -> Path:
    if not isinstance(value, str) or not value:
        raise _wrong(value, "a path", name)
    return Path(value).expanduser()


def parse_spec(value: Any, name: str) -> Spec:
    """`countdown`, `embedded:device`, `{transformers: path}` or `{openai: {model: …}}` as a `Spec`."""
    if isinstance(value, str) and value:
        head, colon, tail = value.partition(":")
        return Spec(head, tail if colon else None)
    if isinstance(value, Mapping) and len(value) == 1:
        ((head, inner),) = value.items()
        if inner is None or isinstance(inner, str):
            return Spec(str(head), inner)
        if isinstance(inner, Mapping):
            return Spec(str(head), None, {str(k): v for k, v in inner.items()})
    raise _wrong(value, "a name, name:value, or {name: {option: value}}", name)


_SCALARS: dict[Any, Callable[[Any, str], Any]] = {
    bool: _read_bool,
    int: _read_int,
    float: _read_float,
    str: _read_str,
    Path: _read_path,
    Spec: parse_spec,
}


def to_values(value: Any) -> Any:
    """A recipe as plain values for `config.yaml`; `build` reads it back to an equal recipe."""
    if isinstance(value, Spec):
        return {value.name: to_values(value.options) if value.options else value.value}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_values(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_values(item) for item in value]
    return str(value) if isinstance(value, Path) else value


# --- Names to objects ------------------------------------------------------------------------------------------------


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
    task: Task = _call(factory, options | dict(spec.options), f"{where}.{spec.name}")
    return task


def make_backend(spec: Spec, *, where: str = "backend") -> Backend:
    """The model that a spec names; heavy libraries are imported here, weights are loaded here.

    Raises:
        ConfigError: an unknown name or option, or a model that cannot be found.
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
    backend: Backend = _call(factory, options, where)
    return backend


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
    ledger: Ledger = _call(factory, options, f"{where}.{spec.name}")
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


def construct(factory: Callable[..., Any], options: Mapping[str, Any], where: str, *, given: Mapping[str, Any]) -> Any:
    """Call a factory with options from a recipe beside what the program gives it.

    Raises:
        ConfigError: an option is unknown, missing, or of the wrong type.
    """
    return _call(factory, options, where, given=given)


def _call(
    factory: Callable[..., Any], options: Mapping[str, Any], where: str, *, given: Mapping[str, Any] | None = None
) -> Any:
    given = given or {}
    parameters = {name: p for name, p in inspect.signature(factory).parameters.items() if name not in given}
    _check_keys(options, parameters, where)
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in options:
            raise ConfigError(f"{where}: option '{name}' is missing; write {{{where.split('.')[-1]}: {{{name}: …}}}}")
    hints = _hints(factory)
    try:
        return factory(**given, **{k: convert(v, hints.get(k, Any), f"{where}: {k}") for k, v in options.items()})
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
    }
    return ConfigError(
        f"{what} needs '{missing}', which is not installed; pip install 'selfroute[{extra.get(missing, 'train')}]'"
    )


# --- Messages --------------------------------------------------------------------------------------------------------


def suggest(key: Any, known: Iterable[Any]) -> str:
    """`; did you mean 'x'?` with the nearest name, or nothing."""
    near = difflib.get_close_matches(str(key), [str(k) for k in known], n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


def _check_keys(values: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    known = list(known)
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: unknown key '{key}'{suggest(key, known) or '; known: ' + ', '.join(known)}")


def _first_field(cls: Any) -> str:
    return dataclasses.fields(cls)[0].name


def _wrong(value: Any, expected: str, name: str) -> ConfigError:
    return ConfigError(f"{name}: {value!r} is not {expected}")


def _kind(value: Any) -> str:
    return "empty" if value is None else f"a {type(value).__name__}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())

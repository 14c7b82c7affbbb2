"""Recipes to running things: models, tasks and strategies put together for the commands.

The rooms below take plain arguments; this is where a recipe's fields become them.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfroute.backends.base import Backend, complete_all, run_sync
from selfroute.config import (
    LEARNED,
    SCORED,
    STRATEGIES,
    EvaluateRecipe,
    ReportOptions,
    Spec,
    TrainRecipe,
    WarmupRecipe,
    build,
    make_backend,
    make_task,
    parse_overrides,
    resolve,
    suggest,
    to_values,
)
from selfroute.errors import ConfigError, SelfRouteError
from selfroute.grading import judge
from selfroute.handoff import TEMPLATES, PromptTemplate
from selfroute.rewards import check_weights
from selfroute.strategies.base import Strategy
from selfroute.strategies.sides import Price
from selfroute.tasks.base import Row, Task
from selfroute.tasks.countdown import Countdown
from selfroute.types import Completion, Sampling

if TYPE_CHECKING:
    from selfroute.evaluation.run import Bench, Engine

__all__ = [
    "ask_ahead",
    "counting_options",
    "evaluate_recipe",
    "first_rows",
    "make_baselines",
    "make_policies",
    "model_files",
    "open_bench",
    "quiet_libraries",
    "record_rows",
    "remembered",
    "report_folder",
    "template_of",
    "train_recipe",
    "warm_up_recipe",
]

ROWS_AHEAD = 256  # asked for at once before training


_AT_ONCE = 64
_THRESHOLD_ROWS = 200


def quiet_libraries() -> None:
    """Leave the terminal to our own progress: no bars for loading and saving weights, no notes between libraries."""
    import warnings

    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)


def template_of(task: Task) -> PromptTemplate:
    """The prompt template that a task names.

    Raises:
        ConfigError: there is no such template.
    """
    if task.template not in TEMPLATES:
        known = ", ".join(TEMPLATES)
        raise ConfigError(
            f"task '{task.name}': unknown template '{task.template}'{suggest(task.template, TEMPLATES)}; known: {known}"
        )
    return TEMPLATES[task.template]


def first_rows(task: Task, split: str, limit: int | None) -> list[Row]:
    """The first `limit` rows of a split, or all of them.

    Raises:
        ConfigError: the split is empty.
    """
    rows = list(islice(task.rows(split), limit))
    if not rows:
        raise ConfigError(f"split '{split}' of task '{task.name}' is empty; choose another split or check the data")
    return rows


def remembered(spec: Spec, cache: Path, *, where: str, requests_per_minute: float | None = None) -> Backend:
    """A model whose answers are kept in `cache` and never asked for twice.

    Args:
        requests_per_minute: most calls a minute, if the model is behind an endpoint.
    """
    from selfroute.backends.cache import AnswerCache, cached

    backend = make_backend(spec, where=where)
    if requests_per_minute is not None and spec.name == "openai":
        from selfroute.evaluation.flight import RateLimited

        backend = RateLimited(backend, requests_per_minute=requests_per_minute)
    return cached(backend, AnswerCache(cache))


def make_policies(
    policies: Mapping[str, Backend], *, cloud: Backend, template: PromptTemplate, alone: bool = False
) -> dict[str, Strategy]:
    """One self-routing strategy per device model, by its name in the report.

    Args:
        alone: add each model once more with the hand-off disabled.
    """
    self_route = resolve(STRATEGIES, "self_route", kind="strategy", where="policies")
    always_device = resolve(STRATEGIES, "always_device", kind="strategy", where="policies")
    made: dict[str, Strategy] = {}
    for name, device in policies.items():
        made[name] = self_route(name=name, device=device, cloud=cloud, template=template)
    for name, device in policies.items() if alone else ():
        made[f"{name}, alone"] = always_device(name=f"{name}, alone", device=device, cloud=cloud, template=template)
    return made


def check_baselines(names: Iterable[str]) -> None:
    """Refuse an unknown strategy before any model is loaded.

    Raises:
        ConfigError: a name is not in `STRATEGIES`, or is self_route, which needs a policy.
    """
    for name in names:
        if name == "self_route":
            raise ConfigError("strategies: self_route needs a device model; write policies: {self_route: <model>}")
        resolve(STRATEGIES, name, kind="strategy", where="strategies")


async def make_baselines(
    names: Sequence[str],
    *,
    device: Backend,
    cloud: Backend,
    task: Task,
    share: float,
    seed: int,
    router_rows: int,
    sampling: Sampling,
    rows: Sequence[Row] = (),
    folds: int | None = None,
    encoder: str = "microsoft/deberta-v3-base",
    embedding: str = "minilm",
) -> dict[str, Strategy]:
    """The baselines by name; those that learn are fitted on the first `router_rows` rows of the train split.

    Args:
        rows: those that will be evaluated.
        folds: fit on `rows` themselves, each judged by a fit without its fold; None fits on the train split.
    """
    template = template_of(task)
    sides: dict[str, Any] = {"device": device, "cloud": cloud, "template": template}
    taught = LEARNED.keys() | SCORED
    train: list[Row] = []
    if taught & set(names):
        train = list(rows) if folds is not None else first_rows(task, "train", router_rows)
    examples = await _examples(task, train, device, cloud, sampling) if LEARNED.keys() & set(names) else None
    strategies: dict[str, Strategy] = {}
    for name in names:
        factory = resolve(STRATEGIES, name, kind="strategy", where="strategies")
        options: dict[str, Any] = {"share": share, "seed": seed} if name == "random_offload" else {}
        if name in LEARNED:
            fit = partial(_fit, name, seed=seed, encoder=encoder, embedding=embedding)
            options = await asyncio.to_thread(_learned, fit, examples, share=share, seed=seed, folds=folds)
        elif name in SCORED:
            probe = factory(**sides, threshold=math.inf)
            options = {"threshold": await _threshold(probe, train, template, share, sampling)}
        strategies[name] = factory(**sides, **options)
    return strategies


async def _examples(task: Task, rows: Sequence[Row], device: Backend, cloud: Backend, sampling: Sampling) -> Any:
    """What both sides answer to train rows, with the verdicts."""
    from selfroute.train.router import Examples

    template = template_of(task)
    conversations = [template.conversation(row.question) for row in rows]
    prompts = [template.device_messages(messages, offer_handoff=False) for messages in conversations]
    by_device = await complete_all(device, prompts, sampling)
    by_cloud = await complete_all(cloud, conversations, sampling)
    for side, backend, found in (("device", device, by_device), ("cloud", cloud, by_cloud)):
        failed = [answer for answer in found if isinstance(answer, SelfRouteError)]
        if len(failed) == len(found) > 0:
            raise ConfigError(f"{side} '{backend.name}' answered none of {len(found)} train rows: {failed[0]}")
    return Examples.of(
        [row.question for row in rows],
        await _correct(task, rows, by_device),
        await _correct(task, rows, by_cloud),
        [answer.text if isinstance(answer, Completion) else "" for answer in by_device],
    )


def _fit(name: str, examples: Any, *, seed: int, encoder: str, embedding: str) -> Any:
    """The fitted score of one strategy."""
    if name == "encoder_router":
        from selfroute.train.encoder import fit_encoder

        quiet_libraries()
        return fit_encoder(examples, encoder=encoder, seed=seed)
    from selfroute.train.router import fit_scorer

    return fit_scorer(name, examples, seed=seed, embedding=embedding)


def _learned(fit: Callable[[Any], Any], examples: Any, *, share: float, seed: int, folds: int | None) -> dict[str, Any]:
    """Score and threshold of a strategy that learns."""
    from selfroute.strategies.scorers import threshold_at

    if folds is not None:
        from selfroute.train.router import cross_fit

        score, scores = cross_fit(fit, examples, folds=folds, seed=seed)
        return {"score": score, "threshold": threshold_at(scores, share)}
    scorer = fit(examples)
    return {"score": scorer, "threshold": threshold_at(scorer.scores(examples.questions, examples.answers), share)}


async def _threshold(
    strategy: Strategy, rows: Sequence[Row], template: PromptTemplate, share: float, sampling: Sampling
) -> float:
    """The threshold of a score that is not learned: the device answers some train rows."""
    from selfroute.strategies.base import answer
    from selfroute.strategies.scorers import threshold_at

    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(row: Row) -> float | None:
        async with gate:
            return (await answer(strategy, template.conversation(row.question), sampling)).score

    scores = await asyncio.gather(*(one(row) for row in rows[:_THRESHOLD_ROWS]))
    return threshold_at([score for score in scores if score is not None], share)


async def _correct(task: Task, rows: Sequence[Row], answers: Sequence[object]) -> list[bool | None]:
    """One verdict per row; None where the side or the verifier failed."""

    def one(row: Row, answer: object) -> bool | None:
        return judge(task, row, answer.text)[0] if isinstance(answer, Completion) else None

    return await asyncio.to_thread(lambda: [one(row, answer) for row, answer in zip(rows, answers, strict=True)])


@asynccontextmanager
async def closing(*backends: Backend) -> AsyncIterator[None]:
    """Close the backends that can be closed, whatever happens."""
    try:
        yield
    finally:
        for backend in backends:
            if aclose := getattr(backend, "aclose", None):
                await aclose()


async def evaluate_recipe(
    recipe: EvaluateRecipe,
    *,
    command: str = "",
    on_progress: Callable[[int, int], None] | None = None,
    on_count: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Evaluate everything a recipe names; returns the summary that stands in `OUT/summary.json`.

    Args:
        command: how the run was started, for the report.
        on_progress: called with answers done and answers in all.
        on_count: called with bootstrap samples done and in all.
    """
    from selfroute.evaluation.run import evaluate

    options = counting_options(recipe, cloud=recipe.cloud, device=recipe.device)
    _, rows = _task_and_rows(recipe)
    async with open_bench(recipe) as bench:
        return await evaluate(
            bench,
            rows,
            share=recipe.share,
            seed=recipe.seed,
            out=recipe.out,
            engine=_engine(recipe),
            on_progress=on_progress,
            on_count=on_count,
            command=command,
            # What cannot change a record may differ when an interrupted run goes on.
            config={k: v for k, v in to_values(recipe).items() if k not in _NOT_IN_RECORDS},
            **options,
        )


_NOT_IN_RECORDS = (
    *("out", "cache", "concurrency", "requests_per_minute", "engine", "workers"),
    *("prices", "priced_as", "network", "routellm_bins"),
)


def _task_and_rows(recipe: EvaluateRecipe) -> tuple[Task, list[Row]]:
    # A task that draws its problems draws enough of them for the router too; the first ones stay the same.
    drawn = None if recipe.limit is None else max(recipe.limit, recipe.router_rows)
    task = make_task(recipe.task, seed=recipe.seed, limit=drawn)
    return task, first_rows(task, recipe.split, recipe.limit)


@asynccontextmanager
async def open_bench(recipe: EvaluateRecipe) -> AsyncIterator[Bench]:
    """The models, task and strategies of a recipe, closed at the end."""
    from selfroute.evaluation.run import Bench

    check_baselines(recipe.strategies)
    if recipe.device.name == "recorded" and "self_consistency" in recipe.strategies:
        raise ConfigError("strategies: self_consistency asks the device several times; a recording holds one answer")
    task, rows = _task_and_rows(recipe)
    sampling = Sampling(temperature=0.0, max_tokens=recipe.max_tokens)
    cache, rate = recipe.cache or recipe.out / "answers.sqlite", recipe.requests_per_minute
    device = remembered(recipe.device, cache, where="device", requests_per_minute=rate)
    cloud = remembered(recipe.cloud, cache, where="cloud", requests_per_minute=rate)
    # A policy answers a prompt up to three times the same way; it writes it once.
    policies = {
        name: remembered(spec, cache, where=f"policies.{name}", requests_per_minute=rate)
        for name, spec in recipe.policies.items()
    }
    async with closing(device, cloud, *policies.values()):
        baselines = await make_baselines(
            recipe.strategies,
            device=device,
            cloud=cloud,
            task=task,
            share=recipe.share,
            seed=recipe.seed,
            router_rows=recipe.router_rows,
            sampling=sampling,
            rows=rows,
            folds=recipe.folds,
            encoder=recipe.encoder,
            embedding=recipe.embedding,
        )
        strategies = baselines | make_policies(policies, cloud=cloud, template=template_of(task), alone=recipe.alone)
        yield Bench(
            strategies=list(strategies.values()),
            task=task,
            sampling=sampling,
            template=template_of(task),
            cloud=cloud,
            concurrency=recipe.concurrency,
            solve_samples=recipe.solve_samples,
            solve_temperature=recipe.solve_temperature,
            seed=recipe.seed,
        )


def _engine(recipe: EvaluateRecipe) -> Engine | None:
    """Who answers the rows; None for this process."""
    if recipe.engine == "local":
        return None
    from selfroute.evaluation.ray_engine import ray_engine

    return ray_engine(partial(open_bench, recipe), workers=recipe.workers)


def counting_options(
    options: EvaluateRecipe | ReportOptions, *, device: Spec | str, cloud: Spec | str
) -> dict[str, Any]:
    """How records are counted, as arguments of `selfroute.evaluation.summary.analyse`.

    Args:
        device, cloud: the models, to find their prices.

    Raises:
        ConfigError: a price table or a network that cannot be.
    """
    from selfroute.evaluation.costs import Network, load_prices

    if wrong := [key for key in options.priced_as if key not in ("device", "cloud")]:
        raise ConfigError(f"priced_as: unknown key '{wrong[0]}'; known: device, cloud")
    names = {"device": _price_names(device, "device"), "cloud": _price_names(cloud, "cloud")}
    names |= {side: [name] for side, name in options.priced_as.items()}
    return {
        "prices": None if options.prices is None else load_prices(options.prices, **names),
        "network": build(Network, options.network, where="network"),
        "routellm_bins": options.routellm_bins,
    }


def _price_names(model: Spec | str, side: str) -> list[str]:
    """Under what a model may stand in a price table, best first."""
    if isinstance(model, str):
        return [model, side]
    own = model.options.get("name") or model.options.get("model") or f"{model.name}:{model.value or ''}".rstrip(":")
    return [str(own), side]


def report_folder(
    folder: Path, overrides: Sequence[str], *, command: str = "", on_progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Count the records of a finished evaluation anew; returns the summary.

    Raises:
        ConfigError: an unknown option, or a folder without records.
    """
    from selfroute.evaluation.provenance import read_about
    from selfroute.evaluation.run import write_results

    options = build(ReportOptions, parse_overrides(overrides), where="report")
    if not (folder / "records.jsonl").is_file():
        raise ConfigError(f"'{folder}' holds no records.jsonl; name a folder that `selfroute evaluate` wrote")
    identity = read_about(folder / "run.json").get("identity", {})
    return write_results(
        folder,
        share=identity.get("share", 0.3) if options.share is None else options.share,
        seed=identity.get("seed", 0) if options.seed is None else options.seed,
        task=identity.get("task", ""),
        resamples=options.resamples,
        command=command,
        on_progress=on_progress,
        **counting_options(options, device="device", cloud=str(identity.get("cloud", "cloud"))),
    )


def model_files(model: str) -> tuple[str, str]:
    """Where weights and tokenizer of a trainable model lie: `embedded:name`, a folder, or a repository of the hub.

    Raises:
        ConfigError: a folder that holds no model, or a path that does not exist.
    """
    if model.startswith("embedded:"):
        from selfroute.backends.embedded import asset_path

        folder = asset_path(model.removeprefix("embedded:"))
        return str(folder), str(folder.parent / "tokenizer")
    path = Path(model).expanduser()
    if path.exists() and not (path / "config.json").is_file():
        raise ConfigError(f"model: '{model}' is not a model folder: it holds no config.json; name one that does")
    if not path.exists() and (path.is_absolute() or model.startswith((".", "~")) or model.count("/") != 1):
        raise ConfigError(f"model: '{model}' does not exist; name a folder, a hub repository, or embedded:device")
    place = str(path) if path.exists() else model
    return place, place


def check_cloud(cloud: Backend, task: Task, *, max_tokens: int) -> None:
    """Ask the cloud for the first training row, as training would: a cloud that refuses must not cost a whole run.

    Raises:
        ConfigError: the cloud does not answer.
    """
    (row,) = first_rows(task, "train", 1)
    prompt = template_of(task).conversation(row.question)
    (answer,) = run_sync(complete_all(cloud, [prompt], Sampling(max_tokens=max_tokens)))
    if isinstance(answer, SelfRouteError):
        raise ConfigError(
            f"cloud '{cloud.name}' does not answer: {answer}; check its address, key and model"
        ) from answer


def ask_ahead(
    cloud: Backend,
    task: Task,
    *,
    max_tokens: int,
    concurrency: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Have a remembered cloud answer every training row; what it knows already costs nothing.

    A row that fails is left for the training to ask again.

    Args:
        on_progress: called with rows answered and rows in all.
    """
    rows = first_rows(task, "train", None)
    prompts = [template_of(task).conversation(row.question) for row in rows]
    for start in range(0, len(prompts), ROWS_AHEAD):
        some = prompts[start : start + ROWS_AHEAD]
        run_sync(complete_all(cloud, some, Sampling(max_tokens=max_tokens), concurrency=concurrency))
        if on_progress is not None:
            on_progress(start + len(some), len(prompts))


def train_recipe(
    recipe: TrainRecipe, *, on_progress: Callable[[int, int, Mapping[str, float]], None] | None = None
) -> Path:
    """Train what a recipe names; returns the folder of the trained model.

    Args:
        on_progress: called with step, steps, and the step's metrics.
    """
    check_weights(local=recipe.reward.local, cloud=recipe.reward.cloud, format=recipe.reward.format)
    task = make_task(recipe.task, seed=recipe.seed)
    template_of(task)
    first_rows(task, "train", 1)
    model, tokenizer = model_files(recipe.model)
    # Task tuning never offers the hand-off, so it needs no cloud.
    needs_cloud = recipe.algorithm != "task_tuning"
    cloud = (
        remembered(recipe.cloud, recipe.cache or recipe.out / "answers.sqlite", where="cloud") if needs_cloud else None
    )

    if cloud is not None:
        most = max(512, recipe.max_new_tokens)
        check_cloud(cloud, task, max_tokens=most)
        if recipe.ask_ahead:

            def on_answers(done: int, total: int) -> None:
                if on_progress is not None:
                    on_progress(0, recipe.steps, {"cloud/answered_ahead": done / total})

            ask_ahead(cloud, task, max_tokens=most, concurrency=recipe.concurrency, on_progress=on_answers)

    from selfroute.train.run import train  # torch and TRL: only once everything above is known to be right

    quiet_libraries()
    train(
        task=task,
        model=model,
        tokenizer=tokenizer,
        cloud=cloud,
        algorithm=recipe.algorithm,
        share=recipe.share,
        steps=recipe.steps,
        max_minutes=recipe.max_minutes,
        prompts_per_step=recipe.prompts_per_step,
        group_size=recipe.group_size,
        learning_rate=recipe.learning_rate,
        temperature=recipe.temperature,
        reward=asdict(recipe.reward),
        max_new_tokens=recipe.max_new_tokens,
        seed=recipe.seed,
        save_steps=recipe.save_steps,
        rows_per_pass=recipe.rows_per_pass,
        bf16=recipe.bf16,
        concurrency=recipe.concurrency,
        out=recipe.out,
        resume=recipe.resume,
        config=to_values(recipe),
        on_progress=on_progress,
    )
    return recipe.out / "checkpoint"


def warm_up_recipe(recipe: WarmupRecipe, **options: Any) -> Path:
    """Make a small model from nothing; returns its folder.

    Raises:
        ConfigError: the task is not Countdown, the only one with written searches.
    """
    task = make_task(recipe.task, seed=recipe.seed)
    if not isinstance(task, Countdown):
        raise ConfigError(f"task: '{recipe.task.name}' has no written searches to imitate; use countdown")

    from selfroute.train.tokenizer import build_tokenizer
    from selfroute.train.traces import TraceStyle
    from selfroute.train.warmup import warm_up

    quiet_libraries()
    warm_up(
        out=recipe.out,
        tokenizer=build_tokenizer(),
        task=task,
        style=TraceStyle(**asdict(recipe.traces)),
        role=recipe.role,
        hidden_size=recipe.hidden_size,
        layers=recipe.layers,
        steps=recipe.steps,
        batch_tokens=recipe.batch_tokens,
        learning_rate=recipe.learning_rate,
        seed=recipe.seed,
        start=None if recipe.start is None else model_files(recipe.start)[0],
        workers=recipe.workers,
        resume=recipe.resume,
        config=to_values(recipe),
        **options,
    )
    return recipe.out / "checkpoint"


async def record_rows(
    backend: Backend,
    task: Task,
    rows: Sequence[Row],
    out: Path,
    *,
    as_device: bool,
    concurrency: int,
    max_tokens: int,
    on_progress: Callable[[int, int], object],
    price: Price | None = None,
) -> list[str]:
    """Record a backend's greedy answers to rows that `out` does not hold yet.

    Args:
        as_device: ask with the device's system prompt, without the offer to hand off.
        on_progress: called with rows done and rows in all.
        price: of the backend's tokens; None records no cost.

    Returns:
        `id: error` of the rows that got no answer.
    """
    from selfroute.backends.recorded import record

    template = template_of(task)
    items = []
    for row in rows:
        messages = template.conversation(row.question)
        items.append((row.id, template.device_messages(messages, offer_handoff=False) if as_device else messages))
    failed: list[str] = []
    done = 0
    async with closing(backend):
        cost = None if price is None else price.cost_usd
        answers = record(backend, items, out, Sampling(max_tokens=max_tokens), concurrency=concurrency, cost_usd=cost)
        async for recording in answers:
            done += 1
            on_progress(done, len(rows))
            if not isinstance(recording.outcome, Completion):
                failed.append(f"{recording.id}: {recording.outcome}")
    return failed

"""Recipes to running things: models, tasks and strategies put together for the commands.

The rooms below take plain arguments; this is where a recipe's fields become them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from selfroute.backends.base import Backend, complete_all, run_sync
from selfroute.config import (
    STRATEGIES,
    EvaluateRecipe,
    Spec,
    TrainRecipe,
    WarmupRecipe,
    make_backend,
    make_task,
    resolve,
    suggest,
    to_values,
)
from selfroute.errors import ConfigError, SelfRouteError
from selfroute.grading import judge
from selfroute.handoff import TEMPLATES, PromptTemplate
from selfroute.rewards import check_weights
from selfroute.strategies.base import Strategy
from selfroute.tasks.base import Row, Task
from selfroute.tasks.countdown import Countdown
from selfroute.types import Completion, Sampling

__all__ = [
    "ask_ahead",
    "evaluate_recipe",
    "first_rows",
    "make_baselines",
    "make_policies",
    "model_files",
    "quiet_libraries",
    "record_rows",
    "remembered",
    "template_of",
    "train_recipe",
    "warm_up_recipe",
]

ROWS_AHEAD = 256  # asked for at once before training


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


def remembered(spec: Spec, cache: Path, *, where: str) -> Backend:
    """A model whose answers are kept in `cache` and never asked for twice."""
    from selfroute.backends.cache import AnswerCache, cached

    return cached(make_backend(spec, where=where), AnswerCache(cache))


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
) -> dict[str, Strategy]:
    """The baselines by name; the prompt router is fitted on the first `router_rows` rows of the train split."""
    template = template_of(task)
    strategies: dict[str, Strategy] = {}
    for name in names:
        options: dict[str, Any] = {}
        if name == "random_offload":
            options = {"share": share, "seed": seed}
        elif name == "prompt_router":
            options = await _fit_router(task, router_rows, device, cloud, share=share, seed=seed, sampling=sampling)
        factory = resolve(STRATEGIES, name, kind="strategy", where="strategies")
        strategies[name] = factory(device=device, cloud=cloud, template=template, **options)
    return strategies


async def _fit_router(
    task: Task, limit: int, device: Backend, cloud: Backend, *, share: float, seed: int, sampling: Sampling
) -> dict[str, Any]:
    """Scorer and threshold of the prompt router, from what both sides answer on train rows."""
    from selfroute.train.router import fit_prompt_router

    rows = first_rows(task, "train", limit)
    template = template_of(task)
    conversations = [template.conversation(row.question) for row in rows]
    prompts = [template.device_messages(messages, offer_handoff=False) for messages in conversations]
    by_device = await _correct(task, rows, await complete_all(device, prompts, sampling))
    by_cloud = await _correct(task, rows, await complete_all(cloud, conversations, sampling))
    questions = [row.question for row in rows]
    scorer = await asyncio.to_thread(fit_prompt_router, questions, by_device, by_cloud, seed=seed)
    return {"score": scorer, "threshold": scorer.threshold(questions, share)}


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
    recipe: EvaluateRecipe, *, command: str = "", on_progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Evaluate everything a recipe names; returns the summary that stands in `OUT/summary.json`.

    Args:
        command: how the run was started, for the report.
        on_progress: called with answers done and answers in all.
    """
    from selfroute.evaluation.run import evaluate

    check_baselines(recipe.strategies)
    # A task that draws its problems draws enough of them for the router too; the first ones stay the same.
    drawn = None if recipe.limit is None else max(recipe.limit, recipe.router_rows)
    task = make_task(recipe.task, seed=recipe.seed, limit=drawn)
    rows = first_rows(task, recipe.split, recipe.limit)
    sampling = Sampling(temperature=0.0, max_tokens=recipe.max_tokens)
    cache = recipe.cache or recipe.out / "answers.sqlite"
    device = remembered(recipe.device, cache, where="device")
    cloud = remembered(recipe.cloud, cache, where="cloud")
    # A policy answers a prompt up to three times the same way; it writes it once.
    policies = {name: remembered(spec, cache, where=f"policies.{name}") for name, spec in recipe.policies.items()}
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
        )
        strategies = baselines | make_policies(policies, cloud=cloud, template=template_of(task), alone=recipe.alone)
        return await evaluate(
            list(strategies.values()),
            task,
            rows,
            sampling,
            template=template_of(task),
            cloud=cloud,
            share=recipe.share,
            seed=recipe.seed,
            out=recipe.out,
            concurrency=recipe.concurrency,
            on_progress=on_progress,
            command=command,
            # What cannot change a result may differ when an interrupted run goes on.
            config={k: v for k, v in to_values(recipe).items() if k not in ("out", "cache", "concurrency")},
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
) -> list[str]:
    """Record a backend's greedy answers to rows that `out` does not hold yet.

    Args:
        as_device: ask with the device's system prompt, without the offer to hand off.
        on_progress: called with rows done and rows in all.

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
        answers = record(backend, items, out, Sampling(max_tokens=max_tokens), concurrency=concurrency)
        async for recording in answers:
            done += 1
            on_progress(done, len(rows))
            if not isinstance(recording.outcome, Completion):
                failed.append(f"{recording.id}: {recording.outcome}")
    return failed

"""`selfroute evaluate`, `report` and `record`: from a recipe to records and their summary."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfroute.assemble.baselines import (
    Baseline,
    check_baselines,
    check_entrants,
    make_baselines,
    make_entrants,
    make_policies,
)
from selfroute.assemble.kept import keep
from selfroute.assemble.paid_calls import announce, in_words
from selfroute.assemble.pieces import closing, first_rows, price_table, remembered, template_of
from selfroute.assemble.prompting import ANSWER_TOKENS, EvaluatedPrompt, evaluated_prompt
from selfroute.assemble.shifted import check_recorded
from selfroute.backends.as_trained import Reworded
from selfroute.backends.base import Backend, find_capability
from selfroute.config import (
    BACKENDS,
    STRATEGIES,
    EvaluateRecipe,
    ReportOptions,
    Spec,
    build,
    make_task,
    parse_overrides,
    to_values,
)
from selfroute.errors import ConfigError, SelfRouteError
from selfroute.prices import Price
from selfroute.prompts import PromptTemplate, TrainedPrompt
from selfroute.strategies.base import Sides
from selfroute.tasks.base import Row, Stepwise, Task
from selfroute.types import Completion, Message, Sampling

if TYPE_CHECKING:
    from selfroute.evaluation.bench import Bench, Engine, Entrant
    from selfroute.evaluation.counting.costs import PriceTable

__all__ = [
    "NOT_IN_RECORDS",
    "counting_options",
    "evaluate_recipe",
    "open_bench",
    "record_rows",
    "report_folder",
]

GIVEN_UP = 8  # rows without an answer, all from the first on, after which a model counts as one that gives none
NOT_IN_RECORDS = (
    *("out", "cache", "concurrency", "requests_per_minute", "engine", "workers"),
    *("prices", "priced_as", "network", "routellm_bins", "axes"),
)

_NEW = ("entrants", "template")  # a folder of before goes on where it is empty


async def evaluate_recipe(
    recipe: EvaluateRecipe,
    *,
    command: str = "",
    say: Callable[[str], object] | None = None,
    on_prepare: Callable[[int, int], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_count: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Evaluate everything a recipe names; returns the summary that stands in `OUT/summary.json`.

    Args:
        command: how the run was started, for the report.
        say: gets a line about what the run will ask of paid models, before it does, one for each model that carries the
            prompt of its training, and the warnings.
        on_prepare: called with steps done and in all, while the strategies that learn are fitted.
        on_progress: called with answers done and answers in all.
        on_count: called with bootstrap samples done and in all.
    """
    from selfroute.evaluation.run import evaluate

    options = counting_options(recipe, cloud=recipe.cloud, device=recipe.device)
    task, rows = _task_and_rows(recipe)
    _announce(recipe, task, rows, options["prices"], say)
    made: list[Baseline] = []
    asked: dict[str, EvaluatedPrompt] = {}
    async with open_bench(recipe, on_prepare=on_prepare, say=say, made=made, asked=asked) as bench:
        summary = await evaluate(
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
            config={k: v for k, v in to_values(recipe).items() if k not in NOT_IN_RECORDS and (v or k not in _NEW)},
            **options,
        )
    keep(recipe.out, recipe, made, asked)
    return summary


def _task_and_rows(recipe: EvaluateRecipe) -> tuple[Task, list[Row]]:
    # A task that draws its problems draws enough of them for the router too; the first ones stay the same.
    drawn = None if recipe.limit is None else max(recipe.limit, recipe.router_rows)
    task = make_task(recipe.task, seed=recipe.seed, limit=drawn, template=recipe.template)
    return task, first_rows(task, recipe.split, recipe.limit)


def _announce(
    recipe: EvaluateRecipe,
    task: Task,
    rows: Sequence[Row],
    table: PriceTable | None,
    say: Callable[[str], object] | None,
) -> None:
    """The cloud answers every row once, and where a strategy is fitted on train rows, those too."""
    fits = any(name in STRATEGIES and STRATEGIES[name].fitted for name in recipe.strategies)
    train = first_rows(task, "train", recipe.router_rows) if fits and recipe.folds is None else []
    template = template_of(task)
    announce(
        say,
        "cloud",
        recipe.cloud,
        [template.conversation(row.question) for row in [*rows, *train]],
        _sampling(recipe),
        cache=_cache(recipe),
        price=None if table is None else table.prices.cloud,
    )


def _sampling(recipe: EvaluateRecipe) -> Sampling:
    seed = recipe.seed if recipe.temperature else None
    return Sampling(temperature=recipe.temperature, max_tokens=recipe.max_tokens or ANSWER_TOKENS, seed=seed)


def _cache(recipe: EvaluateRecipe) -> Path:
    return recipe.cache or recipe.out / "answers.sqlite"


@asynccontextmanager
async def open_bench(
    recipe: EvaluateRecipe,
    *,
    on_prepare: Callable[[int, int], None] | None = None,
    say: Callable[[str], object] | None = None,
    made: list[Baseline] | None = None,
    asked: dict[str, EvaluatedPrompt] | None = None,
) -> AsyncIterator[Bench]:
    """The models, task and strategies of a recipe, closed at the end.

    Args:
        on_prepare: called with steps of making the strategies done and in all.
        say: as in `evaluate_recipe`.
        made, asked: are filled with the baselines, and with how the models are asked, by their key in the recipe.
    """
    from selfroute.evaluation.bench import Bench, Entrant

    check_baselines(recipe.strategies)
    check_entrants(recipe.entrants)
    asking = next((name for name in recipe.strategies if STRATEGIES[name].asks_again), None)
    if asking is not None and recipe.device.name in BACKENDS and BACKENDS[recipe.device.name].replays:
        raise ConfigError(f"strategies: {asking} asks the device several times; a recording holds one answer")
    task, rows = _task_and_rows(recipe)
    sampling = _sampling(recipe)
    asked = {} if asked is None else asked
    template, found = _prompts(recipe, template_of(task), say)
    asked |= found
    device, cloud, policies = _models(recipe)
    shared = Sides(device=device, cloud=cloud, template=template)
    sides = asked["device"].sides(shared, device) if "device" in asked else shared
    async with closing(device, cloud, *policies.values()):
        models = {"device": (recipe.device, device), "cloud": (recipe.cloud, cloud)}
        await check_recorded(models, task, sides.template, rows)
        baselines = await make_baselines(
            recipe.strategies,
            sides,
            task=task,
            share=recipe.share,
            seed=recipe.seed,
            router_rows=recipe.router_rows,
            sampling=sampling,
            rows=rows,
            folds=recipe.folds,
            encoder=recipe.encoder,
            embedding=recipe.embedding,
            concurrency=recipe.concurrency,
            on_progress=on_prepare,
        )
        if made is not None:
            made += baselines
        entrants = [Entrant(strategy=baseline.strategy, sides=sides) for baseline in baselines]
        entrants += make_entrants(recipe.entrants, sides)
        _check_marks(entrants, task)
        entrants += make_policies(
            {name: asked[f"policies.{name}"].sides(shared, model) for name, model in policies.items()},
            alone=recipe.alone,
            asks={name: asked[f"policies.{name}"].asks for name in policies},
            told_shares={name: asked[f"policies.{name}"].told_share for name in policies},
            context=recipe.context,
        )
        yield Bench(
            entrants=entrants,
            task=task,
            sampling=sampling,
            template=template,
            cloud=cloud,
            concurrency=recipe.concurrency,
            solve_samples=recipe.solve_samples,
            solve_temperature=recipe.solve_temperature,
            seed=recipe.seed,
        )


def _check_marks(entrants: Sequence[Entrant], task: Task) -> None:
    """See that steps end where the task's do, where it has any.

    Raises:
        ConfigError: a mark that never occurs in its answers.
    """
    if not isinstance(task, Stepwise):
        return
    for entrant in entrants:
        mark = getattr(entrant.strategy, "step_end", task.step_end)
        if mark != task.step_end:
            raise ConfigError(
                f"entrants: step_end {mark!r} of {entrant.name} never occurs in answers to {task.name}; write "
                f"{task.step_end!r}"
            )


def _prompts(
    recipe: EvaluateRecipe, template: PromptTemplate, say: Callable[[str], object] | None
) -> tuple[PromptTemplate, dict[str, EvaluatedPrompt]]:
    """How questions are put, and how the device and the policies are asked, by their key in the recipe.

    Where the models that carry a prompt agree and the recipe names no template, all are asked in their words: the cloud
    and the models whose training is not known too.
    """
    specs = {"device": recipe.device, **{f"policies.{name}": spec for name, spec in recipe.policies.items()}}
    if not (recipe.strategies or recipe.entrants):
        del specs["device"]
    asked = {key: evaluated_prompt(recipe, spec, key, template) for key, spec in specs.items()}
    for prompt in asked.values():
        for line in (prompt.line, *(f"WARNING: {warning}" for warning in prompt.warnings)):
            if line and say is not None:
                say(line)
    words = {prompt.template for prompt in asked.values() if prompt.is_known}
    if len(words) != 1:
        return template, asked
    (common,) = words
    return common, {key: replace(prompt, template=common) for key, prompt in asked.items()}


def _models(recipe: EvaluateRecipe) -> tuple[Backend, Backend, dict[str, Backend]]:
    """Device, cloud, and the policies by name, with what they answered before."""
    cache = _cache(recipe)

    def made(spec: Spec, where: str) -> Backend:
        return remembered(spec, cache, where=where, requests_per_minute=recipe.requests_per_minute)

    # A policy answers a prompt up to three times the same way; it writes it once.
    policies = {name: made(spec, f"policies.{name}") for name, spec in recipe.policies.items()}
    return made(recipe.device, "device"), _linked(recipe.cloud, made(recipe.cloud, "cloud")), policies


def _linked(spec: Spec, cloud: Backend) -> Backend:
    """A cloud of this process as though it were elsewhere: what would go over the link is counted."""
    from selfroute.backends.linked import Linked
    from selfroute.backends.sessions import Sessions

    here = BACKENDS[spec.name].in_process and find_capability(cloud, Sessions) is not None
    return Linked(cloud) if here else cloud


def _engine(recipe: EvaluateRecipe) -> Engine | None:
    """Who answers the rows; None for this process."""
    if recipe.engine == "local":
        return None
    from selfroute.evaluation.ray_engine import ray_engine

    return ray_engine(partial(open_bench, recipe), workers=recipe.workers)


def counting_options(
    options: EvaluateRecipe | ReportOptions, *, device: Spec | str, cloud: Spec | str
) -> dict[str, Any]:
    """How records are counted, as arguments of `selfroute.evaluation.counting.summary.analyse`.

    Args:
        device, cloud: the models, to find their prices.

    Raises:
        ConfigError: a price table, a network or an axis that cannot be.
    """
    from selfroute.evaluation.counting.axes import check_axes
    from selfroute.network.link import Network

    check_axes(options.axes, priced=options.prices is not None)
    return {
        "prices": price_table(options.prices, options.priced_as, device=device, cloud=cloud),
        "network": build(Network, options.network, where="network"),
        "routellm_bins": options.routellm_bins,
        "axes": options.axes,
    }


def report_folder(
    folder: Path, overrides: Sequence[str], *, command: str = "", on_progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Count the records of a finished evaluation anew; returns the summary.

    Raises:
        ConfigError: an unknown option, or a folder without records.
    """
    from selfroute.evaluation.provenance import read_about
    from selfroute.evaluation.results import write_results

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


async def record_rows(
    backend: Backend,
    task: Task,
    rows: Sequence[Row],
    out: Path,
    *,
    as_device: bool,
    trained: TrainedPrompt | None = None,
    concurrency: int,
    max_tokens: int,
    on_progress: Callable[[int, int], object],
    price: Price | None = None,
    say: Callable[[str], object] | None = None,
) -> list[str]:
    """Record a backend's greedy answers to rows that `out` does not hold yet.

    Args:
        as_device: ask with the device's system prompt, without the offer to hand off.
        trained: how it was asked in its training, which it is asked then; its answers are kept under the task's words,
            so that they are found by an evaluation of any device.
        on_progress: called with rows done and rows in all.
        price: of the backend's tokens; None records no cost.
        say: gets a line about the calls to come, for a backend that is paid.

    Returns:
        `id: error` of the rows that got no answer.

    Raises:
        SelfRouteError: the first `GIVEN_UP` rows all got none.
        ConfigError: as `selfroute.backends.recorded.record`.
    """
    from selfroute.backends.recorded import record, recorded_ids

    template = template_of(task)
    items = [(row.id, _recorded_turns(template, row, as_device)) for row in rows]
    if trained is not None:
        backend = _reworded(backend, trained, rows, [turns for _, turns in items])
    if say is not None:
        held = recorded_ids(out)
        todo = [messages for name, messages in items if name not in held]
        say(
            in_words(
                backend.name,
                todo,
                Sampling(max_tokens=max_tokens),
                of=len(items),
                price=price,
                each=backend.most_answers,
            )
        )
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
            if len(failed) == done == GIVEN_UP:
                raise SelfRouteError(
                    f"'{backend.name}' answered none of the first {done} rows, and the others were not asked; first "
                    f"error: {failed[0]}"
                )
    return failed


def _reworded(
    backend: Backend, trained: TrainedPrompt, rows: Sequence[Row], known: Sequence[Sequence[Message]]
) -> Backend:
    """A device that is asked rows as in its training, and known by the task's words."""
    template = trained.template
    words: dict[tuple[tuple[str, str], ...], Sequence[Message]] = {
        tuple((turn.role, turn.content) for turn in turns): template.device_messages(
            trained.conversation(row.question), offer_handoff=False
        )
        for row, turns in zip(rows, known, strict=True)
    }
    return Reworded(backend, words, max_tokens=trained.max_tokens)


def _recorded_turns(template: PromptTemplate, row: Row, as_device: bool) -> list[Message]:
    turns = template.conversation(row.question)
    return template.device_messages(turns, offer_handoff=False) if as_device else turns

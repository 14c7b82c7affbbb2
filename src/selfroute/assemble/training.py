"""`selfroute train`: from a recipe to a run of the trainer or of the warm-up."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfroute.assemble.paid_calls import announce
from selfroute.assemble.pieces import (
    check_writable,
    first_rows,
    named_files,
    price_table,
    quiet_libraries,
    remembered,
    template_of,
)
from selfroute.backends.base import Backend, complete_all, run_sync
from selfroute.backends.files import ModelFiles, is_path
from selfroute.backends.torch.gguf import check_gguf, is_gguf
from selfroute.config import (
    BACKENDS,
    TASKS,
    AttributeOptions,
    TrainRecipe,
    WarmupRecipe,
    algorithm_of,
    at,
    load_values,
    make_objective,
    make_oracle,
    make_task,
    parse_spec,
    prepare_backend,
    to_values,
)
from selfroute.errors import ConfigError, SelfRouteError
from selfroute.prices import Price
from selfroute.rewards.base import Reward
from selfroute.rewards.scored import Scored
from selfroute.scores.reward_model import RewardFolder
from selfroute.tasks.base import Task
from selfroute.types import Message, Sampling

if TYPE_CHECKING:
    from selfroute.train.imitation.writers import Writer
    from selfroute.train.rl.constraints.attributes import Attribute

__all__ = [
    "ModelFiles",
    "ask_ahead",
    "model_files",
    "reward_of",
    "serving_line",
    "train_recipe",
    "warm_up_recipe",
]

OUTAGE = 0.1  # of the calls; fewer failures move no share
ROWS_AHEAD = 256  # asked for at once before training
# On a CPU, oneDNN keeps code for up to 1,024 shapes of products; batches of rollouts have more than that, and it takes
# 0.4 GB in the first steps alone. Read when the first product is made.
ONEDNN_CACHE = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")


def model_files(model: str) -> ModelFiles:
    """The places of a trainable model: `embedded:name`, `smollm2`, a folder, a GGUF file, or a hub repository.

    The last three may also be written as a device is, `transformers:FOLDER`.

    Raises:
        ConfigError: a folder that holds no model, a path that does not exist, or a GGUF file that cannot be unpacked.
    """
    model = model.removeprefix("transformers:")
    named = named_files(model)
    if named is not None and not is_gguf(named.model):
        return named
    model = model if named is None else named.model
    if is_gguf(model):
        file = str(check_gguf(model))
        return ModelFiles(file, file)
    path = Path(model).expanduser()
    if path.exists() and not (path / "config.json").is_file():
        raise ConfigError(f"model: '{model}' is not a model folder: it holds no config.json; name one that does")
    if not path.exists() and (is_path(model) or "/" not in model):
        raise ConfigError(
            f"model: '{model}' does not exist; name a folder, a GGUF file, a hub repository, smollm2 or embedded:device"
        )
    place = str(path) if path.exists() else model
    return ModelFiles(place, place)


def serving_line(device: str, run: Path) -> str:
    """The command that serves a trained model beside the cloud it was trained with.

    Args:
        run: folder of the run, whose `config.yaml` names the cloud. Where there is none, or a recording, which has no
            answers to new questions, the command names no cloud either.
    """
    words = ["selfroute", "serve", f"device={device}"]
    try:
        values = load_values(run / "config.yaml")
        cloud = values.get(algorithm_of(values).beside)
        if cloud is not None and not BACKENDS[(spec := parse_spec(cloud, "cloud")).name].replays:
            words.append(f"cloud={json.dumps(cloud) if spec.value is None else f'{spec.name}:{spec.value}'}")
        if algorithm_of(values).strategy:
            words.append(f"strategy={algorithm_of(values).strategy}".replace("FOLDER", str(run / "checkpoint")))
    except (ConfigError, KeyError):  # a run of another version, or no run at all
        pass
    return shlex.join(words)


def check_cloud(cloud: Backend, task: Task, *, max_tokens: int, writes_question: bool = False) -> None:
    """Ask the cloud for the first training row, as training would: a cloud that refuses must not cost a whole run.

    Args:
        writes_question: the device writes what the cloud sees, so no row goes there; it is greeted instead.

    Raises:
        ConfigError: the cloud does not answer.
    """
    (row,) = first_rows(task, "train", 1)
    prompt = [Message("user", "Hello")] if writes_question else template_of(task).conversation(row.question)
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
    recipe: TrainRecipe,
    *,
    on_progress: Callable[[int, int, Mapping[str, float]], None] | None = None,
    say: Callable[[str], object] | None = None,
) -> Path:
    """Train what a recipe names; returns the folder of the trained model.

    Args:
        say: gets a line about what the run will ask of a paid cloud, before it does.
        on_progress: called with step, steps, and the step's metrics.
    """
    os.environ.setdefault(*ONEDNN_CACHE)
    check_writable(recipe.out)
    task = make_task(recipe.task, seed=recipe.seed, template=recipe.template)
    template_of(task)
    first_rows(task, "train", 1)
    table = price_table(recipe.prices, recipe.priced_as, device=recipe.model, cloud=recipe.cloud)
    files = model_files(recipe.model)
    attributes = attributes_of(recipe)
    scores = None if recipe.scored_by is None else RewardFolder(recipe.scored_by.model)
    objective = None if recipe.objective is None else make_objective(recipe.objective, recipe)
    needs_cloud = recipe.asks
    if recipe.ask_ahead and recipe.kind.inside:
        raise ConfigError(
            f"ask_ahead: with algorithm {recipe.algorithm} the cloud writes within attempts, and no whole answers; "
            "leave it out"
        )
    if recipe.ask_ahead and recipe.writes_question:
        raise ConfigError("ask_ahead: with context=message nobody knows ahead what the device will ask; leave it out")
    if needs_cloud:
        prepare_backend(recipe.cloud, where="cloud")
        _announce(recipe, task, None if table is None else table.prices.cloud, say)

    from selfroute.train.rl.run import train  # torch and TRL: once all this is known to be right

    quiet_libraries()
    summary = train(
        task=task,
        model=files.model,
        tokenizer=files.tokenizer,
        open_cloud=(lambda: _open_cloud(recipe, task, on_progress)) if needs_cloud else None,
        options=recipe,
        loop=recipe,
        lora=None if recipe.lora is None else asdict(recipe.lora),
        max_minutes=recipe.max_minutes,
        until_flat=recipe.until_flat,
        concurrency=recipe.concurrency,
        cloud_price=None if table is None else table.prices.cloud,
        resume=recipe.resume,
        attributes=attributes,
        objective=objective,
        reward=reward_of(recipe),
        scores=scores,
        config=to_values(recipe),
        on_progress=on_progress,
    )
    report_outage(summary, recipe.out / "checkpoint")
    return recipe.out / "checkpoint"


def reward_of(recipe: TrainRecipe) -> Reward:
    """What an outcome is worth: by verdicts, or by a learned score of local answers."""
    by = recipe.scored_by
    return recipe.reward if by is None else Scored(reward=recipe.reward, zero=by.zero, scale=by.scale)


def attributes_of(recipe: TrainRecipe) -> dict[str, Attribute]:
    """The attributes that a recipe controls, by name.

    Raises:
        ConfigError: an oracle is wrong or lacks its library, or judges messages that nobody writes.
    """
    return {name: _attribute(recipe, f"attributes.{name}", each) for name, each in recipe.attributes.items()}


def _attribute(recipe: TrainRecipe, where: str, options: AttributeOptions) -> Attribute:
    from selfroute.scores.oracles import Judged
    from selfroute.train.rl.constraints.attributes import Attribute

    if options.channel == "message" and not recipe.writes_question:
        raise ConfigError(f"{where}.channel: no message leaves with context=prompt; set context=message")
    given = {field.name: getattr(options, field.name) for field in fields(options)}
    oracle, schedule = make_oracle(given.pop("oracle"), where=f"{where}.oracle"), given.pop("schedule")
    judged = Judged(oracle, given.pop("channel"))
    try:
        return Attribute(judged=judged, parallel=schedule == "parallel", **given)
    except ConfigError as error:
        raise ConfigError(f"{where}.{error}") from None


def _announce(recipe: TrainRecipe, task: Task, price: Price | None, say: Callable[[str], object] | None) -> None:
    """The cloud answers a row once, whatever number of attempts ask; without `ask_ahead` only rows that are drawn."""
    template = template_of(task)
    each = recipe.writes_question or recipe.kind.inside  # attempts ask for themselves
    drawn = recipe.steps * recipe.prompts_per_step * (recipe.group_size if each else 1)
    announce(
        say,
        "cloud",
        recipe.cloud,
        [template.conversation(row.question) for row in first_rows(task, "train", None)],
        Sampling(max_tokens=_cloud_tokens(recipe)),
        cache=_cache(recipe),
        most=None if recipe.ask_ahead else drawn,
        price=price,
    )


def _cache(recipe: TrainRecipe) -> Path:
    return recipe.cache or recipe.out / "answers.sqlite"


def _cloud_tokens(recipe: TrainRecipe) -> int:
    return max(512, recipe.max_new_tokens)


def report_outage(summary: Mapping[str, Any], model: Path) -> None:
    """End in an error where much of what was to be learned from the cloud is missing.

    Raises:
        SelfRouteError: a tenth of the calls or more got no answer.
    """
    calls, failed = summary["cloud_calls"], summary["cloud_failures"]
    if failed and failed >= OUTAGE * calls:
        raise SelfRouteError(
            f"the cloud did not answer {failed:,} of {calls:,} calls, and attempts that asked there were left out: the "
            f"model in '{model}' has learned little about asking; see that the cloud answers, and train anew in "
            "another out="
        )


def _open_cloud(
    recipe: TrainRecipe, task: Task, on_progress: Callable[[int, int, Mapping[str, float]], None] | None
) -> Backend:
    """The cloud of a recipe once it has answered a question, or with `ask_ahead` all of them."""
    cloud = remembered(recipe.cloud, _cache(recipe), where="cloud")
    most = _cloud_tokens(recipe)
    check_cloud(cloud, task, max_tokens=most, writes_question=recipe.writes_question)
    if recipe.ask_ahead:

        def on_answers(done: int, total: int) -> None:
            if on_progress is not None:
                on_progress(0, recipe.steps, {"cloud/answered_ahead": done / total})

        ask_ahead(cloud, task, max_tokens=most, concurrency=recipe.concurrency, on_progress=on_answers)
    return cloud


def warm_up_recipe(recipe: WarmupRecipe, *, say: Callable[[str], object] | None = None, **options: Any) -> Path:
    """Make a small model from nothing, or teach one to answer in tags and to ask; returns its folder.

    Args:
        say: told nothing, as no cloud is asked.
        options: for `selfroute.train.imitation.warmup.warm_up`, e.g. `on_progress`.

    Raises:
        ConfigError: a new model, and the task has nothing written to imitate; an option of the traces belongs to the
            other role or to another task.
    """
    task = make_task(recipe.task, seed=recipe.seed)
    place = TASKS[recipe.task.name].writer
    if place is None and recipe.start is None:
        known = ", ".join(name for name, entry in TASKS.items() if entry.writer)
        raise ConfigError(
            f"task: '{recipe.task.name}' has nothing written that a new model could learn from; use one of {known}, or "
            "go on with a model that has learned to write: start=smollm2, a folder or a hub repository"
        )
    start = None if recipe.start is None else model_files(recipe.start)
    for other in {"device": ("shown_rate",), "cloud": ("told_rate", "call_rate")}[recipe.role]:
        if value := getattr(recipe.traces, other):
            owner = "cloud" if recipe.role == "device" else "device"
            raise ConfigError(
                f"traces.{other}: {value} does nothing with role={recipe.role}; take role={owner} or leave it out"
            )

    from selfroute.train.imitation.tokenizer import build_tokenizer, task_tokenizer
    from selfroute.train.imitation.warmup import warm_up
    from selfroute.train.imitation.worked import Worked
    from selfroute.train.imitation.writers import TraceStyle, Worded
    from selfroute.train.pretrained import load_tokenizer

    make_writer: Callable[..., Writer] = Worked if place is None else at(place)
    writer = make_writer(task, TraceStyle(**asdict(recipe.traces)), recipe.role)
    quiet_libraries()
    if start is not None:
        tokenizer = load_tokenizer(start.tokenizer)
    else:
        tokenizer = task_tokenizer(task.template, writer.corpus) if isinstance(writer, Worded) else build_tokenizer()
    warm_up(
        out=recipe.out,
        tokenizer=tokenizer,
        writer=writer,
        hidden_size=recipe.hidden_size,
        layers=recipe.layers,
        steps=recipe.steps,
        batch_tokens=recipe.batch_tokens,
        learning_rate=recipe.learning_rate,
        optimizer=recipe.optimizer,
        seed=recipe.seed,
        start=None if start is None else start.model,
        workers=recipe.workers,
        resume=recipe.resume,
        config=to_values(recipe),
        **options,
    )
    return recipe.out / "checkpoint"

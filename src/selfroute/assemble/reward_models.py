"""`selfroute train` with `algorithm: reward_model`: from a recipe to a model that scores answers or trajectories."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from selfroute.assemble.pieces import check_writable, first_rows, quiet_libraries, template_of
from selfroute.backends.base import run_sync
from selfroute.bounds import Count, Positive
from selfroute.config import RewardRecipe, Spec, make_backend, make_pairs, make_task, prepare_backend, to_values
from selfroute.errors import ConfigError
from selfroute.tasks.base import Task
from selfroute.train.fit.pairs import Pairs, clean, divide, read_pairs

__all__ = ["from_answers", "from_file", "from_walks", "reward_model_recipe"]

Progress = Callable[[int, int, Mapping[str, float]], None]


def reward_model_recipe(
    recipe: RewardRecipe, *, on_progress: Progress | None = None, say: Callable[[str], object] | None = None
) -> Path:
    """Train a reward model; returns its folder, which `planned` and `reward.learned` take.

    Args:
        on_progress: called with step, steps and the step's metrics.
        say: told nothing, as no paid cloud is asked but for hindsight by a model.

    Raises:
        ConfigError: a wrong key, pairs that cannot be made, or a folder that holds a run.
    """
    from selfroute.assemble.training import model_files

    check_writable(recipe.out)
    files = model_files(recipe.model)
    task = None if recipe.task is None else make_task(recipe.task, seed=recipe.seed)
    if task is not None:
        first_rows(task, "train", 1)

    from selfroute.train import folder
    from selfroute.train.fit.reward_model import fit_reward_model, reward_arguments

    quiet_libraries()
    folder.start_from(recipe.out, recipe.steps, resume=recipe.resume)
    arguments = reward_arguments(
        recipe.out,
        steps=recipe.steps,
        pairs_per_step=recipe.pairs_per_step,
        pairs_per_pass=recipe.pairs_per_pass,
        learning_rate=recipe.learning_rate,
        centring=recipe.centring,
        bf16=recipe.bf16,
        save_steps=recipe.save_steps,
        seed=recipe.seed,
    )
    pairs = make_pairs(recipe.pairs, task=task, seed=recipe.seed)
    fit_reward_model(
        pairs,
        arguments,
        model=files.model,
        tokenizer=files.tokenizer,
        out=recipe.out,
        lora=None if recipe.lora is None else asdict(recipe.lora),
        resume=recipe.resume,
        facts={"pairs_from": recipe.pairs.name, "task": None if task is None else task.name},
        config=to_values(recipe),
        on_progress=on_progress,
    )
    return recipe.out / "checkpoint"


def from_walks(
    task: Task | None,
    seed: int,
    *,
    rows: Count = 2000,
    held_out_rows: Count = 300,
    changes: Count = 2,
    most_steps: Count = 24,
    hindsight: Spec | None = None,
) -> Pairs:
    """Walks in a task's environments, told in hindsight, against the same with some actions changed; no labels.

    Args:
        rows: walks of train rows.
        held_out_rows: walks of validation rows.
        changes: most actions that are changed for a negative.
        most_steps: of a walk.
        hindsight: model that writes the questions; null takes the task's own rule.
    """
    from selfroute.train.fit.trajectories import retold_by_model, retold_by_task, walk_pairs

    task = _needed(task, "walks")
    writer = None if hindsight is None else make_backend(hindsight, where="pairs.walks.hindsight")
    retell = retold_by_task(task) if writer is None else retold_by_model(writer)
    try:
        return walk_pairs(
            task,
            rows=rows,
            held_out_rows=held_out_rows,
            changes=changes,
            most_steps=most_steps,
            seed=seed,
            retell=retell,
        )
    finally:
        if writer is not None:
            run_sync(writer.aclose())


def from_answers(
    task: Task | None,
    seed: int,
    *,
    device: Spec,
    rows: Count = 500,
    held_out_rows: Count = 200,
    samples: Count = 8,
    temperature: Positive = 0.8,
    max_tokens: Count = 256,
    most_per_row: Count = 4,
    concurrency: Count = 64,
) -> Pairs:
    """Right and wrong answers of a device to the same question, as the task's verifier judges them.

    Args:
        device: whose answers.
        rows: train rows.
        held_out_rows: validation rows.
        samples: answers to each.
        temperature: of these.
        max_tokens: most tokens of one.
        most_per_row: most pairs of one row.
        concurrency: requests in flight.
    """
    from selfroute.train.fit.answer_pairs import answer_pairs

    task = _needed(task, "answers")
    template_of(task)
    backend = prepare_backend(device, where="pairs.answers.device")()
    try:
        return answer_pairs(
            task,
            backend,
            rows=rows,
            held_out_rows=held_out_rows,
            samples=samples,
            temperature=temperature,
            max_tokens=max_tokens,
            most_per_row=most_per_row,
            seed=seed,
            concurrency=concurrency,
        )
    finally:
        run_sync(backend.aclose())


def from_file(task: Task | None, seed: int, *, path: Path, held_out: float = 0.1, ordered: bool = False) -> Pairs:
    """Your own pairs: a JSONL or parquet file with `question`, `good` and `bad`.

    Args:
        path: of the file.
        held_out: share of the questions to judge by.
        ordered: whether a score of an environment, or a verifier, said which side is the better; kept with the model.
    """
    kept, flaws = clean(read_pairs(path))
    return divide(kept, held_out=held_out, seed=seed, ordered_by_environment=ordered, dropped=flaws)


def _needed(task: Task | None, source: str) -> Task:
    if task is None:
        raise ConfigError(f"task: pairs: {source} needs one; set task=shop, or give pairs: {{file: {{path: FILE}}}}")
    return task

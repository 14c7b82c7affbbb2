"""`selfroute train` with `algorithm: adaswitch`: from a recipe to a device that tags its steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from selfroute.assemble.pieces import check_writable, closing, first_rows, quiet_libraries, template_of
from selfroute.assemble.training import model_files
from selfroute.backends.base import Backend, run_sync
from selfroute.config import TASKS, AdaSwitchRecipe, make_task, prepare_backend, to_values
from selfroute.errors import ConfigError
from selfroute.tasks.base import Stepwise

__all__ = ["adaswitch_recipe"]

Progress = Callable[[int, int, Mapping[str, float]], None]
_LOOKED_AT = 100  # gold answers whose steps must not begin with a tag


def adaswitch_recipe(
    recipe: AdaSwitchRecipe, *, on_progress: Progress | None = None, say: Callable[[str], object] | None = None
) -> Path:
    """Train a device to tag its steps; returns its folder, which `step_level` takes as `tags` and the device.

    Args:
        on_progress: called with step, steps and the step's metrics.
        say: told nothing.

    Raises:
        ConfigError: a wrong key, a task without steps, a tag that cannot be one, a pair that cannot share an answer, or
            a folder that holds a run or none to go on with.
        SelfRouteError: a tenth of the exam or more failed; what was examined is kept for `resume`.
    """
    check_writable(recipe.out)
    most = max(recipe.practice_rows, recipe.exam_rows, recipe.validation_rows)
    task = _stepwise(recipe, make_task(recipe.task, seed=recipe.seed, limit=most))
    template_of(task)
    _check_tags(recipe, task)
    files = model_files(recipe.model)
    open_cloud = prepare_backend(recipe.cloud, where="cloud")

    from selfroute.train.imitation.adaswitch import PRACTICE, check_folder
    from selfroute.train.pretrained import load_config, load_network, load_tokenizer

    check_folder(recipe.out, to_values(recipe), resume=recipe.resume)
    quiet_libraries()
    practised = recipe.out / PRACTICE / "checkpoint"
    network = load_network(str(practised) if (practised / "config.json").is_file() else files.model)
    tokenizer = load_tokenizer(files.tokenizer, load_config(files.model))
    run_sync(_train(recipe, task, network, tokenizer, open_cloud(), on_progress or (lambda *_: None)))
    return recipe.out / "checkpoint"


async def _train(
    recipe: AdaSwitchRecipe, task: Stepwise, network: Any, tokenizer: Any, cloud: Backend, on_progress: Progress
) -> None:
    from selfroute.train.imitation.adaswitch import AdaSwitch

    made: dict[str, Any] = {
        "task": task,
        "network": network,
        "tokenizer": tokenizer,
        "cloud": cloud,
        "on_progress": on_progress,
    }
    options = {field.name: getattr(recipe, field.name) for field in fields(AdaSwitch) if field.name not in made}
    async with closing(cloud):
        await AdaSwitch(**made, **options).run(to_values(recipe))


def _stepwise(recipe: AdaSwitchRecipe, task: Any) -> Stepwise:
    if not isinstance(task, Stepwise):
        known = ", ".join(name for name, entry in TASKS.items() if entry.stepwise)
        raise ConfigError(f"task: '{recipe.task.name}' judges no steps; use one of {known}")
    return task


def _check_tags(recipe: AdaSwitchRecipe, task: Stepwise) -> None:
    if recipe.right == recipe.wrong:
        raise ConfigError(f"wrong: {recipe.wrong!r} is the tag of right steps too; give two different ones")
    steps = [step for row in first_rows(task, "train", _LOOKED_AT) for step in task.steps(row)]
    for name, tag in (("right", recipe.right), ("wrong", recipe.wrong)):
        if not tag or any(step.startswith(tag) for step in steps):
            raise ConfigError(f"{name}: {tag!r} begins steps of {task.name}; take a tag that does not")

"""`selfroute train` with `algorithm: exits`: from a recipe to the first layers of a model, with exits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfroute.assemble.pieces import check_new, first_rows, model_with_layers, template_of
from selfroute.config import ExitsRecipe, make_task, to_values
from selfroute.config.names import trained_prompt
from selfroute.prompts import PromptTemplate, TrainedPrompt, write_prompt
from selfroute.types import Sampling

if TYPE_CHECKING:
    from selfroute.backends.transformers import TransformersBackend
    from selfroute.train.fit.exits import Places

__all__ = ["exits_recipe"]

Progress = Callable[[int, int, Mapping[str, float]], None]


def exits_recipe(
    recipe: ExitsRecipe, *, on_progress: Progress | None = None, say: Callable[[str], object] | None = None
) -> Path:
    """Tune exits of a model that stays as it is; returns the folder of its first layers, which is a device.

    Args:
        on_progress: called with step, steps and its metrics.
        say: told nothing.

    Raises:
        ConfigError: a wrong key, an exit outside the model, a model whose layers do not run apart, or a folder that
            holds a run.
    """
    task = make_task(recipe.task, seed=recipe.seed, limit=max(recipe.rows, recipe.validation_rows))
    first_rows(task, "train", 1)
    check_new(recipe.out)
    prompt = trained_prompt(recipe.model, where="model")
    with model_with_layers(recipe.model, where="model") as backend:
        return _train(recipe, task, backend, prompt, on_progress or (lambda *_: None))


def _train(
    recipe: ExitsRecipe, task: Any, backend: TransformersBackend, prompt: TrainedPrompt | None, on_progress: Progress
) -> Path:
    from selfroute.backends.exits import save_exits
    from selfroute.train import folder
    from selfroute.train.fit.exits import check_layers, fit_exits, quality_of_exit

    check_layers(recipe.layers, backend.cut.layers)
    origin = folder.begin(recipe.out, to_values(recipe), None)
    template = template_of(task) if prompt is None else prompt.template
    learn, held_out = (_places(recipe, task, backend, template, split) for split in ("train", "validation"))
    total = recipe.steps * len(recipe.layers)

    def on_step(layers: int, step: int, loss: float) -> None:
        done = recipe.layers.index(layers) * recipe.steps + step
        if step % recipe.log_steps == 0 or step == recipe.steps:
            folder.add_line(recipe.out / "metrics.jsonl", {"step": done, "layers": layers, "loss": loss})
            on_progress(done, total, {"loss": loss})

    found = fit_exits(
        backend.cut,
        recipe.layers,
        learn,
        steps=recipe.steps,
        batch=recipe.batch,
        learning_rate=recipe.learning_rate,
        seed=recipe.seed,
        on_step=on_step,
    )
    save_exits(recipe.out / "checkpoint", backend.model, backend.tokenizer, found, backend.whole)
    if prompt is not None:
        write_prompt(recipe.out / "checkpoint", replace(prompt.as_device(), offers=False, handoff=""))
    quality = {
        str(layers): quality_of_exit(leave, states, held_out.tokens).as_dict()
        for (layers, leave), states in zip(found, held_out.states, strict=True)
    }
    facts = {"algorithm": "exits", "seed": recipe.seed, "places": len(learn.tokens), "exits": quality}
    folder.finish(recipe.out, facts, origin)
    return recipe.out / "checkpoint"


def _places(
    recipe: ExitsRecipe, task: Any, backend: TransformersBackend, template: PromptTemplate, split: str
) -> Places:
    """Places of the model's own answers to rows of a split."""
    from selfroute.train.fit.exits import places_of

    count = recipe.rows if split == "train" else recipe.validation_rows
    prompts = [template.conversation(row.question) for row in first_rows(task, split, count)]
    answers = backend.generate_batch(prompts, Sampling(max_tokens=recipe.max_tokens))
    ids = [
        (backend.prompt_ids(prompt), [*backend.ids_of(answer.text), backend.end_id])
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    return places_of(backend.cut, recipe.layers, ids)

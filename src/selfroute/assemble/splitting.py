"""`selfroute train` with `algorithm: split_policy`: from a recipe to a policy of where to cut a model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfroute.assemble.pieces import check_new, first_rows, model_with_layers, template_of
from selfroute.config import SplitPolicyRecipe, at, make_task, to_values
from selfroute.config.entries import not_installed
from selfroute.config.names import trained_prompt
from selfroute.config.tables import ALGORITHMS
from selfroute.errors import ConfigError
from selfroute.network.channel import check_loss
from selfroute.prompts import PromptTemplate
from selfroute.strategies.inside.choosers import Net, PolicyFolder, SurrogateNet, rewards
from selfroute.types import Sampling

if TYPE_CHECKING:
    from selfroute.backends.transformers import TransformersBackend
    from selfroute.train.splitting.measure import Answers, Quality

__all__ = ["default_places", "split_policy_recipe"]

Progress = Callable[[int, int, Mapping[str, float]], None]
_FEW = 6  # places of a model that names none


def split_policy_recipe(
    recipe: SplitPolicyRecipe, *, on_progress: Progress | None = None, say: Callable[[str], object] | None = None
) -> Path:
    """Measure what cuts cost under a lossy link, fit a surrogate, and make a policy in it; returns its folder.

    Args:
        on_progress: called with step, steps and metrics.
        say: told nothing.

    Raises:
        ConfigError: a wrong key, a place outside the model, a channel under which no cut is better than another, too
            many measurements, a missing library, or a folder that holds a run.
    """
    _check(recipe)
    learn = _agents(recipe) if recipe.method in _LEARNED else None
    task = make_task(recipe.task, seed=recipe.seed, limit=recipe.rows)
    first_rows(task, "train", 1)
    check_new(recipe.out)
    prompt = trained_prompt(recipe.model, where="model")
    with model_with_layers(recipe.model, where="model") as backend:
        template = template_of(task) if prompt is None else prompt.template
        return _train(recipe, task, backend, template, learn, on_progress or (lambda *_: None))


def default_places(layers: int) -> tuple[int, ...]:
    """All places of a model of few layers, else six that are evenly spread."""
    if layers - 1 <= _FEW:
        return tuple(range(1, layers))
    return tuple(round(1 + number * (layers - 2) / (_FEW - 1)) for number in range(_FEW))


_LEARNED = ("ppo", "a2c", "dqn")


def _check(recipe: SplitPolicyRecipe) -> None:
    """Refuse what can be refused before anything is loaded."""
    if recipe.channel.kind == "outage":
        raise ConfigError(
            "channel.kind: outage loses whole tokens, which the device then writes wherever it is cut; write another"
        )
    if recipe.channel.arq:
        raise ConfigError("channel.arq: nothing is lost, so the first place is the best; write {split: {place: 1}}")
    for loss in recipe.losses:
        check_loss(loss, "losses")
    if list(recipe.losses) != sorted(set(recipe.losses)) or not recipe.losses or recipe.losses[0] == 0:
        raise ConfigError(f"losses: {list(recipe.losses)} do not rise above 0; name each once, e.g. [0.1, 0.3, 0.5]")
    _check_number(recipe, len(recipe.layers or ()))


def _check_number(recipe: SplitPolicyRecipe, places: int) -> None:
    """See that no more is measured than a recipe allows."""
    if (points := len(recipe.losses) * places) > recipe.measurements:
        raise ConfigError(
            f"measurements: {len(recipe.losses)} losses at {places} places are {points}, and {recipe.measurements} are "
            "allowed; name fewer of losses or layers"
        )


def _agents(recipe: SplitPolicyRecipe) -> Any:
    """What learns, or the word that its library is missing."""
    try:
        return at("selfroute.train.splitting.agents:learn")
    except ModuleNotFoundError as error:
        raise not_installed(error, f"method: {recipe.method}", ALGORITHMS["split_policy"]) from error


def _train(
    recipe: SplitPolicyRecipe,
    task: Any,
    backend: TransformersBackend,
    template: PromptTemplate,
    learn: Any,
    on_progress: Progress,
) -> Path:
    from selfroute.train import folder
    from selfroute.train.splitting.measure import check_places
    from selfroute.train.splitting.surrogate import fit_surrogate

    cut = backend.cut
    places = recipe.layers or default_places(cut.layers)
    check_places(places, cut.layers)
    _check_number(recipe, len(places))
    origin = folder.begin(recipe.out, to_values(recipe), None)
    quality, measuring_s = _measured(recipe, backend, _answers(recipe, task, backend, template), places, on_progress)
    surrogate = fit_surrogate(quality, cut.layers, steps=recipe.fit_steps, seed=recipe.seed)
    began = time.perf_counter()
    net = None if learn is None else _learned(recipe, learn, surrogate, places, on_progress)
    made = PolicyFolder(
        whole=backend.whole,
        places=places,
        channel=recipe.channel,
        weight=recipe.weight,
        method=recipe.method,
        surrogate=surrogate,
        choice=_choice(recipe, surrogate, places),
        net=net,
    )
    made.save(recipe.out / "checkpoint")
    timed = {"measuring_s": measuring_s, "learning_s": time.perf_counter() - began}
    folder.finish(recipe.out, _facts(recipe, quality, made) | timed, origin)
    return recipe.out / "checkpoint"


def _answers(recipe: SplitPolicyRecipe, task: Any, backend: TransformersBackend, template: PromptTemplate) -> Answers:
    """Prompts of the task and the clean model's own answers, in ids."""
    prompts = [template.conversation(row.question) for row in first_rows(task, "train", recipe.rows)]
    answers = backend.generate_batch(prompts, Sampling(max_tokens=recipe.max_tokens))
    ids = [(backend.prompt_ids(p), backend.ids_of(answer.text)) for p, answer in zip(prompts, answers, strict=True)]
    found = [(prompt, answer) for prompt, answer in ids if answer]
    if not found:
        raise ConfigError("model: it answers nothing to the task's questions; name one that was trained for it")
    return found


def _measured(
    recipe: SplitPolicyRecipe, backend: TransformersBackend, answers: Answers, places: Any, on_progress: Progress
) -> tuple[Quality, float]:
    from selfroute.train.folder import add_line
    from selfroute.train.splitting.measure import measured

    began, done, total = time.perf_counter(), 0, len(recipe.losses) * len(places)

    def on_point(loss: float, place: int, rise: float) -> None:
        nonlocal done
        done += 1
        add_line(recipe.out / "metrics.jsonl", {"step": done, "loss": loss, "layers": place, "rise": rise})
        on_progress(done, total, {"rise": rise})

    found = measured(
        backend.cut,
        answers,
        recipe.channel,
        recipe.losses,
        places,
        codec=recipe.codec,
        apart=recipe.apart,
        draws=recipe.draws,
        seed=recipe.seed,
        on_point=on_point,
    )
    return found, time.perf_counter() - began


def _learned(recipe: SplitPolicyRecipe, learn: Any, surrogate: SurrogateNet, places: Any, on_progress: Progress) -> Net:
    from selfroute.train.splitting.worlds import LinkWorld

    world = LinkWorld(surrogate, places, recipe.weight, pilots=recipe.pilots)

    def on_step(step: int) -> None:
        on_progress(step, recipe.steps, {})

    found: Net = learn(recipe.method, world, steps=recipe.steps, seed=recipe.seed, on_step=on_step)
    return found


def _choice(recipe: SplitPolicyRecipe, surrogate: SurrogateNet, places: Any) -> dict[str, Any]:
    """The best fixed place, or the best two and the loss between them, over losses that are alike often."""
    import numpy as np

    losses = np.linspace(0, surrogate.most, 61)
    worth = rewards(surrogate(losses, places), places, surrogate.layers, recipe.weight)
    if recipe.method == "fixed":
        return {"place": int(places[int(worth.mean(axis=0).argmax())])}
    if recipe.method != "threshold":
        return {}
    below = np.concatenate([np.zeros((1, len(places))), worth.cumsum(axis=0)])  # sums of what lies below each loss
    above = below[-1] - below
    split = int((below.max(axis=1) + above.max(axis=1)).argmax())
    shallow, deep = int(below[split].argmax()), int(above[split].argmax())
    loss = float(losses[split]) if split < len(losses) else 2.0
    return {"shallow": int(places[shallow]), "deep": int(places[deep]), "loss": loss}


def _facts(recipe: SplitPolicyRecipe, quality: Quality, made: PolicyFolder) -> dict[str, Any]:
    """What `run.json` says: the measurements, and what the policy chooses at each loss."""
    import numpy as np

    error = np.abs(made.surrogate(quality.losses, quality.places) - quality.rise).mean()
    choose = made.chooser()
    return {
        "algorithm": "split_policy",
        "seed": recipe.seed,
        "measurements": int(quality.rise.size),
        "tokens": quality.tokens,
        "clean": quality.clean,
        "losses": quality.losses.tolist(),
        "layers": list(quality.places),
        "rise": quality.rise.tolist(),
        "fit_error": float(error),
        "choices": [choose(float(loss)) for loss in quality.losses],
    }

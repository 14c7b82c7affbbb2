"""`selfroute train` with `algorithm: reward_head`: from a recipe to a head of tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfroute.assemble.pieces import check_new, first_rows, quiet_libraries, template_of
from selfroute.backends.base import Backend, run_sync
from selfroute.config import HeadRecipe, make_task, prepare_backend, to_values
from selfroute.types import Sampling

if TYPE_CHECKING:
    from selfroute.scores.tokens import TokenHead
    from selfroute.train.fit.token_places import Place

__all__ = ["reward_head_recipe"]

Progress = Callable[[int, int, Mapping[str, float]], None]


def reward_head_recipe(
    recipe: HeadRecipe, *, on_progress: Progress | None = None, say: Callable[[str], object] | None = None
) -> Path:
    """Fit a head of tokens for a pair; returns its folder, which `token_level` takes as its scorer.

    Args:
        on_progress: called with epoch, epochs and its metrics.
        say: told nothing.

    Raises:
        ConfigError: a wrong key, a pair whose sides exchange no ids, or a folder that holds a run.
    """
    task = make_task(recipe.task, seed=recipe.seed, limit=max(recipe.rows, recipe.validation_rows))
    template_of(task)
    first_rows(task, "train", 1)
    check_new(recipe.out)
    open_device = prepare_backend(recipe.device, where="device")
    open_cloud = prepare_backend(recipe.cloud, where="cloud")

    quiet_libraries()
    return run_sync(_train(recipe, task, open_device(), open_cloud(), on_progress or (lambda *_: None)))


async def _train(recipe: HeadRecipe, task: Any, device: Backend, cloud: Backend, on_progress: Progress) -> Path:
    from selfroute.assemble.pieces import closing
    from selfroute.strategies.base import Sides, check_sides
    from selfroute.strategies.inside.token_level import TokenLevel
    from selfroute.train import folder
    from selfroute.train.fit.token_heads import quality_of

    sides = Sides(device=device, cloud=cloud, template=template_of(task))
    async with closing(device, cloud):
        check_sides(TokenLevel(scorer=_untrained(recipe, sides), threshold=0.0), sides)
        origin = folder.begin(recipe.out, to_values(recipe), None)
        learn, held_out = await _places(recipe, task, sides, on_progress)
        head = _fitted(recipe, sides, learn, on_progress)
        scores = head([place.written for place in held_out])
        facts = quality_of(scores, held_out, recipe.kind).as_dict()
        if recipe.share is not None:
            head, facts["share"] = await _with_threshold(recipe, task, sides, head, scores)
    head.save(recipe.out / "checkpoint")
    folder.finish(
        recipe.out,
        {"algorithm": "reward_head", "seed": recipe.seed, "places": len(learn), "threshold": head.threshold, **facts},
        origin,
    )
    return recipe.out / "checkpoint"


async def _places(recipe: HeadRecipe, task: Any, sides: Any, on_progress: Progress) -> tuple[list[Place], list[Place]]:
    """Places of train rows to learn from, and of validation rows to judge by."""
    from selfroute.train.fit.token_places import Mixing, collect

    done, total = 0, recipe.rows + recipe.validation_rows
    found: list[list[Place]] = []

    def advance() -> None:
        nonlocal done
        done += 1
        on_progress(0, recipe.epochs, {"collected": done / total})

    for split, count in (("train", recipe.rows), ("validation", recipe.validation_rows)):
        answers = await collect(
            sides.device,
            sides.cloud,
            [row.question for row in first_rows(task, split, count)],
            template=sides.template,
            sampling=_sampling(recipe),
            look=_look(recipe),
            mixing=Mixing(share=recipe.mixed),
            seed=recipe.seed,
            concurrency=recipe.concurrency,
            on_done=advance,
        )
        found.append([place for places in answers for place in places])
    return found[0], found[1]


def _fitted(recipe: HeadRecipe, sides: Any, places: list[Place], on_progress: Progress) -> TokenHead:
    from selfroute.train.fit.token_heads import fit_head
    from selfroute.train.folder import add_line

    def on_epoch(epoch: int, loss: float) -> None:
        add_line(recipe.out / "metrics.jsonl", {"step": epoch, "loss": loss})
        on_progress(epoch, recipe.epochs, {"loss": loss})

    return fit_head(
        recipe.kind,
        places,
        look=_look(recipe),
        pair=_pair(sides),
        width=recipe.width,
        epochs=recipe.epochs,
        learning_rate=recipe.learning_rate,
        seed=recipe.seed,
        on_epoch=on_epoch,
    )


async def _with_threshold(
    recipe: HeadRecipe, task: Any, sides: Any, head: TokenHead, scores: list[float]
) -> tuple[TokenHead, float]:
    """The head with its threshold, and the share of cloud tokens that it has on validation rows."""
    from dataclasses import replace

    from selfroute.strategies.inside.token_level import TokenLevel
    from selfroute.train.fit.token_threshold import threshold_at_share

    assert recipe.share is not None
    threshold, reached = await threshold_at_share(
        lambda point: TokenLevel(scorer=head, threshold=point),
        scores,
        recipe.share,
        sides,
        [row.question for row in first_rows(task, "validation", recipe.validation_rows)],
        _sampling(recipe),
        concurrency=recipe.concurrency,
    )
    return replace(head, threshold=threshold), reached


def _untrained(recipe: HeadRecipe, sides: Any) -> TokenHead:
    """Stands for the head while the pair is checked."""
    import numpy as np

    from selfroute.scores.tokens import TokenHead

    none = np.zeros(0, dtype=np.float32)
    return TokenHead(kind=recipe.kind, look=_look(recipe), layers=(), mean=none, deviation=none, pair=_pair(sides))


def _pair(sides: Any) -> Any:
    from selfroute.scores.tokens import Pair

    return Pair(sides.device.identity, sides.cloud.identity)


def _look(recipe: HeadRecipe) -> Any:
    from selfroute.backends.sessions import Look

    return Look(top=recipe.top, entropy=recipe.entropy, hidden=recipe.hidden)


def _sampling(recipe: HeadRecipe) -> Sampling:
    seed = recipe.seed if recipe.temperature else None
    return Sampling(temperature=recipe.temperature, max_tokens=recipe.max_tokens, seed=seed)

"""`selfroute fit`: one router or cascade, fitted on train rows, and nothing judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from selfroute.assemble.baselines import Baseline
from selfroute.assemble.evaluating import open_bench
from selfroute.assemble.kept import keep
from selfroute.assemble.prompting import EvaluatedPrompt
from selfroute.config import STRATEGIES, EvaluateRecipe
from selfroute.errors import ConfigError

__all__ = ["FOLDS", "FitResult", "fit_recipe"]

FOLDS = 5  # so that no row is judged by a fit that has seen it


@dataclass(frozen=True, slots=True)
class FitResult:
    """A fitted strategy, and how it does on its train rows, each judged by a fit without it.

    Attributes:
        threshold: least score that is sent, for the recipe's share.
        n: train rows behind the numbers; 0 where nothing was fitted, and then there are none.
        share: of the rows that would be sent.
        right, device, cloud: share of the rows that the strategy, the device alone and the cloud alone get right.
    """

    name: str
    threshold: float
    n: int = 0
    share: float = 0.0
    right: float = 0.0
    device: float = 0.0
    cloud: float = 0.0


async def fit_recipe(
    recipe: EvaluateRecipe,
    name: str,
    *,
    on_prepare: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> FitResult:
    """Fit a strategy on the first `router_rows` train rows of a recipe, and keep it in `out`.

    Args:
        name: of a strategy with a score.
        on_prepare: called with answers and fits done and in all.
        say: as in `selfroute.assemble.evaluating.evaluate_recipe`.

    Raises:
        ConfigError: the strategy has no score, or the rows teach nothing.
    """
    from selfroute.evaluation.counting.calibration import calibrate_share  # what is missing shows before any work

    entry = STRATEGIES.find(name, where="--strategy")
    if entry.reads is None:
        scored = ", ".join(known for known, other in STRATEGIES.items() if other.reads is not None)
        raise ConfigError(f"--strategy: '{name}' has no score to fit; those that have one: {scored}")
    alone = replace(
        recipe,
        strategies=(name,),
        policies={},
        split="train",
        limit=recipe.router_rows,
        folds=recipe.folds or FOLDS,
    )
    made: list[Baseline] = []
    asked: dict[str, EvaluatedPrompt] = {}
    async with open_bench(alone, on_prepare=on_prepare, say=say, made=made, asked=asked):
        recipe.out.mkdir(parents=True, exist_ok=True)
        keep(recipe.out, alone, made, asked)
    fitted = made[0]
    seen = fitted.measured
    return _result(fitted, None if seen is None else calibrate_share(seen.score, recipe.share).threshold)


def _result(made: Baseline, found: float | None) -> FitResult:
    """With the threshold of the fit's own scores, where equal ones are all kept."""
    import numpy as np

    from selfroute.evaluation.counting.calibration import halfway

    assert made.threshold is not None
    if made.measured is None or found is None:
        return FitResult(made.name, made.threshold)
    seen = made.measured
    score = np.asarray(seen.score)
    threshold = halfway(score, found)
    sent = score >= threshold
    right = np.where(sent, seen.cloud, seen.device)
    means = [float(np.mean(values)) for values in (sent, right, seen.device, seen.cloud)]
    return FitResult(made.name, threshold, len(sent), *means)

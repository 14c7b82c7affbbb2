"""Workers of a tuning where they live, for engines that run each in a place of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from selfroute.assemble.tuning_models import (
    Models,
    mined_program,
    objective_of,
    open_models,
    worker_of,
    write_program,
)
from selfroute.assemble.tuning_recipe import Team, base_of, check_window, teams_of
from selfroute.config import TuneRecipe, make_task
from selfroute.tasks.base import Task
from selfroute.tuning.base import Distributions
from selfroute.tuning.consensus import Order, Report
from selfroute.tuning.meter import Limits
from selfroute.tuning.program import Program
from selfroute.tuning.run import Part, Saved
from selfroute.tuning.simplex import likeliest
from selfroute.tuning.worker import Worker

__all__ = ["RecipeSite", "open_site"]


@dataclass(slots=True)
class RecipeSite:
    """See `selfroute.tuning.engines.ray_engine.Site`."""

    recipe: TuneRecipe
    task: Task
    team: Team
    models: Models
    program: Program
    worker: Worker
    saved: Saved

    async def work(self, order: Order) -> Report:
        """One round, kept in the worker's own folder."""
        report = await self.worker.work(order)
        self.saved.write()
        return report

    def finish(self, consensus: Distributions) -> Mapping[str, Any]:
        """Write the program of the agreed sentences and the worker's own demonstrations."""
        choices, held = (*likeliest(consensus), *self.worker.best), (*consensus, *self.worker.demonstrations)
        folder = self.recipe.out / self.team.name
        file = write_program(self.recipe, folder, self.task, self.team, self.models, self.program, choices, held)
        return {"program": file, "calls": self.models.calls()}


@asynccontextmanager
async def open_site(recipe: TuneRecipe, name: str) -> AsyncIterator[RecipeSite]:
    """One worker of a recipe with its models, an equal part of the budget, and what it learnt before.

    Raises:
        ConfigError: as `selfroute.assemble.tuning.tune_recipe`.
    """
    task = make_task(recipe.task, seed=recipe.seed, template=recipe.template)
    teams = teams_of(recipe, task)
    team = next(team for team in teams if team.name == name)
    folder = recipe.out / name
    folder.mkdir(parents=True, exist_ok=True)
    calls, cache = folder / "calls.jsonl", recipe.cache or folder / "answers.sqlite"
    async with open_models(recipe, task, [team], part_of(recipe, len(teams)), calls=calls, cache=cache) as models:
        program = await mined_program(recipe, base_of(recipe, task), team, models.graded[name], lambda line: None)
        check_window(recipe, team, program)
        objective = objective_of(recipe, name, program, team.rows, models.graded[name])
        worker = worker_of(recipe, name, program, objective)
        parts: dict[str, Part] = {"worker": worker, **models.asking}
        if objective.price is not None:
            parts["price"] = objective.price
        saved = Saved(folder / "state.json", {"rows": len(team.rows), "sizes": program.sizes}, parts)
        saved.read()
        yield RecipeSite(recipe, task, team, models, program, worker, saved)


def part_of(recipe: TuneRecipe, workers: int) -> Limits:
    """A worker's equal part of the budget: counts do not travel while workers are at work."""
    cloud, usd = recipe.max_cloud_calls, recipe.max_usd
    return Limits(
        device=recipe.max_calls // workers,
        cloud=None if cloud is None else cloud // workers,
        usd=None if usd is None else usd / workers,
    )

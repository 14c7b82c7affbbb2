"""What a tuning asks: the models of some workers, counted and remembered, and what is made over them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfroute.assemble.pieces import closing, price_table
from selfroute.assemble.prompting import ANSWER_TOKENS
from selfroute.assemble.tuning_recipe import Team, program_of
from selfroute.backends.base import Backend
from selfroute.backends.cache import AnswerCache, cached
from selfroute.config import Spec, TuneRecipe, identity_of, make_backend, to_values
from selfroute.prices import Prices
from selfroute.prompts import PromptTemplate, TrainedPrompt
from selfroute.tasks.base import Row, Task, digest_of
from selfroute.train.rl.constraints.dual import Multiplier
from selfroute.tuning.base import Choices, Distributions
from selfroute.tuning.consensus import Consensus
from selfroute.tuning.meter import Asking, Limits, Meter, Metered
from selfroute.tuning.mining import mined
from selfroute.tuning.objective import Graded, Objective
from selfroute.tuning.planes import Planes
from selfroute.tuning.program import Program, written
from selfroute.tuning.worker import Worker
from selfroute.types import Sampling, Source

__all__ = [
    "PROGRAM_FILE",
    "Models",
    "consensus_of",
    "mined_program",
    "objective_of",
    "open_models",
    "worker_of",
    "write_program",
]

PROGRAM_FILE = "program.json"
Say = Callable[[str], object]


@dataclass(slots=True)
class Models:
    """The models of some workers.

    Attributes:
        meter: counts the calls that leave.
        asking: each model, by side and spec.
        graded: each worker's attempts.
    """

    meter: Meter
    asking: dict[str, Asking] = field(default_factory=dict)
    graded: dict[str, Graded] = field(default_factory=dict)

    def of(self, side: Source) -> list[Asking]:
        """Those of one side."""
        return [one for key, one in self.asking.items() if key.startswith(f"{side}:")]

    def calls(self) -> dict[str, Any]:
        """What each side was asked: calls as they left this process, and answers from the cache."""
        counted = self.meter.facts()
        sides: tuple[Source, Source] = ("device", "cloud")
        for side in sides:
            asked = sum(one.asked for one in self.of(side))
            counted[side]["cached"] = max(0, asked - int(counted[side]["calls"]))
        return dict(counted)

    @property
    def longest(self) -> int | None:
        """Tokens of the longest prompt that a device has read; None where none says."""
        return max((one.longest for one in self.of("device")), default=0) or None


@asynccontextmanager
async def open_models(
    recipe: TuneRecipe, task: Task, teams: Sequence[Team], limits: Limits, *, calls: Path, cache: Path
) -> AsyncIterator[Models]:
    """The models of some workers, one of each kind; closed at the end.

    Args:
        calls: file that counts.
        cache: file of answers.
    """
    first = teams[0].device
    table = price_table(recipe.prices, recipe.priced_as, device=first, cloud=recipe.cloud or first)
    prices = Prices() if table is None else table.prices
    models = Models(Meter(limits, file=calls))
    made: list[Backend] = []

    def asking(spec: Spec, side: Source) -> Asking:
        key = f"{side}: {json.dumps(to_values(spec), sort_keys=True)}"
        if key not in models.asking:
            metered = Metered(make_backend(spec, where=side), models.meter, side, price=getattr(prices, side))
            made.append(cached(metered, AnswerCache(cache)))
            most = recipe.max_tokens if side == "device" else max(ANSWER_TOKENS, recipe.max_tokens)
            models.asking[key] = Asking(made[-1], Sampling(max_tokens=most))
        return models.asking[key]

    try:
        cloud = None if recipe.cloud is None else asking(recipe.cloud, "cloud")
        for team in teams:
            device = asking(team.device, "device")
            models.graded[team.name] = Graded(task, device, cloud, concurrency=recipe.concurrency)
        async with closing(*made):
            yield models
    finally:
        models.meter.close()


async def mined_program(recipe: TuneRecipe, base: PromptTemplate, team: Team, graded: Graded, say: Say) -> Program:
    """A worker's program; pools that the recipe does not give come from the device's attempts on train rows.

    Raises:
        ConfigError: the pool of an outcome that is to be shown stays empty.
    """
    pools = dict(team.given)
    if any(kind not in pools for kind in recipe.shots):
        rows = team.rows[: recipe.mine_rows]
        plain = program_of(recipe, base, {}, where=team.name, whole=False)
        template = plain.template(tuple(0 for _ in plain.sentences))
        attempts = await graded([(template, row) for row in rows])
        found = mined(attempts, handoff=recipe.handoff_reply, most=recipe.pool)
        pools = {**found, **pools}
        say(f"{team.name}: mined from {len(rows)} rows: {', '.join(f'{len(p)} {kind}' for kind, p in found.items())}")
    return program_of(recipe, base, pools, where=team.name, whole=True)


def objective_of(recipe: TuneRecipe, name: str, program: Program, rows: Sequence[Row], graded: Graded) -> Objective:
    """What choices are worth to a worker, at a price of hand-offs that moves until the share is met."""
    reward, price = recipe.reward, None
    if recipe.price_rate and recipe.cloud is not None:
        lowest, highest = reward.cloud - 2 * reward.local, reward.cloud + reward.local
        rate, damping = recipe.price_rate, recipe.price_damping
        price = Multiplier(recipe.share, rate=rate, damping=damping, lowest=lowest, highest=highest)
    return Objective(program, rows, graded, reward=reward, price=price, batch=recipe.batch, seed=recipe.seed, name=name)


def worker_of(recipe: TuneRecipe, name: str, program: Program, objective: Objective) -> Worker:
    """A worker as the recipe's `step` says."""
    step, count = recipe.step, len(program.sentences)
    return Worker(
        name,
        program.sizes[:count],
        program.sizes[count:],
        objective,
        draws=step.draws,
        inner=step.inner,
        step=step.sentences,
        outer_step=step.demonstrations,
        dual_step=step.duals,
        penalty=step.penalty,
        pull=step.pull,
        floor=step.floor,
        seed=recipe.seed,
    )


def consensus_of(recipe: TuneRecipe, names: Sequence[str], sizes: Sequence[int]) -> Consensus:
    """The server as the recipe's `step` says."""
    step = recipe.step
    return Consensus(
        names,
        sizes,
        quorum=step.quorum or len(names),
        patience=step.patience,
        step=step.consensus,
        dual_step=step.duals,
        penalty=step.penalty,
        pull=step.pull,
        clip=step.clip,
        floor=step.floor,
        planes=Planes() if step.planes else None,
    )


def write_program(
    recipe: TuneRecipe,
    folder: Path,
    task: Task,
    team: Team,
    models: Models | None,
    program: Program,
    choices: Choices,
    held: Distributions,
) -> str:
    """Write a `program.json`; returns its path.

    Args:
        models: that were asked; None where nothing is known of them.
        choices, held: chosen, and with what probability; for the sentences alone, or for all slots.
    """
    from selfroute.evaluation.files import write_text

    prompt = TrainedPrompt(
        template=program.base,
        name="tuned",
        max_tokens=recipe.max_tokens,
        share=recipe.share,
        tuned_for=identity_of(team.device, where="device"),
        prompt_tokens=None if models is None else models.longest,
    )
    about = {
        "task": task.name,
        "rows": len(team.rows),
        "data": digest_of(Row("", "".join(digest_of(row) for row in team.rows), ""))[:16],
        "method": recipe.method.name,
        "seed": recipe.seed,
        "calls": None if models is None else models.calls(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / PROGRAM_FILE, written(program, choices, held, prompt, about))
    return str(folder / PROGRAM_FILE)

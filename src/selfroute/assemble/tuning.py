"""`selfroute tune`: a recipe to workers, a tuner and a budget, and to the program that comes of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from selfroute import environment
from selfroute.assemble.tuning_recipe import (
    Team,
    base_of,
    check_recipe,
    check_window,
    identity_of_run,
    program_of,
    teams_of,
    tuner_of,
)
from selfroute.config import TUNERS, TuneRecipe, TunerEntry, make_task, to_values
from selfroute.errors import ConfigError
from selfroute.prompts import PromptTemplate
from selfroute.tasks.base import Row, Task
from selfroute.types import Message

if TYPE_CHECKING:
    from selfroute.assemble.tuning_models import Models
    from selfroute.tuning.consensus import Consensus
    from selfroute.tuning.objective import Objective
    from selfroute.tuning.program import Program
    from selfroute.tuning.run import Part, Saved
    from selfroute.tuning.worker import Worker

__all__ = ["tune_recipe"]

STATE_FILE, CALLS_FILE, ANSWERS_FILE = "state.json", "calls.jsonl", "answers.sqlite"
ENDS = {"budget": "the budget is spent", "enough": "all updates are done", "nobody": "no worker is left"}
Progress = Callable[[int, int, str], None]
Say = Callable[[str], object]


async def tune_recipe(
    recipe: TuneRecipe,
    *,
    command: str = "",
    say: Say = lambda line: None,
    on_progress: Progress = lambda done, total, what: None,
) -> dict[str, Any]:
    """Tune what a recipe names, within its budget, and write programs and summary to `out`.

    Returns:
        The content of `tuned.json`.

    Raises:
        ConfigError: a recipe that cannot be, refused before any call; or a pool that stays empty when rows were mined.
    """
    entry = TUNERS.find(recipe.method.name, where="method")
    task = make_task(recipe.task, seed=recipe.seed, template=recipe.template)
    base, teams = base_of(recipe, task), teams_of(recipe, task)
    check_recipe(recipe, entry, base, teams)
    saved = _begin(recipe, teams)
    run = _Run(recipe, entry, task, base, teams, saved, say=say, on_progress=on_progress)
    found = await (run.on_ray() if recipe.engine == "ray" else run.here())
    say(ENDS[found["ended"]])
    summary = {
        "method": recipe.method.name,
        **found,
        "updates": run.updates,
        "history": run.history,
        "command": command,
        "recipe": to_values(recipe),
        **environment.provenance(),
    }
    _write(recipe.out / "tuned.json", json.dumps(summary, ensure_ascii=False, indent=1) + "\n")
    return summary


def _begin(recipe: TuneRecipe, teams: Sequence[Team]) -> Saved:
    """The folder of a run: a new one, or one to go on with.

    Raises:
        ConfigError: it holds a run, and nobody said to go on with it.
    """
    from selfroute.tuning.run import Saved

    saved = Saved(recipe.out / STATE_FILE, identity_of_run(recipe, teams))
    recipe.out.mkdir(parents=True, exist_ok=True)
    if saved.file.exists() and not recipe.resume:
        raise ConfigError(f"out: '{recipe.out}' holds a run already; add --resume to go on with it, or name another")
    if not recipe.resume:
        for folder in (recipe.out, *(recipe.out / team.name for team in teams)):
            for name in (CALLS_FILE, STATE_FILE):
                (folder / name).unlink(missing_ok=True)
    _write(recipe.out / "config.yaml", yaml.safe_dump(to_values(recipe), sort_keys=False, allow_unicode=True))
    return saved


def _write(path: Path, text: str) -> None:
    from selfroute.evaluation.files import write_text

    write_text(path, text)


@dataclass(slots=True)
class _Run:
    """One run of a recipe.

    Attributes:
        updates, history: of the consensus, or rounds of another method.
    """

    recipe: TuneRecipe
    entry: TunerEntry
    task: Task
    base: PromptTemplate
    teams: list[Team]
    saved: Saved
    say: Say = field(kw_only=True)
    on_progress: Progress = field(kw_only=True)
    updates: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)

    async def here(self) -> dict[str, Any]:
        """Everything in this process."""
        from selfroute.assemble.tuning_models import mined_program, open_models
        from selfroute.tuning.meter import Limits

        recipe = self.recipe
        limits = Limits(device=recipe.max_calls, cloud=recipe.max_cloud_calls, usd=recipe.max_usd)
        calls, cache = recipe.out / CALLS_FILE, recipe.cache or recipe.out / ANSWERS_FILE
        async with open_models(recipe, self.task, self.teams, limits, calls=calls, cache=cache) as models:
            programs = {}
            for team in self.teams:
                programs[team.name] = await mined_program(recipe, self.base, team, models.graded[team.name], self.say)
                check_window(recipe, team, programs[team.name])
            method = {"team": self._team, "alone": self._alone, "texts": self._texts}[self.entry.kind]
            ended, files = await method(programs, models)
            return {"ended": ended, "programs": files, "calls": models.calls()}

    # --- workers and their consensus -------------------------------------------------------------------------------

    async def _team(self, programs: Mapping[str, Program], models: Models) -> tuple[str, dict[str, str]]:
        from selfroute.assemble.tuning_models import consensus_of, objective_of, worker_of, write_program
        from selfroute.tuning.engines.local import run_local
        from selfroute.tuning.simplex import likeliest

        objectives = {
            team.name: objective_of(self.recipe, team.name, programs[team.name], team.rows, models.graded[team.name])
            for team in self.teams
        }
        workers = {name: worker_of(self.recipe, name, programs[name], one) for name, one in objectives.items()}
        first = programs[self.teams[0].name]
        server = consensus_of(self.recipe, list(workers), first.sizes[: len(first.sentences)])
        if self.recipe.start is not None:
            _start(self.recipe.start, programs, workers, server, self.recipe.step.floor)
        parts: dict[str, Part] = {"server": server, **{f"worker/{name}": one for name, one in workers.items()}}
        self._resume(parts, objectives, models)

        def on_update() -> bool:
            own = {name: list(worker.best) for name, worker in workers.items()}
            return self._done(server.version, models, best=list(likeliest(server.consensus)), demonstrations=own)

        ended = "enough" if self._is_over() else await run_local(server, workers, on_update=on_update)
        write = partial(write_program, self.recipe)
        files = {}
        for team in self.teams:
            worker, program = workers[team.name], programs[team.name]
            choices, held = (*likeliest(server.consensus), *worker.best), (*server.consensus, *worker.demonstrations)
            folder = self.recipe.out / team.name if len(self.teams) > 1 else self.recipe.out
            files[team.name] = write(folder, self.task, team, models, program, choices, held)
        if len(self.teams) > 1:
            files["consensus"] = self._write_consensus(first, server, models)
        return ended, files

    def _write_consensus(self, program: Program, server: Consensus, models: Models | None) -> str:
        """The program of the agreed sentences alone."""
        from selfroute.assemble.tuning_models import write_program
        from selfroute.tuning.simplex import likeliest

        bare, z = replace(program, shots=()), server.consensus
        team = self.teams[0]
        return write_program(self.recipe, self.recipe.out, self.task, team, models, bare, likeliest(z), z)

    async def on_ray(self) -> dict[str, Any]:
        """Each worker an actor; only the consensus is here."""
        from selfroute.assemble.tuning_models import consensus_of
        from selfroute.assemble.tuning_sites import open_site
        from selfroute.tuning.engines.ray_engine import run_ray
        from selfroute.tuning.simplex import likeliest

        program = replace(program_of(self.recipe, self.base, {}, where=self.teams[0].name, whole=False), shots=())
        names = [team.name for team in self.teams]
        server = consensus_of(self.recipe, names, program.sizes)
        self.saved.parts = {"server": server, "log": self}
        if self.recipe.resume:
            self.saved.read()

        def on_update() -> bool:
            return self._done(server.version, None, best=list(likeliest(server.consensus)))

        ended, sites = await run_ray(server, names, partial(open_site, self.recipe), on_update=on_update)
        files = {name: str(site["program"]) for name, site in sites.items()}
        calls = _summed([site["calls"] for site in sites.values()])
        return {
            "ended": ended,
            "programs": {**files, "consensus": self._write_consensus(program, server, None)},
            "calls": calls,
        }

    # --- methods beside it -----------------------------------------------------------------------------------------

    async def _alone(self, programs: Mapping[str, Program], models: Models) -> tuple[str, dict[str, str]]:
        from selfroute.assemble.tuning_models import objective_of, write_program
        from selfroute.tuning.run import Rounds, tune_alone

        team, program = self._merged(programs)
        objective = objective_of(self.recipe, team.name, program, team.rows, models.graded[team.name])
        tuner, rounds = tuner_of(self.recipe, self.entry, sizes=program.sizes), Rounds()
        self._resume({"tuner": tuner, "rounds": rounds}, {team.name: objective}, models)

        def on_round() -> bool:
            return self._done(rounds.count, models, best=list(tuner.best()))

        ended = "enough"
        if not self._is_over():
            ended = await tune_alone(tuner, objective, rounds=rounds, draws=self.recipe.step.draws, on_round=on_round)
        best = tuner.best()
        held = _certain(program, best)
        return ended, {
            team.name: write_program(self.recipe, self.recipe.out, self.task, team, models, program, best, held)
        }

    async def _texts(self, programs: Mapping[str, Program], models: Models) -> tuple[str, dict[str, str]]:
        from selfroute.assemble.tuning_models import objective_of, write_program

        team, program = self._merged(programs)
        graded = models.graded[team.name]
        objective = objective_of(self.recipe, team.name, program, team.rows, graded)
        first = program.template(tuple(0 for _ in program.sentences))

        async def reflect(prompt: str) -> str:
            assert graded.cloud is not None
            return (await graded.cloud([Message("user", prompt)])).text

        tuner = tuner_of(self.recipe, self.entry, sizes=[])
        most = self.recipe.max_calls
        found = await tuner.evolve(first, team.rows, graded, objective.paid, reflect, most=most)
        self._done(1, models, best=found.system)
        bare = replace(program, base=found, sentences=(), shots=())
        return "budget", {team.name: write_program(self.recipe, self.recipe.out, self.task, team, models, bare, (), ())}

    def _merged(self, programs: Mapping[str, Program]) -> tuple[Team, Program]:
        """All workers as one: rows of all, and the pools of all."""
        first = self.teams[0]
        shots = []
        for number, slot in enumerate(programs[first.name].shots):
            pools = [choice for one in programs.values() for choice in one.shots[number].choices]
            shots.append(replace(slot, choices=tuple(dict.fromkeys(pools))))
        rows: list[Row] = [row for team in self.teams for row in team.rows]
        return replace(first, rows=rows), replace(programs[first.name], shots=tuple(shots))

    # --- what is kept ----------------------------------------------------------------------------------------------

    def _resume(self, parts: Mapping[str, Part], objectives: Mapping[str, Objective], models: Models) -> None:
        """Remember the parts of a run, and put them where they were."""
        prices = {f"price/{name}": one.price for name, one in objectives.items() if one.price is not None}
        asked = {f"asked/{name}": one for name, one in models.asking.items()}
        self.saved.parts = {**parts, **prices, **asked, "log": self}
        if self.recipe.resume and self.saved.read():
            calls = models.meter.counted["device"].calls
            self.say(f"goes on after update {self.updates}; {calls:,} device calls are made")

    def state(self) -> dict[str, Any]:
        """What was tuned so far, ready for JSON."""
        return {"updates": self.updates, "history": self.history}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.updates, self.history = int(state["updates"]), list(state["history"])

    def _done(self, updates: int, models: Models | None, **facts: Any) -> bool:
        """Write what is known after an update; whether it was the last one."""
        self.updates = updates
        if models is None:
            done, total = updates, self.recipe.updates or self.recipe.max_calls
        else:
            done, total = models.meter.counted["device"].calls, self.recipe.max_calls
            facts["device_calls"] = done
        self.history.append({"update": updates, **facts})
        self.saved.write()
        self.on_progress(min(done, total), total, f"update {updates}")
        return self._is_over()

    def _is_over(self) -> bool:
        # Where all that is drawn was asked before, the cache answers and no budget ends the run.
        most = self.recipe.max_calls if self.recipe.updates is None else self.recipe.updates
        return self.updates >= most


def _start(
    file: Path, programs: Mapping[str, Program], workers: Mapping[str, Worker], server: Consensus, floor: float
) -> None:
    """Begin from the probabilities of an earlier program."""
    from selfroute.tuning.program import probabilities_in
    from selfroute.tuning.simplex import project_all

    for name, worker in workers.items():
        count = len(worker.sentences)
        held = project_all(probabilities_in(file, programs[name], where="start"), floor)
        worker.sentences, worker.demonstrations = held[:count], held[count:]
        server.begin_from(held[:count])


def _certain(program: Program, choices: Sequence[int]) -> Any:
    """All probability on the choices: what a method without probabilities says of them."""
    import numpy as np

    return tuple(np.eye(size)[k] for size, k in zip(program.sizes, choices, strict=True))


def _summed(calls: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """What all workers were counted to have asked."""
    total: dict[str, dict[str, float]] = {}
    for one in calls:
        for side, counted in one.items():
            mine = total.setdefault(side, {})
            for name, value in counted.items():
                mine[name] = mine.get(name, 0) + value
    return total

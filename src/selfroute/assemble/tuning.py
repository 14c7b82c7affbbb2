"""`selfroute tune`: a recipe to workers, a tuner and a budget, and to the program that comes of them."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfroute import environment
from selfroute.assemble.paid_calls import CHARACTERS_PER_TOKEN
from selfroute.assemble.pieces import check_writable, closing, first_rows, price_table, template_of
from selfroute.assemble.prompting import shown_name
from selfroute.backends.base import Backend
from selfroute.config import (
    TUNERS,
    Spec,
    TuneRecipe,
    TunerEntry,
    WorkerOptions,
    construct,
    identity_of,
    make_backend,
    make_task,
    prepare_backend,
    to_values,
    window_of,
)
from selfroute.errors import ConfigError
from selfroute.handoff import parse
from selfroute.prices import Prices
from selfroute.prompts import Demonstration, PromptTemplate, TrainedPrompt
from selfroute.tasks.base import Row, Task, digest_of
from selfroute.types import Sampling, Source

if TYPE_CHECKING:
    from selfroute.tuning.base import Choices, Distributions
    from selfroute.tuning.meter import Asking, Limits, Meter
    from selfroute.tuning.objective import Graded, Objective
    from selfroute.tuning.program import Outcome as Kind
    from selfroute.tuning.program import Program

__all__ = ["PROGRAM_FILE", "tune_recipe"]

PROGRAM_FILE = "program.json"
SUMMARY_FILE, STATE_FILE, CALLS_FILE, CONFIG_FILE = "tuned.json", "state.json", "calls.jsonl", "config.yaml"
# Keys that change nothing of what a run does, so that a resumed one may have others.
_FREE = (
    "out",
    "resume",
    "cache",
    "concurrency",
    "prices",
    "priced_as",
    "max_calls",
    "max_cloud_calls",
    "max_usd",
    "updates",
)
Progress = Callable[[int, int, str], None]


@dataclass(slots=True)
class Team:
    """One worker, before anything runs.

    Attributes:
        given: pools of the recipe.
    """

    name: str
    rows: list[Row]
    device: Spec
    given: dict[Kind, list[Demonstration]]


async def tune_recipe(
    recipe: TuneRecipe,
    *,
    command: str = "",
    say: Callable[[str], object] = lambda line: None,
    on_progress: Progress = lambda done, total, what: None,
) -> dict[str, Any]:
    """Tune what a recipe names, within its budget, and write programs and summary to `out`.

    Returns:
        The content of `tuned.json`.

    Raises:
        ConfigError: a recipe that cannot be, refused before any call; or a pool that stays empty when rows were mined.
    """
    from selfroute.tuning.run import Saved

    entry = TUNERS.find(recipe.method.name, where="method")
    task = make_task(recipe.task, seed=recipe.seed, template=recipe.template)
    base = _base(recipe, task)
    teams = _teams(recipe, task)
    _check(recipe, entry, base, teams)
    run = _Run(recipe, entry, task, base, teams, say=say, on_progress=on_progress)
    recipe.out.mkdir(parents=True, exist_ok=True)
    saved = Saved(recipe.out / STATE_FILE, _identity(recipe, teams))
    _begin_folder(recipe, saved)
    async with run.opened():
        found = await run.tune(saved)
    summary = {
        **found,
        "command": command,
        "recipe": to_values(recipe),
        **environment.provenance(),
    }
    _write(recipe.out / SUMMARY_FILE, json.dumps(summary, ensure_ascii=False, indent=1, default=str) + "\n")
    return summary


# --- from the recipe -----------------------------------------------------------------------------------------------


def _base(recipe: TuneRecipe, task: Task) -> PromptTemplate:
    base = template_of(task)
    return base if recipe.instruction is None else replace(base, system=recipe.instruction)


def _teams(recipe: TuneRecipe, task: Task) -> list[Team]:
    """The workers with rows of their own, dealt from the train split in order.

    Raises:
        ConfigError: one would have no rows, or a pool is one of an unknown outcome.
    """
    rows = first_rows(task, "train", recipe.limit)
    if not recipe.workers:
        raise ConfigError("workers: {} names nobody; leave it out, or write {phone: {rows: 200}}")
    counts = _dealt(recipe.workers, len(rows))
    teams, start = [], 0
    for (name, options), count in zip(recipe.workers.items(), counts, strict=True):
        pools = {**_pools(recipe.pools, "pools"), **_pools(options.pools, f"workers.{name}.pools")}
        teams.append(Team(name, rows[start : start + count], options.device or recipe.device, pools))
        start += count
    return teams


def _dealt(workers: Mapping[str, WorkerOptions], rows: int) -> list[int]:
    named = sum(options.rows or 0 for options in workers.values())
    open_ = [name for name, options in workers.items() if options.rows is None]
    if named > rows:
        raise ConfigError(f"workers: they want {named:,} rows, and there are {rows:,}; give them fewer, or raise limit")
    left, counts = rows - named, []
    for name, options in workers.items():
        count = options.rows
        if count is None:
            count = left // len(open_) + (open_.index(name) < left % len(open_))
        if not count:
            raise ConfigError(f"workers.{name}.rows: {count} leaves it without rows; give it some, or leave it out")
        counts.append(count)
    return counts


def _pools(pools: Mapping[Any, Sequence[Any]], where: str) -> dict[Kind, list[Demonstration]]:
    from selfroute.config import suggest
    from selfroute.tuning.program import OUTCOMES

    for kind in pools:
        if kind not in OUTCOMES:
            raise ConfigError(f"{where}: '{kind}' is not one of {', '.join(OUTCOMES)}{suggest(kind, OUTCOMES)}")
    return {kind: [Demonstration(one.question, one.reply) for one in shots] for kind, shots in pools.items()}


def _check(recipe: TuneRecipe, entry: TunerEntry, base: PromptTemplate, teams: Sequence[Team]) -> None:
    """Refuse, before any call, what can be refused then."""
    check_writable(recipe.out)
    if not parse(recipe.handoff_reply).wants_cloud:
        raise ConfigError(f"handoff_reply: '{recipe.handoff_reply}' asks for nothing; leave it out, or name the cloud")
    if recipe.max_usd is not None and recipe.prices is None:
        raise ConfigError(f"max_usd: {recipe.max_usd:g} needs prices; add prices: FILE, or leave it out")
    quorum = recipe.step.quorum
    if quorum is not None and quorum > len(teams):
        raise ConfigError(
            f"step.quorum: {quorum} is more than the {len(teams)} workers; take at most that, or name more"
        )
    if recipe.step.patience < 1:
        raise ConfigError(f"step.patience: {recipe.step.patience} is below 1; a worker at work is one version behind")
    if recipe.engine == "ray" and entry.kind != "team":
        raise ConfigError(f"engine: ray runs workers, which {recipe.method.name} has none of; use engine=local")
    if recipe.cloud is not None:
        prepare_backend(recipe.cloud, where="cloud")
    _check_method(recipe, entry)
    _check_slots(recipe, entry, base, teams)
    for team in teams:
        prepare_backend(team.device, where="device")
        _check_window(recipe, team, program_of(recipe, base, team.given, where=team.name, whole=False))


def _check_method(recipe: TuneRecipe, entry: TunerEntry) -> None:
    """Make the tuner once, of two choices, so that its options and its library are known to be right."""
    if entry.kind == "team":
        if recipe.method.options:
            raise ConfigError(f"method.{entry.name}: its options are the keys of step; write step: {{…}}")
    else:
        _tuner(recipe, entry, sizes=[2])
    if entry.kind == "texts" and recipe.cloud is None:
        raise ConfigError(f"method: {entry.name} reflects with the cloud; add cloud: …")


def _tuner(recipe: TuneRecipe, entry: TunerEntry, *, sizes: Sequence[int]) -> Any:
    given = {name: value for name, value in (("sizes", sizes), ("seed", recipe.seed)) if name in entry.given}
    options = dict(recipe.method.options)
    return construct(TUNERS.resolve(entry.name, where="method"), options, f"method.{entry.name}", entry, given=given)


def _check_slots(recipe: TuneRecipe, entry: TunerEntry, base: PromptTemplate, teams: Sequence[Team]) -> None:
    from selfroute.tuning.mining import check_pools
    from selfroute.tuning.program import probabilities_in

    if entry.kind != "texts" and not (recipe.slots or recipe.offer or recipe.shots):
        raise ConfigError("slots: there is nothing to choose; add slots: {manner: ['', 'Be brief.']}, offer or shots")
    for team in teams:
        given = {kind: pool for kind, pool in team.given.items() if kind in recipe.shots}
        check_pools(given, list(given), where=_pool_key(recipe, team))
    known = replace(program_of(recipe, base, {}, where=teams[0].name, whole=False), shots=())
    if recipe.start is not None:
        probabilities_in(recipe.start, known, where="start", whole=False)


def _pool_key(recipe: TuneRecipe, team: Team) -> str:
    return f"workers.{team.name}.pools" if recipe.workers[team.name].pools else "pools"


def program_of(
    recipe: TuneRecipe, base: PromptTemplate, pools: Mapping[Kind, Sequence[Demonstration]], *, where: str, whole: bool
) -> Program:
    """The program of a recipe with some pools.

    Args:
        where: the worker's name.
        whole: refuse a shot whose pool is empty; else it is left out.
    """
    from selfroute.tuning.mining import check_pools
    from selfroute.tuning.program import Program, SentenceSlot, ShotSlot

    sentences = [SentenceSlot(name, choices) for name, choices in recipe.slots.items()]
    offers = [SentenceSlot("offer", recipe.offer, offers=True)] if recipe.offer else []
    if whole:
        check_pools(pools, recipe.shots, where=f"workers.{where}.pools")
    empty = [None] if recipe.may_be_empty else []
    shots = [
        ShotSlot(f"shot{number}", kind, (*pools[kind], *empty))
        for number, kind in enumerate(recipe.shots, 1)
        if pools.get(kind)
    ]
    return Program(base=base, sentences=(*sentences, *offers), shots=tuple(shots))


def _check_window(recipe: TuneRecipe, team: Team, program: Program) -> None:
    """See that the longest choices of a program fit the device, by four characters to a token."""
    window = recipe.context_tokens or window_of(team.device, where="device")
    if window is None:
        return
    template = program.longest()
    asked = max((template.conversation(row.question) for row in team.rows), key=lambda turns: len(turns[0].content))
    characters = sum(len(message.content) for message in template.device_messages(asked))
    needed = characters // CHARACTERS_PER_TOKEN + recipe.max_tokens
    if needed > window:
        raise ConfigError(
            f"shots: with the longest demonstrations, prompt and answer take about {needed:,} tokens, and device "
            f"{shown_name(team.device)} holds {window:,}; show fewer or shorter ones, or give it a longer context"
        )


def _identity(recipe: TuneRecipe, teams: Sequence[Team]) -> dict[str, Any]:
    """What a run depends on, key by key."""
    values = {key: value for key, value in to_values(recipe).items() if key not in _FREE}
    return {**values, "rows": {team.name: [digest_of(row)[:12] for row in team.rows] for team in teams}}


def _begin_folder(recipe: TuneRecipe, saved: Any) -> None:
    import yaml

    if (recipe.out / STATE_FILE).exists() and not recipe.resume:
        raise ConfigError(
            f"out: '{recipe.out}' holds a run already; add --resume to go on with it, or name another folder"
        )
    if not recipe.resume:
        (recipe.out / CALLS_FILE).unlink(missing_ok=True)
    _write(recipe.out / CONFIG_FILE, yaml.safe_dump(to_values(recipe), sort_keys=False, allow_unicode=True))


def _write(path: Path, text: str) -> None:
    from selfroute.evaluation.files import write_text

    write_text(path, text)


# --- the run -------------------------------------------------------------------------------------------------------


class _Run:
    """A run: models that are counted, workers with programs, and whichever method tunes them."""

    def __init__(
        self,
        recipe: TuneRecipe,
        entry: TunerEntry,
        task: Task,
        base: PromptTemplate,
        teams: Sequence[Team],
        *,
        say: Callable[[str], object],
        on_progress: Progress,
    ) -> None:
        from selfroute.tuning.meter import Limits, Meter

        self.recipe, self.entry, self.task, self.base, self.teams = recipe, entry, task, base, teams
        self.say, self.on_progress = say, on_progress
        first = teams[0].device
        table = price_table(recipe.prices, recipe.priced_as, device=first, cloud=recipe.cloud or first)
        self.prices = Prices() if table is None else table.prices
        self.limits: Limits = Limits(device=recipe.max_calls, cloud=recipe.max_cloud_calls, usd=recipe.max_usd)
        self.meter: Meter
        self.meter_type = Meter
        self.graded: dict[str, Graded] = {}
        self.asking: dict[str, Asking] = {}
        self.objectives: dict[str, Objective] = {}
        self.history: list[dict[str, Any]] = []
        self.updates = 0
        self.began = time.monotonic()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """The models of all workers, one of each kind; closed at the end."""
        from selfroute.tuning.objective import Graded

        self.meter = self.meter_type(self.limits, file=self.recipe.out / CALLS_FILE)
        made: dict[str, Backend] = {}

        def asking(spec: Spec, side: Source) -> Asking:
            key = f"{side}: {json.dumps(to_values(spec), sort_keys=True)}"
            if key not in made:
                made[key] = self._counted(spec, side)
                self.asking[key] = self._asking(made[key], side)
            return self.asking[key]

        try:
            cloud = None if self.recipe.cloud is None else asking(self.recipe.cloud, "cloud")
            for team in self.teams:
                device = asking(team.device, "device")
                self.graded[team.name] = Graded(self.task, device, cloud, concurrency=self.recipe.concurrency)
            async with closing(*made.values()):
                yield
        finally:
            self.meter.close()

    def _asking(self, backend: Backend, side: Source) -> Asking:
        from selfroute.assemble.prompting import ANSWER_TOKENS
        from selfroute.tuning.meter import Asking

        most = self.recipe.max_tokens if side == "device" else max(ANSWER_TOKENS, self.recipe.max_tokens)
        return Asking(backend, Sampling(max_tokens=most))

    def _counted(self, spec: Spec, side: Source) -> Backend:
        from selfroute.backends.cache import AnswerCache, cached
        from selfroute.tuning.meter import Metered

        price = getattr(self.prices, side)
        metered = Metered(make_backend(spec, where=side), self.meter, side, price=price)
        return cached(metered, AnswerCache(self.recipe.cache or self.recipe.out / "answers.sqlite"))

    async def tune(self, saved: Any) -> dict[str, Any]:
        """Mine, tune and write."""
        programs = {team.name: await self._program(team) for team in self.teams}
        for team in self.teams:
            _check_window(self.recipe, team, programs[team.name])
        method = {"team": self._consensus, "alone": self._alone, "texts": self._texts}[self.entry.kind]
        ended, written = await method(programs, saved)
        self.say({"budget": "the budget is spent", "enough": "all updates done", "nobody": "no worker is left"}[ended])
        return {
            "method": self.recipe.method.name,
            "ended": ended,
            "updates": self.updates,
            "programs": written,
            "calls": self._calls(),
            "prices": {name: one.price.price for name, one in self.objectives.items() if one.price is not None},
            "history": self.history,
        }

    # --- programs --------------------------------------------------------------------------------------------------

    async def _program(self, team: Team) -> Program:
        from selfroute.tuning.mining import mined

        pools = dict(team.given)
        if any(kind not in pools for kind in self.recipe.shots):
            rows = team.rows[: self.recipe.mine_rows]
            plain = program_of(self.recipe, self.base, {}, where=team.name, whole=False)
            template = plain.template(tuple(0 for _ in plain.sentences))
            attempts = await self.graded[team.name]([(template, row) for row in rows])
            found = mined(attempts, handoff=self.recipe.handoff_reply, most=self.recipe.pool)
            pools = {**found, **pools}
            counts = ", ".join(f"{len(pool)} {kind}" for kind, pool in found.items())
            self.say(f"{team.name}: mined from {len(rows)} rows: {counts}")
        return program_of(self.recipe, self.base, pools, where=team.name, whole=True)

    def _objective(self, name: str, program: Program, rows: Sequence[Row], graded: Graded) -> Objective:
        from selfroute.train.rl.constraints.dual import Multiplier
        from selfroute.tuning.objective import Objective

        reward, recipe = self.recipe.reward, self.recipe
        price = None
        if recipe.price_rate and recipe.cloud is not None:
            price = Multiplier(
                recipe.share, rate=recipe.price_rate, damping=recipe.price_damping,
                lowest=reward.cloud - 2 * reward.local, highest=reward.cloud + reward.local,
            )  # fmt: skip
        self.objectives[name] = Objective(
            program, rows, graded, reward=reward, price=price, batch=recipe.batch, seed=recipe.seed, name=name
        )
        return self.objectives[name]

    # --- methods ---------------------------------------------------------------------------------------------------

    async def _consensus(self, programs: Mapping[str, Program], saved: Any) -> tuple[str, dict[str, str]]:
        from selfroute.tuning.consensus import Consensus
        from selfroute.tuning.engines.local import run_local
        from selfroute.tuning.planes import Planes
        from selfroute.tuning.simplex import likeliest
        from selfroute.tuning.worker import Worker

        step, recipe = self.recipe.step, self.recipe
        count = len(next(iter(programs.values())).sentences)
        sizes = next(iter(programs.values())).sizes[:count]
        workers = {}
        for team in self.teams:
            program = programs[team.name]
            objective = self._objective(team.name, program, team.rows, self.graded[team.name])
            workers[team.name] = Worker(
                team.name, sizes, program.sizes[count:], objective,
                draws=step.draws, inner=step.inner, step=step.sentences, outer_step=step.demonstrations,
                dual_step=step.duals, penalty=step.penalty, pull=step.pull, floor=step.floor, seed=recipe.seed,
            )  # fmt: skip
        server = Consensus(
            list(workers), sizes, quorum=step.quorum or len(workers), patience=step.patience, step=step.consensus,
            dual_step=step.duals, penalty=step.penalty, pull=step.pull, clip=step.clip, floor=step.floor,
            planes=Planes() if step.planes else None,
        )  # fmt: skip
        if recipe.start is not None:
            self._start(programs, workers, server, count)
        self._remember(saved, {"server": server, **{f"worker/{name}": one for name, one in workers.items()}})

        def on_update() -> bool:
            self.updates = server.version
            best = likeliest(server.consensus)
            return self._done(
                saved, {"best": list(best), "demonstrations": [list(one.best) for one in workers.values()]}
            )

        ended = await run_local(server, workers, on_update=on_update) if not self._is_over() else "enough"
        sentences = likeliest(server.consensus)
        written = {}
        for name, worker in workers.items():
            choices = (*sentences, *worker.best)
            written[name] = self._write_program(
                name, programs[name], choices, (*server.consensus, *worker.demonstrations)
            )
        if len(workers) > 1:
            first = programs[self.teams[0].name]
            written["consensus"] = self._write_program("", first, sentences, server.consensus)
        return ended, written

    def _start(self, programs: Mapping[str, Program], workers: Mapping[str, Any], server: Any, count: int) -> None:
        from selfroute.tuning.program import probabilities_in
        from selfroute.tuning.simplex import project_all

        assert self.recipe.start is not None
        for name, worker in workers.items():
            held = project_all(
                probabilities_in(self.recipe.start, programs[name], where="start"), self.recipe.step.floor
            )
            worker.sentences, worker.demonstrations = held[:count], held[count:]
            server.begin_from(held[:count])

    async def _alone(self, programs: Mapping[str, Program], saved: Any) -> tuple[str, dict[str, str]]:
        from selfroute.tuning.run import Rounds, tune_alone

        name, program, rows = self._merged(programs)
        objective = self._objective(name, program, rows, self.graded[name])
        tuner = _tuner(self.recipe, self.entry, sizes=program.sizes)
        rounds = Rounds()
        self._remember(saved, {"tuner": tuner, "rounds": rounds})

        def on_round() -> bool:
            self.updates = rounds.count
            return self._done(saved, {"best": list(tuner.best())})

        ended = "enough"
        if not self._is_over():
            ended = await tune_alone(tuner, objective, rounds=rounds, draws=self.recipe.step.draws, on_round=on_round)
        best = tuner.best()
        return ended, {name: self._write_program(name, program, best, _certain(program, best))}

    async def _texts(self, programs: Mapping[str, Program], saved: Any) -> tuple[str, dict[str, str]]:
        name, program, rows = self._merged(programs)
        graded = self.graded[name]
        objective = self._objective(name, program, rows, graded)
        assert graded.cloud is not None
        cloud = graded.cloud
        tuner = _tuner(self.recipe, self.entry, sizes=[])

        async def reflect(prompt: str) -> str:
            from selfroute.types import Message

            return (await cloud([Message("user", prompt)])).text

        template = await tuner.evolve(
            program.template(tuple(0 for _ in program.sentences)), rows, graded, objective.paid, reflect,
            most=self.recipe.max_calls,
        )  # fmt: skip
        self._done(saved, {"system": template.system})
        bare = replace(program, base=template, sentences=(), shots=())
        return "budget", {name: self._write_program(name, bare, (), ())}

    def _merged(self, programs: Mapping[str, Program]) -> tuple[str, Program, list[Row]]:
        """All workers as one: rows of all, and the pools of all."""
        first = self.teams[0].name
        shots = [
            replace(
                slot,
                choices=tuple(dict.fromkeys(choice for one in programs.values() for choice in one.shots[i].choices)),
            )
            for i, slot in enumerate(programs[first].shots)
        ]
        return first, replace(programs[first], shots=tuple(shots)), [row for team in self.teams for row in team.rows]

    # --- what is kept ----------------------------------------------------------------------------------------------

    def _remember(self, saved: Any, parts: Mapping[str, Any]) -> None:
        prices = {f"price/{name}": one.price for name, one in self.objectives.items() if one.price is not None}
        asked = {f"asked/{name}": one for name, one in self.asking.items()}
        saved.parts = {**parts, **prices, **asked, "log": self}
        if self.recipe.resume and saved.read():
            self.say(f"goes on after update {self.updates}, {self.meter.counted['device'].calls:,} device calls made")

    def state(self) -> dict[str, Any]:
        """What was tuned so far, ready for JSON."""
        return {"updates": self.updates, "history": self.history}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.updates, self.history = int(state["updates"]), list(state["history"])

    def _done(self, saved: Any, best: Mapping[str, Any]) -> bool:
        calls = self.meter.counted["device"].calls
        self.history.append({"update": self.updates, "device_calls": calls, **best})
        saved.write()
        self.on_progress(min(calls, self.recipe.max_calls), self.recipe.max_calls, f"update {self.updates}")
        return self._is_over()

    def _is_over(self) -> bool:
        return self.recipe.updates is not None and self.updates >= self.recipe.updates

    def _calls(self) -> dict[str, Any]:
        """Calls of each side as they left this process, and what the cache answered."""
        counted = self.meter.facts()
        for side in counted:
            asked = sum(one.asked for key, one in self.asking.items() if key.startswith(f"{side}:"))
            counted[side]["cached"] = max(0, asked - int(counted[side]["calls"]))
        return dict(counted)

    def _write_program(self, name: str, program: Program, choices: Choices, held: Distributions) -> str:
        from selfroute.tuning.program import written

        team = next((team for team in self.teams if team.name == name), self.teams[0])
        folder = (
            self.recipe.out / name if name and len(self.teams) > 1 and self.entry.kind == "team" else self.recipe.out
        )
        folder.mkdir(parents=True, exist_ok=True)
        longest = max((one.longest for key, one in self.asking.items() if key.startswith("device:")), default=0)
        prompt = TrainedPrompt(
            template=self.base, name="tuned", max_tokens=self.recipe.max_tokens, share=self.recipe.share,
            handoff=self.recipe.handoff_reply, tuned_for=identity_of(team.device, where="device"),
            prompt_tokens=longest or None,
        )  # fmt: skip
        about = {
            "task": self.task.name,
            "rows": len(team.rows),
            "data": digest_of(Row("", "".join(digest_of(row) for row in team.rows), ""))[:16],
            "method": self.recipe.method.name,
            "seed": self.recipe.seed,
            "calls": self._calls(),
        }
        _write(folder / PROGRAM_FILE, written(program, choices, held, prompt, about))
        return str(folder / PROGRAM_FILE)


def _certain(program: Program, choices: Choices) -> Distributions:
    """All probability on the choices: what a method without probabilities says of them."""
    import numpy as np

    return tuple(np.eye(size)[k] for size, k in zip(program.sizes, choices, strict=True))

"""Pairs of trajectories without labels (ARMAP, arXiv 2502.12130): walk, tell in hindsight, change, act again.

A walk acts more or less at random. In hindsight a question is found that it fits: a positive by construction. Some of
its actions are changed and *carried out again*: the negative. Where the task can check, a negative that meets the
question all the same is dropped; no score of the environment orders a pair.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from selfroute.actions import Action
from selfroute.backends.base import Backend, complete_all, run_sync
from selfroute.errors import ConfigError, SelfRouteError
from selfroute.grading import judge
from selfroute.strategies.search.arena import Place, Step, check_restorable
from selfroute.tasks.base import Explorable, Interactive, Retelling, Row, Task
from selfroute.train.fit.pairs import Pair, Pairs, clean
from selfroute.types import Message, Sampling

__all__ = ["Walk", "carried_out", "changed", "explore", "retold_by_model", "retold_by_task", "walk", "walk_pairs"]

MOST_STEPS = 24  # of a walk for one answer
_TRIES = 8  # walks for one that ends, and changes for one that fits
_ASKED = (
    "An agent was given a task in one sentence, and did this:\n\n{text}\n\nIts task was not this one, but one like "
    "it:\n\n{example}\n\nWrite the sentence that it was given, in the same form, so that what it did in the end is "
    "exactly right. Write nothing else."
)
Retell = Callable[[Sequence["Walk"], int], list["Row | None"]]


@dataclass(frozen=True, slots=True)
class Walk:
    """A walk in the environment of a row, and the same with some actions changed.

    Attributes:
        other: None where no change came to an end.
    """

    row: Row
    place: Place
    other: Place | None


def walk_pairs(
    task: Task,
    *,
    rows: int = 2000,
    held_out_rows: int = 300,
    changes: int = 2,
    most_steps: int = MOST_STEPS,
    seed: int = 0,
    retell: Retell | None = None,
) -> Pairs:
    """Pairs of walks: those of train rows to learn from, those of validation rows to be judged by.

    Splits are the task's own, so that what is asked for in one is asked for in no other.

    Args:
        task: one with environments that can be explored.
        rows: walks of train rows.
        held_out_rows: walks of validation rows.
        changes: most actions that are changed for a negative.
        most_steps: of a walk.
        retell: finds the questions; None takes the task's own way (`selfroute.tasks.base.Retelling`).

    Raises:
        ConfigError: the task has no such environment, or no way to find a question.
    """
    tell = retell or retold_by_task(task)
    made: dict[str, list[Pair]] = {}
    dropped: Counter[str] = Counter()
    for split, count in (("train", rows), ("validation", held_out_rows)):
        walks = explore(task, split, count, seed=seed, changes=changes, most_steps=most_steps)
        kept, flaws = _pairs(task, walks, tell(walks, seed))
        dropped.update(flaws)
        made[split] = kept
    if not all(made.values()):
        raise ConfigError(f"pairs: no walk of a split is left ({dict(dropped)}); raise rows or most_steps")
    return Pairs(tuple(made["train"]), tuple(made["validation"]), ordered_by_environment=False, dropped=dict(dropped))


def explore(
    task: Task, split: str, count: int, *, seed: int = 0, changes: int = 2, most_steps: int = MOST_STEPS
) -> list[Walk]:
    """Walks of the first rows of a split, again and again until there are enough.

    Raises:
        ConfigError: the task has no environment that can be explored.
    """
    rows = list(islice(task.rows(split), count))
    rng = random.Random(f"walks/{split}/{seed}")
    return list(islice(_walks(task, rows, rng, changes, most_steps), count)) if rows else []


def _walks(task: Task, rows: Sequence[Row], rng: random.Random, changes: int, most_steps: int) -> Iterator[Walk]:
    for number in range(_TRIES * len(rows)):
        row = rows[number % len(rows)]
        environment = explorable(task, row)
        if (place := walk(environment, rng, most_steps=most_steps)) is not None:
            yield Walk(row, place, changed(environment, place, rng, changes=changes))


def explorable(task: Task, row: Row) -> Explorable:
    """A row's environment, of which one can be told what may be done.

    Raises:
        ConfigError: it has none, or one that cannot go back or does not tell.
    """
    environment = _interactive(task).environment(row)
    check_restorable(environment)
    if not isinstance(environment, Explorable):
        raise ConfigError(f"pairs: the environment of task '{task.name}' has no choices(), and a walk needs them")
    return environment


def _interactive(task: Task) -> Interactive:
    if not isinstance(task, Interactive):
        raise ConfigError(
            f"pairs: task '{task.name}' has no environment to walk in; take task: shop, or pairs: answers"
        )
    return task


def walk(environment: Explorable, rng: random.Random, *, most_steps: int = MOST_STEPS) -> Place | None:
    """Act at random, any tool as likely as any other; None for a walk that does not come to an end."""
    place = Place(None, environment.reset())
    while len(place.steps) < most_steps and (choices := environment.choices()):
        place = _after(environment, place, _drawn(choices, rng))
        if place.done:
            return place
    return None


def changed(environment: Explorable, place: Place, rng: random.Random, *, changes: int = 2) -> Place | None:
    """The same actions with up to `changes` others in their places, carried out again; None if that does not end."""
    for _ in range(_TRIES):
        actions = [step.action for step in place.steps]
        for at in rng.sample(range(len(actions)), min(len(actions), rng.randint(1, changes))):
            carried_out(environment, actions[:at])
            same = [one for one in environment.choices() if one.tool == actions[at].tool and one != actions[at]]
            if same:
                actions[at] = rng.choice(same)
        other = carried_out(environment, actions)
        if other.done and other.answer != place.answer:
            return other
    return None


def carried_out(environment: Explorable, actions: Sequence[Action]) -> Place:
    """Begin anew and carry out actions, until the episode is over."""
    place = Place(None, environment.reset())
    for action in actions:
        if place.done:
            break
        place = _after(environment, place, action)
    return place


def _after(environment: Explorable, place: Place, action: Action) -> Place:
    return Place(None, place.opening, (*place.steps, Step(action, environment.step(action))))


def _drawn(choices: Sequence[Action], rng: random.Random) -> Action:
    tool = rng.choice(sorted({choice.tool for choice in choices}))
    return rng.choice([choice for choice in choices if choice.tool == tool])


def _pairs(task: Task, walks: Sequence[Walk], told: Sequence[Row | None]) -> tuple[list[Pair], Counter[str]]:
    """The pairs without a flaw, and why others were dropped."""
    flaws: Counter[str] = Counter()
    kept: list[Pair] = []
    for one, row in zip(walks, told, strict=True):
        if row is None or one.other is None:
            flaws["untold" if row is None else "unchanged"] += 1
            continue
        pair, other = Pair(row.question, one.place.text, one.other.text), one.other
        passed, found = clean([pair], lambda _, row=row, other=other: _passes(task, row, other))  # type: ignore[misc]
        kept += passed
        flaws.update(found)
    return kept, flaws


def _passes(task: Task, row: Row, place: Place) -> bool:
    """Whether a checker accepts an episode for a question; not where the question has no gold to check by."""
    if not row.fields and not row.gold:
        return False
    return judge(task, row, str(Action(place.answer)))[0] == 1


# --- questions in hindsight ---------------------------------------------------------------------------------------


def retold_by_task(task: Task) -> Retell:
    """Questions by the task's own rule.

    Raises:
        ConfigError: it has none.
    """
    task = _interactive(task)
    if not isinstance(task, Retelling):
        raise ConfigError(
            f"pairs: task '{task.name}' cannot say which question a walk fits; name a model in pairs.walks.hindsight"
        )
    teller: Retelling = task

    def retell(walks: Sequence[Walk], seed: int) -> list[Row | None]:
        rng = random.Random(f"hindsight/{seed}")
        return [teller.retell(walk.row, walk.place.answer, rng) for walk in walks]

    return retell


def retold_by_model(writer: Backend, *, concurrency: int = 16, max_tokens: int = 64) -> Retell:
    """Questions that a model writes; they have no gold, so nothing checks the negatives.

    Args:
        writer: reads each walk, with the question of another row for the form.
    """

    def retell(walks: Sequence[Walk], seed: int) -> list[Row | None]:
        asked = [[Message("user", _ASKED.format(text=w.place.text, example=w.row.question))] for w in walks]
        sampling = Sampling(max_tokens=max_tokens, seed=seed)
        answers = run_sync(complete_all(writer, asked, sampling, concurrency=concurrency))
        return [
            None if isinstance(answer, SelfRouteError) else _sentence(walk.row, answer.text)
            for walk, answer in zip(walks, answers, strict=True)
        ]

    return retell


def _sentence(row: Row, text: str) -> Row | None:
    """The first line that says anything, as a question of its own."""
    said = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return Row(f"{row.id}/hindsight", said, "") if said else None

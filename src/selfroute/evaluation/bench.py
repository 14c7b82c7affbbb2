"""What is evaluated: strategies with their sides, at the points of their knobs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from selfroute.backends.base import Backend
from selfroute.evaluation.records import Record, Sample, Setting
from selfroute.prompts import PromptTemplate
from selfroute.strategies.base import Knobbed, Sides, Strategy
from selfroute.tasks.base import Row, Task
from selfroute.types import Sampling

__all__ = ["Answered", "Bench", "Engine", "Entrant", "Todo", "settings_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """A strategy and the sides that it is judged over; its name is the strategy's.

    Attributes:
        point: where its knob stands; None for a strategy without one, and for one that is run at each of its points.
    """

    strategy: Strategy
    sides: Sides
    point: float | None = None

    @property
    def name(self) -> str:
        return self.strategy.name

    @property
    def setting(self) -> Setting:
        return self.name, self.point


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Everything that a row is answered with. Where rows are answered elsewhere, each place makes its own.

    Attributes:
        entrants: the strategies with their sides; their names differ.
        sampling: for both sides; greedy unless you mean otherwise.
        template: of the questions that the cloud is asked; that of an entrant stands in its sides.
        cloud: asked for every row, also those that are kept; in a cache, so that strategies find its answers there.
        concurrency: rows in flight; a backend that batches wants at least 256.
        solve_samples: answers of each device to sample per row, for its solve rate; 0 for none.
        solve_temperature: of these samples.
        seed: of the samples.
    """

    entrants: Sequence[Entrant]
    task: Task
    sampling: Sampling
    template: PromptTemplate
    cloud: Backend
    concurrency: int = 256
    solve_samples: int = 0
    solve_temperature: float = 1.0
    seed: int = 0

    @property
    def passes(self) -> int:
        """How often every row is put to something: the cloud, the strategies, and the devices' samples."""
        return 1 + len(settings_of(self.entrants)) + self.solve_samples * len(self.devices())

    def devices(self) -> list[Sides]:
        """The devices whose solve rates are sampled, once each, with how they are asked."""
        if not self.solve_samples:
            return []
        return list({id(entrant.sides.device): entrant.sides for entrant in self.entrants}.values())


def settings_of(entrants: Sequence[Entrant]) -> list[Entrant]:
    """Entrants with every strategy that has a knob once at each of its points."""
    found = []
    for entrant in entrants:
        strategy = entrant.strategy
        if entrant.point is None and isinstance(strategy, Knobbed):
            points = [float(point) for point in strategy.points]
            found += [replace(entrant, strategy=strategy.at(point), point=point) for point in points]
        else:
            found.append(entrant)
    return found


Answered = tuple[Record, Sample]
# The rows that each setting has still to answer.
Todo = Mapping[Setting, Sequence[Row]]
# Answers rows with strategies, and gives what happened as it happens; reports how many passes of rows are done.
Engine = Callable[[Bench, Todo, Callable[[int], None]], AsyncIterator[Sequence[Answered]]]

"""One toy of each kind, as a newcomer would write it: a file, and an entry in the tables."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from selfroute import FunctionBackend, Message, PromptRouter, Row, Sampling, Verdict
from selfroute.assemble.dry_run import DryRun
from selfroute.backends.files import ModelFiles
from selfroute.budget.memory import MemoryLedger
from selfroute.config import (
    ALGORITHMS,
    BACKENDS,
    LEDGERS,
    STRATEGIES,
    TASKS,
    AlgorithmEntry,
    BackendEntry,
    Entry,
    Spec,
    StrategyEntry,
    TaskEntry,
)
from selfroute.errors import ConfigError
from selfroute.prompts import TEMPLATES, TrainedPrompt
from selfroute.strategies.base import Needs, Sides
from selfroute.strategies.sides import Decision, ask_cloud, keep_on_device
from selfroute.types import Event

HERE = "tests.assemble.toys"
ENTRIES = (
    (TASKS, TaskEntry(name="doubles", place=f"{HERE}:Doubles", drawn=True)),
    (
        BACKENDS,
        BackendEntry(
            name="abacus",
            place=f"{HERE}:abacus",
            example="abacus:even",
            check=f"{HERE}:check_beads",
            files=f"{HERE}:abacus_files",
            prompt=f"{HERE}:abacus_prompt",
        ),
    ),
    (STRATEGIES, StrategyEntry(name="alternate", place=f"{HERE}:Alternate", without_cloud="always_device")),
    (
        STRATEGIES,
        StrategyEntry(
            name="by_digit",
            place=f"{HERE}:by_digit",
            reads="question",
            fit=f"{HERE}:fit_digits",
            stored=f"{HERE}:LastDigit.load",
            options="selfroute.config.scored:FittedOptions",
            example="{by_digit: {threshold: 0.5, scorer: digits.json}}",
        ),
    ),
    (
        ALGORITHMS,
        AlgorithmEntry(
            name="rote",
            place=f"{HERE}:learn_by_rote",
            summary="Write the training rows down.",
            options=f"{HERE}:RoteRecipe",
            dry_run=f"{HERE}:rote_size",
        ),
    ),
    (LEDGERS, Entry(name="slate", place=f"{HERE}:Slate")),
)


class Doubles:
    """Twice a number."""

    name = "doubles"
    template = "think"

    def __init__(self, *, seed: int = 0, limit: int | None = None) -> None:
        self.first, self.limit = 100 * seed, limit or 40

    def rows(self, split: str) -> list[Row]:
        first = self.first + {"train": 0, "validation": 1000, "test": 2000}[split]
        return [Row(str(n), f"What is twice {n}", str(2 * n)) for n in range(first, first + self.limit)]

    def verify(self, row: Row, completion: str) -> Verdict:
        return Verdict(f"<answer>{row.gold}</answer>" in completion)

    def gold_completion(self, row: Row) -> str:
        return f"<answer>{row.gold}</answer>"


def abacus(beads: str, *, name: str) -> FunctionBackend:
    """Doubles the numbers it has beads for."""

    def double(messages: Sequence[Message], sampling: Sampling) -> str:
        number = int(re.findall(r"\d+", messages[-1].content)[-1])
        return f"<answer>{2 * number if beads == 'all' or number % 2 == 0 else 0}</answer>"

    return FunctionBackend(name, double)


def check_beads(beads: str) -> None:
    if beads not in ("even", "all"):
        raise ConfigError(f"no abacus with {beads} beads; take even or all")


def abacus_prompt(beads: str) -> TrainedPrompt:
    return TrainedPrompt(template=TEMPLATES["think"], name="think")


def abacus_files(beads: str) -> ModelFiles:
    return ModelFiles(f"wood/{beads}", "wood/words")


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternate:
    """Every second conversation by its length goes to the cloud."""

    share: float = 0.5
    name: str = "alternate"

    @property
    def needs(self) -> Needs:
        return Needs()

    async def stream(self, sides: Sides, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Event]:
        turn = ask_cloud if len(messages[-1].content) % 2 else keep_on_device
        async for event in turn(sides, messages, sampling, Decision(strategy=self.name, reason="routed")):
            yield event


def by_digit(*, score: Callable[[str], float], threshold: float) -> PromptRouter:
    """Questions whose last digit the device got wrong go to the cloud."""
    return PromptRouter(score=score, threshold=threshold, name="by_digit")


@dataclass(frozen=True)
class LastDigit:
    wrong: Mapping[str, float]
    reads_answers = False

    def __call__(self, question: str) -> float:
        return self.wrong.get(question[-1], 0.0)

    def scores(self, questions: Sequence[str], answers: Sequence[str] | None = None) -> Any:
        return np.array([self(question) for question in questions])

    @classmethod
    def load(cls, path: Path) -> LastDigit:
        return cls(json.loads(path.read_text(encoding="utf-8")))


def fit_digits(examples: Any, *, seed: int) -> LastDigit:
    wrong: dict[str, list[float]] = {}
    for question, right in zip(examples.questions, examples.device, strict=True):
        wrong.setdefault(question[-1], []).append(1.0 - right)
    return LastDigit({digit: sum(all_) / len(all_) for digit, all_ in wrong.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class RoteRecipe:
    """What rote learning needs."""

    task: Spec
    algorithm: Literal["rote"] = "rote"
    out: Path = Path("out/rote")


def learn_by_rote(recipe: RoteRecipe, *, on_progress: Callable[..., None], say: Callable[[str], object]) -> Path:
    recipe.out.mkdir(parents=True)
    on_progress(1, 1, {"loss": 0.0})
    return recipe.out


def rote_size(recipe: RoteRecipe, *, beside: Path, processes: int) -> DryRun:
    return DryRun((("task", recipe.task.name),), (), ())


class Slate(MemoryLedger):
    """Counters in chalk."""

"""What a task is: rows of data, and a verifier that judges a completion."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol, runtime_checkable

from selfroute.actions import Action
from selfroute.errors import ConfigError
from selfroute.verify.base import Verdict

__all__ = [
    "Environment",
    "Explorable",
    "Interactive",
    "Observation",
    "Restorable",
    "Retelling",
    "Row",
    "Stepwise",
    "Task",
    "Tool",
]

_TOOL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Row:
    """One problem. Data only; behaviour lives in the task.

    Attributes:
        id: unique within the task, stable between runs.
        question: the problem's text, without any prompt template.
        gold: the reference answer in the task's own notation; `verify(row, gold wrapped as an answer)` must hold.
        fields: what the verifier needs beyond `gold`, and any columns worth keeping.
    """

    id: str
    question: str
    gold: str
    fields: Mapping[str, Any] = field(default_factory=dict)


def digest_of(row: Row) -> str:
    """A hash of what a row asks and how it is judged, whatever its place in the data; its id is not in it."""
    content = json.dumps([row.question, row.gold, row.fields], sort_keys=True, default=str)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


class Task(Protocol):
    """Data and verifier of one kind of problem.

    Attributes:
        name: as given on the command line.
        template: name of the prompt template in `selfroute.prompts.TEMPLATES` that fits the task.
    """

    name: str
    template: str

    def rows(self, split: str) -> Iterable[Row]:
        """Rows of "train", "validation" or "test"; the same rows in the same order every time.

        Raises:
            ConfigError: unknown split, or data that cannot be found.
            TaskError: a row that lacks a needed field; the message names file and line.
        """
        ...

    def verify(self, row: Row, completion: str) -> Verdict | float:
        """Judge any text in bounded time; never raises on model text.

        Returns:
            A verdict, or a quality in [0, 1], of which right and wrong are the ends.
        """
        ...

    def gold_completion(self, row: Row) -> str:
        """A completion that gives the gold answer, for checking the verifier and for replaying data sets."""
        ...


@runtime_checkable
class Stepwise(Task, Protocol):
    """Optional: a task whose completions go step by step, each of which can be judged.

    Attributes:
        step_end: the text that ends a step and stands nowhere else in one; the last step ends with the completion.
    """

    step_end: str

    def steps(self, row: Row) -> Sequence[str]:
        """The gold completion, step by step."""
        ...

    def judge_step(self, row: Row, before: str, written: str) -> bool:
        """Whether a step is right after the right steps in `before`; never raises on model text.

        A step is judged by what it says, not by whether it is the gold one: where the order is free, any order is
        right.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """What an agent can call, as it is told of it.

    Attributes:
        name: letters, digits, `_`, `-` and `.`; what stands first in a call.
        description: one sentence for the agent.
        parameters: JSON schema of an object, as OpenAI's tools have it; `properties` in the order in which they are
            asked for.
        price_usd: of one try of a call.
        tries: most tries of one call.
        call: carries a call out; None for a move of an environment, which does so itself.

    Raises:
        ConfigError: a name that cannot be called, no schema of an object, or a negative price.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    price_usd: float = 0.0
    tries: int = 1
    call: Callable[[Mapping[str, Any]], str] | None = field(default=None, hash=False, compare=False)

    def __post_init__(self) -> None:
        if not _TOOL_NAME.fullmatch(self.name):
            raise ConfigError(f"tool {self.name!r}: a name has 1 to 64 letters, digits, '_', '-' or '.'; rename it")
        if self.parameters.get("type") != "object" or not isinstance(self.parameters.get("properties"), Mapping):
            raise ConfigError(
                f"tool '{self.name}': parameters={self.parameters!r:.80} is no JSON schema of an object; "
                'give {"type": "object", "properties": {…}}'
            )
        if not 0 <= self.price_usd < float("inf"):
            raise ConfigError(f"tool '{self.name}': price_usd must be 0 or more, not {self.price_usd:g}")

    @property
    def schema(self) -> dict[str, Any]:
        """As a request to an OpenAI-style endpoint names it in `tools`."""
        told = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": told}


@dataclass(frozen=True, slots=True)
class Observation:
    """What an environment says to an action.

    Attributes:
        text: for the agent to read; with `done` the episode's answer, as `Task.verify` finds it in `<answer>`.
        done: whether the episode is over.
        tries: how often its tool was called for it, each at the tool's price; 0 for what was known without.
    """

    text: str
    done: bool = False
    tries: int = 1


class Environment(Protocol):
    """One episode of an agent: it acts, and is told what came of it, until it answers.

    Attributes:
        tools: what can be called.
    """

    tools: Sequence[Tool]

    def reset(self) -> str:
        """Begin anew, always in the same way; returns what there is to see beside the question, if anything."""
        ...

    def step(self, action: Action) -> Observation:
        """Act; never raises on model text: a call that cannot be carried out is told so, and changes nothing.

        An action without a tool is the answer, and ends the episode.
        """
        ...

    def score(self) -> float | None:
        """Quality of the episode in [0, 1], 0 before its end; None if it cannot be judged."""
        ...


@runtime_checkable
class Restorable(Environment, Protocol):
    """Optional: an environment that can go back, for searches and trees."""

    def snapshot(self) -> Any:
        """The state; what comes later does not change it."""
        ...

    def restore(self, at: Any) -> None:
        """Go back, or over, to a state of an environment of the same row."""
        ...


@runtime_checkable
class Explorable(Restorable, Protocol):
    """Optional: an environment that can tell what may be done, for walks without a model."""

    def choices(self) -> Sequence[Action]:
        """Actions that change something here, answers not included; empty once the episode is over."""
        ...


@runtime_checkable
class Interactive(Task, Protocol):
    """Optional: a task that is worked on in an environment."""

    def environment(self, row: Row) -> Environment:
        """A new one, reset. Of the row it reads the question alone, but for `score`: a question that somebody asks
        has no gold.

        Raises:
            ConfigError: the question is none of this task's.
        """
        ...


@runtime_checkable
class Retelling(Interactive, Protocol):
    """Optional: a task that can say in hindsight which question an episode was right for."""

    def retell(self, row: Row, answer: str, rng: Random) -> Row | None:
        """A row of the same environment and split for which an episode's answer is right; None if there is none.

        Args:
            row: in whose environment the episode was.
            rng: draws one of several.
        """
        ...

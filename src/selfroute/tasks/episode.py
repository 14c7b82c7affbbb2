"""Environments of pure moves: what an action does is a function of the state, so a snapshot is the state."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from selfroute.actions import Action
from selfroute.tasks.base import Observation, Tool
from selfroute.types import Message

__all__ = ["Episode", "Move", "Moved", "arguments_of", "no_tool", "text_parameters", "with_tools"]

S = TypeVar("S")
_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,),
    "array": (list,), "object": (dict,),
}  # fmt: skip

Moved = tuple[S, Observation]
Move = Callable[[S, Mapping[str, Any]], Moved[S]]


def text_parameters(**described: str) -> dict[str, Any]:
    """The schema of parameters that are texts, all required, in their order; each with its description."""
    properties = {name: {"type": "string", "description": text} for name, text in described.items()}
    return {"type": "object", "properties": properties, "required": list(properties)}


def arguments_of(tool: Tool, text: str) -> dict[str, Any]:
    """The arguments of a call as they were written: a JSON object, or the value of the first parameter as it is.

    Raises:
        ValueError: they do not fit the tool's schema; says how, for the agent to read.
    """
    properties: Mapping[str, Any] = tool.parameters["properties"]
    found = _json_object(text)
    if found is None:
        found = {next(iter(properties)): _plain(text, properties)} if text and properties else {}
    for name in tool.parameters.get("required", ()):
        if name not in found:
            raise ValueError(f"{tool.name} needs {name}")
    for name, value in found.items():
        if name not in properties:
            raise ValueError(f"{tool.name} has no {name[:40]}; it takes {', '.join(properties) or 'nothing'}")
        if not _fits(value, properties[name].get("type")):
            raise ValueError(f"{name} of {tool.name} is no {properties[name]['type']}")
    return found


def _json_object(text: str) -> dict[str, Any] | None:
    if not text.startswith("{"):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _plain(text: str, properties: Mapping[str, Any]) -> Any:
    """A value without quotes, as the first parameter's type reads it; as text if it cannot."""
    if next(iter(properties.values())).get("type", "string") == "string":
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type of JSON schema; one that names no single type takes any."""
    known = _TYPES.get(kind) if isinstance(kind, str) else None
    if known is None:
        return True
    return isinstance(value, known) and (kind == "boolean" or not isinstance(value, bool))


def no_tool(action: Action, tools: Sequence[Tool]) -> str:
    """What an agent is told that calls what is not there."""
    known = ", ".join(tool.name for tool in tools) or "none"
    return f"no tool {action.tool[:40]!r}; tools: {known}"


def with_tools(messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """A conversation whose first turn, a system prompt, tells what can be called: a line for each tool."""
    if not tools:
        return list(messages)
    first, *rest = messages
    told = "\n".join(f"{tool.name} {json.dumps(tool.parameters['properties'])}: {tool.description}" for tool in tools)
    return [replace(first, content=f"{first.content}\n{told}"), *rest]


@dataclass(slots=True)
class Episode(Generic[S]):
    """An environment whose moves are functions of its state.

    Attributes:
        start: the state at first; states are values that no move changes.
        moves: what each tool does, by its declaration, from state and arguments.
        judge: quality of an answer in [0, 1], None if it cannot be judged.
        opening: what there is to see at first.
        options: the actions that change something in a state.
    """

    start: S
    moves: Sequence[tuple[Tool, Move[S]]]
    judge: Callable[[str], float | None]
    opening: str = ""
    options: Callable[[S], Sequence[Action]] = lambda state: ()
    tools: Sequence[Tool] = field(init=False)
    _state: S = field(init=False)
    _answer: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.tools = [tool for tool, _ in self.moves]
        self._state = self.start

    def reset(self) -> str:
        """See `Environment`."""
        self._state, self._answer = self.start, None
        return self.opening

    def step(self, action: Action) -> Observation:
        """See `Environment`."""
        if self._answer is not None:
            return Observation(self._answer, done=True)
        seen = self._called(action) if action.tool else Observation(action.text, done=True)
        if seen.done:
            self._answer = seen.text
        return seen

    def _called(self, action: Action) -> Observation:
        for tool, move in self.moves:
            if tool.name == action.tool:
                try:
                    arguments = arguments_of(tool, action.text)
                except ValueError as error:
                    return Observation(str(error), tries=0)
                self._state, seen = move(self._state, arguments)
                return seen
        return Observation(no_tool(action, self.tools), tries=0)

    def snapshot(self) -> tuple[S, str | None]:
        """See `Restorable`."""
        return self._state, self._answer

    def restore(self, at: tuple[S, str | None]) -> None:
        """See `Restorable`."""
        self._state, self._answer = at

    def score(self) -> float | None:
        """See `Environment`."""
        return 0.0 if self._answer is None else self.judge(self._answer)

    def choices(self) -> Sequence[Action]:
        """See `Explorable`."""
        return () if self._answer is not None else self.options(self._state)

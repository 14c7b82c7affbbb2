"""A user's own tools: functions as what an agent can call, with time limits, further tries and remembered answers."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from typing import Any, Literal, get_args, get_origin, get_type_hints

from selfroute.actions import Action
from selfroute.bounds import NotNegative, Positive, Whole, check_fields
from selfroute.errors import ConfigError
from selfroute.tasks.base import Observation, Row, Task, Tool
from selfroute.tasks.episode import arguments_of, no_tool
from selfroute.verify.arithmetic import evaluate
from selfroute.verify.base import Verdict

__all__ = ["OwnTool", "Toolbox", "ToolboxEpisode", "calculate", "tool_of"]

_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object"}
_KINDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_FIRST_PAUSE_S = 0.1  # before the second try; twice as long before each further one
_REMEMBERED = 1_024  # answers of one tool

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnTool:
    """A function that an agent may call, as a recipe names it.

    Attributes:
        call: `module:function`; its annotations are the schema, its docstring says what it does.
        name: in calls; empty takes the function's own.
        price_usd: of each try.
        timeout_s: after which a try has failed; the function itself cannot be stopped, and goes on behind.
        retries: further tries after one that failed.
        cache_s: how long an answer is given again to a call with the same arguments, without a try; 0 never.
    """

    call: str
    name: str = ""
    price_usd: NotNegative = 0.0
    timeout_s: Positive = 10.0
    retries: Whole = 1
    cache_s: NotNegative = 0.0

    def __post_init__(self) -> None:
        check_fields(self)

    def tool(self) -> Tool:
        """What the agent is told of it, and how it is called.

        Raises:
            ConfigError: there is no such function, or it does not say its schema.
        """
        made = tool_of(_found(self.call), name=self.name, price_usd=self.price_usd)
        return replace(made, tries=self.retries + 1)


def _found(place: str) -> Callable[..., Any]:
    """The function at `module:function`."""
    module, _, name = place.partition(":")
    if not module or not name:
        raise ConfigError(f"tools: call '{place}' is no module:function; write e.g. my_tools:forecast")
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"tools: call '{place}' cannot be imported: {error}; its folder has to be on PYTHONPATH"
        ) from None
    if not callable(found):
        raise ConfigError(f"tools: call '{place}' is {found!r:.60} and no function; name one")
    return found  # type: ignore[no-any-return]


def calculate(expression: str) -> str:
    """Compute an expression of whole numbers with +, -, *, / and parentheses, exactly.

    Args:
        expression: such as (17+5)/4
    """
    return str(evaluate(expression).value)


# --- the schema of a function -------------------------------------------------------------------------------------


def tool_of(function: Callable[..., Any], *, name: str = "", price_usd: float = 0.0) -> Tool:
    """A function as a tool: annotations are its schema, the first paragraph of its docstring says what it does.

    A line `parameter: text` of the docstring describes a parameter.

    Raises:
        ConfigError: a parameter without a type that JSON has, one that is positional alone or open, or no docstring.
    """
    called = name or getattr(function, "__name__", type(function).__name__)
    said: Any = function if inspect.isroutine(function) else type(function).__call__.__get__(function)
    doc = inspect.getdoc(said) or ""
    if not doc:
        raise ConfigError(f"tool '{called}': no docstring says what it does; give the function one sentence")
    parameters = inspect.signature(said).parameters
    hints = get_type_hints(said)
    properties = {key: _property(called, parameter, hints.get(key), doc) for key, parameter in parameters.items()}
    needed = [key for key, one in parameters.items() if one.default is inspect.Parameter.empty]
    schema = {"type": "object", "properties": properties, "required": needed}
    told = " ".join(doc.partition("\n\n")[0].split())
    call = partial(_text_of, function)
    return Tool(name=called, description=told, parameters=schema, price_usd=price_usd, call=call)


def _text_of(function: Callable[..., Any], arguments: Mapping[str, Any]) -> str:
    """What a function says, also one to be awaited."""
    found = function(**arguments)
    return str(asyncio.run(_awaited(found)) if inspect.isawaitable(found) else found)


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value


def _property(tool: str, parameter: inspect.Parameter, hint: Any, doc: str) -> dict[str, Any]:
    """The JSON schema of one parameter."""
    options = get_args(hint) if get_origin(hint) is Literal else ()
    kind = _TYPES.get(type(options[0]) if options else get_origin(hint) or hint)
    if kind is None or parameter.kind not in _KINDS:
        raise ConfigError(
            f"tool '{tool}': parameter '{parameter.name}' has no schema; annotate it as str, int, float, bool, list, "
            "dict or a Literal"
        )
    described = re.search(rf"^\s*{parameter.name}: (.+)$", doc, re.MULTILINE)
    return {
        "type": kind,
        **({"enum": list(options)} if options else {}),
        **({"description": described[1]} if described else {}),
    }


# --- how it is called ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Memory:
    """Answers of a tool by their arguments, the oldest dropped first."""

    seconds: float
    clock: Clock
    _kept: OrderedDict[str, tuple[float, str]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, key: str) -> str | None:
        with self._lock:
            at, answer = self._kept.get(key, (-float("inf"), ""))
        return answer if self.clock() - at < self.seconds else None

    def put(self, key: str, answer: str) -> None:
        if not self.seconds:
            return
        with self._lock:
            self._kept[key] = (self.clock(), answer)
            self._kept.move_to_end(key)
            while len(self._kept) > _REMEMBERED:
                self._kept.popitem(last=False)


@dataclass(slots=True)
class _Served:
    """A tool with the care that is taken of its calls, shared by all episodes."""

    tool: Tool
    own: OwnTool
    memory: _Memory
    sleep: Callable[[float], object]

    def __call__(self, arguments: Mapping[str, Any]) -> Observation:
        """What the agent is told, and how often the function was tried for it."""
        key = json.dumps(arguments, sort_keys=True, default=str)
        if (known := self.memory.get(key)) is not None:
            return Observation(known, tries=0)
        failed = ""
        for number in range(self.own.retries + 1):
            if number:
                self.sleep(_FIRST_PAUSE_S * 2 ** (number - 1))
            try:
                answer = _within(self.own.timeout_s, self.tool, arguments)
            except TimeoutError:
                failed = f"no answer within {self.own.timeout_s:g} s"
            except Exception as error:  # a user's function may fail in any way; the agent is told so and goes on
                failed = f"{type(error).__name__}: {error}"[:200]
            else:
                self.memory.put(key, answer)
                return Observation(answer, tries=number + 1)
        return Observation(f"{self.tool.name} failed: {failed}", tries=self.own.retries + 1)


def _within(seconds: float, tool: Tool, arguments: Mapping[str, Any]) -> str:
    """Call in a thread that is left to itself once its time is up: one that hangs must not hold the program at its end.

    Raises:
        TimeoutError: its time is up.
        Exception: what the function raised.
    """
    assert tool.call is not None
    call, done = tool.call, Future[str]()

    def work() -> None:
        try:
            done.set_result(call(arguments))
        except Exception as error:
            done.set_exception(error)

    threading.Thread(target=work, name=f"tool {tool.name}", daemon=True).start()
    return done.result(seconds)


class ToolboxEpisode:
    """The environment of any question: tools outside, whose effects nothing takes back, so that it has no snapshots."""

    def __init__(self, served: Sequence[_Served], judge: Callable[[str], float | None]) -> None:
        self.tools: Sequence[Tool] = [one.tool for one in served]
        self._served = {one.tool.name: one for one in served}
        self._judge = judge
        self._answer: str | None = None

    def reset(self) -> str:
        """See `Environment`."""
        self._answer = None
        return ""

    def step(self, action: Action) -> Observation:
        """See `Environment`; blocks for as long as the tool may take."""
        if self._answer is not None or not action.tool:
            self._answer = action.text if self._answer is None else self._answer
            return Observation(self._answer, done=True)
        served = self._served.get(action.tool)
        if served is None:
            return Observation(no_tool(action, self.tools), tries=0)
        try:
            arguments = arguments_of(served.tool, action.text)
        except ValueError as error:
            return Observation(str(error), tries=0)
        return served(arguments)

    def score(self) -> float | None:
        """See `Environment`."""
        return 0.0 if self._answer is None else self._judge(self._answer)


class Toolbox:
    """Own tools beside the questions of another task, or of whoever asks.

    Args:
        tools: what an agent can call.
        task: whose rows are asked and how they are judged; None for questions that nobody can judge.

    Raises:
        ConfigError: no tool, two of one name, or one without a schema.
    """

    name = "toolbox"
    template = "tools"

    def __init__(
        self,
        *,
        tools: Sequence[OwnTool],
        task: Task | None = None,
        clock: Clock = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        made = [(one, one.tool()) for one in tools]
        names = [tool.name for _, tool in made]
        if not made:
            raise ConfigError("toolbox: tools is empty; name a function, e.g. tools: [{call: my_tools:forecast}]")
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ConfigError(f"toolbox: two tools are called '{twice}'; give one of them another name")
        self.task = task
        self._served = [_Served(tool, own, _Memory(own.cache_s, clock), sleep) for own, tool in made]

    def rows(self, split: str) -> Iterable[Row]:
        """Those of its task."""
        if self.task is None:
            raise ConfigError("toolbox: it has no questions of its own; name a task beside its tools")
        return self.task.rows(split)

    def verify(self, row: Row, completion: str) -> Verdict | float:
        """As its task does."""
        return Verdict(False, reason="nobody can judge") if self.task is None else self.task.verify(row, completion)

    def gold_completion(self, row: Row) -> str:
        """As its task has it."""
        return "" if self.task is None else self.task.gold_completion(row)

    def environment(self, row: Row) -> ToolboxEpisode:
        """The tools; any question will do."""

        def judge(answer: str) -> float | None:
            known = self.task is not None and row.gold
            return Verdict.of(self.verify(row, str(Action(answer)))).quality if known else None

        return ToolboxEpisode(self._served, judge)

"""`planned` and `tool_agent` from a recipe: a reward, a search with its limits, and the task or tools to act in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from selfroute.bounds import Count, Positive
from selfroute.config import Spec, make_task
from selfroute.errors import ConfigError
from selfroute.scores.reward_model import RewardFolder
from selfroute.strategies.search.arena import Limits
from selfroute.strategies.search.planned import Planned, Search
from selfroute.strategies.search.tool_agent import ToolAgent
from selfroute.tasks.base import Environment, Interactive, Restorable, Row
from selfroute.tasks.toolbox import OwnTool, Toolbox

__all__ = ["planned", "tool_agent", "toolbox"]


def planned(
    *,
    reward: Path,
    threshold: float,
    search: Search = "best_of_n",
    attempts: Count | None = 8,
    environment_calls: Count | None = None,
    tokens: Count | None = None,
    seconds: Positive | None = None,
    temperature: Positive = 0.7,
    enough: float = math.inf,
    task: Spec | None = None,
) -> Planned:
    """The best of several attempts by a learned reward; the cloud answers where even that is low (arXiv 2502.12130).

    Args:
        reward: folder of a reward model, as `algorithm: reward_model` writes it.
        threshold: least score, minus the best reward, that goes to the cloud; `selfroute calibrate` finds it.
        search: `best_of_n`, `reflexion`, `tree_search` or `released_tree`; the last two need a task.
        attempts: most attempts; null sets no limit.
        environment_calls: most actions that are carried out.
        tokens: most that the device writes.
        seconds: most wall time.
        temperature: of the attempts.
        enough: reward at which reflexion stops.
        task: with environments, in which the device acts; null for plain answers.

    Raises:
        ConfigError: no reward model in the folder, no limit, or a task without environments.
    """
    return Planned(
        scores=RewardFolder(reward),
        threshold=threshold,
        limits=Limits(attempts=attempts, environment_calls=environment_calls, tokens=tokens, seconds=seconds),
        search=search,
        temperature=temperature,
        enough=enough,
        environment=None if task is None else _going_back(task),
    )


def tool_agent(*, task: Spec, calls: Count = 5, ask_cloud: bool = False, native: bool = False) -> ToolAgent:
    """An agent with tools: it calls them in its text, and answers or hands off; the cloud may be a tool too.

    Args:
        task: with environments, in which the device acts.
        calls: most calls of tools in one request.
        ask_cloud: the device may also ask the cloud questions of its own, as often as the budget lets it.
        native: the device's server marks calls itself, in place of text; for servers that take `tools`.

    Raises:
        ConfigError: a task without environments.
    """
    return ToolAgent(open=_environments(task, "tool_agent"), calls=calls, ask_cloud=ask_cloud, native=native)


def toolbox(*, tools: Sequence[str | OwnTool], task: Spec | None = None) -> Toolbox:
    """Your own functions as tools of an agent, beside another task's questions or whatever it is asked.

    Args:
        tools: each `module:function`, or a mapping with `call` and what else `OwnTool` has.
        task: whose rows are asked and how they are judged; null for requests, which nobody judges.

    Raises:
        ConfigError: a function that cannot be imported, or does not say its schema.
    """
    own = [OwnTool(call=one) if isinstance(one, str) else one for one in tools]
    return Toolbox(tools=own, task=None if task is None else make_task(task, where="toolbox.task"))


def _going_back(spec: Spec) -> Callable[[str], Restorable]:
    """From a question to an environment that a search can go back in."""
    opened = _environments(spec, "planned")
    return lambda question: cast(Restorable, opened(question))


def _environments(spec: Spec, strategy: str) -> Callable[[str], Environment]:
    """From a question to its environment."""
    task = make_task(spec, where=f"{strategy}.task")
    if not isinstance(task, Interactive):
        raise ConfigError(f"{strategy}.task: '{spec.name}' has no environments to act in; take one that has, like shop")
    return lambda question: task.environment(Row(question, question, ""))

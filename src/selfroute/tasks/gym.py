"""Environments and gymnasium, both ways, with spaces of text.

`TextEnv` shows one of ours to whoever brings an agent of their own; `GymEnvironment` lets ours act in a gymnasium
environment whose actions and observations are texts.
"""

from __future__ import annotations

import copy
import string
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
from gymnasium import spaces

from selfroute.actions import Action, read_turn
from selfroute.errors import ConfigError
from selfroute.tasks.base import Environment, Observation, Tool
from selfroute.tasks.episode import no_tool, text_parameters

__all__ = ["ACT", "GymEnvironment", "TextEnv"]

MOST_TEXT = 4_000
ACT = Tool(name="act", description="Act in the environment.", parameters=text_parameters(action="as it has them"))
_LETTERS = string.printable

Info = dict[str, Any]


class TextEnv(gymnasium.Env[str, str]):
    """One of our environments behind gymnasium's interface.

    An action is what an agent writes: a call, `<tool>view 3</tool>`, or an answer; an observation is what came of it,
    in printable ASCII and cut to `MOST_TEXT`. The reward is the score at the end of an episode, 0 before and where
    nobody knows.

    Args:
        make: an environment for a seed.
    """

    def __init__(self, make: Callable[[int], Environment]) -> None:
        self._make = make
        self._environment = make(0)
        self.action_space = spaces.Text(min_length=0, max_length=MOST_TEXT, charset=_LETTERS)
        self.observation_space = spaces.Text(min_length=0, max_length=MOST_TEXT, charset=_LETTERS)

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[str, Info]:
        """Begin the episode of a seed; without one, of one that is drawn."""
        super().reset(seed=seed)
        self._environment = self._make(int(self.np_random.integers(2**31)))
        return _shown(self._environment.reset()), {}

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Act; an episode ends with an answer, and with a hand-off, which is worth nothing here."""
        read = read_turn(action)
        seen = self._environment.step(Action("") if read is None else read)
        score = self._environment.score() if seen.done else None
        return _shown(seen.text), float(score or 0.0), seen.done, False, {}


def _shown(text: str) -> str:
    return "".join(letter if letter in _LETTERS else "?" for letter in text[:MOST_TEXT])


class GymEnvironment:
    """A gymnasium environment of texts as one of ours: the tool `act` takes a step, an answer gives up.

    A snapshot is a copy, so that an environment whose randomness is all `np_random` goes on alike from it. The score is
    the sum of rewards at the end, within [0, 1].

    Args:
        env: not wrapped further.
        seed: of every reset.

    Raises:
        ConfigError: actions or observations are no texts.
    """

    tools: Sequence[Tool] = (ACT,)

    def __init__(self, env: gymnasium.Env[Any, Any], *, seed: int = 0) -> None:
        for name, space in (("action", env.action_space), ("observation", env.observation_space)):
            if not isinstance(space, spaces.Text):
                raise ConfigError(f"{name}_space: {space} is no gymnasium.spaces.Text; wrap the environment in texts")
        self._env, self._seed = env, seed
        self.reset()

    def reset(self) -> str:
        """See `Environment`."""
        self._total, self._answer = 0.0, None
        observed, _ = self._env.reset(seed=self._seed)
        return str(observed)

    def step(self, action: Action) -> Observation:
        """See `Environment`."""
        if self._answer is None and action.tool not in ("", ACT.name):
            return Observation(no_tool(action, self.tools))
        if self._answer is None and not action.tool:
            self._answer = action.text
        elif self._answer is None:
            return self._acted(action.text)
        return Observation(self._answer or "", done=True)

    def _acted(self, text: str) -> Observation:
        if not self._env.action_space.contains(text):
            return Observation(f"{text[:40]!r} is no action here")
        observed, reward, terminated, truncated, _ = self._env.step(text)
        self._total += float(reward)
        if terminated or truncated:
            self._answer = str(observed)
        return Observation(str(observed), done=terminated or truncated)

    def score(self) -> float:
        """See `Environment`."""
        return 0.0 if self._answer is None else min(1.0, max(0.0, self._total))

    def snapshot(self) -> Any:
        """See `Restorable`."""
        return copy.deepcopy((self._env, self._total, self._answer))

    def restore(self, at: Any) -> None:
        """See `Restorable`."""
        self._env, self._total, self._answer = copy.deepcopy(at)

    _total: float
    _answer: str | None

"""A language model as the agent: what it is shown of a run, and what its reply means (arXiv 2410.06238, section 4)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

from selfroute.bandits.base import Arm, Bandit, Choice, Context, Outcome
from selfroute.bandits.environments import Environment
from selfroute.bandits.linear import Ridges
from selfroute.bandits.rules import UCB, LinUCB
from selfroute.bandits.tallies import Tallies
from selfroute.errors import ConfigError
from selfroute.types import Message

__all__ = ["LanguageBandit", "Scribe", "Shown", "demonstrations", "examples", "read_choice"]

# Raw history, summary per arm, or a summary with what an algorithm adds: exploitation value and exploration bonus.
Shown = Literal["raw", "summary", "guided"]
_SYSTEM = (
    "You choose one of {count} options again and again: {arms}. Each has a reward of its own that varies from time to "
    "time. Earn as much as you can: try all of them, and come back to what pays. Reply with the name of one option and "
    "nothing else."
)
_ASK = "Which option do you choose next?"


class Scribe:
    """Writes the prompts of one run and reads the replies.

    Args:
        shown: a form of history.
        features: numbers in a context; 0 for a multi-armed run.
        shots: examples of another run, as `examples` gives them.
        alpha: of the bonuses that a guided prompt shows.
        recent: most steps that a raw history shows; the oldest are left out.

    Attributes:
        unreadable: replies that named no arm or several; each took the safe arm, the best mean so far.

    Raises:
        ConfigError: an unknown form of history.
    """

    def __init__(
        self,
        arms: Sequence[str],
        *,
        shown: Shown = "summary",
        features: int = 0,
        shots: Sequence[Message] = (),
        alpha: float = 0.5,
        recent: int = 1000,
    ) -> None:
        if shown not in get_args(Shown):
            raise ConfigError(f"context: '{shown}' is not one of {', '.join(get_args(Shown))}")
        self.arms = tuple(arms)
        self.unreadable = 0
        self._shown = shown
        self._recent = recent
        self._steps: list[tuple[str, float, tuple[float, ...]]] = []
        self._means = UCB(Tallies(arms), alpha=alpha)
        self._linear = LinUCB(Ridges(arms, features), alpha=alpha) if features else None
        system = Message("system", _SYSTEM.format(count=len(arms), arms=", ".join(arms)))
        self._before = (system, *shots)

    def messages(self, features: tuple[float, ...] = ()) -> list[Message]:
        """The prompt of the next choice."""
        parts = [self._history(features), f"Context: {_vector(features)}" if features else "", _ASK]
        return [*self._before, Message("user", "\n".join(part for part in parts if part))]

    def read(self, reply: str | None) -> str:
        """The arm that a reply chooses; None stands for a model that did not answer."""
        arm = None if reply is None else read_choice(reply, self.arms)
        if arm is None:
            self.unreadable += 1
            return self.safe()
        return arm

    def safe(self) -> str:
        """The best mean so far; before any reward the first arm."""
        means = {arm: self._means.tallies.mean(arm) for arm in self.arms}
        tried = {arm: mean for arm, mean in means.items() if mean is not None}
        return max(tried, key=tried.__getitem__) if tried else self.arms[0]

    def told(self, arm: str, reward: float, features: tuple[float, ...] = ()) -> None:
        """Take in what a choice earned."""
        outcome = Outcome(reward, features=features)
        self._steps.append((arm, reward, features))
        self._means.learn(arm, reward, outcome)
        if self._linear is not None:
            self._linear.learn(arm, reward, outcome)

    def _history(self, features: tuple[float, ...]) -> str:
        if self._shown != "raw":
            return "\n".join(self._summary(arm, features) for arm in self.arms)
        steps = self._steps[-self._recent :]
        lines = [f"{f'{_vector(x)} ' if x else ''}{arm}: {reward:.2f}" for arm, reward, x in steps]
        return "\n".join(lines) or "Nothing was tried yet."

    def _summary(self, arm: str, features: tuple[float, ...]) -> str:
        """One arm's line. An untried one is said to be untried: "0 times, mean 0.00" would call it bad."""
        count = self._means.tallies.count(arm)
        value, bonus = self._parts(arm, features)
        line = f"{arm}: {count:.0f} times, mean {self._means.parts(arm)[0]:.2f}" if count else f"{arm}: untried"
        if self._shown == "summary" or math.isinf(bonus):
            return line
        return f"{line}, value {value:.2f}, bonus {bonus:.2f}"

    def _parts(self, arm: str, features: tuple[float, ...]) -> tuple[float, float]:
        if self._linear is None:
            return self._means.parts(arm)
        values, bonuses = self._linear.parts([arm], features)
        return float(values[0]), float(bonuses[0])


def read_choice(reply: str, arms: Sequence[str]) -> str | None:
    """The one arm that a reply names: alone, else as whole words anywhere, in lower case too if it has several letters.

    Returns:
        None if it names none or several.
    """
    alone = reply.strip().strip("\"'.,:;!*`()[]").strip().casefold()
    if found := next((arm for arm in arms if arm.casefold() == alone), None):
        return found
    for flags, shortest in ((re.NOFLAG, 1), (re.IGNORECASE, 2)):  # "a" in a sentence is no choice of A
        longest = sorted((arm for arm in arms if len(arm) >= shortest), key=len, reverse=True)
        pattern = "|".join(rf"(?<!\w){re.escape(arm)}(?!\w)" for arm in longest)
        named = {match.group().casefold() for match in re.finditer(pattern, reply, flags)} - {""}
        if named:
            return next(arm for arm in arms if arm.casefold() in named) if len(named) == 1 else None
    return None


class LanguageBandit:
    """A model as a bandit of one run: `ask` gets the prompt and gives the reply, None if the model did not answer.

    Its choices have no known propensity: it is given as 1, the least as 0, so that a replay refuses them.
    """

    def __init__(self, scribe: Scribe, ask: Callable[[Sequence[Message]], str | None]) -> None:
        self.scribe = scribe
        self._ask = ask

    def choose(self, context: Context, arms: Sequence[Arm]) -> Choice:
        """See `selfroute.bandits.base.Bandit.choose`; all arms must be candidates."""
        if {arm.name for arm in arms} != set(self.scribe.arms):
            raise ConfigError(f"arms: a model is asked about {', '.join(self.scribe.arms)}, and all must be candidates")
        return Choice(self.scribe.read(self._ask(self.scribe.messages(context.features))), 1.0, 0.0)

    def update(self, arm: str, outcome: Outcome) -> None:
        """See `selfroute.bandits.base.Bandit.update`."""
        if outcome.quality is not None:
            self.scribe.told(arm, outcome.quality, outcome.features)

    def state(self) -> dict[str, Any]:
        """The history of the run."""
        return {"steps": [list(step) for step in self.scribe._steps], "unreadable": self.scribe.unreadable}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken, in a bandit that has seen nothing."""
        for arm, reward, features in state["steps"]:
            self.scribe.told(arm, reward, tuple(features))
        self.scribe.unreadable = state["unreadable"]


def demonstrations(teacher: Bandit, environment: Environment, *, shown: Shown) -> Iterator[tuple[list[Message], str]]:
    """What a model would have been shown at each step of an algorithm's run, and what the algorithm chose."""
    scribe = Scribe(environment.arms, shown=shown, features=len(environment.features()))
    arms = [Arm(name) for name in environment.arms]
    for _ in range(environment.horizon):
        features = environment.features()
        chosen = teacher.choose(Context(features), arms).arm
        yield scribe.messages(features), chosen
        reward = environment.pull(environment.arms.index(chosen))
        teacher.update(chosen, Outcome(reward, features=features))
        scribe.told(chosen, reward, features)


def examples(teacher: Bandit, environment: Environment, *, shown: Shown, count: int = 5) -> list[Message]:
    """Few-shot turns: `count` evenly spaced steps of an algorithm's run in another draw of the environment."""
    steps = list(demonstrations(teacher, environment, shown=shown))
    places = [(2 * number + 1) * len(steps) // (2 * count) for number in range(count)]
    turns = [(steps[place][0][-1], Message("assistant", steps[place][1])) for place in places]
    return [message for turn in turns for message in turn]


def _vector(features: tuple[float, ...]) -> str:
    return "[" + ", ".join(f"{value:.2f}" for value in features) + "]"

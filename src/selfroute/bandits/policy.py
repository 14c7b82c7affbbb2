"""A rule made into a bandit: quotes, first trials, an exploration floor, and propensities that can be replayed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from selfroute.bandits.base import Arm, Choice, Context, Outcome
from selfroute.bandits.rules import Rule
from selfroute.bandits.tallies import Tallies
from selfroute.errors import ConfigError

__all__ = ["Outlook", "Policy"]


class Outlook(NamedTuple):
    """What a policy thinks of a candidate.

    Attributes:
        chance: with which it would be chosen now.
        quality: expected, None where nothing is known.
        latency_s: expected seconds until the answer is whole, None where none was timed.
    """

    chance: float
    quality: float | None
    latency_s: float | None


class Policy:
    """Chooses by a rule's idea of quality, the latency learnt beside it, and the quote of the moment.

    A decision is drawn from known probabilities, so its propensity is exact:

    - arms asked fewer than `trials` times come first, the least asked of them with equal chances;
    - else each arm has the share of the rule's rows in which quality - λ·price - κ·latency is highest, ties shared.
      For a rule with a posterior the rows are draws; drawing the arm from their shares is Thompson sampling whatever
      the number of draws, and the share is the probability given the draws;
    - of that the floor takes ε: every candidate has at least ε/K.

    Args:
        arms: names of all arms there are; candidates are some of them.
        latency: tallies of the same arms that forget as the rule does; an arm not yet timed counts as instant.
        floor: ε in [0, 1]; 0 makes logs of a deterministic rule useless for replay, 1 chooses at random.
        trials: times that a new arm is asked before it is judged, whether or not feedback comes.
        seed: of all draws.

    Raises:
        ConfigError: a value out of range, no arms, or two of one name.
    """

    def __init__(
        self,
        rule: Rule,
        arms: Sequence[str],
        *,
        latency: Tallies,
        floor: float = 0.05,
        trials: int = 1,
        seed: int = 0,
    ) -> None:
        if not arms or len(set(arms)) < len(arms):
            raise ConfigError(f"arms: [{', '.join(arms)}] must be one name at least, each once")
        if not 0.0 <= floor <= 1.0:
            raise ConfigError(f"floor: {floor} is outside [0, 1]; 0.05 explores with one decision in twenty")
        if trials < 0:
            raise ConfigError(f"trials: {trials} is below 0; 1 asks every new arm once")
        self.rule = rule
        self.latency = latency
        self._floor = floor
        self._trials = trials
        self._asked = dict.fromkeys(arms, 0)
        self._fresh = trials > 0  # an arm may still have trials to come
        self._rng = np.random.default_rng(seed)

    @property
    def arms(self) -> tuple[str, ...]:
        """All arms there are."""
        return tuple(self._asked)

    def choose(self, context: Context, arms: Sequence[Arm]) -> Choice:
        """See `selfroute.bandits.base.Bandit.choose`."""
        names = [arm.name for arm in arms]
        chances = self.probabilities(context, arms)
        place = 0 if len(names) == 1 else _draw(chances, self._rng.random())
        self.note(names[place])
        return Choice(names[place], chances[place], min(chances), self.rule.draws, len(names) == 1)

    def probabilities(self, context: Context, arms: Sequence[Arm]) -> list[float]:
        """With which each candidate would be chosen now, shape (K,); draws of a posterior are drawn.

        Raises:
            ConfigError: there is no candidate, or one that the policy does not know.
        """
        self._check(arms)
        shares = self._untried(arms) if self._fresh else None
        if shares is None:
            shares = self._shares(context, arms)
        even = self._floor / len(arms)
        return [(1.0 - self._floor) * share + even for share in shares]

    def look(self, context: Context, arms: Sequence[Arm]) -> list[Outlook]:
        """What is thought of each candidate now; the next choice is the same as without it.

        Raises:
            ConfigError: as `probabilities`.
        """
        drawn = self._rng.bit_generator.state
        chances = self.probabilities(context, arms)
        self._rng.bit_generator.state = drawn
        means = self.rule.means([arm.name for arm in arms], context.features)
        return [
            Outlook(chance, mean, self.latency.mean(arm.name))
            for chance, mean, arm in zip(chances, means, arms, strict=True)
        ]

    def note(self, arm: str) -> None:
        """Count a choice, also one that was made elsewhere: by another replica, or in a log."""
        self._asked[arm] += 1

    def update(self, arm: str, outcome: Outcome) -> None:
        """See `selfroute.bandits.base.Bandit.update`.

        Raises:
            ConfigError: an unknown arm, or an outcome that the rule cannot learn from; nothing is learnt then.
        """
        if arm not in self._asked:
            raise ConfigError(f"arm: '{arm}' is not one of {', '.join(self._asked)}; the policy was made for those")
        if outcome.quality is not None:
            self.rule.learn(arm, outcome.quality, outcome)
        if outcome.latency_s is not None:
            self.latency.add(arm, outcome.latency_s)

    def _check(self, arms: Sequence[Arm]) -> None:
        if not arms:
            raise ConfigError("arms: there is no candidate to choose from; an answer needs one at least")
        for arm in arms:
            if arm.name not in self._asked:
                raise ConfigError(
                    f"arm: '{arm.name}' is not one of {', '.join(self._asked)}; the policy was made for those"
                )

    def _untried(self, arms: Sequence[Arm]) -> list[float] | None:
        """Equal shares for the least asked candidates while one has trials to come."""
        asked = [self._asked[arm.name] for arm in arms]
        least = min(asked)
        if least >= self._trials:
            self._fresh = min(self._asked.values()) < self._trials
            return None
        return _even([one == least for one in asked])

    def _shares(self, context: Context, arms: Sequence[Arm]) -> list[float]:
        """Share of the rows in which each candidate is worth most."""
        costs = [self._cost(context, arm) for arm in arms]
        rows = self.rule.rows([arm.name for arm in arms], context.features, self._rng)
        if self.rule.draws is not None:  # of a posterior; they do not tie
            best = np.subtract(rows, costs).argmax(1)
            shares: list[float] = (np.bincount(best, minlength=len(arms)) / len(rows)).tolist()
            return shares
        worth = [quality - cost for quality, cost in zip(rows[0], costs, strict=True)]
        highest = max(worth)
        return _even([one == highest for one in worth])

    def _cost(self, context: Context, arm: Arm) -> float:
        """What an arm's quote and speed take from its quality."""
        cost = context.price_weight * arm.price_usd
        if context.latency_weight:
            cost += context.latency_weight * (self.latency.mean(arm.name) or 0.0)
        return cost

    def state(self) -> dict[str, Any]:
        """See `selfroute.bandits.base.Bandit.state`."""
        return {
            "rule": type(self.rule).__name__,
            "asked": dict(self._asked),
            "quality": self.rule.state(),
            "latency": self.latency.state(),
            "rng": self._rng.bit_generator.state,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `selfroute.bandits.base.Bandit.restore`."""
        kind = type(self.rule).__name__
        if state.get("rule") != kind:
            raise ConfigError(f"state: it is of the rule {state.get('rule')}, and this policy's is {kind}; start anew")
        if set(state["asked"]) != set(self._asked):
            raise ConfigError(
                f"state: it is for the arms {', '.join(state['asked'])}, and this policy has "
                f"{', '.join(self._asked)}; start anew, or name the same arms"
            )
        self.adopt(state)
        self._rng.bit_generator.state = state["rng"]

    def adopt(self, state: Mapping[str, Any]) -> None:
        """Believe what a policy of the same rule did, with other arms or not, and go on with draws of one's own.

        New arms are unknown, and have their trials to come.
        """
        self.rule.restore(state["quality"])
        self.latency.restore(state["latency"])
        self._asked = {arm: state["asked"].get(arm, 0) for arm in self._asked}
        self._fresh = self._trials > 0

    def reseed(self, *seed: int) -> None:
        """Draw from another stream: replicas with one seed must not explore in step."""
        self._rng = np.random.default_rng(seed)


def _even(chosen: Sequence[bool]) -> list[float]:
    """Equal shares for those that are chosen."""
    share = 1.0 / sum(chosen)
    return [share if one else 0.0 for one in chosen]


def _draw(chances: Sequence[float], at: float) -> int:
    """The place in which the running sum passes `at` in [0, 1)."""
    for place, total in enumerate(accumulate(chances)):
        if at < total:
            return place
    return max(place for place, chance in enumerate(chances) if chance)  # a sum a hair below 1

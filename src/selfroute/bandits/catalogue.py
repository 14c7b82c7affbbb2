"""The policies by name, as recipes and `selfroute replay --policy` name them.

Each takes the names of its arms, the number of a context's features, and a seed beside its options. In a recipe the
fields of `Learning` stand beside a policy's own options.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfroute.bandits.linear import Ridges
from selfroute.bandits.policy import Policy
from selfroute.bandits.rules import UCB, BernoulliThompson, Fixed, GaussianThompson, Greedy, LinUCB, Rule
from selfroute.bandits.tallies import Tallies
from selfroute.errors import ConfigError

__all__ = [
    "Learning",
    "epsilon_greedy",
    "fixed",
    "gaussian_thompson",
    "greedy",
    "linucb",
    "thompson",
    "ucb",
    "uniform",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """What every policy that learns can be told.

    Attributes:
        floor: ε, the share of the choices that any candidate gets.
        trials: times that a new arm is asked before it is judged.
        discount: γ in (0, 1]: what an outcome counts after the next one of any arm; 1 forgets nothing.
        window: the last so many outcomes count; None for all. Not with a discount.
    """

    floor: float = 0.05
    trials: int = 1
    discount: float = 1.0
    window: int | None = None

    def tallies(self, arms: Sequence[str]) -> Tallies:
        """Counts of the arms that forget in this way."""
        return Tallies(arms, discount=self.discount, window=self.window)

    def policy(self, rule: Rule, arms: Sequence[str], seed: int) -> Policy:
        """A rule made into a policy; latency is forgotten as quality is."""
        return Policy(rule, arms, latency=self.tallies(arms), floor=self.floor, trials=self.trials, seed=seed)


_PLAIN, _TENTH, _LINEAR = Learning(), Learning(floor=0.1), Learning(trials=0)


def fixed(arm: str, *, arms: Sequence[str], features: int = 0, floor: float = 0.0, seed: int = 0) -> Policy:
    """One arm whenever it is a candidate, else the cheapest.

    Raises:
        ConfigError: there is no such arm.
    """
    if arm not in arms:
        raise ConfigError(f"fixed.arm: '{arm}' is not one of {', '.join(arms)}")
    return Policy(Fixed(arm), arms, latency=Tallies(arms), floor=floor, trials=0, seed=seed)


def uniform(*, arms: Sequence[str], features: int = 0, seed: int = 0) -> Policy:
    """Every candidate with equal chances."""
    return Policy(Greedy(Tallies(arms)), arms, latency=Tallies(arms), floor=1.0, trials=0, seed=seed)


def greedy(learning: Learning = _PLAIN, *, arms: Sequence[str], features: int = 0, seed: int = 0) -> Policy:
    """The best mean so far."""
    return learning.policy(Greedy(learning.tallies(arms)), arms, seed)


def epsilon_greedy(learning: Learning = _TENTH, *, arms: Sequence[str], features: int = 0, seed: int = 0) -> Policy:
    """The best mean so far, but with probability ε any candidate: greedy with a higher floor."""
    return greedy(learning, arms=arms, seed=seed)


def ucb(
    learning: Learning = _PLAIN,
    *,
    arms: Sequence[str],
    features: int = 0,
    alpha: float = 0.5,
    scale: float = 1.0,
    seed: int = 0,
) -> Policy:
    """Mean and a bonus for what was asked little; with a discount or a window it forgets."""
    return learning.policy(UCB(learning.tallies(arms), alpha=alpha, scale=scale), arms, seed)


def thompson(
    learning: Learning = _PLAIN, *, arms: Sequence[str], features: int = 0, draws: int = 32, seed: int = 0
) -> Policy:
    """Thompson sampling of qualities in [0, 1]; with a discount or a window it forgets (arXiv 1707.09727)."""
    return learning.policy(BernoulliThompson(learning.tallies(arms), draws=draws), arms, seed)


def gaussian_thompson(
    learning: Learning = _PLAIN,
    *,
    arms: Sequence[str],
    features: int = 0,
    noise: float = 1.0,
    prior: float = 1.0,
    draws: int = 32,
    seed: int = 0,
) -> Policy:
    """Thompson sampling of any quality whose noise is known."""
    rule = GaussianThompson(learning.tallies(arms), noise=noise, prior=prior, draws=draws)
    return learning.policy(rule, arms, seed)


def linucb(
    learning: Learning = _LINEAR,
    *,
    arms: Sequence[str],
    features: int,
    alpha: float = 0.5,
    ridge: float = 1.0,
    seed: int = 0,
) -> Policy:
    """A linear model of quality per arm, and a bonus for contexts it has seen little of; with a discount it forgets.

    Raises:
        ConfigError: a window, by which a linear model does not forget.
    """
    if learning.window is not None:
        raise ConfigError(f"linucb.window: {learning.window} is no way for a linear model to forget; give a discount")
    rule = LinUCB(Ridges(arms, features, ridge=ridge, discount=learning.discount), alpha=alpha)
    return learning.policy(rule, arms, seed)

"""The policies by name, as recipes and `selfroute replay --policy` name them.

Each takes the names of its arms, the number of a context's features, and a seed beside its options.
"""

from __future__ import annotations

from collections.abc import Sequence

from selfroute.bandits.linear import Ridges
from selfroute.bandits.policy import Policy
from selfroute.bandits.rules import UCB, BernoulliThompson, Fixed, GaussianThompson, Greedy, LinUCB, Rule
from selfroute.bandits.tallies import Tallies
from selfroute.errors import ConfigError

__all__ = ["epsilon_greedy", "fixed", "gaussian_thompson", "greedy", "linucb", "thompson", "ucb", "uniform"]


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


def greedy(
    *,
    arms: Sequence[str],
    features: int = 0,
    floor: float = 0.05,
    trials: int = 1,
    discount: float = 1.0,
    window: int | None = None,
    seed: int = 0,
) -> Policy:
    """The best mean so far."""
    rule = Greedy(Tallies(arms, discount=discount, window=window))
    return _policy(rule, arms, discount, window, floor, trials, seed)


def epsilon_greedy(
    *,
    arms: Sequence[str],
    features: int = 0,
    epsilon: float = 0.1,
    trials: int = 1,
    discount: float = 1.0,
    window: int | None = None,
    seed: int = 0,
) -> Policy:
    """The best mean so far, but with probability ε any candidate: greedy with ε as its floor."""
    return greedy(arms=arms, floor=epsilon, trials=trials, discount=discount, window=window, seed=seed)


def ucb(
    *,
    arms: Sequence[str],
    features: int = 0,
    alpha: float = 0.5,
    scale: float = 1.0,
    floor: float = 0.05,
    trials: int = 1,
    discount: float = 1.0,
    window: int | None = None,
    seed: int = 0,
) -> Policy:
    """Mean and a bonus for what was asked little; with a discount or a window it forgets."""
    rule = UCB(Tallies(arms, discount=discount, window=window), alpha=alpha, scale=scale)
    return _policy(rule, arms, discount, window, floor, trials, seed)


def thompson(
    *,
    arms: Sequence[str],
    features: int = 0,
    draws: int = 32,
    floor: float = 0.05,
    trials: int = 1,
    discount: float = 1.0,
    window: int | None = None,
    seed: int = 0,
) -> Policy:
    """Thompson sampling of qualities in [0, 1]; with a discount or a window it forgets (arXiv 1707.09727)."""
    rule = BernoulliThompson(Tallies(arms, discount=discount, window=window), draws=draws)
    return _policy(rule, arms, discount, window, floor, trials, seed)


def gaussian_thompson(
    *,
    arms: Sequence[str],
    features: int = 0,
    noise: float = 1.0,
    prior: float = 1.0,
    draws: int = 32,
    floor: float = 0.05,
    trials: int = 1,
    discount: float = 1.0,
    window: int | None = None,
    seed: int = 0,
) -> Policy:
    """Thompson sampling of any quality whose noise is known."""
    tallies = Tallies(arms, discount=discount, window=window)
    rule = GaussianThompson(tallies, noise=noise, prior=prior, draws=draws)
    return _policy(rule, arms, discount, window, floor, trials, seed)


def linucb(
    *,
    arms: Sequence[str],
    features: int,
    alpha: float = 0.5,
    ridge: float = 1.0,
    discount: float = 1.0,
    floor: float = 0.05,
    trials: int = 0,
    seed: int = 0,
) -> Policy:
    """A linear model of quality per arm, and a bonus for contexts it has seen little of; with a discount it forgets."""
    rule = LinUCB(Ridges(arms, features, ridge=ridge, discount=discount), alpha=alpha)
    return _policy(rule, arms, discount, None, floor, trials, seed)


def _policy(
    rule: Rule, arms: Sequence[str], discount: float, window: int | None, floor: float, trials: int, seed: int
) -> Policy:
    latency = Tallies(arms, discount=discount, window=window)
    return Policy(rule, arms, latency=latency, floor=floor, trials=trials, seed=seed)

"""One of every kind of policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from selfroute.bandits import catalogue
from selfroute.bandits.policy import Policy

FEATURES = 3
MAKERS: dict[str, Callable[..., Policy]] = {
    "fixed": lambda **given: catalogue.fixed("a", **given),
    "uniform": catalogue.uniform,
    "greedy": catalogue.greedy,
    "epsilon_greedy": catalogue.epsilon_greedy,
    "ucb": catalogue.ucb,
    "ucb, discounted": lambda **given: catalogue.ucb(catalogue.Learning(discount=0.99), **given),
    "ucb, windowed": lambda **given: catalogue.ucb(catalogue.Learning(window=7), **given),
    "thompson": catalogue.thompson,
    "thompson, discounted": lambda **given: catalogue.thompson(catalogue.Learning(discount=0.99), **given),
    "thompson, windowed": lambda **given: catalogue.thompson(catalogue.Learning(window=7), **given),
    "gaussian_thompson": catalogue.gaussian_thompson,
    "linucb": catalogue.linucb,
    "linucb, discounted": lambda **given: catalogue.linucb(catalogue.Learning(trials=0, discount=0.99), **given),
}


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest) -> Callable[..., Policy]:
    """Makes one policy: `make(arms=…, seed=…)`."""
    maker = MAKERS[request.param]

    def made(**given: Any) -> Policy:
        return maker(**{"arms": ["a", "b", "c"], "features": FEATURES, **given})

    return made

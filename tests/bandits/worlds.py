"""Logs of which the truth is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from selfroute.bandits.base import Arm, Bandit, Choice, Context, Outcome
from selfroute.bandits.log import Decision

ARMS = (Arm("a", 0.004), Arm("b", 0.002), Arm("c", 0.001), Arm("d"))


class World:
    """Requests with one feature x in [0, 1]; an arm's quality is linear in it.

    Attributes:
        start, slope: of each arm's quality, shape (4,).
    """

    start = np.array([0.75, 0.6, 0.5, 0.3])
    slope = np.array([0.1, -0.3, 0.3, 0.1])

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def context(self) -> Context:
        return Context((float(self.rng.random()),), price_weight=20.0)

    def quality(self, context: Context) -> np.ndarray:
        return self.start + self.slope * context.features[0]

    def outcome(self, context: Context, arm: str) -> Outcome:
        right = self.rng.random() < self.quality(context)["abcd".index(arm)]
        return Outcome(float(right), float(self.rng.exponential()), context.features)


class Soft:
    """A policy that never learns: probabilities by a logistic choice on x, mixed with a floor."""

    def __init__(self, sharpness: Sequence[float], floor: float) -> None:
        self.sharpness, self.floor = np.asarray(sharpness), floor

    def probabilities(self, context: Context, arms: Sequence[Arm]) -> list[float]:
        raw = np.exp(self.sharpness * (0.5 + context.features[0]))
        mixed = (1 - self.floor) * raw / raw.sum() + self.floor / len(arms)
        return [float(mixed["abcd".index(arm.name)] / sum(mixed["abcd".index(a.name)] for a in arms)) for arm in arms]

    def note(self, arm: str) -> None: ...

    def update(self, arm: str, outcome: Outcome) -> None: ...

    def value(self, world: World) -> float:
        """Its expected quality."""
        grid = [Context((x,)) for x in (np.arange(2000) + 0.5) / 2000]
        return float(np.mean([np.dot(self.probabilities(context, ARMS), world.quality(context)) for context in grid]))


def soft_log(world: World, policy: Soft, n: int) -> list[Decision]:
    """What a policy that never learns logs."""
    found = []
    for number in range(n):
        context = world.context()
        chances = policy.probabilities(context, ARMS)
        place = int(world.rng.choice(4, p=chances))
        choice = Choice(ARMS[place].name, chances[place], min(chances))
        found.append(decision(number, context, choice, world.outcome(context, choice.arm)))
    return found


def learning_log(world: World, bandit: Bandit, n: int) -> list[Decision]:
    """What a policy logs while it learns."""
    found = []
    for number in range(n):
        context = world.context()
        choice = bandit.choose(context, ARMS)
        outcome = world.outcome(context, choice.arm)
        bandit.update(choice.arm, outcome)
        found.append(decision(number, context, choice, outcome))
    return found


def decision(number: int, context: Context, choice: Choice, outcome: Outcome) -> Decision:
    cost = next(arm.price_usd for arm in ARMS if arm.name == choice.arm)
    return Decision(f"t{number}", context, ARMS, choice, outcome, cost)

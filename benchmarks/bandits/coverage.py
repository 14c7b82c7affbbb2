"""How often the 95 % intervals of a replay hold, on logs of which the truth is known; and the time of a decision."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from cells import Cell, Numbers

from selfroute.bandits import catalogue
from selfroute.bandits.base import Arm, Choice, Context, Outcome
from selfroute.bandits.log import Decision
from selfroute.bandits.policy import Policy
from selfroute.bandits.replay import replay

ARMS = (Arm("a", 0.004), Arm("b", 0.002), Arm("c", 0.001), Arm("d"))
NAMES = tuple(arm.name for arm in ARMS)
# Quality of each arm is start + slope · x, with x from U(0, 1).
START, SLOPE = np.array([0.75, 0.6, 0.5, 0.3]), np.array([0.1, -0.3, 0.3, 0.1])


class Soft:
    """A policy that never learns: probabilities by a logistic choice on x, mixed with a floor."""

    def __init__(self, sharpness: Sequence[float], floor: float) -> None:
        self._sharpness, self._floor = np.array(sharpness), floor

    def probabilities(self, context: Context, arms: Sequence[Arm]) -> list[float]:
        raw = np.exp(self._sharpness * (0.5 + context.features[0]))
        mixed: list[float] = ((1 - self._floor) * raw / raw.sum() + self._floor / len(ARMS)).tolist()
        return mixed

    def note(self, arm: str) -> None: ...

    def update(self, arm: str, outcome: Outcome) -> None: ...


TARGET = Soft([1.0, 0.0, 2.0, -1.0], floor=0.05)
GRID = (np.arange(4000) + 0.5) / 4000
TRUTH = float(np.mean([np.dot(TARGET.probabilities(Context((x,)), ARMS), START + SLOPE * x) for x in GRID]))


def cells() -> dict[str, Cell]:
    """Logs of a soft policy and of a Thompson sampling that learns, by length and floor."""
    found: dict[str, Cell] = {}
    for n, floor in ((300, 0.2), (500, 0.1), (1000, 0.1), (1000, 0.02)):
        found[f"soft, n={n}, floor {floor:g}"] = partial(soft, n, floor)
    for n, floor in ((1000, 0.2), (2000, 0.1)):
        found[f"learning, n={n}, floor {floor:g}"] = partial(learning, n, floor)
    return found


def soft(n: int, floor: float, seed: int) -> Numbers:
    logger = Soft([2.0, 1.0, 0.0, 0.0], floor)

    def choose(context: Context, rng: np.random.Generator) -> Choice:
        chances = logger.probabilities(context, ARMS)
        place = int(rng.choice(len(ARMS), p=chances))
        return Choice(NAMES[place], chances[place], min(chances))

    return judged(n, seed, choose, lambda arm, outcome: None)


def learning(n: int, floor: float, seed: int) -> Numbers:
    policy = catalogue.thompson(catalogue.Learning(floor=floor), arms=NAMES, seed=1_000_000 + seed)
    return judged(n, seed, lambda context, rng: policy.choose(context, ARMS), policy.update)


def judged(
    n: int,
    seed: int,
    choose: Callable[[Context, np.random.Generator], Choice],
    learn: Callable[[str, Outcome], None],
) -> Numbers:
    """Log n decisions and replay the target on them."""
    rng = np.random.default_rng(seed)
    log = []
    for number in range(n):
        context = Context((float(rng.random()),))
        choice = choose(context, rng)
        quality = (START + SLOPE * context.features[0])[NAMES.index(choice.arm)]
        outcome = Outcome(float(rng.random() < quality), features=context.features)
        learn(choice.arm, outcome)
        log.append(Decision(str(number), context, ARMS, choice, outcome))
    found = replay(log, TARGET)
    numbers = {"effective_n": found.effective_n}
    for name, one in (("sn", found.self_normalised["quality"]), ("dr", found.doubly_robust["quality"])):
        numbers |= {f"{name}_covered": float(one.low <= TRUTH <= one.high), f"{name}_error": one.value - TRUTH}
    return numbers


MAKERS: dict[str, Callable[..., Policy]] = {
    "greedy": catalogue.greedy,
    "ucb": catalogue.ucb,
    "ucb, discounted": partial(catalogue.ucb, catalogue.Learning(discount=0.995)),
    "ucb, window 600": partial(catalogue.ucb, catalogue.Learning(window=600)),
    "thompson, 32 draws": catalogue.thompson,
    "thompson, discounted, 32 draws": partial(catalogue.thompson, catalogue.Learning(discount=0.995)),
    "linucb, 8 features": catalogue.linucb,
    "linucb, discounted, 8 features": partial(catalogue.linucb, catalogue.Learning(trials=0, discount=0.997)),
}


def speeds() -> dict[str, Cell]:
    """Processor time of choose and update, five arms."""
    return {name: partial(speed, name) for name in MAKERS}


def speed(name: str, seed: int) -> Numbers:
    """The quickest of five rounds of 400 decisions, in µs: other work on the machine only makes them slower."""
    rng = np.random.default_rng(seed)
    arms = [Arm(arm, 0.01) for arm in "abcde"]
    policy = MAKERS[name](arms=list("abcde"), features=8, seed=seed)
    contexts = [Context(tuple(rng.random(8).tolist()), 1.0, 0.1) for _ in range(400)]
    rounds = []
    for _ in range(5):
        start = time.process_time()
        for context in contexts:
            policy.update(policy.choose(context, arms).arm, Outcome(1.0, 0.2, context.features))
        rounds.append((time.process_time() - start) / len(contexts) * 1e6)
    return {"us": min(rounds)}

"""Twelve scenarios, 32 paired seeds each, two baselines, and a rule for what to keep that was fixed beforehand.

After the protocol of the vLLM semantic router's evaluation of learning routers (its issues 2308 and 2346): all policies
meet the same requests, candidates, feedback and seeds; intervals are over seeds (Student's t, 31 degrees of freedom).

Keep a policy if the mean over the scenarios of its gain over Beta-Bernoulli Thompson sampling is above 0 for sure, and
in no scenario it surely loses more than 0.01 to it; else kill it. The best fixed arm in hindsight stands beside them:
who does not beat that has no reason to learn here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from cells import Cell, Numbers

from selfroute.bandits import catalogue
from selfroute.bandits.base import Arm, Context
from selfroute.bandits.pending import Pending
from selfroute.bandits.policy import Policy

ARMS = ("A", "B", "C")
# Of a request with hardness x from U(0, 1): quality is start - slope · x; prices in units of quality.
START, SLOPE, PRICE = np.array([0.9, 0.9, 0.95]), np.array([0.1, 0.4, 0.9]), np.array([0.2, 0.05, 0.0])
REQUESTS, SEEDS = 2000, 32
T_31 = 2.0395  # 97.5 % quantile of Student's t
LEAST_LOSS = 0.01  # of worth, that nobody would notice

MAKERS: Mapping[str, Callable[..., Policy]] = {
    "Thompson": partial(catalogue.thompson, catalogue.Learning(floor=0.02), draws=1),
    "discounted Thompson": partial(catalogue.thompson, catalogue.Learning(floor=0.02, discount=0.995), draws=1),
    "LinUCB": partial(catalogue.linucb, catalogue.Learning(trials=0, floor=0.02), alpha=0.3),
    "discounted LinUCB": partial(catalogue.linucb, catalogue.Learning(trials=0, floor=0.02, discount=0.998), alpha=0.3),
}
BASELINE, STATIC = "Thompson", "best fixed arm"


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens in a run beside requests.

    Attributes:
        fall: by how much B's quality falls in the middle third.
        dear: by how much A's price rises in the middle third, as every quote says.
        joins: request from which C is a candidate.
        delay: requests until feedback comes; `spread` draws it from 0 to that.
        right, wrong: how often a right and a wrong answer are judged.
        poisoned: share of judgements that praise C and blame the others.
        offered: how often an arm is a candidate; one always is.
        session: requests that stay with their cloud, judged at their end.
        restart: requests between restarts from the saved state; 0 for none.
        pending: most choices that wait for feedback.
    """

    fall: float = 0.0
    dear: float = 0.0
    joins: int = 0
    delay: int = 0
    spread: bool = False
    right: float = 1.0
    wrong: float = 1.0
    poisoned: float = 0.0
    offered: float = 1.0
    session: int = 1
    restart: int = 0
    pending: int = 10_000


SCENARIOS: Mapping[str, Scenario] = {
    "stationary": Scenario(),
    "silent drift": Scenario(fall=0.5),
    "price drift": Scenario(dear=0.3),
    "cold start": Scenario(joins=700),
    "delayed feedback": Scenario(delay=300),
    "sparse feedback": Scenario(right=0.1, wrong=0.1),
    "censored feedback": Scenario(right=0.1, wrong=0.5),
    "poisoned feedback": Scenario(poisoned=0.1),
    "low coverage": Scenario(offered=0.5),
    "sessions": Scenario(session=5),
    "restarts": Scenario(restart=100),
    "bounded state": Scenario(delay=400, spread=True, pending=100),
}


class Run:
    """The requests of one seed, the same for every policy, and a policy that meets them."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario = scenario
        rng = np.random.default_rng(seed)
        self.hardness = rng.random(REQUESTS)
        self.luck = rng.random(REQUESTS)  # of the answer, whichever arm gives it
        self.told = rng.random(REQUESTS)
        self.poison = rng.random(REQUESTS) < scenario.poisoned
        self.offered = rng.random((REQUESTS, len(ARMS))) < scenario.offered
        self.offered[np.arange(REQUESTS), rng.integers(len(ARMS), size=REQUESTS)] = True
        self.offered[: scenario.joins, 2] = False
        self.offered[~self.offered.any(1), 0] = True
        self.late = rng.integers(scenario.delay + 1, size=REQUESTS) if scenario.spread else None

        middle = np.zeros(REQUESTS, dtype=bool)
        middle[REQUESTS // 3 : 2 * REQUESTS // 3] = True
        quality = START - SLOPE * self.hardness[:, None]
        quality[middle, 1] -= scenario.fall
        self.quality = np.clip(quality, 0.0, 1.0)
        self.price = np.tile(PRICE, (REQUESTS, 1))
        self.price[middle, 0] += scenario.dear
        self.worth = self.quality - self.price  # expected; shape (requests, 3)
        self.right = self.luck[:, None] < self.quality

    def candidates(self, at: int) -> list[Arm]:
        offered, prices = self.offered[at].tolist(), self.price[at].tolist()
        return [Arm(arm, price) for arm, price, there in zip(ARMS, prices, offered, strict=True) if there]

    def judged(self, at: int, arm: int) -> float | None:
        """What the feedback says, None if there is none."""
        right = self.right[at, arm]
        if self.told[at] >= (self.scenario.right if right else self.scenario.wrong):
            return None
        return float(arm == 2) if self.poison[at] else float(right)


def one_run(name: str, policy_name: str, seed: int) -> Numbers:
    run = Run(SCENARIOS[name], seed)
    return fixed(run) if policy_name == STATIC else learnt(run, MAKERS[policy_name], seed)


def fixed(run: Run) -> Numbers:
    """The fixed arm with the highest worth over the whole run; where it is no candidate, the cheapest."""
    rows, cheapest = np.arange(REQUESTS), len(ARMS) - 1 - run.offered[:, ::-1].argmax(1)
    chosen = [np.where(run.offered[:, arm], arm, cheapest) for arm in range(len(ARMS))]
    totals = [float(run.worth[rows, own].mean()) for own in chosen]
    return {"worth": max(totals), "state_bytes": 0.0}


def learnt(run: Run, make: Callable[..., Policy], seed: int) -> Numbers:
    """Mean expected worth of a policy's choices."""
    scenario, total = run.scenario, 0.0
    policy = make(arms=ARMS, features=2, seed=1_000_000 + seed)
    pending = Pending(limit=scenario.pending, lifetime_s=float(REQUESTS))
    due: dict[int, list[tuple[str, float]]] = {}
    arm, scores = 0, []
    for at in range(REQUESTS):
        for trace, score in due.pop(at, []):
            settled = pending.settle(trace, score, now_s=float(at))
            if settled.arm is not None and settled.outcome is not None:
                policy.update(settled.arm, settled.outcome)
        if at % scenario.session == 0:
            context = Context((1.0, float(run.hardness[at])), price_weight=1.0)
            arm, scores = ARMS.index(policy.choose(context, run.candidates(at)).arm), []
            pending.add(str(at), ARMS[arm], context.features, now_s=float(at))
        total += float(run.worth[at, arm])
        scores += [score for score in [run.judged(at, arm)] if score is not None]
        if (at + 1) % scenario.session == 0 and scores:
            began = at + 1 - scenario.session
            due.setdefault(at + 1 + wait(run, at), []).append((str(began), float(np.mean(scores))))
        if scenario.restart and (at + 1) % scenario.restart == 0:
            policy, pending = restarted(policy, pending, make, scenario)
    return {"worth": total / REQUESTS, "state_bytes": float(len(json.dumps([policy.state(), pending.state()])))}


def wait(run: Run, at: int) -> int:
    """Requests until the feedback on one comes."""
    return run.scenario.delay if run.late is None else int(run.late[at])


def restarted(
    policy: Policy, pending: Pending, make: Callable[..., Policy], scenario: Scenario
) -> tuple[Policy, Pending]:
    """New objects from the saved state."""
    saved = json.loads(json.dumps([policy.state(), pending.state()]))
    again, waiting = make(arms=ARMS, features=2), Pending(limit=scenario.pending, lifetime_s=float(REQUESTS))
    again.restore(saved[0])
    waiting.restore(saved[1])
    return again, waiting


def cells() -> dict[str, Cell]:
    """Every scenario with every policy and the best fixed arm."""
    return {f"{name}, {policy}": partial(one_run, name, policy) for name in SCENARIOS for policy in (*MAKERS, STATIC)}


def gains(worth: Mapping[str, Mapping[str, Sequence[float]]], policy: str, over: str) -> dict[str, tuple[float, float]]:
    """Mean paired gain of a policy in each scenario, and half of its 95 % interval.

    Args:
        worth: by scenario and policy, one number per seed.
    """
    found = {}
    for name, by_policy in worth.items():
        paired = np.array(by_policy[policy]) - np.array(by_policy[over])
        found[name] = float(paired.mean()), float(T_31 * paired.std(ddof=1) / np.sqrt(len(paired)))
    return found


def verdict(worth: Mapping[str, Mapping[str, Sequence[float]]], policy: str) -> tuple[bool, float, float]:
    """Whether to keep a policy by the rule above, with its gain over all scenarios and half of its 95 % interval."""
    seeds = np.mean([np.array(own[policy]) - np.array(own[BASELINE]) for own in worth.values()], axis=0)
    mean, half = float(seeds.mean()), float(T_31 * seeds.std(ddof=1) / np.sqrt(len(seeds)))
    single = gains(worth, policy, BASELINE).values()
    return mean - half > 0.0 and all(gain + width >= -LEAST_LOSS for gain, width in single), mean, half

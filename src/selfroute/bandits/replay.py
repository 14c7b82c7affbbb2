"""What another policy would have been worth on the requests of a log: two estimates with intervals, or a refusal.

A policy is shown the log's decisions in order. At each one it says with which probability it would choose each
candidate, the logged choice counts with π/p, its probability over the logged propensity, and then the policy learns
from the logged outcome. So the estimates are of the policy as it would decide after such a log.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from selfroute.bandits.base import Arm, Context, Outcome
from selfroute.bandits.linear import Ridges
from selfroute.bandits.log import Decision
from selfroute.errors import SelfRouteError

__all__ = [
    "LEAST_EFFECTIVE",
    "METRICS",
    "Estimate",
    "Feedback",
    "Replayed",
    "Target",
    "check_support",
    "feedback",
    "replay",
]

LEAST_EFFECTIVE = 100  # below, intervals hold too seldom: benchmarks/bandits measures how often
METRICS = ("quality", "cost_usd", "latency_s", "worth")
_NORMAL_95 = 1.959963984540054
Floats = npt.NDArray[np.float64]


class Target(Protocol):
    """What can be replayed; `selfroute.bandits.policy.Policy` is one."""

    def probabilities(self, context: Context, arms: Sequence[Arm]) -> list[float]:
        """With which each candidate would be chosen, shape (K,)."""
        ...

    def note(self, arm: str) -> None:
        """Count a choice that the log made."""
        ...

    def update(self, arm: str, outcome: Outcome) -> None:
        """Learn from a logged outcome."""
        ...


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean per decision with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a policy is estimated to reach on the free decisions with feedback.

    Attributes:
        n: decisions that were free (more than one candidate) and got feedback.
        effective_n: (Σw)² / Σw² of their weights; how many decisions of its own they are worth.
        self_normalised: by metric, Σ w r / Σ w (Swaminathan and Joachims, 2015).
        doubly_robust: by metric, the mean of Σ_a π(a) q̂(a) + w (r - q̂(chosen)) (Dudík et al., arXiv 1103.4601). q̂ is
            fitted on earlier decisions alone, so that logs of a learning policy leave no bias.
    """

    n: int
    effective_n: float
    self_normalised: Mapping[str, Estimate]
    doubly_robust: Mapping[str, Estimate]

    def check(self, name: str) -> None:
        """Refuse what is worth too few decisions.

        Raises:
            SelfRouteError: the effective n is below `LEAST_EFFECTIVE`.
        """
        if self.effective_n < LEAST_EFFECTIVE:
            raise SelfRouteError(
                f"{name}: the log's {self.n} decisions with feedback are worth {self.effective_n:.0f} of its own, and "
                f"intervals hold from {LEAST_EFFECTIVE} on; log more, explore more, or replay a policy nearer to the "
                f"log's"
            )


@dataclass(frozen=True, slots=True)
class Feedback:
    """How much of the log was judged, and whether that depends on the arm.

    Attributes:
        share: of the free decisions.
        by_arm: the same of each arm's.
        p: of the χ² test that the arms' shares are equal; 1 if there is nothing to compare.
    """

    share: float
    by_arm: Mapping[str, float]
    p: float

    @property
    def depends_on_arm(self) -> bool:
        """Whether the shares differ by more than chance (p < 0.01): all estimates then lean."""
        return self.p < 0.01


def check_support(decisions: Sequence[Decision]) -> None:
    """See that every candidate could have been chosen.

    Raises:
        SelfRouteError: some could not; of those a log says nothing.
    """
    free = [decision for decision in decisions if not decision.choice.forced]
    closed = sum(decision.choice.least <= 0.0 for decision in free)
    if not free:
        raise SelfRouteError("every decision of the log had one candidate only; there is nothing to compare")
    if closed:
        raise SelfRouteError(
            f"in {closed} of {len(free)} decisions some candidate could not have been chosen (least is 0); nothing can "
            f"be said of what was never tried: log with an exploration floor, e.g. floor 0.05"
        )


def feedback(decisions: Sequence[Decision]) -> Feedback:
    """Share of the free decisions with a quality, over all and by arm."""
    counts: dict[str, list[int]] = {}
    for decision in decisions:
        if not decision.choice.forced:
            counts.setdefault(decision.choice.arm, [0, 0])[decision.outcome.quality is not None] += 1
    table = np.array(list(counts.values()), dtype=float)
    by_arm = dict(zip(counts, (table[:, 1] / table.sum(1)).tolist(), strict=True))
    return Feedback(float(table[:, 1].sum() / table.sum()), by_arm, _same_share_p(table))


def _same_share_p(table: Floats) -> float:
    """p of the χ² test that rows have the same shares; shape (K, 2)."""
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    if len(table) < 2 or not expected.all():
        return 1.0
    return _chi2_tail(float(((table - expected) ** 2 / expected).sum()), len(table) - 1)


def _chi2_tail(statistic: float, freedom: int) -> float:
    """P(χ² ≥ statistic): the incomplete gamma function Q(freedom/2, statistic/2), by its recurrence in steps of one."""
    half = statistic / 2.0
    power = (freedom % 2) / 2.0  # Q(1/2, y) = erfc √y, Q(0, y) = 0
    tail = math.erfc(math.sqrt(half)) if freedom % 2 else 0.0
    while power < freedom / 2.0:
        tail += math.exp(power * math.log(half) - half - math.lgamma(power + 1.0)) if half else float(not power)
        power += 1.0
    return min(1.0, tail)


def replay(decisions: Sequence[Decision], target: Target) -> Replayed:
    """Estimate a policy on a log; see `check_support` and `Replayed.check` for when that says nothing.

    Raises:
        SelfRouteError: no free decision has feedback.
        ConfigError: the policy does not know an arm of the log, or needs other features.
    """
    names = list(dict.fromkeys(arm.name for decision in decisions for arm in decision.arms))
    weighed = any(d.context.price_weight or d.context.latency_weight for d in decisions)  # else worth is quality
    models = {metric: _Model(names) for metric in METRICS}
    weights: list[float] = []
    terms: dict[str, list[tuple[float, float, float]]] = {metric: [] for metric in METRICS}
    for decision in decisions:
        chosen = decision.choice.arm
        if not decision.choice.forced and decision.outcome.quality is not None:
            chances = target.probabilities(decision.context, decision.arms)
            place = next(i for i, arm in enumerate(decision.arms) if arm.name == chosen)
            weights.append(chances[place] / decision.choice.propensity)
            for metric, value in _values(decision, weighed).items():
                term = models[metric].term(decision, chances, place, value)
                terms[metric].append((weights[-1], value, term))
        target.note(chosen)
        target.update(chosen, decision.outcome)
    if not sum(weights):
        raise SelfRouteError("no free decision with feedback agrees with the policy; there is nothing to estimate from")
    estimated = {metric: np.array(rows) for metric, rows in terms.items() if len(rows) > 1}
    if not weighed and "quality" in estimated:
        estimated["worth"] = estimated["quality"]
    return Replayed(
        len(weights),
        sum(weights) ** 2 / sum(weight * weight for weight in weights),
        {metric: _self_normalised(rows[:, 0], rows[:, 1]) for metric, rows in estimated.items() if rows[:, 0].any()},
        {metric: _mean(rows[:, 2]) for metric, rows in estimated.items()},
    )


def _values(decision: Decision, weighed: bool) -> dict[str, float]:
    """What is known of each metric; the worth takes the quote where the cost is not known."""
    outcome, context = decision.outcome, decision.context
    found = {"quality": outcome.quality, "cost_usd": decision.cost_usd, "latency_s": outcome.latency_s}
    known = {metric: value for metric, value in found.items() if value is not None}
    if not weighed:
        return known
    quote = next(arm.price_usd for arm in decision.arms if arm.name == decision.choice.arm)
    worth = known["quality"] - context.price_weight * known.get("cost_usd", quote)
    if not context.latency_weight:
        return {**known, "worth": worth}
    if "latency_s" in known:
        return {**known, "worth": worth - context.latency_weight * known["latency_s"]}
    return known


class _Model:
    """q̂: ridge regression of one metric per arm, on a constant and the features, of earlier decisions."""

    def __init__(self, arms: Sequence[str]) -> None:
        self._arms = arms
        self._ridges: Ridges | None = None

    def term(self, decision: Decision, chances: Sequence[float], place: int, value: float) -> float:
        """The doubly robust term of one decision; learns from it afterwards."""
        features = (1.0, *decision.context.features)
        if self._ridges is None:
            self._ridges = Ridges(self._arms, len(features))
        names = [arm.name for arm in decision.arms]
        expected = self._ridges.predict(names, features)[0]
        term = float(expected @ chances) + chances[place] / decision.choice.propensity * (value - expected[place])
        self._ridges.add(names[place], features, value)
        return float(term)


def _self_normalised(weights: Floats, values: Floats) -> Estimate:
    total = weights.sum()
    value = float(weights @ values / total)
    error = float(np.sqrt(np.sum((weights * (values - value)) ** 2)) / total)
    return Estimate(value, value - _NORMAL_95 * error, value + _NORMAL_95 * error)


def _mean(values: Floats) -> Estimate:
    value, error = float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
    return Estimate(value, value - _NORMAL_95 * error, value + _NORMAL_95 * error)

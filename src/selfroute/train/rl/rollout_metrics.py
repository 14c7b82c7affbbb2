"""What one step's rollouts say, as numbers; docs/gapg.md explains each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from selfroute.grading import Outcome
from selfroute.verify.base import is_solved

__all__ = ["kind_of", "rollout_metrics", "step_metrics"]

Group = Sequence[Outcome]


def step_metrics(groups: Sequence[Group], rewards: Sequence[Sequence[float]], *, forced: int) -> dict[str, float]:
    """Those of a step whose groups end with `forced` rollouts that could not hand off."""
    found = rollout_metrics(
        [group[: len(group) - forced] for group in groups], [group[: len(group) - forced] for group in rewards]
    )
    if forced:
        kept = [outcome for group in groups for outcome in group[-forced:]]
        found["rollouts/forced_correct"] = _mean(is_solved(outcome.device_correct) for outcome in kept)
    return found


def rollout_metrics(groups: Sequence[Group], rewards: Sequence[Sequence[float]]) -> dict[str, float]:
    """Shares, rewards and tokens of the rollouts that could hand off.

    Args:
        groups: the outcomes of each prompt, at least one each.
        rewards: of the same shape; NaN where a rollout could not be graded.
    """
    outcomes = [outcome for group in groups for outcome in group]
    paid = [reward for group in rewards for reward in group]
    asked = _mean(outcome.wants_cloud for outcome in outcomes)
    solved = _mean(is_solved(outcome.device_correct) for outcome in outcomes)
    kinds = [kind_of(outcome) for outcome in outcomes]
    found = {
        "rollouts/call_share": asked,
        "rollouts/device_correct": solved,
        "rollouts/kept_and_wrong": 1.0 - asked - solved,
        "rollouts/all_asked_groups": _mean(all(o.wants_cloud for o in group) for group in groups),
        "rollouts/no_gradient_groups": _mean(len({r for r in group if not math.isnan(r)}) < 2 for group in rewards),
        "rollouts/ask_entropy": _mean(_entropy(_mean(o.wants_cloud for o in group)) for group in groups),
        "rollouts/ungraded": _mean(math.isnan(reward) for reward in paid),
        "rollouts/cut_off": _mean(outcome.cut_off for outcome in outcomes),
    }
    if told := [outcome.leakage for outcome in outcomes if outcome.leakage is not None]:
        found["messages/leaking"] = _mean(leakage.leaked > 0 for leakage in told)
        found["messages/losing"] = _mean(leakage.lost > 0 for leakage in told)
    for name in sorted({name for outcome in outcomes for name in outcome.violations}):
        found[f"violation/{name}"] = _mean(o.violations[name] for o in outcomes if name in o.violations)
    for kind in ("solved", "wrong", "handed_off"):
        mine = [i for i, other in enumerate(kinds) if other == kind]
        graded = [paid[i] for i in mine if not math.isnan(paid[i])]
        if graded:
            found[f"reward/{kind}"] = _mean(graded)
        if mine:
            found[f"device_tokens/{kind}"] = _mean(outcomes[i].device_tokens for i in mine)
    return found


def kind_of(outcome: Outcome) -> str:
    """ "handed_off", "solved" or "wrong"."""
    if outcome.wants_cloud:
        return "handed_off"
    return "solved" if is_solved(outcome.device_correct) else "wrong"


def _entropy(share: float) -> float:
    """Of a yes or no, in bits."""
    return -sum(p * math.log2(p) for p in (share, 1.0 - share) if p > 0)


def _mean(values: Iterable[float]) -> float:
    items = list(values)
    return sum(items) / len(items)

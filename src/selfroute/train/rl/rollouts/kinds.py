"""The kinds of attempts by name, and how what they take of the cloud is counted, paid and capped.

An algorithm names its kind; nothing else asks which it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

from selfroute.calls import CALL_FORM
from selfroute.grading import Outcome
from selfroute.handoff import HANDOFF_TEXT
from selfroute.rewards.base import Reward
from selfroute.rewards.hierarchical import Hierarchical
from selfroute.train.rl.prompt_filter import ratio_from_share

__all__ = ["KINDS", "Kind"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How attempts are made, and what they cost.

    Attributes:
        place: module and name of what makes its `Rollout`, of the cloud's backend.
        handoff: what a policy writes to ask for the cloud.
        takes: what an attempt takes of the cloud, in [0, 1]; the mean of it is the share that is wanted.
        bounds: lowest and highest price, by the weights of the reward.
        paid: what an attempt is worth before its price.
        ratio: from the wanted share, how many prompts that take the cloud may stand beside one that does not.
        inside: whether the cloud writes within attempts, so that each needs it and none is offered a hand-off.
        interactive: whether attempts act in an environment, which `place` is given as `open`, with `options`.
    """

    place: str
    handoff: str
    takes: Callable[[Outcome], float]
    bounds: Callable[[Hierarchical], tuple[float, float]]
    paid: Callable[[Reward, Outcome], float | None]
    ratio: Callable[[float], float]
    inside: bool = False
    interactive: bool = False

    @property
    def turns(self) -> bool:
        """Whether attempts have several turns, with words of others between."""
        return self.inside or self.interactive

    def make(self, **given: Any) -> Any:
        """Its `Rollout`."""
        module, _, name = self.place.partition(":")
        return getattr(import_module(module), name)(**given)


def _as_own(reward: Reward, outcome: Outcome) -> float | None:
    """An answer is worth the same whoever wrote its tokens: what these cost is the price."""
    return reward(replace(outcome, wants_cloud=False, device_correct=outcome.correct))


_SINGLE = Kind(
    place="selfroute.train.rl.rollouts.single:Single",
    handoff=HANDOFF_TEXT,
    takes=lambda outcome: float(outcome.wants_cloud),
    # A hand-off is then worth between -α_a and 2·α_a. A share above what the device fails at takes more than α_a:
    # asking has to pay as much as an answer known to be right.
    bounds=lambda reward: (reward.cloud - 2 * reward.local, reward.cloud + reward.local),
    paid=lambda reward, outcome: reward(outcome),
    ratio=ratio_from_share,
)
KINDS: Mapping[str, Kind] = {
    "single": _SINGLE,
    "tree": replace(_SINGLE, place="selfroute.train.rl.rollouts.tree:Tree", interactive=True),
    "relay": Kind(
        place="selfroute.train.rl.rollouts.relay:Relay",
        handoff=CALL_FORM,
        takes=lambda outcome: outcome.cloud_share,
        bounds=lambda reward: (-reward.local, 2 * reward.local),
        paid=_as_own,
        ratio=lambda share: math.inf,
        inside=True,
    ),
}

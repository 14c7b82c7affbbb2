"""The adaptive prompt filter: which prompts of a batch take part in an update (arXiv 2509.24050, section 3.3.2).

D1 are the prompts that at least one rollout solved on the device; D2 those that no rollout solved but the cloud
did. Letting in at most ρ prompts of D2 per prompt of D1 fixes the training mixture at the wanted call share:
without it, early batches full of unsolved prompts reinforce asking until nothing is tried any more.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from selfroute.errors import ConfigError
from selfroute.grading import Outcome
from selfroute.verify.base import is_solved

__all__ = ["PromptFilter", "Selection", "classify", "ratio_from_share"]


def ratio_from_share(share: float) -> float:
    """Cloud-device ratio ρ = share / (1 - share); 30 % is ρ = 3/7.

    Raises:
        ConfigError: a share outside (0, 1).
    """
    if not 0.0 < share < 1.0:
        raise ConfigError(f"share must lie between 0 and 1, not {share:g}; 0.3 allows 30 % of requests to the cloud")
    return share / (1.0 - share)


def classify(group: Sequence[Outcome]) -> str:
    """ "device" (D1), "cloud" (D2) or "neither", for the G outcomes of one prompt; see `is_solved`."""
    if any(is_solved(outcome.device_correct) for outcome in group):
        return "device"
    return "cloud" if any(is_solved(outcome.cloud_correct) for outcome in group) else "neither"


@dataclass(frozen=True, slots=True)
class Selection:
    """Indexes of the prompts in an update; `cloud_seen` counts the D2 prompts before the cap."""

    device: list[int]
    cloud: list[int]
    cloud_seen: int

    @property
    def prompts(self) -> list[int]:
        return [*self.device, *self.cloud]


class PromptFilter:
    """Keeps all of D1 and at most ρ|D1| of D2, drawn at random.

    The paper leaves the rounding open. Here the fraction that the floor cuts off is carried to the next step, so
    that the cap holds on average and not only where ρ|D1| is whole.

    Attributes:
        ratio: ρ; infinite lets all of D2 in, so that only prompts which nobody solved stay out.
        carry: fraction of a D2 prompt left over from earlier steps, in [0, 1).
    """

    def __init__(self, ratio: float, *, carry: float = 0.0) -> None:
        self.ratio = ratio
        self.carry = carry

    def select(self, groups: Sequence[Sequence[Outcome]], rng: random.Random) -> Selection:
        """Choose the prompts of one update from their groups' outcomes."""
        kinds = [classify(group) for group in groups]
        device = [i for i, kind in enumerate(kinds) if kind == "device"]
        cloud = [i for i, kind in enumerate(kinds) if kind == "cloud"]
        if math.isinf(self.ratio):
            return Selection(device, cloud, len(cloud))
        allowed = self.ratio * len(device) + self.carry
        whole = int(allowed + 1e-9)
        self.carry = max(0.0, allowed - whole)
        chosen = cloud if len(cloud) <= whole else sorted(rng.sample(cloud, whole))
        return Selection(device, chosen, len(cloud))

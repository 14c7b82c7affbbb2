"""TRL's own advantages, for the paper's baselines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from selfroute.train.rl.objectives.base import Scored

__all__ = ["TRLAdvantages"]


@dataclass(frozen=True, slots=True)
class TRLAdvantages:
    """Leaves the advantages of `GRPOTrainer` alone: `scale_rewards` and `loss_type` say what they are."""

    needs: ClassVar[frozenset[str]] = frozenset({"advantages"})
    sums: ClassVar[bool] = False

    def weights(self, batch: Scored) -> Tensor:
        assert batch.advantages is not None
        return batch.advantages

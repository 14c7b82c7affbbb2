"""What a completion may hold: the contract of a constraint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from selfroute.grading import Outcome
    from selfroute.train.rl.view import TokenView

__all__ = ["Constraint", "Watching"]


class Constraint(Protocol):
    """A term beside the policy's loss, at a price of its own.

    One that remembers something between steps has `state()` and `restore(state)`, as in `checkpoint.Part`.

    Attributes:
        needs: "hidden" for last hidden states and the head behind them; "logits" for logits of every token as well, in
            a pass that takes more memory than the fused head of TRL.
        multiplier: what its mean over a step's rollouts is multiplied with, read in every pass.
    """

    @property
    def needs(self) -> frozenset[str]: ...

    @property
    def multiplier(self) -> float: ...

    def loss(self, view: TokenView) -> Tensor:
        """One term per row, shape (B,), with a gradient."""
        ...

    def update(self, measured: float) -> None:
        """Move the multiplier, once a step: `measured` is the mean of the terms of all its rollouts."""
        ...


@runtime_checkable
class Watching(Protocol):
    """Optional: a constraint that notes something of every rollout when it is graded, for its loss."""

    def watch(self, ids: Tensor, own: Tensor, outcomes: Sequence[Outcome]) -> Mapping[str, Tensor]:
        """Facts of this process's rollouts, of B rows each; the loss finds them in `view.facts`.

        Args:
            ids: completion tokens, shape (B, T).
            own: whether each is one that the policy wrote, shape (B, T).
        """
        ...

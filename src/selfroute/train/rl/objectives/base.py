"""How rewards become a gradient: the contract of an objective, and what it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from selfroute.grading import Outcome

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BY_REFERENCE", "NEEDS", "ByPrefix", "Learning", "Objective", "Scored", "facts_read", "is_off_policy"]

# What an objective may ask for beside rewards and outcomes, each at a price: messages between processes, or a pass.
NEEDS = frozenset({"advantages", "own", "logq", "ref_logq", "ref_prefixes", "prompt"})
# Of these, what a reference model is asked for.
BY_REFERENCE = frozenset({"ref_logq", "ref_prefixes"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The graded rollouts of P prompts, G each, of all processes.

    Attributes:
        rewards: shape (P, G); NaN where a rollout could not be graded.
        outcomes: the facts behind them, P groups of G.
        facts: what the rollouts say of each attempt, by name; shape (P, G) each. See `Attempts.facts`.
        advantages: TRL's own, shape (P, G); None unless needed.
        own: whether each completion token is one of the policy, shape (P, G, T); None unless needed ("own").
        logq: log-probability of each attempt under the policy that wrote it, its own tokens, at the temperature of
            the attempts, shape (P, G); None unless needed.
        ref_logq: likewise under the reference model; None unless needed.
        prompt: mean last hidden state of the policy over each prompt's tokens, shape (P, H); None unless needed.
        rows: id of each prompt's row.
        step: optimiser steps before this one.
    """

    rewards: Tensor
    outcomes: Sequence[Sequence[Outcome]]
    facts: Mapping[str, Tensor] = field(default_factory=dict)
    advantages: Tensor | None = None
    own: Tensor | None = None
    logq: Tensor | None = None
    ref_logq: Tensor | None = None
    prompt: Tensor | None = None
    rows: Sequence[str] = ()
    step: int = 0

    def of(self, prompts: Sequence[int]) -> Scored:
        """Some of the prompts."""
        chosen = list(prompts)

        def take(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[chosen]

        return replace(
            self,
            rewards=self.rewards[chosen],
            outcomes=[self.outcomes[i] for i in chosen],
            facts={name: values[chosen] for name, values in self.facts.items()},
            advantages=take(self.advantages),
            own=take(self.own),
            logq=take(self.logq),
            ref_logq=take(self.ref_logq),
            prompt=take(self.prompt),
            rows=[self.rows[i] for i in chosen] if self.rows else (),
        )


class Objective(Protocol):
    """Rewards to the weights of a policy gradient.

    The gradient of a prompt x is estimated by Σ_i w_i ∇ log π(y_i | x), or with weights per token by
    Σ_i Σ_t w_it ∇ log π(y_it | x, y_i<t); an update goes along the mean over its prompts.

    An objective that weights cannot express has a method `loss(view, rows)` too, which takes the place of TRL's policy
    loss: from a `TokenView` of a micro-batch and its padded rows to one term per row, shape (B,), whose mean goes down.
    `rows["advantages"]` are the weights, scaled so that the mean over rows of -advantage · log π is the estimate above.
    One that remembers something between steps has `state()` and `restore(state)`, as in `checkpoint.Part`.

    Attributes:
        needs: names of `NEEDS` that `weights` reads.
        sums: False where the weights are advantages for TRL's loss as it is set, which may divide by lengths; True
            where they are the weights above, under which TRL's loss has to be a plain sum.
        reads: optional, and empty without it: facts of attempts that have to be there, see `Scored.facts`.
        off_policy: optional, and False without it: whether attempts may come from elsewhere than the policy as it is.
    """

    @property
    def needs(self) -> frozenset[str]: ...

    @property
    def sums(self) -> bool: ...

    def weights(self, batch: Scored) -> Tensor:
        """Weights of at least one prompt's rollouts; pure.

        Returns:
            Shape (P, G) or (P, G, T); 0 for a rollout that was not graded.
        """
        ...


@runtime_checkable
class Learning(Protocol):
    """Optional: an objective that learns something of its own, such as log Z, or has something to tell of a step."""

    def learn(self, batch: Scored) -> Mapping[str, float]:
        """Take in the prompts of an update once their weights are known; metrics of the step."""
        ...


@runtime_checkable
class ByPrefix(Protocol):
    """Optional: an objective whose loss reads the reward of every beginning of an attempt."""

    def prefix_rewards(self, logps: Tensor, stops: Tensor, own: Tensor, *, step: int) -> Tensor:
        """Log-reward of ending before each token, shape (B, T); `loss` finds it in `rows["prefix_rewards"]`.

        Args:
            logps, stops: log-probability of each token, and of ending in its place, under the reference model, (B, T).
            own: whether each is one of the policy, shape (B, T).
            step: optimiser steps before this one.
        """
        ...


def facts_read(objective: Any) -> frozenset[str]:
    """The facts of attempts without which an objective is not defined."""
    return frozenset(getattr(objective, "reads", ()))


def is_off_policy(objective: Any) -> bool:
    """Whether an objective may learn from attempts that the policy as it is did not write."""
    return bool(getattr(objective, "off_policy", False))

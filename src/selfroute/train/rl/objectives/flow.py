"""FlowRL (arXiv 2509.15207): trajectory balance per token, with group-normalised rewards and log Z from the prompt."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from selfroute.bounds import Count, Positive, check_fields
from selfroute.train.rl.objectives.balance import mean_gap, residuals_to_weights
from selfroute.train.rl.objectives.base import Scored

__all__ = ["FlowRL", "normalised"]


def normalised(rewards: Tensor) -> Tensor:
    """Rewards (P, G) less their group's mean, by its deviation; 0 throughout where all are equal, NaN stays."""
    centred = rewards - rewards.nanmean(1, keepdim=True)
    deviation = centred.square().nanmean(1, keepdim=True).sqrt()
    return torch.where(deviation > 0, centred / deviation, centred)


class _Head(nn.Module):
    """From a prompt's mean hidden state (P, H) to its log Z (P, 1), which begins at 0."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(size, width), nn.Linear(width, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, states: Tensor) -> Tensor:
        found: Tensor = self.last(nn.functional.gelu(self.first(states.to(self.first.weight.dtype))))
        return found


@dataclass(kw_only=True)
class FlowRL:
    """log Z_φ(x) + log q(y) / |y| - β r̂(y) - log p_ref(y) / |y|, squared (equation 6).

    With one update per batch of attempts the importance weight of the paper is 1 throughout.

    Attributes:
        beta: β, of the normalised reward.
        z_rate: step size of Adam for the network that reads log Z off a prompt.
        width: of its hidden layer.

    Raises:
        ConfigError: an option that cannot be.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logq", "ref_logq", "own", "prompt"})
    sums: ClassVar[bool] = True
    off_policy: ClassVar[bool] = True

    beta: Positive = 15.0
    z_rate: Positive = 1e-3
    width: Count = 64
    _head: _Head | None = field(default=None, init=False, repr=False)
    _adam: torch.optim.Adam | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        check_fields(self)

    def gaps(self, batch: Scored) -> Tensor:
        """The residual without log Z, shape (P, G)."""
        assert batch.logq is not None and batch.ref_logq is not None
        return (batch.logq - batch.ref_logq) / self.spans(batch) - self.beta * normalised(batch.rewards)

    def spans(self, batch: Scored) -> Tensor:
        """Own tokens of each attempt, |y|, shape (P, G)."""
        assert batch.own is not None
        return batch.own.sum(2).clamp(min=1).to(batch.rewards)

    def log_z(self, batch: Scored) -> Tensor:
        """log Z_φ of each prompt, shape (P, 1), with its gradient; 0 before the first step."""
        assert batch.prompt is not None
        head, _ = self._ready(batch.prompt)
        found: Tensor = head(batch.prompt).to(batch.rewards)
        return found

    def weights(self, batch: Scored) -> Tensor:
        with torch.no_grad():
            return residuals_to_weights(self.gaps(batch) + self.log_z(batch), self.spans(batch))

    def learn(self, batch: Scored) -> Mapping[str, float]:
        """One step of φ down the same loss; metrics."""
        assert batch.prompt is not None
        _, adam = self._ready(batch.prompt)
        with torch.enable_grad():
            log_z = self.log_z(batch)
            loss = mean_gap((self.gaps(batch) + log_z).square()).mean()
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        return {"objective/loss": float(loss.detach()), "objective/log_z": float(log_z.detach().mean())}

    def state(self) -> str | None:
        """Weights and optimiser as text, as in `selfroute.train.rl.checkpoint.Part`; None before the first step."""
        if self._head is None or self._adam is None:
            return None
        kept = io.BytesIO()
        torch.save({"head": self._head.state_dict(), "adam": self._adam.state_dict()}, kept)
        return base64.b64encode(kept.getvalue()).decode("ascii")

    def restore(self, state: Any) -> None:
        """As in `selfroute.train.rl.checkpoint.Part`."""
        if state is None:
            return
        found: Mapping[str, Any] = torch.load(io.BytesIO(base64.b64decode(state)), weights_only=True)
        head, adam = self._ready(found["head"]["first.weight"][:1])
        head.load_state_dict(found["head"])
        adam.load_state_dict(found["adam"])

    def _ready(self, prompt: Tensor) -> tuple[_Head, torch.optim.Adam]:
        """The network for hidden states of this size, made at their first sight; its output begins at 0."""
        if self._head is None or self._adam is None:
            with torch.random.fork_rng(devices=[]):  # the policy's luck does not depend on its objective
                torch.manual_seed(0)
                self._head = _Head(prompt.shape[1], self.width).to(prompt.device)
            self._adam = torch.optim.Adam(self._head.parameters(), lr=self.z_rate)
        return self._head, self._adam

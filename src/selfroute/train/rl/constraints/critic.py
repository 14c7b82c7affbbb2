"""Fitting a prefix critic to texts that an oracle has labelled (arXiv 2410.05559, section 3; 2205.14219).

Every prefix of a text has the text's own label, so the best prediction is the expectation R(y≤i): the loss is Σ_i
BCE(R(y≤i), C), taken on log-odds. The code released with 2205.14219 hands log σ of them to a loss that takes log-odds:
no probability can then pass one half, and nothing is learned.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from selfroute.backends.torch.critic import Critic, expected

__all__ = ["CriticFit", "Places", "bernoulli_kl", "critic_loss"]


@dataclass(frozen=True, slots=True)
class Places:
    """Places of labelled texts at which a token was written, N in all; without gradient.

    Attributes:
        hidden: states before the token, shape (N, H).
        token: the token, shape (N,).
        kept: whether its text keeps to the attribute, or how much, in [0, 1], shape (N,).
        logprobs: log p of every token there, shape (N, V); None unless consistency is wanted.
        before: the place of the same text before this one, shape (N,), -1 for the first; None likewise.
    """

    hidden: Tensor
    token: Tensor
    kept: Tensor
    logprobs: Tensor | None = None
    before: Tensor | None = None


def bernoulli_kl(first: Tensor, second: Tensor) -> Tensor:
    """KL between two yes-or-no questions, elementwise, given their probabilities."""
    first, second = (p.clamp(1e-6, 1 - 1e-6) for p in (first, second))
    return first * (first / second).log() + (1 - first) * ((1 - first) / (1 - second)).log()


def critic_loss(critic: Critic, places: Places, *, consistency: float = 0.0) -> Tensor:
    """Σ_i BCE(R(y≤i), C) per place, plus γ·KL(Σ_v p(v) R(·, v) ‖ R(·)); the mean over the places.

    Args:
        consistency: γ; it ties what is expected at a place to what was said of the token before it.
    """
    if not consistency:
        return functional.binary_cross_entropy_with_logits(critic.of(places.hidden, places.token), places.kept)
    odds = critic(places.hidden)
    said = odds.gather(1, places.token[:, None])[:, 0]
    loss = functional.binary_cross_entropy_with_logits(said, places.kept)
    assert places.logprobs is not None and places.before is not None
    follows = places.before >= 0
    if not bool(follows.any()):
        return loss
    ahead = expected(places.logprobs[follows], odds[follows])
    return loss + consistency * bernoulli_kl(ahead, said[places.before[follows]].sigmoid()).mean()


class CriticFit:
    """A critic and the optimiser that fits it, part by part.

    Args:
        learning_rate: of AdamW.
        passes: steps over each part of the data.
        consistency: γ of `critic_loss`.
    """

    def __init__(
        self, critic: Critic, *, learning_rate: float = 3e-3, passes: int = 4, consistency: float = 0.0
    ) -> None:
        self.critic = critic
        self.passes = passes
        self.consistency = consistency
        self.optimizer = torch.optim.AdamW(critic.parameters(), lr=learning_rate, weight_decay=0.0)

    def fit(self, places: Places) -> float:
        """Take some steps on new places; the loss before them."""
        first = 0.0
        for step in range(self.passes):
            with torch.enable_grad():
                loss = critic_loss(self.critic, places, consistency=self.consistency)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._share_gradients()
            self.optimizer.step()
            first = float(loss.detach()) if not step else first
        return first

    def _share_gradients(self) -> None:
        """The mean over processes, so that all keep the same critic."""
        if not torch.distributed.is_available() or not torch.distributed.is_initialized():
            return
        for weight in self.critic.parameters():
            if weight.grad is not None:
                torch.distributed.all_reduce(weight.grad)
                weight.grad /= torch.distributed.get_world_size()

    def state(self) -> str:
        """Weights and optimiser as text, for a checkpoint."""
        kept = io.BytesIO()
        torch.save({"critic": self.critic.state_dict(), "optimizer": self.optimizer.state_dict()}, kept)
        return base64.b64encode(kept.getvalue()).decode("ascii")

    def restore(self, state: str) -> None:
        """Go on where `state` was taken."""
        found: Mapping[str, Any] = torch.load(io.BytesIO(base64.b64decode(state)), weights_only=True)
        self.critic.load_state_dict(found["critic"])
        self.optimizer.load_state_dict(found["optimizer"])

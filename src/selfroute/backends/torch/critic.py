"""Prefix critics: how likely a text keeps to an attribute, for every next token at once (arXiv 2410.05559, 2205.14219).

With C(y) ∈ {0, 1} whether a whole text keeps to it, p the model and R(y≤i) = P_p(C = 1 | y≤i), the model that keeps to
it always is q*(y_i | y<i) = p(y_i | y<i) · R(y≤i) / R(y<i). `tilted` is that distribution in closed form over the
vocabulary, normalised by the sum rather than by R(y<i), so that a critic which is off still gives one.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from selfroute.errors import ConfigError
from selfroute.handoff import Channel, ChannelReader

if TYPE_CHECKING:
    from selfroute.backends.torch.tokens import TokenTexts

__all__ = ["Critic", "Guide", "check_critic", "expected", "tilted"]

_CALM = 4.0  # log-odds of an untrained critic: nothing is in danger, so q* is nearly p


class Critic(nn.Module):
    """A head on the last hidden state that gives, for every next token, the log-odds that the text will keep to C.

    Two factors of rank `width`, so that it stays small beside the model's own head whatever the vocabulary.

    Args:
        hidden_size: H of the model.
        vocabulary: V, as many as the model's logits.
        width: rank between the two factors.
    """

    def __init__(self, hidden_size: int, vocabulary: int, *, width: int = 64) -> None:
        super().__init__()
        self.hidden_size, self.vocabulary, self.width = hidden_size, vocabulary, width
        self.norm = nn.LayerNorm(hidden_size)
        self.down = nn.Linear(hidden_size, width)
        self.up = nn.Linear(width, vocabulary)
        nn.init.zeros_(self.up.weight)
        nn.init.constant_(self.up.bias, _CALM)

    def forward(self, hidden: Tensor) -> Tensor:
        """Log-odds of C behind each next token: hidden states (…, H) to (…, V)."""
        found: Tensor = self.up(self._inner(hidden))
        return found

    def of(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Log-odds of C behind one token each, without those of the others: (N, H) and (N,) to (N,)."""
        return (self._inner(hidden) * self.up.weight[tokens]).sum(-1) + self.up.bias[tokens]

    def _inner(self, hidden: Tensor) -> Tensor:
        return functional.gelu(self.down(self.norm(hidden.float())))

    def save(self, file: Path, facts: dict[str, Any]) -> None:
        """Write it as one safetensors file, with `facts` (JSON) beside its shape."""
        from safetensors.torch import save_file

        shape = {"hidden_size": self.hidden_size, "vocabulary": self.vocabulary, "width": self.width}
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(dict(self.state_dict()), file, metadata={"selfroute.critic": json.dumps(shape | facts)})

    @classmethod
    def load(cls, file: Path) -> tuple[Self, dict[str, Any]]:
        """A critic, and the facts that were kept with it.

        Raises:
            ConfigError: there is no such file, or it holds no critic.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, "pt") as opened:
                facts = json.loads((opened.metadata() or {})["selfroute.critic"])
                weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            made = cls(facts.pop("hidden_size"), facts.pop("vocabulary"), width=facts.pop("width"))
            made.load_state_dict(weights)
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ConfigError(
                f"critic: cannot read '{file}': {reason}; name the critic that training wrote into OUT/critics"
            ) from None
        return made.requires_grad_(False), facts


def check_critic(critic: Critic, *, hidden_size: int, vocabulary: int) -> None:
    """See that a critic belongs to a model.

    Raises:
        ConfigError: it was made for another one.
    """
    if (critic.hidden_size, critic.vocabulary) != (hidden_size, vocabulary):
        raise ConfigError(
            f"critic: it was made for {critic.vocabulary} tokens and hidden states of {critic.hidden_size}, the model "
            f"has {vocabulary} and {hidden_size}; name the critic that was trained with this model"
        )


def expected(logprobs: Tensor, odds: Tensor) -> Tensor:
    """R(y<i) = Σ_v p(v) R(y<i, v): log-probabilities and log-odds (…, V) to (…)."""
    return (logprobs.exp() * odds.sigmoid()).sum(-1)


def tilted(logprobs: Tensor, odds: Tensor, *, allowed: float = 0.0, start: Tensor | None = None) -> Tensor:
    """log q*, the model's next-token distribution given that the text keeps to C as often as wanted.

    With `allowed` violations r̄ the two halves of p are mixed so that E_q[1 - C] = r̄: the weight of a token is (1 -
    r̄) R / R_0 + r̄ (1 - R) / (1 - R_0), R_0 = R of the text before the channel. A model that violates less by itself
    is left as it is.

    Args:
        logprobs: log p, shape (…, V).
        odds: log-odds of R behind each token, shape (…, V).
        allowed: share of texts that may violate C; 0 for none.
        start: R_0, shape (…); needed with `allowed`.

    Returns:
        log q*, shape (…, V).
    """
    weight = functional.logsigmoid(odds)
    if allowed:
        assert start is not None
        keeps = start.clamp(1e-6, 1.0 - 1e-6)[..., None]
        share = torch.minimum(torch.full_like(keeps, allowed), 1.0 - keeps)
        kept = torch.log1p(-share) + weight - keeps.log()
        broken = share.log() + functional.logsigmoid(-odds) - torch.log1p(-keeps)
        weight = torch.logaddexp(kept, broken)
    return (logprobs + weight).log_softmax(-1)


class Guide:
    """Steers the sampler by a critic: on its channel a token is drawn from q* in place of p; one for a batch of rows.

    Args:
        critic: of the model that writes.
        texts: of the model's tokens.
        channel: where it steers; the model writes as it likes elsewhere.
        allowed: as in `tilted`.
    """

    def __init__(self, critic: Critic, texts: TokenTexts, channel: Channel, *, allowed: float = 0.0) -> None:
        self.critic = critic
        self.texts = texts
        self.channel = channel
        self.allowed = allowed
        self._readers: dict[int, ChannelReader] = defaultdict(lambda: ChannelReader(channel))
        self._starts: dict[int, float] = {}

    def steer(self, rows: Sequence[int], logprobs: Tensor, hidden: Tensor) -> Tensor:
        """Log-probabilities to draw from: shape (rows, V), given those of the model and its hidden states (rows, H)."""
        places = [place for place, row in enumerate(rows) if self._readers[row].is_open]
        if not places:
            return logprobs
        odds = self.critic(hidden[places])
        start = torch.tensor(
            [self._start(rows[place], logprobs[place], odds[i]) for i, place in enumerate(places)],
            device=logprobs.device,
        )
        steered = logprobs.clone()
        steered[places] = tilted(logprobs[places], odds, allowed=self.allowed, start=start)
        return steered

    def read(self, rows: Sequence[int], token_ids: Sequence[int]) -> None:
        """Take the tokens that were drawn."""
        for row, token_id in zip(rows, token_ids, strict=True):
            self._readers[row].feed(self.texts[token_id])

    def _start(self, row: int, logprobs: Tensor, odds: Tensor) -> float:
        if not self.allowed:
            return math.nan
        if row not in self._starts:
            self._starts[row] = float(expected(logprobs, odds))
        return self._starts[row]

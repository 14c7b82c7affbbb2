"""What one forward pass says of completions, for objectives and constraints that read more than advantages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from selfroute.train.rl.rows import own_tokens

__all__ = ["Head", "Pass", "TokenView", "head_of", "hidden_states", "plain_pass", "view_of"]

# Last hidden states (N, H) to logits (N, V), at the temperature of the attempts.
Head = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Pass:
    """Numbers of each completion token, with their gradient.

    Attributes:
        logps: log-probability of the token at the temperature of the attempts, shape (B, T).
        entropy: of the distribution it was drawn from, in nats, shape (B, T).
        logits: what that distribution is the softmax of, shape (B, T, V); None unless needed.
        hidden: last hidden states before the token, shape (B, T, H); None unless needed.
        stop: log-probability of ending in the token's place, shape (B, T); None unless needed.
        head: what the logits behind hidden states are made with, for some of them; None unless `hidden` is needed.
    """

    logps: Tensor
    entropy: Tensor | None
    logits: Tensor | None = None
    hidden: Tensor | None = None
    stop: Tensor | None = None
    head: Head | None = None


@dataclass(frozen=True, slots=True)
class TokenView:
    """A micro-batch's completions as the policy sees them now.

    Attributes:
        ids: completion tokens, shape (B, T).
        own: whether each is one that the policy wrote, shape (B, T); False for padding.
        logps, entropy, logits, hidden, stop, head: as in `Pass`.
        facts: what a constraint noted of the rows when they were graded, see `constraints.base.Watching`.
    """

    ids: Tensor
    own: Tensor
    logps: Tensor
    entropy: Tensor | None
    logits: Tensor | None
    hidden: Tensor | None
    stop: Tensor | None = None
    head: Head | None = None
    facts: Mapping[str, Tensor] = field(default_factory=dict)

    def of(self, name: str, rows: Mapping[str, Any]) -> TokenView:
        """The view with the facts that a constraint has noted of its rows."""
        mark = f"{name}/"
        return replace(self, facts={key.removeprefix(mark): rows[key] for key in rows if key.startswith(mark)})


def view_of(rows: Mapping[str, Any], seen: Pass) -> TokenView:
    """The view of a batch of `rows` after a pass over it."""
    own = own_tokens(rows)
    numbers = seen.logps, seen.entropy, seen.logits, seen.hidden, seen.stop
    return TokenView(rows["completion_ids"], own, *numbers, head=seen.head)


def head_of(model: Any, temperature: float) -> Head:
    """The head of a causal model, scaled and capped as the model itself and TRL's fused head do it."""
    config, made = model.config.get_text_config(), model.get_output_embeddings()
    cap, scale = getattr(config, "final_logit_softcapping", None), _scale(config)

    def head(hidden: Tensor) -> Tensor:
        logits = made(hidden.to(made.weight.dtype)) * scale
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        capped: Tensor = logits if cap is None else cap * (logits / cap).tanh()
        return capped / temperature

    return head


def _scale(config: Any) -> float:
    names = ("logit_scale", "output_multiplier", "lm_head_multiplier")
    found = next((value for name in names if (value := getattr(config, name, None)) is not None), None)
    if found is None and (divided := getattr(config, "logits_scaling", None)) is not None:
        found = divided if config.model_type == "hyperclovax" else 1.0 / divided
    return 1.0 if found is None else float(found)


@contextmanager
def hidden_states(model: Any, *, wanted: bool) -> Iterator[list[Tensor]]:
    """What the layers of a causal model give in each pass, with its gradient: last hidden states, shape (B, T, H).

    Args:
        wanted: False for none.
    """
    seen: list[Tensor] = []
    if not wanted:
        yield seen
        return
    hook = model.get_decoder().register_forward_hook(lambda _, __, found: seen.append(found.last_hidden_state))
    try:
        yield seen
    finally:
        hook.remove()


def plain_pass(
    model: Any, ids: Tensor, mask: Tensor, tokens: int, *, temperature: float, ends: Sequence[int] = ()
) -> Pass:
    """A pass that keeps logits and hidden states of the last `tokens` columns.

    Args:
        ids, mask: prompt and completion, shape (B, P + T).
        ends: tokens that end an attempt.
    """
    found = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
    logits = found.logits[:, -tokens - 1 : -1]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    every = logits.log_softmax(-1)
    logps = every.gather(-1, ids[:, -tokens:, None])[..., 0]
    entropy = -(every.exp() * every).sum(-1)
    stop = every[..., list(ends)].logsumexp(-1) if ends else None
    return Pass(logps, entropy, logits, found.hidden_states[-1][:, -tokens - 1 : -1], stop)

"""A critic for a model that is left as it is: fitted to the model's own samples, for decoding with it.

Where the policy is trained as well, its own rollouts fit the critic: `selfroute.train.rl.constraints.regulariser`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from selfroute.backends.torch.critic import Critic
from selfroute.backends.torch.sampler import sample
from selfroute.backends.torch.tokens import TokenTexts, decode
from selfroute.errors import ConfigError
from selfroute.handoff import ChannelReader
from selfroute.scores.oracles import Judged
from selfroute.tasks.base import Row
from selfroute.train.rl.constraints.critic import CriticFit, Places

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Judgement", "calibrate", "calibration_error", "fit_critic", "judged_samples"]

_SCALES, _SHIFTS = (0.1, 10.0), (-10.0, 10.0)  # of log-odds, at most


@dataclass(frozen=True, slots=True)
class Judgement:
    """Samples of a model that an oracle has judged.

    Attributes:
        places: where their channel's tokens were written.
        asked: samples, of which some may have an empty channel.
        violations: mean violation of those with a channel.
    """

    places: Places | None
    asked: int
    violations: float


def judged_samples(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    rows: Sequence[Row],
    judged: Judged,
    *,
    max_new_tokens: int,
    seed: int,
) -> Judgement:
    """Let a model complete prompts at temperature 1, judge the channel, and read its states there.

    Args:
        prompts: token ids, one prompt per row.
    """
    pad = tokenizer.pad_token_id if isinstance(tokenizer.pad_token_id, int) else 0
    ends = [i for i in [tokenizer.eos_token_id] if isinstance(i, int)]
    drawn = sample(model, prompts, max_new_tokens=max_new_tokens, eos_token_ids=ends, pad_token_id=pad, seed=seed)
    written = [group[0].token_ids for group in drawn]
    rates = [judged(decode(tokenizer, ids), row) for ids, row in zip(written, rows, strict=True)]
    kept = [i for i, rate in enumerate(rates) if rate is not None]
    texts = TokenTexts(tokenizer)
    spans = [_span(written[i], texts, judged) for i in kept]
    labels = [1.0 - float(rates[i] or 0.0) for i in kept]
    places = _places(model, [prompts[i] for i in kept], [written[i] for i in kept], spans, labels) if kept else None
    return Judgement(places, len(rows), 1.0 - sum(labels) / max(1, len(labels)))


def _span(ids: Sequence[int], texts: TokenTexts, judged: Judged) -> list[int]:
    """Places of the tokens that belong to the channel."""
    reader, found = ChannelReader(judged.channel), []
    for place, token in enumerate(ids):
        if reader.is_open:
            found.append(place)
        reader.feed(texts[token])
    return found


@torch.no_grad()
def _places(
    model: Any,
    prompts: Sequence[Sequence[int]],
    written: Sequence[Sequence[int]],
    spans: Sequence[Sequence[int]],
    labels: Sequence[float],
) -> Places:
    texts = [torch.tensor([*prompt, *ids]) for prompt, ids in zip(prompts, written, strict=True)]
    # Padding stands behind, where a causal model does not see it.
    ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True).to(model.device)
    states = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    rows = [row for row, span in enumerate(spans) for _ in span]
    tokens = [len(prompts[row]) + place for row, span in enumerate(spans) for place in span]
    kept = torch.tensor([labels[row] for row in rows], device=model.device)
    return Places(states[rows, [token - 1 for token in tokens]].float(), ids[rows, tokens], kept)


def fit_critic(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batches: Iterator[tuple[Sequence[Sequence[int]], Sequence[Row]]],
    judged: Judged,
    *,
    rounds: int,
    max_new_tokens: int,
    width: int = 64,
    learning_rate: float = 3e-3,
    passes: int = 8,
    held: int = 4,
    seed: int = 0,
    on_round: Callable[[int, Judgement], object] | None = None,
) -> CriticFit:
    """Fit a critic to a model's own samples, a batch of fresh prompts at a time.

    Args:
        batches: prompts and their rows: one batch for each round, and those held back behind them.
        passes: steps over each batch.
        held: batches that it is not fitted to, but calibrated on.
        on_round: called with the round and what was judged.

    Raises:
        ConfigError: nothing was ever written on the channel, so there is nothing to learn from.
    """
    config: Any = model.config.get_text_config(decoder=True)
    torch.manual_seed(seed)
    critic = Critic(config.hidden_size, config.vocab_size, width=width).to(model.device)
    fit, seen = CriticFit(critic, learning_rate=learning_rate, passes=passes), 0

    def drawn(number: int) -> Judgement:
        prompts, rows = next(batches)
        at = seed * (rounds + held) + number
        return judged_samples(model, tokenizer, prompts, rows, judged, max_new_tokens=max_new_tokens, seed=at)

    for number in range(rounds):
        found = drawn(number)
        if found.places is not None:
            fit.fit(found.places)
            seen += len(found.places.token)
        if on_round is not None:
            on_round(number, found)
    if not seen:
        raise ConfigError(f"channel: no text was written on '{judged.channel}', so there is nothing to learn from")
    calibrate(critic, [places for number in range(held) if (places := drawn(rounds + number).places) is not None])
    return fit


@torch.no_grad()
def calibrate(critic: Critic, parts: Sequence[Places]) -> None:
    """Scale and shift a critic's log-odds to what happens at places that it was not fitted to (Platt's scaling).

    Both go into its last layer, so that it is kept and used as before. Places that all keep to the attribute, or none,
    tell nothing and change nothing.
    """
    kept = np.concatenate([part.kept.double().cpu().numpy() for part in parts]) if parts else np.ones(1)
    if np.ptp(kept) == 0.0:
        return
    scale, shift = _platt(np.concatenate([_odds(critic, part).double().cpu().numpy() for part in parts]), kept)
    critic.up.weight *= scale
    critic.up.bias.copy_(critic.up.bias * scale + shift)


def _platt(odds: NDArray[np.float64], kept: NDArray[np.float64]) -> tuple[float, float]:
    """Scale and shift of log-odds with the least cross-entropy."""

    def loss(at: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        now = at[0] * odds + at[1]
        slope = expit(now) - kept
        return float(np.mean(np.logaddexp(0.0, now) - kept * now)), np.array([np.mean(slope * odds), np.mean(slope)])

    scale, shift = minimize(loss, (1.0, 0.0), jac=True, bounds=(_SCALES, _SHIFTS), method="L-BFGS-B").x
    return float(scale), float(shift)


def _odds(critic: Critic, places: Places) -> torch.Tensor:
    """Of the tokens that were written, shape (N,)."""
    return critic.of(places.hidden, places.token)


@torch.no_grad()
def calibration_error(critic: Critic, places: Places, *, bins: int = 10) -> float:
    """How far the critic's predictions are from what happens: |mean R - share kept| over equal bins of R, weighted."""
    said = _odds(critic, places).sigmoid()
    which = (said * bins).long().clamp(max=bins - 1)
    gaps = 0.0
    for each in range(bins):
        if not bool((mine := which == each).any()):
            continue
        gaps += float((said[mine].mean() - places.kept[mine].mean()).abs()) * int(mine.sum())
    return gaps / len(said)

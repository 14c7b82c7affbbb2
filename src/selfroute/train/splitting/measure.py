"""What a cut under a lossy link costs in quality: negative log-likelihood of the clean model's own answers.

The clean model is the reference of every point (the official code of arXiv 2406.02616 refers to a random start).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from selfroute.errors import ConfigError
from selfroute.network.channel import Channel
from selfroute.network.states import APART, Block, Codec, encode_states

if TYPE_CHECKING:
    from selfroute.backends.torch.layers import Cut

__all__ = ["Answers", "Quality", "check_places", "measured"]

Floats: TypeAlias = npt.NDArray[np.float64]
Answers: TypeAlias = Sequence[tuple[Sequence[int], Sequence[int]]]


@dataclass(frozen=True, slots=True, eq=False)
class Quality:
    """What was measured.

    Attributes:
        losses: p, shape (P,).
        places: l, layers on the device.
        rise: nats per token above the clean model's, shape (P, places), the mean over draws of the channel.
        clean: nats per token of the clean model.
        tokens: of the answers, together.
    """

    losses: Floats
    places: tuple[int, ...]
    rise: Floats
    clean: float
    tokens: int

    @property
    def perplexity(self) -> Floats:
        """exp of the whole negative log-likelihood, shape (P, places)."""
        found: Floats = np.exp(self.clean + self.rise)
        return found


def check_places(places: Sequence[int], layers: int) -> None:
    """See that a model can be cut at all places.

    Raises:
        ConfigError: one lies outside, or they do not rise; names the nearest that does not.
    """
    for place in places:
        if not 0 < place < layers:
            near = min(max(place, 1), layers - 1)
            raise ConfigError(f"layers: {place} is no place to cut a model of {layers} layers; write {near}")
    if list(places) != sorted(set(places)) or not places:
        raise ConfigError(f"layers: {list(places)} do not rise; name each place once, e.g. [{max(1, layers // 2)}]")


@torch.inference_mode()
def measured(
    cut: Cut,
    answers: Answers,
    channel: Channel,
    losses: Sequence[float],
    places: Sequence[int],
    *,
    codec: Codec = "fp16",
    apart: int = APART,
    draws: int = 1,
    seed: int = 0,
    on_point: Callable[[float, int, float], object] = lambda loss, place, rise: None,
) -> Quality:
    """Measure every pair of loss and place.

    Args:
        answers: ids of prompt and answer; every position goes over the channel, and answer tokens are scored.
        draws: of the channel, for each answer and point.
        on_point: called with p, l and nats per token above the clean model's.
    """
    clean, tokens = _clean(cut, answers)
    rise = np.zeros((len(losses), len(places)))
    for column, place in enumerate(places):
        first = cut.part
        states = [
            first(0, place).run(cut.embed([*prompt, *answer])).float().cpu().numpy() for prompt, answer in answers
        ]
        sent = [encode_states(Block(0, each), codec, apart=apart) for each in states]
        for row, loss in enumerate(losses):
            rng = np.random.default_rng([seed, row, column])
            total = 0.0
            for _ in range(draws):
                for data, (prompt, answer) in zip(sent, answers, strict=True):
                    block = channel.carry(data, loss, rng, width=cut.width).block
                    assert block is not None
                    came = torch.from_numpy(block.states).to(cut.model.device)
                    total += _nats(cut, cut.part(place, cut.layers).run(came), prompt, answer)
            rise[row, column] = total / draws / tokens - clean
            on_point(loss, place, rise[row, column])
    return Quality(np.array(losses, float), tuple(places), rise, clean, tokens)


def _clean(cut: Cut, answers: Answers) -> tuple[float, int]:
    """Nats per token without a cut, and how many tokens."""
    tokens = sum(len(answer) for _, answer in answers)
    total = sum(
        _nats(cut, cut.part(0, cut.layers).run(cut.embed([*prompt, *answer])), prompt, answer)
        for prompt, answer in answers
    )
    return total / tokens, tokens


def _nats(cut: Cut, behind: Tensor, prompt: Sequence[int], answer: Sequence[int]) -> float:
    """Negative log-likelihood of an answer's tokens; a position whose logits are none is worth a guess."""
    logits = cut.logits(behind[len(prompt) - 1 : -1]).float()
    wanted = torch.tensor(answer, device=logits.device)
    each = nn.functional.cross_entropy(logits, wanted, reduction="none")
    return float(each.nan_to_num(math.log(cut.vocabulary)).sum())

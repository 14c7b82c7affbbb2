"""Exits behind layers of a finished model: a norm and a head each, tuned while the model stays as it is.

Each exit begins as the model's own norm and head and learns to name the token that the whole model would write
(EE-Tuning, arXiv 2402.00518, with the model's own tokens for a corpus). Trained along with the model, exits would
change what there is to exit from: layers before them then solve the task, and the cloud is never asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from selfroute.backends.torch.exits import Exit, new_exit
from selfroute.errors import ConfigError

if TYPE_CHECKING:
    from selfroute.backends.torch.layers import Cut

__all__ = ["ExitQuality", "Places", "check_layers", "fit_exits", "places_of", "quality_of_exit"]

_SURE = 0.9


@dataclass(frozen=True, slots=True)
class Places:
    """Where answers go on.

    Attributes:
        states: behind each exit's layers, shape (exits, places, width).
        tokens: what the whole model would write there, shape (places,).
    """

    states: Tensor
    tokens: Tensor


@torch.inference_mode()
def places_of(cut: Cut, exits: Sequence[int], answers: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Places:
    """The places of answers, read once each.

    Args:
        exits: behind how many layers each stands, rising.
        answers: ids of prompt and answer.
    """
    borders = [0, *exits, cut.layers]
    states: list[Tensor] = []
    tokens: list[Tensor] = []
    for prompt, answer in answers:
        behind = cut.embed([*prompt, *answer])
        seen = []
        for first, last in pairwise(borders):
            behind = cut.part(first, last).run(behind)
            seen.append(behind[len(prompt) - 1 : -1])
        states.append(torch.stack(seen[:-1]).float().cpu())
        tokens.append(cut.logits(seen[-1]).argmax(-1).cpu())
    return Places(torch.cat(states, dim=1), torch.cat(tokens))


def check_layers(exits: Sequence[int], layers: int) -> None:
    """See that exits stand within a model.

    Raises:
        ConfigError: one does not; names the nearest place that does.
    """
    for number in exits:
        if not 0 < number < layers:
            near = min(max(number, 1), layers - 1)
            raise ConfigError(f"layers: {number} is no place for an exit of a model of {layers} layers; write {near}")
    if list(exits) != sorted(set(exits)) or not exits:
        raise ConfigError(f"layers: {list(exits)} do not rise; name each place once, e.g. [{max(1, layers // 2)}]")


def fit_exits(
    cut: Cut,
    exits: Sequence[int],
    places: Places,
    *,
    steps: int = 400,
    batch: int = 2048,
    learning_rate: float = 3e-3,
    seed: int = 0,
    on_step: Callable[[int, int, float], object] = lambda layers, step, loss: None,
) -> list[tuple[int, Exit]]:
    """Exits behind these numbers of layers, each with cross-entropy against the whole model's token.

    Args:
        places: of training prompts.
        learning_rate: of AdamW at first; it falls to 0 as a half cosine.
        on_step: called with the layers of an exit, the step from 1, and the loss.
    """
    found = []
    for states, layers in zip(places.states, exits, strict=True):
        generator = torch.Generator().manual_seed(seed)
        leave = new_exit(cut.model).float().cpu().requires_grad_(True)
        optimizer = torch.optim.AdamW(leave.parameters(), lr=learning_rate)
        falls = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 + 0.5 * math.cos(math.pi * step / steps))
        for step in range(1, steps + 1):
            chosen = torch.randint(len(places.tokens), (batch,), generator=generator)
            loss = nn.functional.cross_entropy(leave(states[chosen]), places.tokens[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            falls.step()
            on_step(layers, step, loss.item())
        found.append((layers, leave.requires_grad_(False)))
    return found


@dataclass(frozen=True, slots=True)
class ExitQuality:
    """How an exit does on places that it has not seen.

    Attributes:
        agrees: part of them at which its token is the whole model's.
        sure: part of them at which its largest probability reaches 0.9.
        agrees_if_sure: of those, the part at which it agrees; None where there are none.
    """

    agrees: float
    sure: float
    agrees_if_sure: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@torch.inference_mode()
def quality_of_exit(leave: Exit, states: Tensor, tokens: Tensor) -> ExitQuality:
    """How well an exit names the whole model's tokens.

    Args:
        states: shape (places, width).
        tokens: shape (places,).
    """
    most, found = leave(states).softmax(-1).max(-1)
    agrees, sure = found == tokens, most >= _SURE
    both = float(agrees[sure].float().mean()) if bool(sure.any()) else None
    return ExitQuality(float(agrees.float().mean()), float(sure.float().mean()), both)

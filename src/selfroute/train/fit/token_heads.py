"""Heads of tokens: small networks that say from the device's view whether the cloud would let its token stand.

With p_c, p_s the next-token distributions of cloud and device at one place, y the device's token and y_c the cloud's,
R the head's output before the logistic function σ:

======== ======================================================= ==================================================
kind     learns                                                  loss
======== ======================================================= ==================================================
rel      p_c(y) / max_v p_c(v): 1 where y is the cloud's token   cross-entropy of σ(R) with the target
prob     p_c(y)                                                  the same
accept   min(1, p_c(y) / p_s(y))                                 the same
pair     which of y_c and y is the cloud's, where they differ    −log σ(R(y_c) − R(y))
co_llm   1 − d, d the probability of deferring                   −log((1 − d) p_s(y_c) + d p_c(y_c))
citer    whether y is the cloud's token                          cross-entropy with 0 or 1
======== ======================================================= ==================================================

rel, prob, accept and pair are readings of "alignment with the cloud's distribution" in arXiv 2409.13757, whose own
target and network are not known. co_llm is after arXiv 2403.03870 with the cloud's token for the gold one, a head for
the extra logit, and the device left as it is; citer after arXiv 2502.01976 without rollouts and BatchNorm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from selfroute.backends.sessions import Look, Written
from selfroute.errors import ConfigError
from selfroute.scores.tokens import HeadKind, Pair, TokenHead, features
from selfroute.train.fit.token_places import Place

__all__ = ["Quality", "fit_head", "quality_of", "target_of"]

_RARE = math.exp(-30.0)  # probability of what is not among the likeliest


def target_of(kind: HeadKind, place: Place) -> float:
    """What a head of a kind learns to say of a place, in [0, 1]."""
    if kind == "rel":
        return math.exp(min(0.0, place.given - place.best))
    if kind == "prob":
        return math.exp(min(0.0, place.given))
    if kind == "accept":
        return math.exp(min(0.0, place.given - place.written.logprob))
    return float(place.agrees)


def fit_head(
    kind: HeadKind,
    places: Sequence[Place],
    *,
    look: Look,
    pair: Pair,
    width: int = 64,
    epochs: int = 12,
    batch: int = 1024,
    learning_rate: float = 1e-3,
    seed: int = 0,
    on_epoch: Callable[[int, float], object] = lambda epoch, loss: None,
) -> TokenHead:
    """A network of two hidden layers of `width`, with standardised inputs.

    Args:
        places: of training prompts.
        on_epoch: called with the number of the epoch, from 1, and its mean loss.

    Raises:
        ConfigError: there is nothing to learn from.
    """
    places = [place for place in places if kind != "pair" or not place.agrees]
    if not places:
        raise ConfigError(f"kind: '{kind}' finds no place to learn from; take more rows")
    torch.manual_seed(seed)
    inputs = features(look, [place.written for place in places])
    mean, deviation = inputs.mean(0), inputs.std(0) + 1e-6
    loss_of = _LOSSES.get(kind, _cross_entropy)
    data = loss_of.data(kind, places, look, mean, deviation)
    network = _network(inputs.shape[1], width)
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate)
    order = np.random.default_rng(seed)
    for epoch in range(1, epochs + 1):
        losses = []
        for chosen in np.array_split(order.permutation(len(places)), max(1, len(places) // batch)):
            loss = loss_of.loss(network, [part[chosen] for part in data])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
        on_epoch(epoch, float(np.mean(losses)))
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    layers = [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in linear]
    return TokenHead(kind=kind, look=look, layers=layers, mean=mean, deviation=deviation, pair=pair)


def _network(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))


# --- losses --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Loss:
    """What a loss needs of the places, as tensors with one row each, and the loss of some of them."""

    data: Callable[..., list[Tensor]]
    loss: Callable[[nn.Module, Sequence[Tensor]], Tensor]


def _standard(look: Look, written: Sequence[Written], mean: Any, deviation: Any) -> Tensor:
    return torch.from_numpy((features(look, written) - mean) / deviation).float()


def _with_targets(kind: HeadKind, places: Sequence[Place], look: Look, mean: Any, deviation: Any) -> list[Tensor]:
    targets = torch.tensor([target_of(kind, place) for place in places])
    return [_standard(look, [place.written for place in places], mean, deviation), targets]


def _entropy_loss(network: nn.Module, part: Sequence[Tensor]) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(network(part[0])[:, 0], part[1])


def _both_tokens(kind: HeadKind, places: Sequence[Place], look: Look, mean: Any, deviation: Any) -> list[Tensor]:
    theirs = [replace(p.written, token_id=p.cloud_token, logprob=_logprob(p)) for p in places]
    return [_standard(look, written, mean, deviation) for written in (theirs, [p.written for p in places])]


def _pair_loss(network: nn.Module, part: Sequence[Tensor]) -> Tensor:
    return -nn.functional.logsigmoid(network(part[0]) - network(part[1])).mean()


def _deferring(kind: HeadKind, places: Sequence[Place], look: Look, mean: Any, deviation: Any) -> list[Tensor]:
    inputs = _standard(look, [place.written for place in places], mean, deviation)
    ours = torch.tensor([math.exp(_logprob(place)) for place in places])
    return [inputs, ours, torch.tensor([math.exp(place.best) for place in places])]


def _deferral_loss(network: nn.Module, part: Sequence[Tensor]) -> Tensor:
    keep = torch.sigmoid(network(part[0])[:, 0])
    return -torch.log(keep * part[1] + (1 - keep) * part[2] + _RARE).mean()


def _logprob(place: Place) -> float:
    """Log-probability of the cloud's token, as the device has it."""
    view = place.written.view
    if place.agrees or view is None:
        return place.written.logprob
    return view.top.get(place.cloud_token, math.log(_RARE))


_cross_entropy = _Loss(_with_targets, _entropy_loss)
_LOSSES: dict[HeadKind, _Loss] = {"pair": _Loss(_both_tokens, _pair_loss), "co_llm": _Loss(_deferring, _deferral_loss)}


# --- how good it is ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Quality:
    """How a score of tokens does on places that it has not seen.

    Attributes:
        places: how many.
        disagreeing: part of them at which the device's token is not the cloud's.
        auroc: of the score for those (1 − score; 0.5 knows nothing); None where there are none, or no others.
        auroc_bad: the same for places where p_c(y) / max p_c is below a half.
        calibration_error: mean distance of score and target over ten bins of equal count, weighted by their size.
    """

    places: int
    disagreeing: float
    auroc: float | None
    auroc_bad: float | None
    calibration_error: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def quality_of(scores: Sequence[float], places: Sequence[Place], kind: HeadKind = "rel") -> Quality:
    """How well scores in [0, 1] tell where the device's token would not stand.

    Args:
        kind: whose target the scores are held against.
    """
    doubt = 1 - np.asarray(scores)
    bad = np.array([target_of("rel", place) < 0.5 for place in places])
    targets = np.array([target_of(kind, place) for place in places])
    other = np.array([not place.agrees for place in places])
    bins = np.array_split(np.argsort(doubt, kind="stable"), 10)
    gaps = [len(b) * abs(float((1 - doubt[b]).mean() - targets[b].mean())) for b in bins if len(b)]
    return Quality(len(places), float(other.mean()), _auroc(doubt, other), _auroc(doubt, bad), sum(gaps) / len(places))


def _auroc(values: Any, positive: Any) -> float | None:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive, values)) if 0 < positive.sum() < len(positive) else None

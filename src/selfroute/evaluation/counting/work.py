"""What each request takes of both sides: if it is kept, if it is sent, and as it was run.

All from the token counts of the records, so a price list or a network can be changed without asking a model again.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from selfroute.evaluation.counting.metrics import Bools, Floats
from selfroute.evaluation.counting.split import Split
from selfroute.network.link import Network

__all__ = ["Work", "as_run", "is_known", "kept", "sent", "sent_alone"]


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """Tokens and messages of each request, shape (n,).

    Attributes:
        device_read, device_written, cloud_read, cloud_written: tokens of each side.
        calls: to the cloud.
        up, down: bytes to the cloud and from it.
        layers: tokens times the layers of the cloud that each went through; NaN where nobody counted.
    """

    device_read: Floats
    device_written: Floats
    cloud_read: Floats
    cloud_written: Floats
    calls: Floats
    up: Floats
    down: Floats
    layers: Floats

    def where(self, chosen: Bools, other: Work) -> Work:
        """This work for the requests that are chosen, the other one for the rest."""
        pairs = [(getattr(self, option.name), getattr(other, option.name)) for option in fields(self)]
        return Work(*(np.where(chosen, own, its) for own, its in pairs))


def is_known(split: Split) -> bool:
    """Whether the records say what each request takes if kept, and if sent."""
    return all(
        bool(np.isfinite(split.numbers[f"{name}_{kind}"]).all())
        for name in ("attempt", "local", "cloud_answer")
        for kind in ("prompt_tokens", "tokens")
    )


def kept(split: Split) -> Work:
    """The device alone, which answers, or attempts and is then forced to answer."""
    none = np.zeros(len(split))
    return Work(*_tokens(split, "local"), *[none] * 6)


def sent(split: Split, network: Network) -> Work:
    """The device's attempt before the decision, then one call to the cloud."""
    return _one_call(split, network, *_tokens(split, "attempt"))


def sent_alone(split: Split, network: Network) -> Work:
    """One call to the cloud and nothing else, as `always_cloud` spends."""
    none = np.zeros(len(split))
    return _one_call(split, network, none, none)


def as_run(split: Split, network: Network) -> Work:
    """What the strategy took; where it decides between both sides, by what that takes and not by what failed."""
    if not split.joint and is_known(split):
        return sent(split, network).where(split.wants, kept(split))
    device, cloud = _tokens(split, "device"), _tokens(split, "cloud")
    up, down = (_counted(split, name, tokens, network) for name, tokens in zip(("up", "down"), cloud, strict=True))
    counted = split.amount("cloud_layer_tokens")
    layers = counted if counted.any() or not cloud[1].any() else np.full(len(split), np.nan)
    calls = split.amount("cloud_calls") if split.joint else split.wants.astype(np.float64)
    return Work(*device, *cloud, calls, up, down, layers)


def _one_call(split: Split, network: Network, read: Floats, written: Floats) -> Work:
    cloud = _tokens(split, "cloud_answer")
    up, down = (_rate(split, name, network) * tokens for name, tokens in zip(("up", "down"), cloud, strict=True))
    layers = _layers(split) * (cloud[0] + cloud[1])
    return Work(read, written, *cloud, np.ones(len(split)), up, down, layers)


def _tokens(split: Split, name: str) -> tuple[Floats, Floats]:
    """Read and written."""
    return split.numbers[f"{name}_prompt_tokens"], split.numbers[f"{name}_tokens"]


def _counted(split: Split, way: str, tokens: Floats, network: Network) -> Floats:
    """Bytes as counted, or from the tokens where nobody counted any."""
    counted = split.amount(f"{way}_bytes")
    return counted if counted.any() else network.bytes_of(tokens)


def _rate(split: Split, way: str, network: Network) -> float:
    """Bytes of a token on its way to the cloud or from it, by what was counted."""
    counted, tokens = split.amount(f"{way}_bytes").sum(), split.numbers[_CARRIED[way]].sum()
    return float(counted / tokens) if counted and tokens else network.bytes_per_token


_CARRIED = {"up": "cloud_prompt_tokens", "down": "cloud_tokens"}


def _layers(split: Split) -> float:
    """Layers of the cloud that a token goes through, by what was counted; NaN where nobody did."""
    counted = split.amount("cloud_layer_tokens").sum()
    tokens = split.numbers["cloud_prompt_tokens"].sum() + split.numbers["cloud_tokens"].sum()
    return float(counted / tokens) if counted and tokens else np.nan

"""Scores of single tokens, before they stand: how much one deserves to, from 0 (ask the cloud) to 1 (keep).

A score is asked for one pass at a time, with the tokens of all answers that are written in it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from selfroute.backends.base import Backend
from selfroute.backends.sessions import NO_LOOK, Look, Written
from selfroute.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

__all__ = ["Entropy", "HeadKind", "MaxProbability", "RandomScore", "TokenHead", "TokenScorer"]

HeadKind = Literal["rel", "prob", "accept", "pair", "co_llm", "citer"]
_WEIGHTS, _FACTS = "head.safetensors", "head.json"
_LEAST_LOGPROB = -30.0  # of what is not among the likeliest


class TokenScorer(Protocol):
    """From written tokens to scores in [0, 1], one each.

    Attributes:
        look: what the tokens' views must show.
    """

    @property
    def look(self) -> Look: ...

    def __call__(self, written: Sequence[Written]) -> Sequence[float]: ...


class MaxProbability:
    """Probability of the likeliest token, max_v p(v); nothing is fitted."""

    look = Look(top=1)

    def __call__(self, written: Sequence[Written]) -> list[float]:
        return [math.exp(next(iter(_view(token).top.values()))) for token in written]


class Entropy:
    """e^−H of the distribution: 1 where the device is sure, 1/k where k tokens are equally likely."""

    look = Look(entropy=True)

    def __call__(self, written: Sequence[Written]) -> list[float]:
        return [math.exp(-(_view(token).entropy or 0.0)) for token in written]


@dataclass(frozen=True, slots=True)
class RandomScore:
    """A number that knows nothing of the token but where it stands: the control.

    It is the same for the same place after the same token, whatever is written beside it.

    Args:
        seed: of the numbers.
    """

    seed: int = 0
    look: Look = NO_LOOK

    def __call__(self, written: Sequence[Written]) -> list[float]:
        return [self._number(token) for token in written]

    def _number(self, token: Written) -> float:
        # The log-probability has a value of its own at nearly every place.
        digest = hashlib.blake2b(repr((self.seed, token.token_id, round(token.logprob, 4))).encode(), digest_size=6)
        return int.from_bytes(digest.digest()) / 2**48


@dataclass(frozen=True, slots=True)
class Pair:
    """Which models a head was trained for: their `Backend.identity`."""

    device: str
    cloud: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenHead:
    """A small network on what the device's view of a place shows.

    Its input is the last hidden state, the log-probabilities of the likeliest tokens and the entropy, as far as `look`
    shows them, then the token's own log-probability; each less `mean` and divided by `deviation`. Between its layers
    stand rectifiers, and its output goes through a logistic function.

    Args:
        kind: what it was trained to say: of the device's token y, with p_c the cloud's and p_s the device's
            distribution, "rel" p_c(y) / max p_c, "prob" p_c(y), "accept" min(1, p_c(y) / p_s(y)), "pair" which of the
            two models' tokens is the cloud's (a ranking, no probability); "co_llm" one minus Co-LLM's probability of
            deferring (arXiv 2403.03870); "citer" CITER's probability that the device's token will do (arXiv
            2502.01976).
        look: what it sees.
        layers: weight of shape (out, in) and bias of shape (out,) of each.
        mean, deviation: of each input, shape (in,).
        pair: the models it was trained for.
        threshold: what a cloud-token share wanted in training asks for; None if none was wanted.
        facts: further facts of its training, kept in its file.
    """

    kind: HeadKind
    look: Look
    layers: Sequence[tuple[Array, Array]]
    mean: Array
    deviation: Array
    pair: Pair
    threshold: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, written: Sequence[Written]) -> list[float]:
        """Scores in [0, 1]."""
        import numpy as np

        values = (features(self.look, written) - self.mean) / self.deviation
        for number, (weight, bias) in enumerate(self.layers):
            values = values @ weight.T + bias
            if number + 1 < len(self.layers):
                values = np.maximum(values, 0)
        scores: list[float] = (1 / (1 + np.exp(-values[:, 0].astype(np.float64)))).tolist()
        return scores

    def check(self, device: Backend, cloud: Backend) -> None:
        """See that it was trained for these models.

        Raises:
            ConfigError: it was not.
        """
        for role, wanted, side in (("device", self.pair.device, device), ("cloud", self.pair.cloud, cloud)):
            if wanted != side.identity:
                raise ConfigError(
                    f"scorer: the head was trained for the {role} {wanted}, and {side.name} is {side.identity}; "
                    "name that pair, or train a head for this one (algorithm: reward_head)"
                )

    def save(self, folder: Path) -> None:
        """Write it as `head.safetensors` and `head.json`."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"mean": self.mean, "deviation": self.deviation}
        for number, (weight, bias) in enumerate(self.layers):
            tensors |= {f"{number}.weight": weight, f"{number}.bias": bias}
        save_file(tensors, folder / _WEIGHTS)
        facts = {
            "kind": self.kind,
            "look": {"top": self.look.top, "entropy": self.look.entropy, "hidden": self.look.hidden},
            "device": self.pair.device,
            "cloud": self.pair.cloud,
            "threshold": self.threshold,
            **self.facts,
        }
        (folder / _FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> TokenHead:
        """Read what `save` wrote.

        Raises:
            ConfigError: the folder holds no head.
        """
        from safetensors.numpy import load_file

        try:
            facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
            tensors = load_file(folder / _WEIGHTS)
            layers = [(tensors[f"{n}.weight"], tensors[f"{n}.bias"]) for n in range((len(tensors) - 2) // 2)]
            kind, pair = facts.pop("kind"), Pair(facts.pop("device"), facts.pop("cloud"))
            if kind not in get_args(HeadKind):
                raise ValueError(f"kind '{kind}' is unknown")
            return cls(
                kind=kind,
                look=Look(**facts.pop("look")),
                layers=layers,
                mean=tensors["mean"],
                deviation=tensors["deviation"],
                pair=pair,
                threshold=facts.pop("threshold", None),
                facts=facts,
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            what = " ".join(str(error).split())
            raise ConfigError(
                f"scorer: '{folder}' holds no head of tokens: {type(error).__name__}: {what}; train one with "
                "algorithm: reward_head"
            ) from None


def features(look: Look, written: Sequence[Written]) -> Array:
    """What a head sees of written tokens.

    Returns:
        Shape (tokens, inputs): the hidden state, `look.top` log-probabilities, the entropy, each if the look shows it,
        and the token's own log-probability.
    """
    import numpy as np

    parts: list[Array] = []
    views = [_view(token) for token in written]
    if look.hidden:
        parts.append(np.stack([np.asarray(view.hidden, dtype=np.float32) for view in views]))
    if look.top:
        rows = [[*view.top.values(), *[_LEAST_LOGPROB] * look.top][: look.top] for view in views]
        parts.append(np.maximum(np.asarray(rows, dtype=np.float32), _LEAST_LOGPROB))
    if look.entropy:
        parts.append(np.asarray([[view.entropy or 0.0] for view in views], dtype=np.float32))
    own = np.asarray([[token.logprob] for token in written], dtype=np.float32)
    return np.concatenate([*parts, np.maximum(own, _LEAST_LOGPROB)], axis=1)


def _view(token: Written) -> Any:
    if token.view is None:
        raise ValueError("a score of tokens needs their views; open the session with the score's look")
    return token.view

"""Doubts of steps: how much a step that the device wrote is not to be trusted; higher = let the cloud write it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from selfroute.backends.base import Backend
from selfroute.backends.sessions import NO_LOOK, Look, Written
from selfroute.errors import ConfigError

__all__ = ["FirstEntropy", "MinProbability", "RandomDoubt", "StepScorer", "Tags", "tag_of"]

_FILE = "steps.json"  # beside the weights
_TOP = 20


class StepScorer(Protocol):
    """From the tokens of a step to a doubt.

    Attributes:
        look: what the tokens' views must show.
    """

    @property
    def look(self) -> Look: ...

    def __call__(self, step: Sequence[Written]) -> float: ...


class MinProbability:
    """1 − min_t p(y_t) over the tokens of the step; nothing is fitted."""

    look = NO_LOOK

    def __call__(self, step: Sequence[Written]) -> float:
        return 1 - math.exp(min(token.logprob for token in step))


class FirstEntropy:
    """Entropy in nats of the first token's distribution over its 20 likeliest tokens, renormalised (GlimpRouter, arXiv
    2601.05110); known before the step is written.
    """

    look = Look(top=_TOP)

    def __call__(self, step: Sequence[Written]) -> float:
        view = step[0].view
        if view is None:
            raise ValueError("the entropy of a step needs views; open the session with the score's look")
        likely = [math.exp(logprob) for logprob in view.top.values()]
        mass = sum(likely)
        return -sum(p / mass * math.log(p / mass) for p in likely if p > 0)


@dataclass(frozen=True, slots=True)
class RandomDoubt:
    """A number that knows nothing of the step: the control. The same step has the same number.

    Args:
        seed: of the numbers.
    """

    seed: int = 0
    look: Look = NO_LOOK

    def __call__(self, step: Sequence[Written]) -> float:
        # By ids alone: log-probabilities differ in the last digits by what is written beside a step.
        key = (self.seed, [token.token_id for token in step])
        return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=6).digest()) / 2**48


# --- tags ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Tags:
    """What a device writes behind each of its steps since it was trained to (`algorithm: adaswitch`).

    Kept as `steps.json` beside its weights.

    Args:
        right, wrong: the tags, one token each.
        step_end: what ends a step.
        device: `Backend.identity` of the trained device.
    """

    right: str
    wrong: str
    step_end: str
    device: str

    def check(self, device: Backend) -> None:
        """See that a device is the one that was trained.

        Raises:
            ConfigError: it is another.
        """
        if device.identity != self.device:
            raise ConfigError(
                f"tags: they are those of the device {self.device}, and {device.name} is {device.identity}; name the "
                "trained folder as device too, or leave tags out"
            )

    def save(self, folder: Path) -> None:
        """Write them into the folder of a model."""
        (folder / _FILE).write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Tags:
        """Read what `save` wrote.

        Raises:
            ConfigError: the folder is of no device that writes tags.
        """
        try:
            return cls(**json.loads((folder / _FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            what = " ".join(str(error).split())
            raise ConfigError(
                f"tags: '{folder}' holds no device that tags its steps: {type(error).__name__}: {what}; train one with "
                "algorithm: adaswitch"
            ) from None


def tag_of(ids: Sequence[int], tag: str, name: str) -> int:
    """The one token of a tag.

    Args:
        ids: that spell it.

    Raises:
        ConfigError: it is not one token.
    """
    if len(ids) != 1:
        raise ConfigError(f"{name}: '{tag}' is {len(ids)} tokens of the device; take a tag that is one, e.g. y")
    return ids[0]

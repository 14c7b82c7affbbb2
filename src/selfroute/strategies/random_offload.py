"""Send a random share of the requests to the cloud: the line that any other strategy has to beat."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from selfroute.errors import ConfigError
from selfroute.strategies.base import Needs, Sides
from selfroute.strategies.sides import Decision, ask_cloud, keep_on_device
from selfroute.types import Event, Message, Sampling

__all__ = ["RandomOffload"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomOffload:
    """Each conversation goes to the cloud with probability `share` ("naive offloading" in arXiv 2509.24050).

    The draw is a hash of seed and conversation, not a generator's next number: order and concurrency of the requests
    do not matter, and the same conversation always goes the same way.

    Args:
        share: call share in [0, 1].
        seed: gives another draw.

    Raises:
        ConfigError: the share is outside [0, 1].
    """

    share: float
    seed: int = 0
    name: str = "random_offload"

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"share: {self.share} is not in [0, 1]; 0.3 sends 30 % of the requests to the cloud")

    @property
    def needs(self) -> Needs:
        return Needs()

    def draw(self, messages: Sequence[Message]) -> float:
        """A uniform number in [0, 1) for a conversation: the score."""
        key = json.dumps([self.seed, [[message.role, message.content] for message in messages]])
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        return (int.from_bytes(digest) >> 11) / 2**53

    def stream(self, sides: Sides, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Event]:
        """See `selfroute.strategies.base.Strategy`."""
        score = self.draw(messages)
        turn = ask_cloud if score >= 1 - self.share else keep_on_device
        return turn(sides, messages, sampling, Decision(strategy=self.name, reason="random", score=score))

"""Send a random share of the requests to the cloud: the line that any other strategy has to beat."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

from selfroute.backends.base import Backend
from selfroute.budget.base import Budget, Unlimited
from selfroute.errors import ConfigError
from selfroute.prices import Prices
from selfroute.prompts import PromptTemplate
from selfroute.strategies.sides import ask_cloud, closing, keep_on_device
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
        device, cloud, template, budget, prices, name: as in `AlwaysCloud`.

    Raises:
        ConfigError: the share is outside [0, 1].
    """

    share: float
    seed: int = 0
    device: Backend
    cloud: Backend
    template: PromptTemplate
    budget: Budget = field(default_factory=Unlimited)
    prices: Prices = field(default_factory=Prices)
    name: str = "random_offload"

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"share: {self.share} is not in [0, 1]; 0.3 sends 30 % of the requests to the cloud")

    def with_budget(self, budget: Budget) -> RandomOffload:
        """The same strategy under another budget."""
        return replace(self, budget=budget)

    def draw(self, messages: Sequence[Message]) -> float:
        """A uniform number in [0, 1) for a conversation: the score."""
        key = json.dumps([self.seed, [[message.role, message.content] for message in messages]])
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        return (int.from_bytes(digest) >> 11) / 2**53

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Event]:
        """See `selfroute.strategies.base.Strategy`."""
        score = self.draw(messages)
        turn = ask_cloud if score >= 1 - self.share else keep_on_device
        async with closing(turn(self, messages, sampling, reason="random", score=score)) as events:
            async for event in events:
                yield event

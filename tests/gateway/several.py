"""Three clouds and a device behind one gateway, or behind several replicas of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx2 as httpx
from tests.gateway.live import HARD, PRICES, TEMPLATE, Live, ask, device_fn

from selfroute.backends.clouds import DEVICE, Cloud, Clouds, width
from selfroute.backends.function import FunctionBackend
from selfroute.bandits.beliefs import Beliefs
from selfroute.budget.journal import MemoryJournal
from selfroute.budget.pacing import DualPrice
from selfroute.budget.shared import SharedBeliefs
from selfroute.config import Spec, make_policy
from selfroute.errors import BackendUnavailable
from selfroute.gateway.guard import Guard
from selfroute.gateway.service import Service
from selfroute.prices import Price
from selfroute.strategies.always import AlwaysCloud
from selfroute.strategies.bandit_router import BanditRouter
from selfroute.strategies.base import Strategy
from selfroute.types import Message, Sampling

NAMES = ("small", "middle", "large")
COSTS = {"small": Price(completion_usd=1), "middle": Price(completion_usd=4), "large": Price(completion_usd=40)}


class Says(FunctionBackend):
    """A cloud that says its name and counts how often it was asked; it fails while `down`."""

    def __init__(self, name: str, lacks: frozenset[str] | None = frozenset()) -> None:
        super().__init__(name, self._say)
        self.calls = 0
        self.down = False
        self._lacks = lacks

    @property
    def lacks(self) -> frozenset[str] | None:
        return self._lacks

    def _say(self, messages: Sequence[Message], sampling: Sampling) -> str:
        self.calls += 1
        if self.down:
            raise BackendUnavailable("connection refused", backend=self.name)
        return f"I am {self.name}"


class World:
    """Three clouds and a device, all of one gateway or of several replicas."""

    def __init__(self, **options: Any) -> None:
        self.says = {name: Says(name) for name in NAMES}
        self.lines: list[str] = []
        self.options = options

    def service(
        self,
        *,
        strategy: Strategy | None = None,
        journal: MemoryJournal | None = None,
        policy: str = "thompson",
        rule: dict[str, Any] | None = None,
        money: DualPrice | None = None,
        clouds: dict[str, dict[str, Any]] | None = None,
        **options: Any,
    ) -> Service:
        strategy = strategy or AlwaysCloud()
        arms = [DEVICE, *NAMES] if isinstance(strategy, BanditRouter) else list(NAMES)
        tasks = self.options.get("tasks", ())
        made = make_policy(Spec(policy, None, rule or {"trials": 0}), arms=arms, features=width(tasks))
        beliefs = Beliefs(made, money=money)
        learning = SharedBeliefs(beliefs, journal or MemoryJournal(), every_s=0.02)
        each = [
            Cloud(
                backend=Guard(name, self.says[name], failures=2, rest_s=60),
                price=COSTS[name],
                **(clouds or {}).get(name, {}),
            )
            for name in NAMES
        ]
        several = Clouds(each, beliefs, listener=learning, log=self.lines.append, **self.options)
        return Service(
            strategy=strategy,
            device=Guard("device", FunctionBackend("device", device_fn)),
            cloud=several,
            template=TEMPLATE,
            prices=PRICES,
            learning=learning,
            **options,
        )


def chat(live: Live, question: str = HARD, *, headers: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
    response = httpx.post(f"{live.url}/v1/chat/completions", json=ask(question, **fields), headers=headers)
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    return answer

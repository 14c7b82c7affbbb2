"""What is believed of clouds: quality, speed, length of answers, the price of money, whose a conversation is.

Everything that is told is a line of numbers. Whoever takes in the same lines in the same order believes the same.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from selfroute.bandits.base import Arm, Choice, Context, Outcome
from selfroute.bandits.tallies import Tallies

if TYPE_CHECKING:  # a gateway with one cloud has no use for numpy
    from selfroute.bandits.policy import Outlook, Policy

__all__ = ["Beliefs", "Money", "Told"]

_RECENT = 200  # answers of which lengths and costs are averaged


class Money(Protocol):
    """What a dollar is worth in quality, as `selfroute.budget.pacing` has it."""

    @property
    def price(self) -> float: ...

    def spend(self, usd: float) -> None: ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What came of one choice, or a part of it.

    Attributes:
        arm: that was chosen.
        outcome: quality and latency, as far as they are known.
        usd: what the answer cost; None if that was told before.
        written_tokens: length of the answer; None of one that is not whole.
        session: hash that names the conversation which stays with this arm; None for no conversation.
    """

    arm: str
    outcome: Outcome = field(default_factory=Outcome)
    usd: float | None = None
    written_tokens: int | None = None
    session: str | None = None

    def line(self, by: int) -> str:
        """As a line of a journal, written by replica `by`."""
        outcome = self.outcome
        features = list(outcome.features) if outcome.quality is not None else []
        told = [by, self.arm, outcome.quality, outcome.latency_s, outcome.weight, features]
        return json.dumps([*told, self.usd, self.written_tokens, self.session])

    @staticmethod
    def read(line: str) -> tuple[int, Told]:
        """The writer of a line, and what it told."""
        by, arm, quality, latency_s, weight, features, usd, written, session = json.loads(line)
        outcome = Outcome(quality, latency_s, tuple(features), weight)
        return by, Told(arm=arm, outcome=outcome, usd=usd, written_tokens=written, session=session)


class Beliefs:
    """A policy and what it needs beside itself to choose among clouds.

    Args:
        policy: chooses, and learns quality and latency.
        money: λ; None counts no price.
        sessions: most conversations remembered; the oldest make room.

    Attributes:
        frozen: choose by what is known and learn nothing more of quality and latency. Money goes on being counted.
    """

    def __init__(self, policy: Policy, *, money: Money | None = None, sessions: int = 4096) -> None:
        self.policy = policy
        self.money = money
        self.frozen = False
        self._arms = frozenset(policy.arms)
        self._written = Tallies(policy.arms, window=_RECENT)
        self._usd = Tallies(policy.arms, window=_RECENT)
        self._sessions: OrderedDict[str, str] = OrderedDict()
        self._most_sessions = sessions

    @property
    def price_weight(self) -> float:
        """λ now, quality per USD."""
        return 0.0 if self.money is None else self.money.price

    def choose(self, context: Context, arms: Sequence[Arm]) -> Choice:
        """See `selfroute.bandits.base.Bandit.choose`."""
        return self.policy.choose(context, arms)

    def look(self, context: Context, arms: Sequence[Arm]) -> list[Outlook]:
        """See `selfroute.bandits.policy.Policy.look`."""
        return self.policy.look(context, arms)

    def written_tokens(self, arm: str) -> float | None:
        """Mean length of an arm's last answers; None before the first."""
        return self._written.mean(arm)

    def usd(self, arm: str) -> float | None:
        """Mean cost of an arm's last answers; None before the first."""
        return self._usd.mean(arm)

    def share(self, arm: str) -> float:
        """Of the last answers, how many were this arm's."""
        total = self._usd.total()
        return self._usd.count(arm) / total if total else 0.0

    def session(self, key: str) -> str | None:
        """The arm that a conversation stays with; None for one that is not known."""
        return self._sessions.get(key)

    def take(self, told: Told, *, elsewhere: bool = False) -> None:
        """Learn from what was told; of an arm that is no more nothing is.

        Args:
            elsewhere: another replica made this choice, so that it has not been counted here.
        """
        if told.arm not in self._arms:
            return
        if told.usd is not None:
            self._pay(told, told.usd, elsewhere)
        if told.written_tokens is not None:
            self._written.add(told.arm, told.written_tokens)
        if told.session is not None:
            self._remember(told.session, told.arm)
        if not self.frozen:
            self.policy.update(told.arm, told.outcome)

    def _pay(self, told: Told, usd: float, elsewhere: bool) -> None:
        """What an answer cost is told once, so it also counts the choice."""
        if elsewhere:
            self.policy.note(told.arm)
        self._usd.add(told.arm, usd)
        if self.money is not None:
            self.money.spend(usd)

    def _remember(self, session: str, arm: str) -> None:
        self._sessions[session] = arm
        self._sessions.move_to_end(session)
        while len(self._sessions) > self._most_sessions:
            self._sessions.popitem(last=False)

    def state(self) -> dict[str, Any]:
        """All that is believed, ready for JSON; its size does not grow for ever."""
        return {
            "policy": self.policy.state(),
            "money": None if self.money is None else self.money.state(),
            "written": self._written.state(),
            "usd": self._usd.state(),
            "sessions": list(self._sessions.items()),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Believe what was believed where `state` was taken, of the same rule; new arms are unknown."""
        self.policy.adopt(state["policy"])
        if self.money is not None and state["money"] is not None:
            self.money.restore(state["money"])
        self._written.restore(state["written"])
        self._usd.restore(state["usd"])
        self._sessions = OrderedDict((key, arm) for key, arm in state["sessions"] if arm in self._arms)

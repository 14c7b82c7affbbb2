"""What a strategy asks before it calls the cloud: reserve first, settle or release after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from selfroute.errors import BudgetExceeded
from selfroute.types import Usage

__all__ = ["Budget", "Estimate", "Lease", "LimitState", "NoCloud", "Reporting", "Targeted", "Unlimited"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """The most that a call can use; a limit holds as exactly as its estimates are upper bounds."""

    usage: Usage = field(default_factory=Usage)
    cost_usd: float = 0.0


class Lease(Protocol):
    """Permission for one cloud call. Exactly one of the two methods is called, once."""

    async def settle(self, usage: Usage, cost_usd: float) -> None:
        """The call was made: book what it really used."""
        ...

    async def release(self) -> None:
        """The call failed or was cancelled before it cost anything: give the reservation back."""
        ...


class Budget(Protocol):
    """A limit on cloud use. It is told of every request once: by `reserve` if it wants the cloud, by `keep` if not."""

    async def reserve(self, estimate: Estimate, *, score: float | None = None) -> Lease:
        """Hold room for one cloud call.

        Args:
            estimate: the most that the call can use.
            score: how much the strategy wants the cloud for this request (higher = more), None if it has no score.

        Raises:
            BudgetExceeded: a limit is reached, or others want the cloud more.
            BudgetUnavailable: the ledger cannot be reached.
        """
        ...

    async def keep(self) -> None:
        """Count a request that stays on the device by itself: call share is calls over all requests. Never raises."""
        ...


@dataclass(frozen=True, slots=True)
class LimitState:
    """Where a limit stands.

    Attributes:
        limit: its name, e.g. "calls_per_day"; "share" is the call share so far.
        spent: booked, in the limit's unit, what is held for calls under way included.
        held: held for calls under way, or by processes that died during one.
        cap: most that may be spent.
        reset_s: seconds until the window resets, None if no clock resets it.
    """

    limit: str
    spent: float
    held: float
    cap: float
    reset_s: float | None = None


@runtime_checkable
class Reporting(Protocol):
    """Optional capability of a budget: say where its limits stand."""

    async def status(self) -> Sequence[LimitState]:
        """Every limit, in the order of the configuration.

        Raises:
            BudgetUnavailable: the ledger cannot be reached.
        """
        ...


@runtime_checkable
class Targeted(Protocol):
    """Optional capability of a budget: take another call share while it is in use."""

    def retarget(self, share: float) -> None:
        """Let `share` of the requests go to the cloud from now on; a budget without a share stays without."""
        ...


class _Free:
    async def settle(self, usage: Usage, cost_usd: float) -> None:
        pass

    async def release(self) -> None:
        pass


class Unlimited:
    """Every call is allowed."""

    async def reserve(self, estimate: Estimate, *, score: float | None = None) -> Lease:
        return _Free()

    async def keep(self) -> None:
        pass


class NoCloud:
    """No call is allowed. A strategy under this budget answers on the device: the forced local attempt."""

    async def reserve(self, estimate: Estimate, *, score: float | None = None) -> Lease:
        raise BudgetExceeded("calls", spent=0, cap=0)

    async def keep(self) -> None:
        pass

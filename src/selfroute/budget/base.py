"""What a strategy asks before it calls the cloud: one lease per request, spent call by call, closed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from selfroute.errors import BudgetExceeded
from selfroute.types import Usage

__all__ = ["Budget", "Estimate", "Foreseeing", "Lease", "LimitState", "NoCloud", "Reporting", "Targeted", "Unlimited"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """The most that a request can use of the cloud; a limit holds as exactly as its estimates are upper bounds.

    Attributes:
        usage, cost_usd: of all its calls together, at least one.
    """

    usage: Usage = field(default_factory=Usage)
    cost_usd: float = 0.0


class Lease(Protocol):
    """Permission for the cloud calls of one request: `sent` and `spend` with each call, `close` at the end.

    The share counts a request whose lease has spent anything, once; the other limits count what was spent. Shield
    `spend` and `close` from cancellation: one that is cancelled may not be booked.
    """

    async def sent(self) -> None:
        """A call leaves when this returns. If the process dies before `spend`, all that is held stays booked.

        Raises:
            BudgetUnavailable: the ledger cannot be told, or has given the reservation to others; the call must not
                be made.
        """
        ...

    async def spend(self, usage: Usage, cost_usd: float) -> None:
        """Book what one call used, or several, if its `usage.calls` says so.

        What it used is held no longer, and with the last of the calls that were estimated nothing is. More than was
        held is booked as it is: the limits see it with the next reservation. So is what is spent after `close`.
        """
        ...

    async def close(self) -> None:
        """Give back what is still held, and without any `spend` the place in the share; further times do nothing."""
        ...


class Budget(Protocol):
    """A limit on cloud use. It is told of every request once: by `reserve` if it wants the cloud, by `keep` if not."""

    async def reserve(self, estimate: Estimate, *, score: float | None = None) -> Lease:
        """Hold room for the cloud calls of one request.

        Args:
            estimate: the most that they can use.
            score: how much the strategy wants the cloud for this request (higher = more), None if it has no score.

        Raises:
            BudgetExceeded: a limit is reached, or others want the cloud more.
            BudgetUnavailable: the ledger cannot be reached.
        """
        ...

    async def keep(self) -> None:
        """Count a request that stays on the device by itself: the share is of all requests. Never raises."""
        ...


@dataclass(frozen=True, slots=True)
class LimitState:
    """Where a limit stands.

    Attributes:
        limit: its name, e.g. "calls_per_day"; "share" is the call share so far.
        spent: booked, in the limit's unit, what is held included.
        held: held for requests under way, or for calls that were in the air when their process died.
        cap: most that may be spent.
        reset_s: seconds until the window resets, None if no clock resets it.
        call: what a request of the estimate that was asked about would hold; None without one, and of the share.
    """

    limit: str
    spent: float
    held: float
    cap: float
    reset_s: float | None = None
    call: float | None = None


@runtime_checkable
class Reporting(Protocol):
    """Optional capability of a budget: say where its limits stand."""

    async def status(self, estimate: Estimate | None = None) -> Sequence[LimitState]:
        """Every limit, in the order of the configuration.

        Args:
            estimate: a request, to be told what it would hold.

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


@runtime_checkable
class Foreseeing(Protocol):
    """Optional capability of a budget: say beforehand, without asking anybody, whether a call would be refused."""

    def fits(self, estimate: Estimate) -> bool:
        """Whether there is room for a request, by what was last heard of the limits; only `reserve` knows."""
        ...


class _Free:
    async def sent(self) -> None:
        pass

    async def spend(self, usage: Usage, cost_usd: float) -> None:
        pass

    async def close(self) -> None:
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

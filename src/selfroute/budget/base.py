"""What a strategy asks before it calls the cloud: reserve first, settle or release after."""

from __future__ import annotations

from typing import Protocol

from selfroute.errors import BudgetExceeded
from selfroute.types import Usage

__all__ = ["Budget", "Lease", "NoCloud", "Unlimited"]


class Lease(Protocol):
    """Permission for one cloud call. Exactly one of the two methods is called, once."""

    async def settle(self, usage: Usage, cost_usd: float) -> None:
        """The call was made: book what it really used."""
        ...

    async def release(self) -> None:
        """The call failed or was cancelled before it cost anything: give the reservation back."""
        ...


class Budget(Protocol):
    """A limit on cloud use."""

    async def reserve(self) -> Lease:
        """Hold room for one cloud call.

        Raises:
            BudgetExceeded: if a limit is reached.
        """
        ...


class _Free:
    async def settle(self, usage: Usage, cost_usd: float) -> None:
        pass

    async def release(self) -> None:
        pass


class Unlimited:
    """Every call is allowed."""

    async def reserve(self) -> Lease:
        return _Free()


class NoCloud:
    """No call is allowed. A strategy under this budget answers on the device: the forced local attempt."""

    async def reserve(self) -> Lease:
        raise BudgetExceeded("calls", spent=0, cap=0)

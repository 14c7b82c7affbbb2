"""A budget: limits, and a ledger that keeps their counters.

What is held for a call is booked as spent until the call says otherwise. A process that dies during a call therefore
leaves its reservation behind at the estimate, since nobody knows whether the money was spent. It counts until its
window resets; only in a limit without a window it stays.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from selfroute.budget.base import Estimate, Lease, LimitState
from selfroute.budget.limits import CALLS, REQUESTS, Bucket, Charge, Limits, Reply, WindowLimit
from selfroute.errors import BudgetExceeded, BudgetUnavailable
from selfroute.types import Usage

__all__ = ["REFILLS", "Ledger", "LedgerBudget"]

REFILLS = "every further request makes room"
_LOG = logging.getLogger("selfroute.budget")


class Ledger(Protocol):
    """Keeps counters; each method is one step that no other client sees half done. All raise `BudgetUnavailable`."""

    async def count(self, bucket: Bucket) -> None:
        """See `selfroute.budget.limits.count`."""
        ...

    async def reserve(self, charges: Sequence[Charge], bucket: Bucket | None) -> Reply:
        """See `selfroute.budget.limits.reserve`."""
        ...

    async def settle(self, charges: Sequence[Charge], used: Sequence[int]) -> None:
        """See `selfroute.budget.limits.settle`."""
        ...

    async def release(self, charges: Sequence[Charge], bucket: Bucket | None) -> None:
        """See `selfroute.budget.limits.release`."""
        ...

    async def read(self, keys: Sequence[str]) -> list[int]:
        """Counters by key, 0 for those that are missing."""
        ...

    async def aclose(self) -> None:
        """Let go of files and connections."""
        ...


class LedgerBudget:
    """Limits kept in a ledger.

    Args:
        limits: each has to let a call pass.
        ledger: e.g. `SQLiteLedger`; budgets that share one share what is spent.
        clock: Unix seconds.
    """

    def __init__(self, limits: Limits, ledger: Ledger, *, clock: Callable[[], float] = time.time) -> None:
        self.limits = limits
        self.ledger = ledger
        self._clock = clock
        self._bucket = None if limits.share is None else limits.share.bucket

    async def reserve(self, estimate: Estimate, *, score: float | None = None) -> Lease:
        """See `selfroute.budget.base.Budget`; the score has no say here."""
        now = self._clock()
        charges = [limit.charge(estimate, now) for limit in self.limits.windows]
        booking = asyncio.ensure_future(self.ledger.reserve(charges, self._bucket))
        try:
            reply = await asyncio.shield(booking)
        except asyncio.CancelledError:
            # The ledger may book it all the same, for a call that nobody will make.
            booking.add_done_callback(lambda done: self._undo(done, charges))
            raise
        if not reply.granted:
            raise self._refusal(charges, reply, now)
        return _Lease(self.ledger, self.limits.windows, charges, self._bucket)

    async def keep(self) -> None:
        """See `selfroute.budget.base.Budget`."""
        if self._bucket is not None:
            try:
                await self.ledger.count(self._bucket)
            except BudgetUnavailable as failure:
                _LOG.warning("a request was not counted: %s", failure)

    async def status(self) -> list[LimitState]:
        """See `selfroute.budget.base.Reporting`."""
        now = self._clock()
        charges = [limit.charge(Estimate(), now) for limit in self.limits.windows]
        keys = [key for charge in charges for key in (charge.spent, charge.held)]
        values = await self.ledger.read([CALLS, REQUESTS, *keys])
        (calls, requests), amounts = values[:2], values[2:]
        states = []
        if self.limits.share is not None:
            states.append(LimitState("share", calls / requests if requests else 0.0, 0.0, self.limits.share.share))
        for limit, charge, spent, held in zip(self.limits.windows, charges, amounts[::2], amounts[1::2], strict=True):
            taken = limit.shown(spent + held)
            states.append(LimitState(limit.name, taken, limit.shown(held), limit.cap, _left(charge, now)))
        return states

    def retarget(self, share: float) -> None:
        """See `selfroute.budget.base.Targeted`; what was counted so far counts on."""
        if self.limits.share is not None:
            limit = replace(self.limits.share, share=share)
            self.limits, self._bucket = replace(self.limits, share=limit), limit.bucket

    async def aclose(self) -> None:
        """Close the ledger."""
        await self.ledger.aclose()

    def _undo(self, booking: asyncio.Future[Reply], charges: Sequence[Charge]) -> None:
        if booking.cancelled() or booking.exception() is not None or not booking.result().granted:
            return
        lease = _Lease(self.ledger, self.limits.windows, charges, self._bucket)
        task = asyncio.ensure_future(lease.release())
        _UNDOING.add(task)
        task.add_done_callback(_UNDOING.discard)

    def _refusal(self, charges: Sequence[Charge], reply: Reply, now: float) -> BudgetExceeded:
        """Of the limits that refuse, the one that does so longest; the share opens with the next requests."""
        full = [
            (charge.ends is None, charge.ends or 0, limit, charge, taken)
            for limit, charge, taken in zip(self.limits.windows, charges, reply.taken, strict=True)
            if taken + charge.amount > charge.cap
        ]
        if full:
            _, _, limit, charge, taken = max(full, key=lambda each: each[:2])
            return BudgetExceeded(limit.name, spent=limit.shown(taken), cap=limit.cap, reset_s=_left(charge, now))
        assert self.limits.share is not None
        share = reply.calls / reply.requests if reply.requests else 0.0
        return BudgetExceeded("share", spent=share, cap=self.limits.share.share, when=REFILLS)


# Releases after a cancelled reservation: a task that nobody holds could be collected before it is done.
_UNDOING: set[asyncio.Future[None]] = set()


def _left(charge: Charge, now: float) -> float | None:
    return None if charge.ends is None else max(0.0, charge.ends - now)


class _Lease:
    """See `selfroute.budget.base.Lease`. A ledger out of reach keeps the reservation, which counts as spent."""

    def __init__(
        self, ledger: Ledger, limits: Sequence[WindowLimit], charges: Sequence[Charge], bucket: Bucket | None
    ) -> None:
        self._ledger = ledger
        self._limits = limits
        self._charges = charges
        self._bucket = bucket
        self._open = True

    async def settle(self, usage: Usage, cost_usd: float) -> None:
        if self._close():
            used = [limit.amount(usage, cost_usd) for limit in self._limits]
            try:
                await self._ledger.settle(self._charges, used)
            except BudgetUnavailable as failure:
                _LOG.warning("a call stays booked at its estimate: %s", failure)

    async def release(self) -> None:
        if self._close():
            try:
                await self._ledger.release(self._charges, self._bucket)
            except BudgetUnavailable as failure:
                _LOG.warning("a call that was not made stays booked at its estimate: %s", failure)

    def _close(self) -> bool:
        was_open, self._open = self._open, False
        return was_open

"""A budget: limits, and a ledger that keeps their counters.

What is held for a request is booked as spent until its lease says otherwise. Of a process that dies, a ledger that
outlives it gives back what was held for calls that had not been sent. What had been sent stays booked at its estimate,
since nobody knows whether the money was spent: until its window resets, and in a limit without a window for good.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from selfroute.budget.base import Estimate, Lease, LimitState
from selfroute.budget.limits import CALLS, REQUESTS, Bucket, Charge, Hold, Limits, Reply, WindowLimit
from selfroute.errors import BudgetExceeded, BudgetUnavailable
from selfroute.types import Usage

__all__ = ["REFILLS", "Ledger", "LedgerBudget"]

REFILLS = "every further request makes room"
_LOG = logging.getLogger("selfroute.budget")


class Ledger(Protocol):
    """Keeps counters, and what each open lease holds, as far as others have to know if this process dies.

    Each method is one step that no other client sees half done. All raise `BudgetUnavailable`.
    """

    async def count(self, bucket: Bucket) -> None:
        """See `selfroute.budget.limits.count`."""
        ...

    async def reserve(self, charges: Sequence[Charge], bucket: Bucket | None) -> Reply:
        """See `selfroute.budget.limits.reserve`; what dead processes held counts for nothing, unless it was sent."""
        ...

    async def sent(self, hold: Hold) -> None:
        """A call of this lease leaves: should the process die, what it holds is not given back."""
        ...

    async def spend(self, hold: Hold, left: Hold, used: Sequence[int], *, in_air: bool) -> None:
        """See `selfroute.budget.limits.spend`; `in_air` says whether further calls of the lease are under way."""
        ...

    async def close(self, hold: Hold) -> None:
        """See `selfroute.budget.limits.close`."""
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
        self._taken: dict[str, int] = {}  # by charge's key, as the ledger last said it

    async def reserve(self, estimate: Estimate, *, score: float | None = None) -> Lease:
        """See `selfroute.budget.base.Budget`; the score has no say here."""
        now = self._clock()
        charges = [limit.charge(estimate, now) for limit in self.limits.windows]
        booking = asyncio.ensure_future(self.ledger.reserve(charges, self._bucket))
        try:
            reply = await asyncio.shield(booking)
        except asyncio.CancelledError:
            # The ledger may book it all the same, for a request that nobody will answer.
            booking.add_done_callback(lambda done: self._undo(done, charges, estimate))
            raise
        self._taken = {charge.key: taken for charge, taken in zip(charges, reply.taken, strict=True)}
        if not reply.granted:
            raise self._refusal(charges, reply, now)
        return self._lease(reply, charges, estimate)

    def fits(self, estimate: Estimate) -> bool:
        """See `selfroute.budget.base.Foreseeing`; of a window that has just begun nothing was heard."""
        charges = [limit.charge(estimate, self._clock()) for limit in self.limits.windows]
        return all(self._taken.get(charge.key, 0) + charge.amount <= charge.cap for charge in charges)

    async def keep(self) -> None:
        """See `selfroute.budget.base.Budget`."""
        if self._bucket is not None:
            try:
                await self.ledger.count(self._bucket)
            except BudgetUnavailable as failure:
                _LOG.warning("a request was not counted: %s", failure)

    async def status(self, estimate: Estimate | None = None) -> list[LimitState]:
        """See `selfroute.budget.base.Reporting`."""
        now = self._clock()
        charges = [limit.charge(estimate or Estimate(), now) for limit in self.limits.windows]
        keys = [key for charge in charges for key in (charge.spent, charge.held)]
        values = await self.ledger.read([CALLS, REQUESTS, *keys])
        (calls, requests), amounts = values[:2], values[2:]
        states = []
        if self.limits.share is not None:
            states.append(LimitState("share", calls / requests if requests else 0.0, 0.0, self.limits.share.share))
        for limit, charge, spent, held in zip(self.limits.windows, charges, amounts[::2], amounts[1::2], strict=True):
            taken = limit.shown(spent + held)
            call = None if estimate is None else limit.shown(charge.amount)
            states.append(LimitState(limit.name, taken, limit.shown(held), limit.cap, _left(charge, now), call))
        return states

    def retarget(self, share: float) -> None:
        """See `selfroute.budget.base.Targeted`; what was counted so far counts on."""
        if self.limits.share is not None:
            limit = replace(self.limits.share, share=share)
            self.limits, self._bucket = replace(self.limits, share=limit), limit.bucket

    async def aclose(self) -> None:
        """Close the ledger."""
        await self.ledger.aclose()

    def _lease(self, reply: Reply, charges: Sequence[Charge], estimate: Estimate) -> _Lease:
        hold = Hold(reply.number, tuple(charges), share=self._bucket is not None)
        return _Lease(self.ledger, self.limits.windows, hold, estimate.usage.calls or 1)

    def _undo(self, booking: asyncio.Future[Reply], charges: Sequence[Charge], estimate: Estimate) -> None:
        if booking.cancelled() or booking.exception() is not None or not booking.result().granted:
            return
        task = asyncio.ensure_future(self._lease(booking.result(), charges, estimate).close())
        _UNDOING.add(task)
        task.add_done_callback(_UNDOING.discard)

    def _refusal(self, charges: Sequence[Charge], reply: Reply, now: float) -> BudgetExceeded:
        """Of the limits that refuse, the one that does so longest; the share opens with the next requests."""
        full = [
            (charge.ends is None, charge.ends or 0, limit, charge, taken, held)
            for limit, charge, taken, held in zip(self.limits.windows, charges, reply.taken, reply.held, strict=True)
            if taken + charge.amount > charge.cap
        ]
        if full:
            _, _, limit, charge, taken, held = max(full, key=lambda each: each[:2])
            spent, call = limit.shown(taken), limit.shown(charge.amount)
            return BudgetExceeded(
                limit.name, spent=spent, held=limit.shown(held), cap=limit.cap, call=call, reset_s=_left(charge, now)
            )
        assert self.limits.share is not None
        share = reply.calls / reply.requests if reply.requests else 0.0
        return BudgetExceeded("share", spent=share, cap=self.limits.share.share, when=REFILLS)


# Leases closed after a cancelled reservation: a task that nobody holds could be collected before it is done.
_UNDOING: set[asyncio.Future[None]] = set()


def _left(charge: Charge, now: float) -> float | None:
    return None if charge.ends is None else max(0.0, charge.ends - now)


class _Lease:
    """See `selfroute.budget.base.Lease`. A ledger out of reach keeps the reservation, which counts as spent."""

    def __init__(self, ledger: Ledger, limits: Sequence[WindowLimit], hold: Hold, calls: int) -> None:
        self._ledger = ledger
        self._limits = limits
        self._hold = hold
        self._calls = calls
        self._usage, self._cost_usd = Usage(), 0.0
        self._booked = [0] * len(limits)
        self._in_air = 0
        self._told = False  # that a call is in the air
        self._turn = asyncio.Lock()  # what a ledger hears of one lease, it hears in order

    async def sent(self) -> None:
        self._in_air += 1
        async with self._turn:
            if not self._told and not self._hold.is_over:
                await self._ledger.sent(self._hold)
                self._told = True

    async def spend(self, usage: Usage, cost_usd: float) -> None:
        used = self._add(usage, cost_usd)
        self._in_air = max(0, self._in_air - 1)
        before = self._hold
        self._hold = left = before.less(used) if self._usage.calls < self._calls else before.nothing()
        try:
            async with self._turn:
                self._told &= self._in_air > 0
                await self._ledger.spend(before, left, used, in_air=self._told)
        except BudgetUnavailable as failure:
            _LOG.warning("a call stays booked at its estimate: %s", failure)

    def _add(self, usage: Usage, cost_usd: float) -> list[int]:
        """What one more call uses; rounded up over all of them, as the estimate is."""
        self._usage += usage if usage.calls else replace(usage, calls=1)
        self._cost_usd += cost_usd
        before = self._booked
        self._booked = [limit.amount(self._usage, self._cost_usd) for limit in self._limits]
        return [after - amount for after, amount in zip(self._booked, before, strict=True)]

    async def close(self) -> None:
        before, self._hold = self._hold, self._hold.nothing()
        if before.is_over:
            return
        try:
            async with self._turn:
                await self._ledger.close(before)
        except BudgetUnavailable as failure:
            _LOG.warning("what a request did not use stays booked: %s", failure)

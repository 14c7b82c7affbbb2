"""A process that spends from a shared budget; the tests start several, and kill some.

`python spender.py LEDGER ATTEMPTS CALLS USD [hold]` prints a JSON line with what it was granted; with `hold` it leaves
half of its leases open, half of those with a call in the air, and waits to be killed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from selfroute.budget.base import Estimate
from selfroute.budget.ledger import Ledger, LedgerBudget
from selfroute.budget.limits import Limits, WindowLimit
from selfroute.errors import BudgetExceeded
from selfroute.types import Usage

SILENCE_S = 2.0  # after which a Redis ledger takes a process for dead
ESTIMATE = Estimate(Usage(10, 20), 0.02)
USED = (Usage(10, 5), 0.0125)


def open_ledger(place: str) -> Ledger:
    if place.startswith("redis:"):
        from selfroute.budget.redis import RedisLedger

        return RedisLedger(place, silence_s=SILENCE_S)
    from selfroute.budget.sqlite import SQLiteLedger

    return SQLiteLedger(Path(place))


def limits(calls: int, usd: float) -> Limits:
    return Limits(
        windows=(WindowLimit(unit="calls", window="total", cap=calls), WindowLimit(unit="usd", window="total", cap=usd))
    )


async def spend(budget: LedgerBudget, attempts: int, *, hold: bool) -> dict[str, int]:
    found = {"spent": 0, "waiting": 0, "sent": 0}

    async def one(number: int) -> None:
        try:
            lease = await budget.reserve(ESTIMATE)
        except BudgetExceeded:
            return
        if hold and number % 2:
            found["waiting" if number % 4 == 1 else "sent"] += 1
            if number % 4 == 3:
                await lease.sent()
            return
        await lease.sent()
        await asyncio.sleep(0.001)
        await lease.spend(*USED)
        await lease.close()
        found["spent"] += 1

    await asyncio.gather(*(one(number) for number in range(attempts)))
    return found


async def main(place: str, attempts: str, calls: str, usd: str, *how: str) -> None:
    budget = LedgerBudget(limits(int(calls), float(usd)), open_ledger(place))
    result = await spend(budget, int(attempts), hold="hold" in how)
    print(json.dumps(result), flush=True)
    if "hold" in how:
        await asyncio.sleep(600)
    await budget.aclose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

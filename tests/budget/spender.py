"""A process that spends from a shared budget; the tests start several, and kill some.

`python spender.py LEDGER ATTEMPTS CALLS USD [hold]` prints a JSON line with what it was granted; with `hold` it leaves
half of its calls open and waits to be killed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from selfroute.budget.base import Estimate
from selfroute.budget.ledger import Ledger, LedgerBudget
from selfroute.budget.limits import Limits, WindowLimit
from selfroute.errors import BudgetExceeded
from selfroute.types import Usage

ESTIMATE = Estimate(Usage(10, 20), 0.02)
USED = (Usage(10, 5), 0.0125)


def open_ledger(place: str) -> Ledger:
    if place.startswith("redis:"):
        from selfroute.budget.redis import RedisLedger

        return RedisLedger(place)
    from selfroute.budget.sqlite import SQLiteLedger

    return SQLiteLedger(Path(place))


def limits(calls: int, usd: float) -> Limits:
    return Limits(
        windows=(WindowLimit(unit="calls", window="total", cap=calls), WindowLimit(unit="usd", window="total", cap=usd))
    )


async def spend(budget: LedgerBudget, attempts: int, *, hold: bool) -> dict[str, Any]:
    settled = held = 0

    async def one(number: int) -> None:
        nonlocal settled, held
        try:
            lease = await budget.reserve(ESTIMATE)
        except BudgetExceeded:
            return
        if hold and number % 2:
            held += 1
            return
        await asyncio.sleep(0.001)
        await lease.settle(*USED)
        settled += 1

    await asyncio.gather(*(one(number) for number in range(attempts)))
    return {"settled": settled, "held": held}


async def main(place: str, attempts: str, calls: str, usd: str, *how: str) -> None:
    budget = LedgerBudget(limits(int(calls), float(usd)), open_ledger(place))
    result = await spend(budget, int(attempts), hold="hold" in how)
    print(json.dumps(result), flush=True)
    if "hold" in how:
        await asyncio.sleep(600)
    await budget.aclose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

"""Any order of reservations, calls, ends, crashes and time: never overspent, and all ledgers agree."""

from __future__ import annotations

import asyncio
import gc
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from selfroute.budget.base import Estimate, Lease
from selfroute.budget.ledger import LedgerBudget
from selfroute.budget.limits import Limits, ShareLimit, WindowLimit
from selfroute.budget.memory import MemoryLedger
from selfroute.budget.sqlite import SQLiteLedger
from selfroute.errors import BudgetExceeded
from selfroute.types import Usage

MIDNIGHT = (int(time.time()) // 86_400 + 1) * 86_400
CENT = 10**-2


@dataclass
class Open:
    """A lease of each ledger, and what of its estimate is left."""

    leases: list[Lease]
    left: dict[str, int]
    windows: dict[str, int | None]
    in_air: int = 0
    used: bool = field(default=False)


class Spending(RuleBasedStateMachine):
    """Two ledgers get the same requests. The books kept here are the provider's: what calls really cost, per window."""

    @initialize(
        calls=st.integers(0, 6),
        tokens=st.integers(0, 60),
        cents=st.integers(0, 30),
        share=st.sampled_from([None, 0.25, 0.5, 1.0]),
        burst=st.integers(1, 4),
    )
    def begin(self, calls: int, tokens: int, cents: int, share: float | None, burst: int) -> None:
        self.caps = {"calls": calls, "tokens": tokens, "usd": cents}
        self.share, self.burst = share, burst
        self.limits = Limits(
            share=None if share is None else ShareLimit(share=share, burst=burst),
            windows=(
                WindowLimit(unit="calls", window="minute", cap=calls),
                WindowLimit(unit="tokens", window="hour", cap=tokens),
                WindowLimit(unit="usd", window="total", cap=cents * CENT),
            ),
        )
        gc.freeze()  # what other tests left is none of a crash's business, and takes long to look through
        self.now = float(MIDNIGHT)
        self.folder = TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.memory = LedgerBudget(self.limits, MemoryLedger(), clock=lambda: self.now)
        self.file = self.open_file()
        self.open: list[Open] = []
        self.spent: dict[tuple[str, int | None], int] = {}
        self.requests = self.made = 0

    def open_file(self) -> LedgerBudget:
        return LedgerBudget(self.limits, SQLiteLedger(Path(self.folder.name, "b.sqlite")), clock=lambda: self.now)

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def windows(self) -> dict[str, int | None]:
        return {"calls": int(self.now // 60), "tokens": int(self.now // 3600), "usd": None}

    @rule(tokens=st.integers(0, 25), cents=st.integers(0, 12), calls=st.integers(1, 3))
    def reserve(self, tokens: int, cents: int, calls: int) -> None:
        self.requests += 1
        leases: list[Lease] = []
        refusals: list[str] = []
        for budget in (self.memory, self.file):
            try:
                leases.append(self.run(budget.reserve(Estimate(Usage(tokens, 0, calls=calls), cents * CENT))))
            except BudgetExceeded as refusal:
                assert refusal.spent <= refusal.cap or refusal.limit == "share"
                refusals.append(str(refusal))
        assert len(leases) in (0, 2)
        assert len(set(refusals)) <= 1
        if leases:
            self.made += 1
            self.open.append(Open(leases, {"calls": calls, "tokens": tokens, "usd": cents}, self.windows()))

    @rule()
    def keep(self) -> None:
        self.requests += 1
        for budget in (self.memory, self.file):
            self.run(budget.keep())

    @rule(which=st.integers(0, 50))
    def send(self, which: int) -> None:
        if self.open:
            one = self.open[which % len(self.open)]
            one.in_air += 1
            for lease in one.leases:
                self.run(lease.sent())

    @rule(which=st.integers(0, 50), part=st.floats(0, 1))
    def spend(self, which: int, part: float) -> None:
        one = self.open[which % len(self.open)] if self.open else None
        if one is not None and one.left["calls"]:
            used = {"calls": 1, "tokens": int(one.left["tokens"] * part), "usd": int(one.left["usd"] * part)}
            for lease in one.leases:
                self.run(lease.spend(Usage(0, used["tokens"]), used["usd"] * CENT))
            self.book(one.windows, used)
            one.in_air, one.used = max(0, one.in_air - 1), True
            one.left = {unit: left - used[unit] for unit, left in one.left.items()}
            if not one.left["calls"]:  # after the last call nothing is held
                one.left = dict.fromkeys(one.left, 0)

    @rule(which=st.integers(0, 50))
    def close(self, which: int) -> None:
        if self.open:
            one = self.open.pop(which % len(self.open))
            self.made -= not one.used
            for lease in one.leases:
                self.run(lease.close())

    @rule()
    def crash(self) -> None:
        """The process of the file's ledger ends; what is in the air, the provider charges in full."""
        self.run(self.file.aclose())
        for end in map(self.end_in_memory, self.open):
            self.run(end)
        self.open.clear()
        del self.file
        gc.collect()  # its lock goes with it, as with a process
        self.file = self.open_file()

    async def end_in_memory(self, one: Open) -> None:
        if one.in_air:
            self.book(one.windows, one.left)
        else:
            self.made -= not one.used
            await one.leases[0].close()

    @rule(seconds=st.sampled_from([1, 30, 60, 3600, 200_000]))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    def book(self, windows: dict[str, int | None], used: dict[str, int]) -> None:
        for unit, amount in used.items():
            key = (unit, windows[unit])
            self.spent[key] = self.spent.get(key, 0) + amount

    @invariant()
    def no_window_is_overspent(self) -> None:
        most = dict(self.spent)
        for one in self.open:  # what is under way may still cost what is left of its estimate
            for unit, amount in one.left.items():
                most[unit, one.windows[unit]] = most.get((unit, one.windows[unit]), 0) + amount
        assert all(amount <= self.caps[unit] for (unit, _), amount in most.items())
        if self.share is not None:
            assert self.made <= self.share * self.requests + self.burst

    @invariant()
    def the_ledgers_agree(self) -> None:
        assert self.run(self.memory.status()) == self.run(self.file.status())

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.run(self.file.aclose())
            self.run(self.loop.shutdown_default_executor())
            self.loop.close()
            self.folder.cleanup()
            gc.unfreeze()


TestSpending = Spending.TestCase
TestSpending.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)

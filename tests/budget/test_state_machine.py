"""Any order of reservations, settlements, releases, crashes and time: never overspent, and all ledgers agree."""

from __future__ import annotations

import asyncio
import time
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
        self.now = float(MIDNIGHT)
        self.folder = TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.memory = LedgerBudget(self.limits, MemoryLedger(), clock=lambda: self.now)
        self.file = self.open_file()
        self.open: list[tuple[list[Lease], int, int, dict[str, int | None]]] = []
        self.spent: dict[tuple[str, int | None], int] = {}
        self.requests = self.made = 0

    def open_file(self) -> LedgerBudget:
        return LedgerBudget(self.limits, SQLiteLedger(Path(self.folder.name, "b.sqlite")), clock=lambda: self.now)

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def windows(self) -> dict[str, int | None]:
        return {"calls": int(self.now // 60), "tokens": int(self.now // 3600), "usd": None}

    @rule(tokens=st.integers(0, 25), cents=st.integers(0, 12))
    def reserve(self, tokens: int, cents: int) -> None:
        self.requests += 1
        leases: list[Lease] = []
        refusals: list[str] = []
        for budget in (self.memory, self.file):
            try:
                leases.append(self.run(budget.reserve(Estimate(Usage(tokens, 0), cents * CENT))))
            except BudgetExceeded as refusal:
                assert refusal.spent <= refusal.cap or refusal.limit == "share"
                refusals.append(str(refusal))
        assert len(leases) in (0, 2)
        assert len(set(refusals)) <= 1
        if leases:
            self.made += 1
            self.open.append((leases, tokens, cents, self.windows()))

    @rule()
    def keep(self) -> None:
        self.requests += 1
        for budget in (self.memory, self.file):
            self.run(budget.keep())

    @rule(which=st.integers(0, 50), part=st.floats(0, 1))
    def settle(self, which: int, part: float) -> None:
        if self.open:
            leases, tokens, cents, windows = self.open.pop(which % len(self.open))
            used, cost = int(tokens * part), int(cents * part)
            for lease in leases:
                self.run(lease.settle(Usage(0, used), cost * CENT))
            self.book(windows, used, cost)

    @rule(which=st.integers(0, 50))
    def release(self, which: int) -> None:
        if self.open:
            leases, *_ = self.open.pop(which % len(self.open))
            self.made -= 1
            for lease in leases:
                self.run(lease.release())

    @rule()
    def crash(self) -> None:
        """The processes end in the middle of all their calls, which the provider charges in full."""
        self.run(self.file.aclose())
        self.file = self.open_file()
        for _, tokens, cents, windows in self.open:
            self.book(windows, tokens, cents)
        self.open.clear()

    @rule(seconds=st.sampled_from([1, 30, 60, 3600, 200_000]))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    def book(self, windows: dict[str, int | None], tokens: int, cents: int) -> None:
        for unit, amount in (("calls", 1), ("tokens", tokens), ("usd", cents)):
            key = (unit, windows[unit])
            self.spent[key] = self.spent.get(key, 0) + amount

    @invariant()
    def no_window_is_overspent(self) -> None:
        most = dict(self.spent)
        for _, tokens, cents, windows in self.open:  # what is under way may still cost its estimate
            for unit, amount in (("calls", 1), ("tokens", tokens), ("usd", cents)):
                most[unit, windows[unit]] = most.get((unit, windows[unit]), 0) + amount
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


TestSpending = Spending.TestCase
TestSpending.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)

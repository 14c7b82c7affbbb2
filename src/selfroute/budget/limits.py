"""Limits on cloud use as arithmetic over counters: no storage, no clock of its own, whole numbers only.

Two kinds of limits. A *window* limit caps calls, tokens or money per minute, hour, day or month, or in total.
Reserving holds the most that a request can use; spending books in the same window what each of its calls did use. A
request belongs to the window in which it began. The *share* limit is a bucket: a request that uses the cloud, in
however many calls, puts 1 in, every request takes `share` out again, and `burst` is its size. So over any stretch of n
requests at most share · n + burst use the cloud, and quiet hours save up no more than a burst.

Counters are whole numbers (money in billionths of a dollar, shares in millionths), as sums of floats depend on their
order and ledgers have to agree to the last digit.
"""

from __future__ import annotations

import math
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Literal, get_args

from selfroute.budget.base import Estimate
from selfroute.errors import ConfigError
from selfroute.types import Usage

__all__ = [
    "AHEAD",
    "CALLS",
    "REQUESTS",
    "WHOLE",
    "Bucket",
    "Charge",
    "Counters",
    "Hold",
    "Limits",
    "Reply",
    "ShareLimit",
    "Unit",
    "Window",
    "WindowLimit",
    "admit",
    "close",
    "count",
    "in_units",
    "reserve",
    "spend",
    "window_end",
]

Unit = Literal["calls", "tokens", "usd"]
Window = Literal["minute", "hour", "day", "month", "total"]
# By key; a missing one counts as 0.
Counters = MutableMapping[str, int]

_SCALE: dict[Unit, int] = {"calls": 1, "tokens": 1, "usd": 10**9}
_SECONDS: dict[Window, int] = {"minute": 60, "hour": 3600}
_MOST = 2**53  # up to here every ledger counts exactly; Redis' scripts have doubles

WHOLE = 10**6  # one request in the share's bucket
AHEAD, CALLS, REQUESTS = "share.ahead", "share.calls", "share.requests"


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowLimit:
    """Most calls, tokens or USD per window.

    Args:
        zone: whose midnights divide days and months.

    Raises:
        ConfigError: an unknown unit or window, or a cap that is not a number of 0 or more.
    """

    unit: Unit
    window: Window
    cap: float
    zone: tzinfo = UTC

    def __post_init__(self) -> None:
        if self.unit not in _SCALE or self.window not in get_args(Window):
            units, windows = ", ".join(_SCALE), ", ".join(get_args(Window))
            raise ConfigError(f"limit '{self.name}': the units are {units}, the windows {windows}")
        if not (math.isfinite(self.cap) and 0 <= self.cap * _SCALE[self.unit] <= _MOST):
            raise ConfigError(f"{self.name}: {self.cap:g} is not a cap from 0 to {_MOST / _SCALE[self.unit]:g}")

    @property
    def name(self) -> str:
        return f"{self.unit}_total" if self.window == "total" else f"{self.unit}_per_{self.window}"

    def charge(self, estimate: Estimate, now: float) -> Charge:
        """What a request that begins now holds."""
        ends = window_end(self.window, now, self.zone)
        key = self.name if ends is None else f"{self.name}@{ends}"
        amount = self.amount(estimate.usage, estimate.cost_usd)
        return Charge(key, amount, math.floor(self.cap * _SCALE[self.unit]), ends)

    def amount(self, usage: Usage, cost_usd: float) -> int:
        """Usage in this limit's whole units, rounded up; one that counts no call is one call's."""
        if self.unit == "calls":
            return usage.calls or 1
        if self.unit == "tokens":
            return usage.prompt_tokens + usage.completion_tokens
        return math.ceil(round(cost_usd * _SCALE["usd"], 3))  # 0.1 + 0.2 costs no billionth more than 0.3

    def shown(self, amount: int) -> float:
        return in_units(amount, self.unit)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareLimit:
    """Most requests that use the cloud, per request.

    Args:
        share: in (0, 1].
        burst: requests that may run ahead of the share.

    Raises:
        ConfigError: an argument is out of range.
    """

    share: float
    burst: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError(f"share: {self.share:g} is not in (0, 1]; 0.3 lets 30 % of the requests go to the cloud")
        if self.burst < 1:
            raise ConfigError(f"burst: {self.burst} is below 1, which lets no call pass")

    @property
    def bucket(self) -> Bucket:
        return Bucket(math.floor(self.share * WHOLE + 1e-6), self.burst * WHOLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """All limits of a budget; each has to let a request pass."""

    share: ShareLimit | None = None
    windows: tuple[WindowLimit, ...] = ()


@dataclass(frozen=True, slots=True)
class Charge:
    """What one request holds of one window.

    Attributes:
        key: names limit and window.
        amount: held, whole units.
        cap: most that may be spent and held in the window.
        ends: the window's end in Unix seconds, None if it has none.
    """

    key: str
    amount: int
    cap: int
    ends: int | None

    @property
    def spent(self) -> str:
        return f"{self.key}.spent"

    @property
    def held(self) -> str:
        return f"{self.key}.held"


@dataclass(frozen=True, slots=True)
class Bucket:
    """The share limit in millionths of a request: what each one takes out, and the bucket's size."""

    leak: int
    size: int


@dataclass(frozen=True, slots=True)
class Hold:
    """What one lease still holds.

    Attributes:
        number: its ledger's name for it.
        charges: with the amounts that are left.
        share: whether its place in the share goes back at the end, as nothing was spent.
    """

    number: int
    charges: tuple[Charge, ...]
    share: bool

    @property
    def is_over(self) -> bool:
        return not self.share and not any(charge.amount for charge in self.charges)

    def less(self, used: Sequence[int]) -> Hold:
        """What is left after a call; one that used more than was left leaves nothing."""
        left = [max(0, charge.amount - amount) for charge, amount in zip(self.charges, used, strict=True)]
        return self._of(left)

    def nothing(self) -> Hold:
        """What is left after the last call."""
        return self._of([0] * len(self.charges))

    def _of(self, amounts: Sequence[int]) -> Hold:
        charges = (Charge(c.key, amount, c.cap, c.ends) for c, amount in zip(self.charges, amounts, strict=True))
        return Hold(self.number, tuple(charges), share=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a ledger answers to a reservation.

    Attributes:
        granted: whether everything is held now; if not, nothing is.
        taken: per charge what was spent and held before.
        held: the part of it that was held.
        calls, requests: counted so far for the share: requests that use the cloud, and all, this one included.
        number: the ledger's name for what it holds.
    """

    granted: bool
    taken: tuple[int, ...]
    held: tuple[int, ...] = ()
    calls: int = 0
    requests: int = 0
    number: int = 0


def window_end(window: Window, now: float, zone: tzinfo = UTC) -> int | None:
    """End of the window that `now` lies in, in Unix seconds.

    Days and months end at midnight in `zone`, so the days on which clocks change have 23 or 25 hours; a midnight that
    clocks leave out is the moment at which they do. Minutes and hours are aligned to UTC.
    """
    if window == "total":
        return None
    if window in _SECONDS:
        length = _SECONDS[window]
        return (math.floor(now) // length + 1) * length
    day = datetime.fromtimestamp(math.floor(now), zone).date()  # a float just before midnight is rounded up to it
    ends = day + timedelta(days=1) if window == "day" else (day.replace(day=1) + timedelta(days=32)).replace(day=1)
    return math.floor(datetime(ends.year, ends.month, ends.day, tzinfo=zone).timestamp())


def in_units(amount: int, unit: Unit) -> float:
    """Whole units as calls, tokens or USD."""
    return amount / _SCALE[unit] if _SCALE[unit] > 1 else amount


# --- What a ledger does to its counters, in one step. The script of `redis.py` says the same in Lua.


def count(counters: Counters, bucket: Bucket) -> None:
    """One request has come."""
    counters[REQUESTS] += 1
    counters[AHEAD] = max(0, counters[AHEAD] - bucket.leak)


def reserve(counters: Counters, charges: Sequence[Charge], bucket: Bucket | None) -> Reply:
    """Count a request, and hold its charges if every limit allows."""
    if bucket is not None:
        count(counters, bucket)
    return admit(counters, charges, bucket)


def admit(counters: Counters, charges: Sequence[Charge], bucket: Bucket | None) -> Reply:
    """Hold the charges of a request that is counted, if every limit allows."""
    held = tuple(counters[charge.held] for charge in charges)
    taken = tuple(counters[charge.spent] + amount for charge, amount in zip(charges, held, strict=True))
    granted = all(before + charge.amount <= charge.cap for before, charge in zip(taken, charges, strict=True))
    granted = granted and (bucket is None or counters[AHEAD] + WHOLE <= bucket.size)
    if granted:
        for charge in charges:
            counters[charge.held] += charge.amount
        if bucket is not None:
            counters[AHEAD] += WHOLE
            counters[CALLS] += 1
    if bucket is None:
        return Reply(granted, taken, held)
    return Reply(granted, taken, held, counters[CALLS], counters[REQUESTS])


def spend(counters: Counters, hold: Hold, left: Hold, used: Sequence[int]) -> None:
    """Book what a call used, of a lease that held `hold` before it and holds `left` after."""
    for charge, rest, amount in zip(hold.charges, left.charges, used, strict=True):
        counters[charge.held] = max(0, counters[charge.held] - charge.amount + rest.amount)
        counters[charge.spent] += amount


def close(counters: Counters, hold: Hold) -> None:
    """Give back what a lease holds; its request stays counted."""
    spend(counters, hold, hold.nothing(), [0] * len(hold.charges))
    if hold.share:
        counters[AHEAD] = max(0, counters[AHEAD] - WHOLE)
        counters[CALLS] = max(0, counters[CALLS] - 1)

"""Limits of a budget, as the keys of a recipe."""

from __future__ import annotations

from dataclasses import dataclass

from selfroute.bounds import Count, NotNegative, Rate, Whole
from selfroute.config.values import Spec

__all__ = [
    "BudgetOptions",
    "CountLimits",
    "UsdLimits",
]

SQLITE = Spec("sqlite")


@dataclass(frozen=True, slots=True, kw_only=True)
class CountLimits:
    """Most calls or tokens per window, and in total."""

    per_minute: Whole | None = None
    per_hour: Whole | None = None
    per_day: Whole | None = None
    per_month: Whole | None = None
    total: Whole | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UsdLimits:
    """Most USD per window, and in total."""

    per_minute: NotNegative | None = None
    per_hour: NotNegative | None = None
    per_day: NotNegative | None = None
    per_month: NotNegative | None = None
    total: NotNegative | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetOptions:
    """Limits on cloud use; every one has to let a call pass. See docs/budget.md.

    Attributes:
        share: most cloud calls per request, which is also the target that scores compete for; null sets no limit.
        burst: calls that may run ahead of the share.
        calls: per window; likewise `tokens` (prompt and completion together) and `usd` (by the cloud's price).
        ledger: where it is kept: `memory`, `sqlite`, `sqlite:FILE`, `redis:redis://HOST:6379`, or
            `{redis: {url_env: NAME}}`.
        scope: keeps apart budgets that share a ledger.
        zone: time zone whose midnights divide days and months, such as `Europe/Berlin`.
    """

    share: Rate | None = None
    burst: Count = 20
    calls: CountLimits = CountLimits()
    tokens: CountLimits = CountLimits()
    usd: UsdLimits = UsdLimits()
    ledger: Spec = SQLITE
    scope: str = "default"
    zone: str = "UTC"

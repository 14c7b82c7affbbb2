"""What the dashboard shows, as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from selfroute.budget.base import Budget, Reporting
from selfroute.errors import BudgetUnavailable
from selfroute.gateway.service import Service

__all__ = ["status"]

_SHOWN = 50


async def status(
    service: Service,
    records: Sequence[Mapping[str, Any]],
    *,
    needs_key: bool,
    uptime_s: float,
    in_flight: int,
    share: float | None,
) -> dict[str, Any]:
    """Models and their health, call share, budget, and the last requests.

    Args:
        records: of the last requests, newest first.
        share: the call share that is wanted, None if none is.
    """
    # The share is of requests that the strategy decided; dry runs and other modes are not.
    decided = [r for r in records if r.get("mode") == "auto" and not r.get("dry") and r.get("status") == 200]
    return {
        "strategy": service.strategy.name,
        "modes": sorted(service.modes),
        "needs_key": needs_key,
        "uptime_s": round(uptime_s, 1),
        "in_flight": in_flight,
        "models": [{"side": side, "name": guard.name, **asdict(guard.health())} for side, guard in service.guards()],
        "share": {
            "target": share,
            "realised": sum(bool(r.get("cloud")) for r in decided) / len(decided) if decided else None,
            "of": len(decided),
        },
        "cost_usd": sum(float(r.get("cost_usd", 0)) for r in records),
        "budget": await _budget(service.budget),
        "requests": records[:_SHOWN],
    }


async def _budget(budget: Budget) -> dict[str, Any]:
    """The limits of a budget that can tell, or why it cannot."""
    if not isinstance(budget, Reporting):
        return {"limits": [], "error": None}
    try:
        return {"limits": [asdict(limit) for limit in await budget.status()], "error": None}
    except BudgetUnavailable as error:
        return {"limits": [], "error": str(error)}

"""What the dashboard shows, as JSON."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from selfroute.backends.clouds import Clouds
from selfroute.budget.base import Budget, Reporting
from selfroute.errors import BudgetUnavailable
from selfroute.gateway.guard import Guard
from selfroute.gateway.history import History
from selfroute.gateway.service import Service
from selfroute.types import Usage

__all__ = ["clouds_status", "health_states", "status"]

_SHOWN = 50


async def status(
    service: Service,
    records: Sequence[Mapping[str, Any]],
    *,
    needs_key: bool,
    uptime_s: float,
    in_flight: int,
    share: float | None,
    history: History,
) -> dict[str, Any]:
    """Models and their health, call share, budget, money, the last hours and the last requests.

    Args:
        records: of the last requests, newest first.
        share: the call share that is wanted, None if none is.
    """
    total, now = history.total(), time.time()
    limits = Counter(r["refused"] for r in records if r.get("refused"))
    # The share is of requests that the strategy decided; dry runs and other modes are not.
    decided = [r for r in records if r.get("mode") == "auto" and not r.get("dry") and r.get("status") == 200]
    return {
        "strategy": service.strategy.name,
        "modes": sorted(service.modes),
        "needs_key": needs_key,
        "now": round(now, 3),
        "uptime_s": round(uptime_s, 1),
        "in_flight": in_flight,
        "models": [{"side": side, "name": guard.name, **asdict(guard.health())} for side, guard in service.guards()],
        "share": {
            "target": share,
            "realised": sum(bool(r.get("cloud")) for r in decided) / len(decided) if decided else None,
            "of": len(decided),
        },
        "clouds": None if service.clouds is None else clouds_status(service.clouds),
        "examples": service.examples,
        "priced": service.cloud_usd(Usage(1_000_000, 1_000_000)) > 0,
        "total": {**total._asdict(), "saved_usd": total.saved_usd},
        "refused": {"count": total.refused, "limits": dict(limits)},
        "minutes": [{"at": at, **tally._asdict()} for at, tally in history.minutes(now)],
        "budget": await _budget(service.budget),
        "requests": records[:_SHOWN],
    }


def clouds_status(clouds: Clouds) -> dict[str, Any]:
    """Several clouds: how they are chosen, and share, estimated quality, price and latency of each.

    Shares and costs are of the last answers; quality and latency what the policy believes.
    """
    beliefs = clouds.beliefs
    return {
        "mode": clouds.mode,
        "frozen": beliefs.frozen,
        "policy": type(beliefs.policy.rule).__name__,
        "price_weight": beliefs.price_weight,
        "arms": [
            {
                "name": one.name,
                "share": beliefs.share(one.name),
                "quality": one.quality,
                "usd": beliefs.usd(one.name),
                "latency_s": one.latency_s,
                "chance": one.chance,
                "excluded": one.excluded,
            }
            for one in clouds.estimates()
        ],
    }


def health_states(guards: Sequence[tuple[str, Guard]]) -> dict[str, str]:
    """The state of each side; of several clouds, of the one that is best."""
    states: dict[str, str] = {}
    for side, guard in guards:
        known = [states[side]] if side in states else []
        states[side] = min([*known, guard.health().state], key=_BEST_FIRST.index)
    return states


_BEST_FIRST = ("ready", "failing", "resting", "loading")


async def _budget(budget: Budget) -> dict[str, Any]:
    """The limits of a budget that can tell, or why it cannot."""
    if not isinstance(budget, Reporting):
        return {"limits": [], "error": None}
    try:
        return {"limits": [asdict(limit) for limit in await budget.status()], "error": None}
    except BudgetUnavailable as error:
        return {"limits": [], "error": str(error)}

"""Best of N: whole attempts side by side, of which the reward chooses (ARMAP-B of arXiv 2502.12130)."""

from __future__ import annotations

import asyncio

from selfroute.strategies.search.arena import Arena, Found, Place

__all__ = ["best_of_n"]


async def best_of_n(arena: Arena, *, seed: int = 0, at_once: int = 8) -> Found:
    """Make attempts until a limit is reached, and keep the one with the highest score.

    Args:
        seed: of the first attempt; the others follow.
        at_once: attempts under way side by side; a limit of calls or tokens is met across all of them.
    """
    start, ended = arena.start(), list[tuple[Place, float | None]]()
    while (why := arena.meter.over) is None:
        first = seed + arena.meter.attempts
        limit = arena.limits.attempts
        count = at_once if limit is None else min(at_once, limit - arena.meter.attempts)
        arena.meter.attempts += count
        tried = await asyncio.gather(*(arena.rollout(start, seed=first + k) for k in range(count)))
        whole = [place for place in tried if place is not None]
        ended += zip(whole, await arena.judge(whole), strict=True)
    return arena.found(ended, why)

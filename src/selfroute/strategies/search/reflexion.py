"""Reflexion: attempt, be judged, write down what went wrong, and again (arXiv 2303.11366; ARMAP-R of 2502.12130)."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

from selfroute.strategies.search.arena import Arena, Found, Place

__all__ = ["Reflect", "reflexion"]

# From question, attempt and score to a lesson for the next attempt, and the tokens that writing it took.
Reflect = Callable[[str, Place, float | None], Awaitable[tuple[str, int]]]


async def reflexion(arena: Arena, reflect: Reflect, *, enough: float = math.inf, seed: int = 0) -> Found:
    """One attempt after the other, each with the lessons of those before, until a score is enough or a limit is met.

    Args:
        reflect: writes the lesson of an attempt; an empty one teaches nothing.
        enough: score at which it stops; by a reward of pairs only what was calibrated means anything.
    """
    start, ended, lessons = arena.start(), list[tuple[Place, float | None]](), list[str]()
    while (why := arena.meter.over) is None:
        arena.meter.attempts += 1
        place = await arena.rollout(start, seed=seed + len(lessons), lessons=lessons)
        if place is None:
            lessons.append("")
            continue
        (score,) = await arena.judge([place])
        ended.append((place, score))
        if score is not None and score >= enough:
            return arena.found(ended, "enough")
        lesson, tokens = await reflect(arena.question, place, score)
        arena.meter.tokens += tokens
        lessons.append(lesson)
    return arena.found(ended, why)

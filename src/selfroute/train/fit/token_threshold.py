"""Where a score of tokens is cut, so that the cloud writes a wanted part of the tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import numpy as np

from selfroute.strategies.base import Sides, Strategy, answer
from selfroute.types import Sampling

__all__ = ["cloud_token_share", "threshold_at_share"]

_ROUNDS = 8


async def cloud_token_share(
    strategy: Strategy, sides: Sides, questions: Sequence[str], sampling: Sampling, *, concurrency: int = 64
) -> float:
    """The part of all answer tokens that the cloud wrote."""
    gate = asyncio.Semaphore(concurrency)

    async def one(question: str) -> tuple[int, int]:
        async with gate:
            trace = await answer(strategy, sides, sides.template.conversation(question), sampling)
        cloud = trace.usage("cloud").completion_tokens
        return cloud, cloud + trace.usage("device").completion_tokens

    counts = await asyncio.gather(*map(one, questions))
    written = sum(whole for _, whole in counts)
    return sum(cloud for cloud, _ in counts) / written if written else 0.0


async def threshold_at_share(
    at: Callable[[float], Strategy],
    scores: Sequence[float],
    share: float,
    sides: Sides,
    questions: Sequence[str],
    sampling: Sampling,
    *,
    concurrency: int = 64,
) -> tuple[float, float]:
    """The threshold that comes nearest to a wanted share of cloud tokens, and the share that it has.

    A cloud token changes what comes after it, so that the quantile of scores on given answers is only where the search
    begins: every threshold that is tried is run.

    Args:
        at: the strategy at a threshold.
        scores: of tokens of other answers, to choose thresholds from.
        share: wanted, above 0 and below 1.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    low, high, place = 0, len(ordered) - 1, int(share * (len(ordered) - 1))
    found: list[tuple[float, float]] = []
    for _ in range(_ROUNDS):
        threshold = float(ordered[place])
        reached = await cloud_token_share(at(threshold), sides, questions, sampling, concurrency=concurrency)
        found.append((threshold, reached))
        low, high = (place + 1, high) if reached < share else (low, place - 1)
        if low > high:
            break
        place = (low + high) // 2
    return min(found, key=lambda pair: abs(pair[1] - share))

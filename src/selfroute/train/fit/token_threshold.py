"""Where a score of tokens is cut, so that the cloud writes a wanted part of the tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from selfroute.strategies.base import Sides, Strategy, answer
from selfroute.types import Sampling, Source, Trace

__all__ = ["cloud_token_share", "threshold_at_share"]

_ROUNDS = 8
# Scores in a trace are rounded as often as they are turned round.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class _Answer:
    """Who wrote how much of an answer, and at which thresholds it comes out the same.

    Attributes:
        above, upto: it does at every threshold between: the largest score of a token that gave way, and the least of
            one that stood.
        cloud, tokens: written by the cloud, and in all.
    """

    above: float
    upto: float
    cloud: int
    tokens: int

    @classmethod
    def of(cls, trace: Trace) -> _Answer:
        cloud, device = (trace.usage(side).completion_tokens for side in ("cloud", "device"))
        above, upto = max(_scores(trace, "cloud"), default=-np.inf), min(_scores(trace, "device"), default=np.inf)
        return cls(above, upto, cloud, cloud + device)

    def holds_at(self, threshold: float) -> bool:
        return self.above + _ROUNDING < threshold < self.upto - _ROUNDING


def _scores(trace: Trace, source: Source) -> list[float]:
    """The tokens' scores that a trace keeps of a side's segments: a segment has one minus its least."""
    found = [segment for segment in trace.segments if segment.source == source and segment.part == "answer"]
    return [1 - segment.score for segment in found if segment.score is not None]


async def cloud_token_share(
    strategy: Strategy, sides: Sides, questions: Sequence[str], sampling: Sampling, *, concurrency: int = 64
) -> float:
    """The part of all answer tokens that the cloud wrote."""
    return _share(await _answers(strategy, sides, questions, sampling, concurrency=concurrency))


def _share(answers: Sequence[_Answer]) -> float:
    written = sum(each.tokens for each in answers)
    return sum(each.cloud for each in answers) / written if written else 0.0


async def _answers(
    strategy: Strategy, sides: Sides, questions: Sequence[str], sampling: Sampling, *, concurrency: int
) -> list[_Answer]:
    gate = asyncio.Semaphore(concurrency)

    async def one(question: str) -> _Answer:
        async with gate:
            return _Answer.of(await answer(strategy, sides, sides.template.conversation(question), sampling))

    return list(await asyncio.gather(*map(one, questions)))


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
    begins. An answer of which no score lies between two thresholds is the same at both; the others are written anew.

    Args:
        at: the strategy at a threshold; where `sampling` draws, it must do so by a seed.
        scores: of tokens of other answers, to choose thresholds from.
        share: wanted, above 0 and below 1.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    low, high, place = 0, len(ordered) - 1, int(share * (len(ordered) - 1))
    known: list[list[_Answer]] = [[] for _ in questions]
    found: list[tuple[float, float]] = []
    for _ in range(_ROUNDS):
        threshold = float(ordered[place])
        answers = [_at(before, threshold) for before in known]
        new = [i for i, each in enumerate(answers) if each is None]
        written = await _answers(at(threshold), sides, [questions[i] for i in new], sampling, concurrency=concurrency)
        for i, each in zip(new, written, strict=True):
            known[i].append(each)
            answers[i] = each
        reached = _share([each for each in answers if each is not None])
        found.append((threshold, reached))
        low, high = (place + 1, high) if reached < share else (low, place - 1)
        if low > high:
            break
        place = (low + high) // 2
    return min(found, key=lambda pair: abs(pair[1] - share))


def _at(answers: Sequence[_Answer], threshold: float) -> _Answer | None:
    """The one of a question's answers that comes out at a threshold too, if it is among them."""
    return next((each for each in answers if each.holds_at(threshold)), None)

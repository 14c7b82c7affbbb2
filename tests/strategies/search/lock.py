"""A lock of a few digits: pick one digit after the other, then answer; the score is how many are right."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from selfroute.actions import Action
from selfroute.strategies.search.arena import Arena, Limits, Place, Proposal
from selfroute.tasks.base import Observation, Tool

DIGITS = 4
PICK = Tool(
    name="pick",
    description="Pick the next digit.",
    parameters={"type": "object", "properties": {"digit": {"type": "integer"}}, "required": ["digit"]},
)
PAID = Tool(name="ask", description="Ask somebody.", parameters={"type": "object", "properties": {}}, price_usd=0.01)


class Lock:
    """Opens with `code`; counts what is done to it."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.tools = (PICK, PAID)
        self.calls = self.paid = 0
        self._picked = ""
        self._done = False

    def reset(self) -> str:
        self._picked, self._done = "", False
        return f"{len(self.code)} digits"

    def step(self, action: Action) -> Observation:
        self.calls += 1
        self.paid += action.tool == PAID.name
        if not action.tool:
            self._done = True
            return Observation(action.text, done=True)
        self._picked += action.text
        self._done = len(self._picked) == len(self.code)
        return Observation(self._picked, done=self._done)

    def score(self) -> float | None:
        return right(self.code, self._picked) / len(self.code) if self._done else 0.0

    def snapshot(self) -> Any:
        return self._picked, self._done

    def restore(self, at: Any) -> None:
        self._picked, self._done = at


def right(code: str, picked: str) -> int:
    return sum(a == b for a, b in zip(code, picked, strict=False))


async def guess(question: str, place: Place, *, count: int, seed: int, lessons: Sequence[str] = ()) -> list[Proposal]:
    """Any digit; one token a proposal. A lesson is a place with the digit that is right there."""
    known = dict(lesson.split("=") for lesson in lessons if lesson)
    rng = random.Random(f"{seed}/{place.text}")
    here = known.get(str(len(place.steps)))
    return [Proposal(Action(here or str(rng.randrange(DIGITS)), PICK.name), tokens=1) for _ in range(count)]


def arena(code: str = "0312", *, environment: Any = None, propose: Any = guess, **limits: Any) -> Arena:
    """Judged by what the lock itself would say."""

    def scores(rows: Sequence[tuple[str, str]]) -> list[float | None]:
        picked = [text.rpartition("<result>")[2].partition("<")[0] for _, text in rows]
        return [float(right(code, one)) for one in picked]

    return Arena("open it", environment or Lock(code), propose, scores, Limits(**limits))

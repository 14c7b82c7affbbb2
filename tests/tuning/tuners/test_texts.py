"""GEPA over our own rows, rewards and backends: it rewrites the instruction, and its calls are counted as all are."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from selfroute.backends.function import FunctionBackend
from selfroute.prompts import TEMPLATES
from selfroute.rewards.hierarchical import Hierarchical
from selfroute.tasks.base import Row
from selfroute.tuning.meter import Asking, Limits, Meter, Metered
from selfroute.tuning.objective import Graded, Objective
from selfroute.tuning.program import Program
from selfroute.types import Message, Sampling
from selfroute.verify.base import Verdict

pytest.importorskip("gepa", reason="needs pip install gepa")
from selfroute.tuning.tuners.texts import Texts

ROWS = [Row(str(number), f"{number} + 1?", str(number + 1)) for number in range(30)]
BASE = TEMPLATES["plain"]


class Sums:
    name, template = "sums", "plain"

    def rows(self, split: str) -> list[Row]:
        return ROWS

    def verify(self, row: Row, completion: str) -> Verdict:
        return Verdict(completion.strip() == row.gold)

    def gold_completion(self, row: Row) -> str:
        return row.gold


def device(messages: Sequence[Message], sampling: Sampling) -> str:
    """Right where it is told to be careful."""
    number = int(messages[-1].content.split()[0])
    return str(number + 1 if "careful" in messages[0].content else number)


def cloud(messages: Sequence[Message], sampling: Sampling) -> str:
    assert "Wrong: the answer is" in messages[0].content
    return "Try this:\n```\nBe careful.\n```"


async def evolved(limits: Limits, most: int) -> tuple[str, Meter]:
    meter = Meter(limits)
    asking = Asking(Metered(FunctionBackend("device", device), meter, "device"), Sampling())
    reflector = Asking(Metered(FunctionBackend("cloud", cloud), meter, "cloud"), Sampling())
    graded = Graded(Sums(), asking, None)
    objective = Objective(Program(base=BASE), ROWS, graded, reward=Hierarchical())

    async def reflect(prompt: str) -> str:
        return (await reflector([Message("user", prompt)])).text

    found = await Texts(seed=0, validation=6).evolve(BASE, ROWS, graded, objective.paid, reflect, most=most)
    return f"{found.system} {found.help}", meter


async def test_the_instruction_is_rewritten_from_what_went_wrong() -> None:
    words, meter = await evolved(Limits(), 60)
    assert "Be careful." in words
    assert meter.counted["device"].calls >= 60 > 0 < meter.counted["cloud"].calls, "reflections are counted apart"


async def test_its_budget_is_held_at_the_endpoint() -> None:
    _, meter = await evolved(Limits(device=20), 1000)
    assert meter.counted["device"].calls == 20, "by its own loose count it would have made more"

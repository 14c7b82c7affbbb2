"""What choices are worth: attempts of real backends on real rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from selfroute.backends.function import FunctionBackend
from selfroute.errors import BackendUnavailable, BudgetExceeded
from selfroute.prompts import TEMPLATES
from selfroute.rewards.hierarchical import Hierarchical
from selfroute.tasks.base import Row
from selfroute.train.rl.constraints.dual import Multiplier
from selfroute.tuning.meter import Asking, Limits, Meter, Metered
from selfroute.tuning.objective import Graded, Objective
from selfroute.tuning.program import Program, SentenceSlot
from selfroute.types import Message, Sampling
from selfroute.verify.base import Verdict

ASK = "I need external assistance."
ROWS = [Row(str(number), f"{number} + 1?", str(number + 1)) for number in range(12)]
PROGRAM = Program(
    base=TEMPLATES["plain"], sentences=(SentenceSlot("care", ("Keep all.", "Ask for large ones.", "Ask for all.")),)
)


class Sums:
    name, template = "sums", "plain"

    def rows(self, split: str) -> list[Row]:
        return ROWS

    def verify(self, row: Row, completion: str) -> Verdict:
        return Verdict(completion.strip() == row.gold)

    def gold_completion(self, row: Row) -> str:
        return row.gold


def number_in(messages: Sequence[Message]) -> int:
    return int(messages[-1].content.split()[0])


def device(messages: Sequence[Message], sampling: Sampling) -> str:
    """Right below 6; it does as its system prompt says."""
    number, told = number_in(messages), messages[0].content
    if "Ask for all" in told or ("Ask for large" in told and number >= 6):
        return ASK
    return str(number + 1) if number < 6 else "no idea"


def cloud(messages: Sequence[Message], sampling: Sampling) -> str:
    assert [message.role for message in messages] == ["user"], "the cloud sees no demonstrations and no instructions"
    return str(number_in(messages) + 1)


def objective(meter: Meter | None = None, price: Multiplier | None = None, **options: Any) -> Objective:
    meter = meter or Meter(Limits())
    sides = {
        name: Asking(Metered(FunctionBackend(name, fn), meter, name), Sampling())  # type: ignore[arg-type]
        for name, fn in (("device", device), ("cloud", cloud))
    }
    graded = Graded(Sums(), sides["device"], sides["cloud"], concurrency=4)
    given = {"reward": Hierarchical(local=1.0, cloud=0.4), "batch": len(ROWS)} | options
    return Objective(PROGRAM, ROWS, graded, price=price, **given)


async def test_rewards_are_those_of_the_hierarchy() -> None:
    assert await objective()([(0,), (1,), (2,)], 0) == pytest.approx([0.5, 0.5 + 0.2, 0.4])


async def test_all_choices_of_a_round_answer_the_same_rows() -> None:
    one = objective(batch=4)
    first, second = await one([(0,), (0,)], 3)
    assert first == second and one.drawn(3) == one.drawn(3) != one.drawn(4)
    assert len({row.id for row in one.drawn(3)}) == 4


async def test_a_price_meets_the_share() -> None:
    price = Multiplier(0.3, rate=0.1, damping=0.1, lowest=-1.6, highest=1.4)
    one = objective(price=price)
    free = await one([(2,)], 0)
    assert price.price > 0.0, "all rows were handed off, which is too many"
    dear = await one([(2,)], 1)
    assert dear[0] is not None and free[0] is not None and dear[0] < free[0]


async def test_a_model_that_fails_is_no_zero() -> None:
    def fails(messages: Sequence[Message], sampling: Sampling) -> str:
        if number_in(messages) >= 6:
            raise BackendUnavailable("gone", backend="device")
        return device(messages, sampling)

    def graded(fn: Any) -> Objective:
        asking = Asking(FunctionBackend("device", fn), Sampling())
        return Objective(PROGRAM, ROWS, Graded(Sums(), asking, None), reward=Hierarchical(), batch=len(ROWS))

    assert await graded(fails)([(0,)], 0) == [1.0], "the mean of those that were answered"

    def never(messages: Sequence[Message], sampling: Sampling) -> str:
        raise BackendUnavailable("gone", backend="device")

    assert await graded(never)([(0,)], 0) == [None]


async def test_the_budget_ends_a_round() -> None:
    meter = Meter(Limits(device=30))
    one = objective(meter)
    await one([(0,), (1,)], 0)
    with pytest.raises(BudgetExceeded):
        await one([(0,), (1,)], 1)
    assert meter.counted["device"].calls == 30


async def test_tokens_of_demonstrations_are_counted() -> None:
    from dataclasses import replace

    from selfroute.prompts import Demonstration

    used: list[Mapping[str, float]] = []
    for shown in ((), (Demonstration("2 + 2?", "4"),)):
        meter = Meter(Limits())
        asking = Asking(Metered(FunctionBackend("device", device), meter, "device"), Sampling())
        await Graded(Sums(), asking, None)([(replace(TEMPLATES["plain"], demonstrations=shown), ROWS[0])])
        used.append(meter.facts()["device"])
    assert used[1]["prompt_tokens"] - used[0]["prompt_tokens"] == len(["2", "+", "2?", "4"])

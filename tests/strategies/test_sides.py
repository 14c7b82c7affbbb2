"""A call of the cloud and its budget: told before it leaves, booked or given back at its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from tests.strategies.pair import SAMPLING, TEMPLATE, Ledger, Plain, Stalling, asks_when_hard, easy

from selfroute.backends.base import Backend
from selfroute.errors import BackendUnavailable
from selfroute.strategies.always import AlwaysCloud
from selfroute.strategies.base import Sides, answer
from selfroute.types import Delta, Message, Sampling, Trace, Usage


class Queued(Backend):
    """A cloud behind a queue: its request leaves when its turn comes, if that comes before it gives up."""

    name = "queued"
    announces = True

    def __init__(self, ledger: Ledger, *, turn: bool, failure: Exception | None = None) -> None:
        self.ledger, self.turn, self.failure = ledger, turn, failure
        self.known_when_left = -1

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        await asyncio.sleep(0)
        if self.turn:
            yield Delta(sent=True)
            self.known_when_left = self.ledger.sent
        if self.failure is not None:
            raise self.failure
        yield Delta("4", finish_reason="stop", usage=Usage(3, 1))


async def asked(cloud: Backend, ledger: Ledger) -> Trace:
    device = Plain("device", asks_when_hard)
    sides = Sides(device=device, cloud=cloud, template=TEMPLATE, budget=ledger)
    return await answer(AlwaysCloud(), sides, easy(), SAMPLING)


async def test_the_budget_knows_before_a_call_leaves() -> None:
    ledger = Ledger()
    cloud = Queued(ledger, turn=True)
    assert (await asked(cloud, ledger)).text == "4"
    assert cloud.known_when_left == 1
    assert (ledger.sent, ledger.closed, ledger.settled) == (1, 1, [(Usage(3, 1, calls=1), 0.0)])


async def test_a_cloud_that_says_nothing_is_told_at_once() -> None:
    ledger = Ledger()
    failure = BackendUnavailable("connection refused", backend="cloud")
    assert (await asked(Stalling(failure=failure), ledger)).reason == "cloud-error"
    assert (ledger.sent, ledger.released) == (1, 1)


@pytest.mark.parametrize("turn", [False, True])
async def test_a_call_that_brought_nothing_is_free_whether_it_left_or_not(turn: bool) -> None:
    ledger = Ledger()
    failure = BackendUnavailable("connection refused", backend="cloud")
    trace = await asked(Queued(ledger, turn=turn, failure=failure), ledger)
    assert (trace.source, trace.reason) == ("device", "cloud-error")
    assert [segment.source for segment in trace.segments] == ["device"]
    assert (ledger.sent, ledger.released, ledger.settled) == (turn, 1, [])

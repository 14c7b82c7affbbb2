"""`selfroute serve --check`: every model is asked once, and the budget is held against one call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.backends.chat_server import ChatServer, status
from tests.gateway.live import device_fn, service

from selfroute.backends import openai_compatible
from selfroute.backends.best_of import BestOfN
from selfroute.backends.function import FunctionBackend
from selfroute.backends.openai_compatible import OpenAICompatibleBackend
from selfroute.budget.base import Budget, Estimate, Unlimited
from selfroute.budget.controller import CompetingBudget, ShareController
from selfroute.budget.ledger import LedgerBudget
from selfroute.budget.limits import Limits, ShareLimit, WindowLimit
from selfroute.budget.memory import MemoryLedger
from selfroute.errors import RecordingMissing, SelfRouteError
from selfroute.gateway.app import Gateway
from selfroute.gateway.preflight import _faults
from selfroute.gateway.request import Limits as RequestLimits
from selfroute.gateway.service import SingleService
from selfroute.prices import Prices
from selfroute.types import Usage


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_compatible, "_BACKOFF_S", 0.001)


async def check(made: Any, **limits: Any) -> tuple[list[str], list[str]]:
    """Lines, and names of what is wrong."""
    lines: list[str] = []
    faults = await _faults(Gateway(made, limits=RequestLimits(**limits)), lines.append)
    return lines, [fault.name for fault in faults]


def budget(*windows: WindowLimit) -> LedgerBudget:
    return LedgerBudget(Limits(windows=windows), MemoryLedger())


async def test_each_model_is_asked_once_and_its_time_and_cost_are_told() -> None:
    async with ChatServer() as server:
        cloud = OpenAICompatibleBackend("large", server.url, "m")
        lines, faults = await check(service(device_fn, cloud))
        assert len(server.requests) == 1
        assert server.requests[0]["max_tokens"] == 16
    assert faults == []
    assert [line.split(" in ")[0] for line in lines] == ["device small: answered", "cloud large: answered"]
    assert " USD)" in lines[1] and " tokens" in lines[0]


async def test_a_model_that_refuses_is_a_fault_in_its_own_words(caplog: pytest.LogCaptureFixture) -> None:
    async with ChatServer() as server:
        server.script.append(status(401, {"error": {"message": "no such key"}}))
        lines, faults = await check(service(device_fn, OpenAICompatibleBackend("large", server.url, "m")))
    assert faults == ["cloud large"]
    assert lines[1].startswith("cloud large: no answer after 0.")
    assert lines[1].endswith("answered HTTP 401 (check the key in OPENAI_API_KEY): no such key")
    assert not caplog.messages, "it is said once"


async def test_a_device_that_fails_does_not_hide_the_cloud() -> None:
    def broken(messages: Any, sampling: Any) -> str:
        raise SelfRouteError("out of memory")

    lines, faults = await check(service(broken))
    assert len(lines) == 2 and len(faults) == 1
    assert "out of memory" in lines[0]


async def test_a_recording_is_not_asked() -> None:
    def recorded(messages: Any, sampling: Any) -> str:
        raise RecordingMissing("no answer")

    assert (await check(service(recorded)))[0][0] == "device small: recorded answers, not asked"


@pytest.mark.parametrize(
    ("limit", "finding", "is_fault"),
    [
        # 15 USD per million of 4,096 tokens, and 3 for a prompt of at most 40.
        (
            ("usd", "day", 0.01),
            "0.01 lets no call pass: a call holds up to 0.06156 with an answer of 4096 tokens; ",
            True,
        ),
        (("usd", "day", 0.06155), "0.06155 lets no call pass: ", True),
        (("usd", "total", 0.06156), "a call holds up to 0.06156 ", False),
        (("usd", "total", 1), "a call holds up to 0.06156 with an answer of 4096 tokens; 1 of 1 is left", False),
        (("tokens", "day", 4000), "4,000 lets no call pass: a call holds up to 4,136 ", True),
        (
            ("tokens", "total", 9000),
            "a call holds up to 4,136 with an answer of 4096 tokens; 9,000 of 9,000 is left",
            False,
        ),
        (("calls", "total", 0), "0 lets no call pass: a call holds up to 1 ", True),
        (("calls", "total", 2), "a call holds up to 1 with an answer of 4096 tokens; 2 of 2 is left", False),
    ],
)
async def test_the_budget_is_held_against_one_call(limit: Any, finding: str, is_fault: bool) -> None:
    unit, window, cap = limit
    made = budget(WindowLimit(unit=unit, window=window, cap=cap))
    lines, faults = await check(service(budget=made), default_tokens=4096)
    name = made.limits.windows[0].name
    assert lines[2].startswith(f"budget {name}: {finding}")
    assert faults == ([f"budget {name}"] if is_fault else [])


async def test_a_cloud_that_may_answer_several_times_holds_all_of_them() -> None:
    made = budget(WindowLimit(unit="tokens", window="total", cap=9000))
    cloud = BestOfN(FunctionBackend("large", lambda messages, sampling: "4"), 8, lambda text: True)
    lines, faults = await check(service(cloud=cloud, budget=made), default_tokens=4096)
    assert faults == ["budget tokens_total"]
    assert "a call holds up to 32,808 with an answer of 32768 tokens" in lines[2]


async def test_what_is_spent_is_no_fault_but_told() -> None:
    made = budget(WindowLimit(unit="usd", window="total", cap=0.1))
    await (await made.reserve(Estimate(cost_usd=0.09))).spend(Usage(40, 4096), 0.06156)
    lines, faults = await check(service(budget=made), default_tokens=4096)
    assert faults == []
    assert lines[2].endswith("0.03844 of 0.1 is left, so none fits now")


async def test_money_without_a_price_limits_nothing() -> None:
    made = budget(WindowLimit(unit="usd", window="total", cap=1))
    lines, faults = await check(replace(service(budget=made), prices=Prices()), default_tokens=4096)
    assert faults == ["budget usd_total"]
    assert lines[2] == "budget usd_total: the cloud has no price, so no call counts; set prices.cloud"


@pytest.mark.parametrize("made", [Unlimited(), None])
async def test_a_share_or_no_budget_at_all_is_right(made: Budget | None) -> None:
    share = ShareLimit(share=0.3)
    competing = CompetingBudget(LedgerBudget(Limits(share=share), MemoryLedger()), ShareController.under(share))
    lines, faults = await check(service(budget=made or competing))
    assert faults == []
    assert lines[2:] == ([] if made else ["budget share: 0.0% of the requests so far, at most 30.0%"])


async def test_one_model_alone_is_asked() -> None:
    lines, faults = await check(SingleService(backend=service().device))
    assert faults == [] and lines[0].startswith("cloud small: answered in ")

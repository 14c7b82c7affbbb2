"""Answers that both sides write: who wrote what reaches the client, and nothing of it is taken for a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx2 as httpx
from tests.gateway.live import ask, gateway, service
from tests.strategies.turns import ALTERNATING, THREE_CALLS

from selfroute.budget.ledger import LedgerBudget
from selfroute.budget.limits import Limits, ShareLimit, WindowLimit
from selfroute.budget.memory import MemoryLedger
from selfroute.types import Message, Sampling

PARTS = {"part 0": "2+3=5. ", "part 1": "5*4=20. ", "part 2": "Answer: 20"}


def writes(messages: Sequence[Message], sampling: Sampling) -> str:
    return PARTS[messages[-1].content]


async def test_the_parts_are_one_answer_whole_and_streamed() -> None:
    with gateway(service(writes, writes, strategy=ALTERNATING)) as live:
        async with live.async_client() as client:
            whole = await client.chat.completions.create(**ask("x"))
            pieces = [each async for each in await client.chat.completions.create(**ask("x"), stream=True)]
            response = await client.responses.create(model="m", input="x")
        async with httpx.AsyncClient(base_url=live.url) as plain:
            status = (await plain.get("/status.json")).json()
            metrics = (await plain.get("/metrics")).text
    expected = "2+3=5. 5*4=20. Answer: 20"
    assert whole.choices[0].message.content == expected == response.output_text
    assert "".join(each.choices[0].delta.content or "" for each in pieces if each.choices) == expected
    speakers = [about["source"] for each in pieces[:-1] if (about := (each.model_extra or {}).get("selfroute"))]
    assert speakers == ["device", "cloud", "device"]
    assert pieces[-1].choices[0].finish_reason == "stop"
    about: Any = whole.selfroute  # type: ignore[attr-defined]
    assert about["source"] == "both" and about["device"]["completion_tokens"] and about["cloud"]["completion_tokens"]
    assert [request["source"] for request in status["requests"]] == ["both"] * 3
    assert 'selfroute_requests_total{mode="auto",reason="answered",source="both",status="200"} 3.0' in metrics


async def test_a_request_with_three_calls_is_one_request_and_three_calls() -> None:
    limits = Limits(share=ShareLimit(share=0.9, burst=5), windows=(WindowLimit(unit="calls", window="total", cap=99),))
    budget = LedgerBudget(limits, MemoryLedger())
    with gateway(service(writes, writes, strategy=THREE_CALLS, budget=budget)) as live:
        async with live.async_client() as client:
            await asyncio.gather(*(client.chat.completions.create(**ask("x")) for _ in range(2)))
    share, calls = await budget.status()
    assert (share.limit, share.spent) == ("share", 1.0)  # two requests, both with the cloud
    assert (calls.limit, calls.spent, calls.held) == ("calls_total", 6, 0)

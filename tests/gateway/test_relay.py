"""A device that calls for tokens, behind the gateway: who writes is told, and no call is ever served."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from tests.gateway.live import ask, gateway
from tests.strategies.inside.pair import PLAIN
from tests.strategies.inside.scripted import Scripted, Words
from tests.strategies.inside.test_relay import counting, script

from selfroute.backends.as_trained import AsTrained
from selfroute.gateway.guard import Guard
from selfroute.gateway.service import Service
from selfroute.strategies.inside.relay import Relay

SAID = "d0 <call> 2 </call> d1 <call> five </call>"


def service() -> tuple[Service, Scripted]:
    words = Words()
    cloud = Scripted("large", words, counting)
    device = AsTrained(Scripted("small", words, script(SAID)), max_tokens=40, calls=True)
    made = Service(strategy=Relay(), device=Guard("small", device), cloud=Guard("large", cloud), template=PLAIN)
    return made, cloud


async def said(live: Any, **headers: str) -> dict[str, Any]:
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{live.url}/v1/chat/completions", json=ask("q", max_tokens=30), headers=headers) as response,
    ):
        found: dict[str, Any] = await response.json()
        assert response.status == 200, found
        return found


async def test_pieces_stream_with_their_writer_and_without_calls() -> None:
    made, _ = service()
    with gateway(made) as live:
        async with live.async_client() as client:
            stream = await client.chat.completions.create(
                model="selfroute", messages=[{"role": "user", "content": "q"}], max_tokens=30, stream=True
            )
            chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "d0C1C2d1five"
    sources = [source for c in chunks if (source := (c.model_extra or {}).get("selfroute", {}).get("source"))]
    assert sources[:3] == ["device", "cloud", "device"]


async def test_a_whole_answer_is_of_both() -> None:
    made, _ = service()
    with gateway(made) as live:
        found = await said(live)
    assert found["choices"][0]["message"]["content"] == "d0C1C2d1five"
    assert (found["selfroute"]["source"], found["selfroute"]["reason"]) == ("both", "hand-off")


@pytest.mark.parametrize("mode", ["private", "device"])
async def test_without_the_cloud_calls_are_left_out(mode: str) -> None:
    made, cloud = service()
    with gateway(made) as live:
        found = await said(live, **{"x-selfroute-mode": mode})
    assert found["choices"][0]["message"]["content"] == "d0d1five"
    assert found["selfroute"]["source"] == "device" and cloud.opened == []

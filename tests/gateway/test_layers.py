"""Layers behind a real socket: equal to those at hand, many devices at once, and what is refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from tests.gateway.live import Live, ask, gateway, running
from tests.strategies.inside.pair import PLAIN, SAMPLING, first_part, model
from tests.strategies.inside.pair import ask as question
from tests.strategies.inside.pair import sides as sides_of
from typer.testing import CliRunner

from selfroute.backends.base import complete
from selfroute.backends.layers import Sending
from selfroute.backends.openai_compatible import OpenAICompatibleBackend
from selfroute.commands.main import app
from selfroute.errors import ConfigError
from selfroute.gateway.app import Gateway
from selfroute.gateway.guard import Guard
from selfroute.gateway.service import Service, SingleService
from selfroute.strategies.base import answer, check_sides
from selfroute.strategies.inside.early_exit import EarlyExit

ALL = EarlyExit(thresholds=(1.01,), sending=Sending(codec="fp32"))
SOME = EarlyExit(thresholds=(0.5,), sending=Sending(codec="fp16", deadline_s=20.0))


@pytest.fixture(scope="module")
def whole() -> Iterator[Any]:
    with model("cloud", seed=5, layers=6) as made:
        yield made


@pytest.fixture(scope="module")
def device(whole: Any) -> Iterator[Any]:
    with first_part(whole, (2, 4)) as made:
        yield made


@pytest.fixture
def own(whole: Any) -> Any:
    """A device for a gateway, which closes it."""
    return first_part(whole, (2, 4))


@pytest.fixture(scope="module")
def server(whole: Any) -> Iterator[Live]:
    """What `selfroute cloud --layers 2..` serves."""
    made = Gateway(SingleService(backend=Guard("cloud", whole)), layers=2)
    with running(made) as url:
        yield Live(made, url)


def remote(url: str, **options: Any) -> OpenAICompatibleBackend:
    options = {"sessions": "selfroute", "api_key_env": None} | options
    return OpenAICompatibleBackend("remote", f"{url}/v1", "cloud", **options)


async def test_the_answer_is_the_whole_models_over_a_socket(device: Any, whole: Any, server: Live) -> None:
    async with remote(server.url) as cloud:
        sides = sides_of(device, cloud)
        check_sides(ALL, sides)
        found = await asyncio.gather(*(answer(ALL, sides, question(i), SAMPLING) for i in range(12)))
        for i, trace in enumerate(found):
            assert trace.text == (await complete(whole, question(i), SAMPLING)).text
            assert (trace.source, trace.error) == ("cloud", None)
        here = await asyncio.gather(*(answer(SOME, sides_of(device, whole), question(i), SAMPLING) for i in range(6)))
        there = await asyncio.gather(*(answer(SOME, sides, question(i), SAMPLING) for i in range(6)))
        assert [trace.text for trace in here] == [trace.text for trace in there]
        assert [t.usage("cloud").layer_tokens for t in here] == [t.usage("cloud").layer_tokens for t in there]
    assert len(whole.tail(2)) == 0


def pair(device: Any, cloud: Any, strategy: EarlyExit) -> Service:
    return Service(strategy=strategy, device=Guard("device", device), cloud=Guard("cloud", cloud), template=PLAIN)


async def test_a_gateway_serves_it(own: Any, whole: Any, server: Live) -> None:
    cloud = remote(server.url)
    expected = await answer(SOME, sides_of(own, whole), question(2), SAMPLING)
    with gateway(pair(own, cloud, SOME)) as live:
        async with aiohttp.ClientSession() as http:
            body = ask(question(2)[0].content, max_tokens=40)
            async with http.post(f"{live.url}/v1/chat/completions", json=body) as response:
                said = await response.json()
    assert said["choices"][0]["message"]["content"] == expected.text.strip()
    assert said["selfroute"]["source"] == expected.source


async def test_private_sends_no_states(own: Any) -> None:
    with gateway(pair(own, remote("http://127.0.0.1:9"), ALL)) as live:
        async with aiohttp.ClientSession() as http:
            for mode in ("private", "device"):
                body, headers = ask(question(2)[0].content, max_tokens=10), {"x-selfroute-mode": mode}
                async with http.post(f"{live.url}/v1/chat/completions", json=body, headers=headers) as response:
                    assert (await response.json())["selfroute"]["source"] == "device"


async def test_a_client_that_leaves_frees_both_sides(own: Any, whole: Any, server: Live) -> None:
    long = replace(ALL, sending=Sending(codec="fp32", upload="late"))
    with gateway(pair(own, remote(server.url), long)) as live:
        took = [await freed_after_leaving(live, whole) for _ in range(3)]
    assert min(took) < 0.2, took  # at the best of three: other work on the machine is not ours


async def freed_after_leaving(live: Live, whole: Any) -> float:
    """Seconds from where a client leaves a stream until neither side works on its answer."""
    async with aiohttp.ClientSession() as http:
        body = ask(question(2)[0].content, max_tokens=200, stream=True, temperature=1.0, seed=3)
        async with http.post(f"{live.url}/v1/chat/completions", json=body) as response:
            await response.content.readany()
            assert len(whole.tail(2)) == 1
            left = time.monotonic()
            response.close()
    while len(whole.tail(2)) or live.app.in_flight:
        assert time.monotonic() - left < 5.0
        await asyncio.sleep(0.002)
    return time.monotonic() - left


async def test_an_endpoint_goes_on_at_any_layer_that_it_holds(device: Any, whole: Any, server: Live) -> None:
    async with remote(server.url) as cloud:
        later = replace(ALL, cloud_from=1)
        check_sides(later, sides_of(device, cloud))
        trace = await answer(later, sides_of(device, cloud), question(1), SAMPLING)
    assert trace.text == (await complete(whole, question(1), SAMPLING)).text
    assert trace.usage("cloud").layer_tokens == 2 * trace.usage("cloud").prompt_tokens


async def test_an_endpoint_that_is_gone_leaves_the_last_exit(device: Any) -> None:
    async with remote("http://127.0.0.1:9") as cloud:
        trace = await answer(ALL, sides_of(device, cloud), question(1), SAMPLING)
    assert trace.text == (await complete(device, question(1), SAMPLING)).text
    assert trace.source == "device" and "is the server running" in (trace.error or "")


async def test_ends_that_differ_are_refused(device: Any, whole: Any, server: Live) -> None:
    async with remote(server.url) as cloud:
        with (
            first_part(whole, (1, 4)) as early,
            pytest.raises(
                ConfigError, match="holds layers 2 to 5, and the device goes on at 1; start it with --layers 1"
            ),
        ):
            check_sides(ALL, sides_of(early, cloud))
        with model("other", seed=6, layers=6) as other, first_part(other, (2,)) as stranger:
            with pytest.raises(ConfigError, match="whose weights is"):
                check_sides(ALL, sides_of(stranger, cloud))
            trace = await answer(ALL, sides_of(stranger, cloud), question(1), SAMPLING)
            assert trace.reason == "cloud-error" and "states of model" in (trace.error or "")


async def test_bytes_that_are_no_message_get_an_error_and_no_more(server: Live) -> None:
    async with aiohttp.ClientSession() as session:
        for data in (b"", b"x" * 20, b"\0" * 80):
            async with session.post(f"{server.url}/v1/layers", data=data) as response:
                assert response.status == 502 and (await response.json())["error"]["code"] == "upstream_error"
        async with session.get(f"{server.url}/v1/models") as response:
            held = (await response.json())["selfroute"]["layers"]
    assert held["first"] == 2 and held["whole"]["layers"] == 6


def test_a_cloud_without_layers_says_so(device: Any, whole: Any) -> None:
    with running(Gateway(SingleService(backend=Guard("cloud", whole)))) as url:
        cloud = remote(url)
        with pytest.raises(ConfigError, match=r"the endpoint holds no layers; start it with --layers 2\.\."):
            check_sides(ALL, sides_of(device, cloud))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layers", "4"], "--layers: '4' is no range of layers to the last one; write e.g. 4.."),
        (["--layers", "x.."], "'x..' is no range"),
        (["--layers", "2..", "workers=2"], "workers: 2 processes share no hidden states"),
        (["--layers", "4..", "--check"], "layers: 4 is no place to cut chain-cloud, which has 4; 1 to 3"),
    ],
)
def test_layers_that_cannot_be_served_are_refused(words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["cloud", "--backend", "embedded:chain-cloud", *words])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())

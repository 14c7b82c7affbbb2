"""The faults of docs/serving.md, each against a server that really misbehaves; tests/docs names each row's tests."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2 as httpx
import openai
import pytest
from tests.backends.chat_server import ChatServer, chunk, cut, endless, raw, silent, status, stream
from tests.gateway.live import (
    CLOUD_TEXT,
    EASY,
    HARD,
    TEMPLATE,
    Slow,
    ask,
    cloud_fn,
    device_fn,
    gateway,
    running,
    service,
)
from tests.strategies.pair import Ledger

from selfroute.backends import openai_compatible
from selfroute.backends.function import FunctionBackend
from selfroute.backends.openai_compatible import OpenAICompatibleBackend
from selfroute.errors import ConfigError
from selfroute.gateway.app import Gateway
from selfroute.gateway.guard import Guard
from selfroute.gateway.request import Limits
from selfroute.gateway.service import Service
from selfroute.strategies.always import AlwaysCloud, AlwaysDevice
from selfroute.strategies.self_route import SelfRoute

DEVICE_ANSWER = "four, says the device"


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_compatible, "_BACKOFF_S", 0.001)


def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def remote(url: str, *, name: str = "large", retries: int = 0, **options: Any) -> OpenAICompatibleBackend:
    return OpenAICompatibleBackend(name, url, "m", max_retries=retries, **options)


@asynccontextmanager
async def behind(made: Service, **options: Any) -> AsyncIterator[tuple[openai.AsyncOpenAI, Gateway]]:
    with gateway(made, **options) as live:
        async with live.async_client() as client:
            yield client, live.app


def said(chunks: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


async def told(client: openai.AsyncOpenAI, question: str, *, streamed: bool) -> tuple[str, dict[str, Any]]:
    """The answer's text, and the account of it."""
    answer: Any = await client.chat.completions.create(**ask(question), stream=streamed)
    if streamed:
        chunks = [each async for each in answer]
        return said(chunks), chunks[-1].selfroute
    return answer.choices[0].message.content, answer.selfroute


# --- the cloud --------------------------------------------------------------------------------------------------------

BROKEN = {
    "401": (status(401, {"error": {"message": "bad key"}}), "HTTP 401"),
    "429": (status(429, "slow down"), "HTTP 429"),
    "500": (status(500), "HTTP 500"),
    "malformed": (raw(b"data: {oops\n\n"), "malformed"),
    "html": (raw(b"<html>welcome</html>", content_type="text/html"), "not a stream of events"),
    "empty": (raw(b""), "ended unfinished"),
    "cut at once": (cut(), "cut off"),
    "silent": (silent(5), "nothing within 0.2 s"),
}
PAID = ("malformed",)  # an answer that cannot be read has been written all the same


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("fault", BROKEN)
async def test_a_broken_cloud_leaves_the_device_to_answer_and_says_so(fault: str, streamed: bool) -> None:
    behaviour, message = BROKEN[fault]
    ledger = Ledger()
    async with ChatServer() as cloud:
        cloud.script.append(behaviour)
        made = service(device_fn, remote(cloud.url), guard={"first_token_s": 0.2}, budget=ledger)
        async with behind(made) as (client, _):
            text, about = await told(client, HARD, streamed=streamed)
    assert text == DEVICE_ANSWER
    assert (about["source"], about["reason"], about["wants_cloud"]) == ("device", "cloud-error", True)
    assert message in about["error"]
    # Where nothing was written, what was reserved is given back, of a call that timed out too.
    assert (ledger.reserved, ledger.released, len(ledger.settled)) == ((1, 0, 1) if fault in PAID else (1, 1, 0))


async def test_the_first_covered_failure_of_a_kind_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", "selfroute.gateway")
    quoting = {"error": {"message": f"cannot read '{HARD}'"}}
    async with ChatServer() as cloud:
        cloud.script += [
            status(401, quoting),
            status(401, quoting),
            status(400, quoting),
            raw(f"data: {HARD}\n\n".encode()),
        ]
        where = f"the cloud failed: large: {cloud.url}"
        async with behind(service(device_fn, remote(cloud.url))) as (client, _):
            for _ in range(4):
                assert (await told(client, HARD, streamed=False))[0] == DEVICE_ANSWER
    lines = [record.message for record in caplog.records if record.name == "selfroute.gateway"]
    assert lines == [
        f"{where} answered HTTP 401 (check the key in OPENAI_API_KEY)",
        f"{where} answered HTTP 400",
        f"{where}: the answer cannot be read",
    ]


async def test_a_dead_cloud_leaves_the_device_to_answer() -> None:
    made = service(device_fn, remote(f"http://127.0.0.1:{unused_port()}/v1"))
    async with behind(made) as (client, _):
        answer = await client.chat.completions.create(**ask(HARD))
    assert answer.choices[0].message.content == DEVICE_ANSWER
    assert answer.selfroute["reason"] == "cloud-error" and "is the server running?" in answer.selfroute["error"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_device_that_stops_without_an_answer_leaves_it_to_the_cloud(streamed: bool) -> None:
    ledger = Ledger()
    async with ChatServer() as cloud:
        made = service(lambda messages, sampling: "<think>hm, hm", remote(cloud.url), budget=ledger)
        async with behind(made) as (client, _):
            text, about = await told(client, EASY, streamed=streamed)
    assert text and len(cloud.requests) == len(ledger.settled) == 1
    assert (about["source"], about["reason"], about["wants_cloud"]) == ("cloud", "empty", True)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("text", ["", "<think>hm</think><answer></answer>", "<answer><answer> </answer>"])
async def test_a_cloud_that_stops_without_an_answer_leaves_it_to_the_device(text: str, streamed: bool) -> None:
    ledger = Ledger()
    made = service(device_fn, lambda messages, sampling: text, budget=ledger, strip_cloud_tags=True)
    async with behind(made) as (client, _):
        told_text, about = await told(client, HARD, streamed=streamed)
    assert told_text == DEVICE_ANSWER
    assert (about["source"], about["reason"], about["wants_cloud"]) == ("device", "cloud-error", True)
    assert about["error"] == "the cloud stopped without an answer"
    assert len(ledger.settled) == 1  # what it wrote is paid all the same


async def test_a_busy_cloud_is_asked_again_when_it_says() -> None:
    async with ChatServer() as cloud:
        cloud.script.append(status(429, Retry_After="0.3"))
        async with behind(service(device_fn, remote(cloud.url, retries=2))) as (client, _):
            began = time.monotonic()
            answer = await client.chat.completions.create(**ask(HARD))
    assert answer.selfroute["source"] == "cloud"
    assert time.monotonic() - began > 0.3 and len(cloud.requests) == 2


async def test_a_cloud_cut_in_mid_answer_is_replaced_where_nothing_was_shown() -> None:
    async with ChatServer() as cloud:
        cloud.script.append(cut(chunk({"content": "half an "}), chunk({"content": "answer"})))
        async with behind(service(device_fn, remote(cloud.url))) as (client, _):
            answer = await client.chat.completions.create(**ask(HARD))
    assert answer.choices[0].message.content == DEVICE_ANSWER
    assert answer.selfroute["reason"] == "cloud-error"
    assert answer.selfroute["cloud"]["completion_tokens"] == 2  # what was written is paid


async def test_a_cloud_cut_in_mid_stream_is_one_error_and_no_second_answer() -> None:
    ledger = Ledger()
    async with ChatServer() as cloud:
        cloud.script.append(cut(chunk({"content": "half an "}), chunk({"content": "answer"})))
        async with behind(service(device_fn, remote(cloud.url), budget=ledger)) as (client, app):
            got: list[str] = []
            with pytest.raises(openai.APIError, match="broke off") as caught:
                async for each in await client.chat.completions.create(**ask(HARD), stream=True):
                    got.append(each.choices[0].delta.content or "")
            await until(lambda: app.activity.last(1))
            (record,) = app.activity.last(1)
    assert b"selfroute_cloud_calls_total 1.0" in app.metrics.render()
    assert "".join(got) == "half an answer"
    assert caught.value.code == "answer_interrupted"
    ((usage, cost_usd),) = ledger.settled
    assert (record["reason"], record["cloud_tokens"]) == (
        "answer_interrupted",
        usage.prompt_tokens + usage.completion_tokens,
    )
    assert usage.completion_tokens == 2 and record["cost_usd"] == pytest.approx(cost_usd)


async def test_a_cloud_that_only_thought_before_it_was_cut_is_replaced() -> None:
    async with ChatServer() as cloud:
        cloud.script.append(cut(chunk({"reasoning_content": "let me see"})))
        async with behind(service(device_fn, remote(cloud.url))) as (client, _):
            chunks = [each async for each in await client.chat.completions.create(**ask(HARD), stream=True)]
    assert said(chunks) == DEVICE_ANSWER


async def test_a_cloud_that_keeps_failing_is_left_alone_for_a_while() -> None:
    async with ChatServer() as cloud:
        cloud.script.extend([status(500)] * 3)
        made = service(device_fn, remote(cloud.url), guard={"failures": 3, "rest_s": 0.3})
        async with behind(made) as (client, app):
            for _ in range(5):
                answer = await client.chat.completions.create(**ask(HARD))
                assert answer.choices[0].message.content == DEVICE_ANSWER
            assert len(cloud.requests) == 3
            assert "failed 3 times in a row" in answer.selfroute["error"]
            assert app.service.cloud is not None and app.service.cloud.health().state == "resting"
            await asyncio.sleep(0.35)
            answer = await client.chat.completions.create(**ask(HARD))
            assert answer.selfroute["source"] == "cloud" and app.service.cloud.health().state == "ready"


async def test_what_the_cloud_says_of_a_wrong_request_is_told() -> None:
    async with ChatServer() as cloud:
        cloud.script.append(status(400, {"error": {"message": "image too large"}}))
        image = {"type": "image_url", "image_url": {"url": "data:,x"}}
        body = ask(EASY) | {"messages": [{"role": "user", "content": [image]}]}
        async with behind(service(device_fn, remote(cloud.url))) as (client, app):
            with pytest.raises(openai.BadRequestError, match="image too large") as caught:
                await client.chat.completions.create(**body)
            assert app.service.cloud is not None and app.service.cloud.health().state == "ready"
    assert caught.value.code == "upstream_refused"


async def test_a_cloud_that_finds_the_request_wrong_leaves_a_device_that_does_not() -> None:
    async with ChatServer() as cloud:
        cloud.script.append(status(400, {"error": {"message": "unknown field 'top_k'"}}))
        async with behind(service(device_fn, remote(cloud.url))) as (client, app):
            answer = await client.chat.completions.create(**ask(HARD))
            assert app.service.cloud is not None and app.service.cloud.health().state == "ready"
    assert answer.choices[0].message.content == DEVICE_ANSWER
    assert answer.selfroute["reason"] == "cloud-error" and "unknown field 'top_k'" in answer.selfroute["error"]


# --- the device -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("fault", ["dead", "500", "silent", "cut while thinking"])
async def test_a_broken_device_leaves_the_cloud_to_answer_and_says_so(fault: str, streamed: bool) -> None:
    async with ChatServer() as device:
        behaviour = {
            "500": status(500),
            "silent": silent(5),
            "cut while thinking": cut(chunk({"reasoning": "hm"})),
        }
        url = device.url if fault in behaviour else f"http://127.0.0.1:{unused_port()}/v1"
        device.script.extend([behaviour[fault]] * 2 if fault in behaviour else [])
        made = service(remote(url, name="small"), cloud_fn, guard={"first_token_s": 0.2})
        async with behind(made) as (client, _):
            text, about = await told(client, EASY, streamed=streamed)
    assert text == CLOUD_TEXT
    assert (about["source"], about["reason"], about["wants_cloud"]) == ("cloud", "device-error", False)
    assert about["error"].startswith("small: ")


async def test_a_device_cut_in_mid_answer_is_one_error_and_no_second_answer() -> None:
    async with ChatServer() as device:
        device.script.append(cut(chunk({"content": "half an answer. "}), chunk({"content": "It"})))
        async with behind(service(remote(device.url, name="small"), cloud_fn)) as (client, _):
            got: list[str] = []
            with pytest.raises(openai.APIError, match="cut off"):
                async for each in await client.chat.completions.create(**ask(EASY), stream=True):
                    got.append(each.choices[0].delta.content or "")
    assert "".join(got).startswith("half an answer") and CLOUD_TEXT not in "".join(got)


async def test_a_device_cut_in_mid_answer_is_an_error_where_nothing_was_shown_too() -> None:
    async with ChatServer() as device:
        device.script.append(cut(chunk({"content": "half an answer. "}), chunk({"content": "It"})))
        async with behind(service(remote(device.url, name="small"), cloud_fn)) as (client, _):
            with pytest.raises(openai.InternalServerError, match="cut off") as caught:
                await client.chat.completions.create(**ask(EASY))
    assert (caught.value.status_code, caught.value.code) == (503, "upstream_unavailable")


async def test_a_broken_device_is_an_error_where_the_cloud_may_not_stand_in() -> None:
    made = service(remote(f"http://127.0.0.1:{unused_port()}/v1", name="small"), cloud_fn, on_device_error="error")
    async with behind(made) as (client, _):
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(**ask(EASY))
    assert (caught.value.status_code, caught.value.code) == (503, "upstream_unavailable")


async def test_two_dead_models_are_one_error_that_names_both() -> None:
    urls = [f"http://127.0.0.1:{unused_port()}/v1" for _ in range(2)]
    async with behind(service(remote(urls[0], name="small"), remote(urls[1]))) as (client, _):
        with pytest.raises(openai.InternalServerError, match=r"small: .*before that: large: ") as caught:
            await client.chat.completions.create(**ask(EASY))
    assert caught.value.status_code == 503


async def test_a_device_that_loads_is_waited_for_and_readiness_says_so() -> None:
    go = asyncio.Event()
    loop = asyncio.get_running_loop()

    def load() -> FunctionBackend:
        asyncio.run_coroutine_threadsafe(go.wait(), loop).result()
        return FunctionBackend("small", device_fn)

    guards = Guard("small", load), Guard("large", FunctionBackend("large", cloud_fn))
    async with behind(pair_of(*guards)) as (client, _):
        url = str(client.base_url).removesuffix("/v1/")
        async with httpx.AsyncClient() as plain:
            assert (await plain.get(f"{url}/healthz")).status_code == 200
            ready = await plain.get(f"{url}/readyz")
            assert (ready.status_code, ready.json()["device"]) == (503, "loading")
            asking = asyncio.create_task(client.chat.completions.create(**ask(EASY)))
            await asyncio.sleep(0.1)
            assert not asking.done()
            go.set()
            assert (await asking).choices[0].message.content == DEVICE_ANSWER
            assert (await plain.get(f"{url}/readyz")).status_code == 200


async def test_a_device_that_loads_too_long_leaves_the_cloud_to_answer() -> None:
    release = threading.Event()

    def load() -> FunctionBackend:
        release.wait(20)
        return FunctionBackend("small", device_fn)

    guards = Guard("small", load, load_wait_s=0.05), Guard("large", FunctionBackend("large", cloud_fn))
    async with behind(pair_of(*guards)) as (client, _):
        answer = await client.chat.completions.create(**ask(EASY))
        with pytest.raises(openai.InternalServerError, match="still loading") as caught:
            await client.chat.completions.create(**ask(EASY), extra_headers={"x-selfroute-mode": "private"})
        release.set()
    assert (answer.selfroute["source"], answer.selfroute["reason"]) == ("cloud", "device-error")
    assert caught.value.status_code == 503


@pytest.mark.parametrize("error", [ValueError("half a file"), ConfigError("no such model")])
async def test_a_model_that_cannot_be_loaded_is_told_to_the_server(error: Exception) -> None:
    told: list[Exception] = []

    def load() -> FunctionBackend:
        raise error

    guards = Guard("small", load, load_wait_s=0.05), Guard("large", FunctionBackend("large", cloud_fn))
    async with behind(pair_of(*guards), on_load_failure=told.append):
        await until(lambda: told)
    assert str(error) in str(told[0])


def pair_of(device: Guard, cloud: Guard) -> Service:
    return Service(strategy=SelfRoute(), device=device, cloud=cloud, template=TEMPLATE)


# --- the client and the gateway ---------------------------------------------------------------------------------------


async def leave_after(url: str, body: dict[str, Any], seconds: float) -> float:
    """Ask, and close the connection after some time; gives the moment of closing."""
    host, port = url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    await writer.drain()
    await asyncio.sleep(seconds)
    closed = time.monotonic()
    writer.close()
    return closed


async def until(condition: Any, seconds: float = 2.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("side", ["device", "cloud"])
async def test_a_client_that_leaves_stops_generation_within_200_ms(side: str, streamed: bool) -> None:
    took = []
    while not took or (min(took) > 0.2 and len(took) < 3):  # a busy machine may be late, but not every time
        slow, ledger = Slow("slow", "word " * 500), Ledger()
        device = service(slow, cloud_fn, strategy=AlwaysDevice())
        cloud = service(device_fn, slow, strategy=AlwaysCloud(), budget=ledger)
        with gateway(device if side == "device" else cloud) as live:
            closed = await leave_after(live.url, ask(EASY, stream=streamed), 0.2)
            await until(lambda: slow.closed)  # noqa: B023
            took.append(slow.closed_at - closed)
            await until(lambda: live.app.activity.last(1))
            (record,) = live.app.activity.last(1)
    assert min(took) < 0.2
    assert (record["status"], record["reason"]) == (499, "client-gone")
    assert slow.running == 0 and slow.written < 400
    if side == "cloud":
        ((usage, cost_usd),) = ledger.settled
        assert not ledger.is_open
        assert 0 < usage.completion_tokens <= slow.written
        assert record["cost_usd"] == pytest.approx(cost_usd) and cost_usd > 0


async def test_a_client_that_leaves_before_the_first_token_costs_nothing() -> None:
    slow = Slow("slow", "word " * 10, pause_s=10)
    ledger = Ledger()
    with gateway(service(device_fn, slow, strategy=AlwaysCloud(), budget=ledger)) as live:
        await leave_after(live.url, ask(EASY, stream=True), 0.1)
        await until(lambda: ledger.released)
    assert not ledger.settled and slow.closed == 1


async def test_the_clouds_server_sees_the_client_leave() -> None:
    async with ChatServer() as cloud:
        cloud.script.append(endless)
        with gateway(service(device_fn, remote(cloud.url), strategy=AlwaysCloud())) as live:
            closed = await leave_after(live.url, ask(EASY, stream=True), 0.2)
            await asyncio.wait_for(cloud.disconnected.wait(), 2)
            assert time.monotonic() - closed < 0.2


@pytest.mark.parametrize("n", [1, 3])
async def test_leaving_ends_every_choice(n: int) -> None:
    slow = Slow("slow", "word " * 500)
    with gateway(service(slow, cloud_fn, strategy=AlwaysDevice())) as live:
        await leave_after(live.url, ask(EASY, stream=True, n=n), 0.1)
        await until(lambda: slow.closed == n)
    assert slow.running == 0


async def test_a_request_that_takes_too_long_is_an_error_in_time() -> None:
    slow = Slow("slow", "word " * 500)
    made = service(slow, cloud_fn, strategy=AlwaysDevice())
    async with behind(made, limits=Limits(request_s=0.2)) as (client, _):
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(**ask(EASY))
        with pytest.raises(openai.APIError, match=r"no whole answer within 0\.2 s"):
            async for _each in await client.chat.completions.create(**ask(EASY), stream=True):
                pass
        await until(lambda: slow.closed == 2)
    assert (caught.value.status_code, caught.value.code) == (504, "request_timeout")


async def test_a_shutdown_lets_streams_end() -> None:
    slow = Slow("slow", "one two three four five six seven eight", pause_s=0.05)
    app = Gateway(service(slow, cloud_fn, strategy=AlwaysDevice()))

    async def read(url: str) -> str:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
            return said([each async for each in await client.chat.completions.create(**ask(EASY), stream=True)])

    server = running(app)
    reading = asyncio.create_task(read(server.__enter__()))
    await until(lambda: slow.written > 1)
    assert not reading.done()
    await asyncio.to_thread(server.__exit__, None, None, None)
    assert (await reading).split() == slow.text.split()


async def test_too_many_at_once_are_told_to_come_back() -> None:
    slow = Slow("slow", "word " * 20)
    made = service(slow, cloud_fn, strategy=AlwaysDevice())
    with gateway(made, limits=Limits(concurrent=3)) as live:
        async with httpx.AsyncClient(base_url=live.url, timeout=30) as client:
            answers = await asyncio.gather(*(client.post("/v1/chat/completions", json=ask(EASY)) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [429] * 5
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["Retry-After"] == "1" and refused.json()["error"]["code"] == "too_many_requests"


async def test_a_stream_that_ends_in_an_error_of_the_server_is_malformed() -> None:
    async with ChatServer() as cloud:
        cloud.script.append(stream(chunk({"content": "so "}), {"error": {"message": "overloaded"}}))
        async with behind(service(device_fn, remote(cloud.url))) as (client, _):
            answer = await client.chat.completions.create(**ask(HARD))
    assert answer.choices[0].message.content == DEVICE_ANSWER and "overloaded" in answer.selfroute["error"]

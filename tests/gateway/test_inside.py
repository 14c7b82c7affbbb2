"""Answers that two models write: served by a gateway, and with the cloud in another process behind a real socket."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from tests.gateway.live import Live, ask, gateway, running
from tests.strategies.inside.pair import PLAIN, SAMPLING, WORDS, alike, model
from tests.strategies.inside.pair import ask as question
from tests.strategies.inside.pair import sides as sides_of

from selfroute.backends.base import complete
from selfroute.backends.openai_compatible import OpenAICompatibleBackend
from selfroute.errors import ConfigError
from selfroute.gateway.app import Gateway
from selfroute.gateway.guard import Guard
from selfroute.gateway.service import Service, SingleService
from selfroute.scores.steps import RandomDoubt
from selfroute.scores.tokens import MaxProbability
from selfroute.strategies.base import answer, check_sides
from selfroute.strategies.inside.checkers import ByView
from selfroute.strategies.inside.speculative import Speculative
from selfroute.strategies.inside.step_level import StepLevel
from selfroute.strategies.inside.token_level import TokenLevel
from selfroute.types import Sampling

HALF = TokenLevel(scorer=MaxProbability(), threshold=0.4)
CLOUD = TokenLevel(scorer=MaxProbability(), threshold=1.01)
STEPS = StepLevel(checker=ByView(scorer=RandomDoubt()), threshold=0.5, step_end="w3", max_step_tokens=12)


@pytest.fixture(scope="module")
def device() -> Iterator[Any]:
    with model("device", seed=1) as made:
        yield made


@pytest.fixture(scope="module")
def cloud(device: Any) -> Iterator[Any]:
    with alike(device, share=0.25, seed=2) as made:
        yield made


@pytest.fixture(scope="module")
def server(cloud: Any) -> Iterator[Live]:
    """What `selfroute cloud` serves."""
    app = Gateway(SingleService(backend=Guard("cloud", cloud)))
    with running(app) as url:
        yield Live(app, url)


def remote(server: Live, **options: Any) -> OpenAICompatibleBackend:
    options = {"sessions": "selfroute"} | options
    return OpenAICompatibleBackend("cloud", f"{server.url}/v1", "cloud", api_key_env=None, max_retries=0, **options)


def held(backend: Any) -> int:
    return int(backend._running().pool.held)


async def nothing_is_held(*backends: Any) -> None:
    async with asyncio.timeout(0.2):
        while any(held(backend) for backend in backends):
            await asyncio.sleep(0.005)


class TestSocket:
    @pytest.mark.parametrize(
        "strategy",
        [HALF, CLOUD, Speculative(), Speculative(block=2), STEPS],
        ids=lambda strategy: f"{strategy.name}-{getattr(strategy, 'threshold', '')}",
    )
    @pytest.mark.parametrize("sampling", [SAMPLING, Sampling(max_tokens=40, temperature=1.0, seed=5)])
    async def test_is_as_in_one_process(
        self, device: Any, cloud: Any, server: Live, strategy: Any, sampling: Sampling
    ) -> None:
        async with remote(server) as far:
            pair = sides_of(device, far)
            check_sides(strategy, pair)
            for i in range(3):
                here = await answer(strategy, sides_of(device, cloud), question(i), sampling)
                there = await answer(strategy, pair, question(i), sampling)
                assert (there.text, there.source, there.error) == (here.text, here.source, None)
                ours, theirs = here.usage("cloud"), there.usage("cloud")
                assert (theirs.prompt_tokens, theirs.completion_tokens) == (ours.prompt_tokens, ours.completion_tokens)
                assert bool(theirs.up_bytes) == bool(theirs.completion_tokens) == bool(theirs.round_trips)
                if strategy.name == "token_level":  # a call for each stretch
                    assert theirs.round_trips == sum(segment.source == "cloud" for segment in there.segments)
        assert len(server.app.open_answers) == 0  # type: ignore[arg-type]
        await nothing_is_held(device, cloud)

    async def test_a_forgotten_session_begins_anew(self, device: Any, cloud: Any, server: Live) -> None:
        async with remote(server) as far:
            from selfroute.backends.base import capability
            from selfroute.backends.sessions import Sessions

            session = capability(far, Sessions).session(question(1), SAMPLING)
            first = await session.write(5)
            await server.app.open_answers._close(session._id)  # type: ignore[union-attr, attr-defined]
            rest = await session.write(5)
            whole = await cloud.session(question(1), SAMPLING).write(10)
            assert [t.token_id for t in (*first, *rest)] == [t.token_id for t in whole]
            await session.close()

    async def test_what_does_not_come_back_is_forgotten(self, cloud: Any, server: Live) -> None:
        from selfroute.gateway.request import Limits
        from selfroute.gateway.sessions import OpenAnswers

        answers = OpenAnswers(Limits(), idle_s=0.05)
        about = {"messages": [{"role": "user", "content": "w1"}], "at": 0}
        said = await answers.answer(cloud, {"prompt": [], "max_tokens": 2, "selfroute": about})
        assert len(said["choices"][0]["token_ids"]) == 2 and held(cloud) == 1
        await asyncio.sleep(0.1)
        await answers.answer(cloud, {"prompt": [], "max_tokens": 1, "selfroute": about})
        assert len(answers) == 1
        await answers._close(next(iter(answers._open)))
        await nothing_is_held(cloud)

    async def test_closing_ends_the_call_under_way_and_is_no_failure(self, cloud: Any, server: Live) -> None:
        def failed() -> int:
            return sum(guard.health().failed for _, guard in server.app.service.guards())

        before = failed()
        async with aiohttp.ClientSession() as http:

            async def call(**fields: Any) -> tuple[int, Any]:
                async with http.post(f"{server.url}/v1/completions", json=fields) as response:
                    return response.status, await response.json()

            turns = [{"role": "user", "content": question(1)[0].content}]
            begun = {"messages": turns, "luck_tokens": 200}
            _, said = await call(model="cloud", prompt=[], max_tokens=1, temperature=1.0, seed=3, selfroute=begun)
            held_open = {"session": said["selfroute"]["session"]}
            long = asyncio.create_task(call(model="cloud", prompt=[], max_tokens=200, selfroute=held_open))
            await asyncio.sleep(0.02)
            await call(model="cloud", prompt=[], max_tokens=0, selfroute=held_open | {"close": True})
            async with asyncio.timeout(2):
                status, _ = await long
        assert status in (200, 404)  # it had ended before, or was let go of
        await nothing_is_held(cloud)
        assert failed() == before

    async def test_a_server_that_is_down_leaves_the_device(self, device: Any) -> None:
        far = OpenAICompatibleBackend(
            "cloud", "http://127.0.0.1:9/v1", "cloud", api_key_env=None, max_retries=0, sessions="selfroute"
        )
        async with far:
            check_sides(HALF, sides_of(device, far))
            trace = await answer(CLOUD, sides_of(device, far), question(1), SAMPLING)
        assert trace.text == (await complete(device, question(1), SAMPLING)).text
        assert trace.reason == "cloud-error"

    async def test_other_vocabularies_are_refused(self, server: Live) -> None:
        with model("other", seed=4, words=30) as other:
            async with remote(server) as far:
                with pytest.raises(ConfigError, match="have different vocabularies"):
                    check_sides(HALF, sides_of(other, far))

    async def test_an_endpoint_without_ids_is_refused(self, device: Any, server: Live) -> None:
        async with remote(server, sessions=None) as far:
            with pytest.raises(ConfigError, match="needs a cloud with Sessions, and cloud has none"):
                check_sides(HALF, sides_of(device, far))
        with pytest.raises(ConfigError, match="sessions: vllm needs the model's tokenizer"):
            remote(server, sessions="vllm")

    @pytest.mark.parametrize(
        ("fields", "status", "said"),
        [
            ({"prompt": "text"}, 400, "prompt: must be a list of token ids"),
            ({"max_tokens": -1}, 400, "max_tokens: must be a whole number"),
            ({"selfroute": {"session": "nobody"}}, 404, "there is no such session"),
            ({"selfroute": {"at": 3, "messages": [{"role": "user", "content": "w1"}]}}, 400, "the answer has 0 tokens"),
            ({"selfroute": {"messages": []}}, 400, "must be a list of 1 to"),
            ({"selfroute": {"messages": [{"role": "user"}]}}, 400, "a role and text"),
            ({"selfroute": 3}, 400, "must be an object"),
            ({"selfroute": {"messages": [{"role": "user", "content": "w1"}], "until": [""]}}, 400, "a list of texts"),
            ({"prompt": [999999]}, 502, "token 999999 is outside its vocabulary"),
        ],
    )
    async def test_a_wrong_call_is_told(self, server: Live, fields: dict[str, Any], status: int, said: str) -> None:
        about = {"messages": [{"role": "user", "content": "w1"}]}
        body = {"prompt": [], "max_tokens": 1, "selfroute": about} | fields
        async with aiohttp.ClientSession() as http, http.post(f"{server.url}/v1/completions", json=body) as response:
            assert (response.status, said in await response.text()) == (status, True), await response.text()


def spoiled(change: Any) -> Any:
    """A server that answers something else."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for _ in range(2):
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
            return
        await receive()
        whole = {
            "choices": [{"token_ids": [5], "finish_reason": "length"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 1},
            "selfroute": {"session": "s"},
        }
        data = change(whole)
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    return app


class TestSpoiledAnswers:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda whole: json.dumps(whole)[:40].encode(), r"malformed|cut"),
            (lambda whole: json.dumps(whole | {"choices": [{"token_ids": [5, 6]}]}).encode(), "2 tokens where 1 to 1"),
            (lambda whole: json.dumps(whole | {"choices": [{"token_ids": ["a"]}]}).encode(), "no token ids"),
            (lambda whole: json.dumps(whole | {"choices": []}).encode(), "no token ids"),
            (lambda whole: json.dumps(whole | {"usage": None}).encode(), "no usage"),
            (lambda whole: json.dumps(whole | {"selfroute": None}).encode(), "no session"),
            (
                lambda whole: json.dumps(whole | {"choices": [{"token_ids": [70000]}]}).encode(),
                "outside its vocabulary",
            ),
        ],
    )
    async def test_leave_the_answer_to_the_device(self, device: Any, change: Any, said: str) -> None:
        def alike_vocabulary(whole: dict[str, Any]) -> bytes:
            whole["selfroute"]["vocabulary"] = device.vocabulary
            return bytes(change(whole))

        with running(spoiled(alike_vocabulary)) as url:
            far = OpenAICompatibleBackend(
                "cloud", f"{url}/v1", "cloud", api_key_env=None, max_retries=0, sessions="selfroute"
            )
            async with far:
                trace = await answer(CLOUD, sides_of(device, far), question(1), SAMPLING)
        assert trace.text == (await complete(device, question(1), SAMPLING)).text
        assert trace.error is not None and re.search(said, trace.error), trace.error


# --- behind the gateway -------------------------------------------------------------------------------------------


def pair(device: Any, cloud: Any, strategy: Any, **options: Any) -> Service:
    return Service(
        strategy=strategy, device=Guard("small", device), cloud=Guard("large", cloud), template=PLAIN, **options
    )


class TestGateway:
    """A gateway closes its models with itself, so each has a pair of its own."""

    @pytest.fixture
    def device(self) -> Any:
        return model("device", seed=1)

    @pytest.fixture
    def cloud(self, device: Any) -> Any:
        return alike(device, share=0.25, seed=2)

    @pytest.mark.parametrize("strategy", [HALF, STEPS], ids=lambda strategy: strategy.name)
    async def test_pieces_stream_with_their_writer(self, device: Any, cloud: Any, strategy: Any) -> None:
        expected = await answer(strategy, sides_of(device, cloud), question(2), SAMPLING)
        with gateway(pair(device, cloud, strategy)) as live:
            async with live.async_client() as client:
                stream = await client.chat.completions.create(
                    model="selfroute",
                    messages=[{"role": "user", "content": question(2)[0].content}],
                    max_tokens=40,
                    stream=True,
                    stream_options={"include_usage": True},
                )
                chunks = [chunk async for chunk in stream]
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text == expected.text.lstrip()
        reasons = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
        assert reasons == [expected.end.finish_reason]
        assert len([c for c in chunks if c.usage]) == 1
        sources = [source for c in chunks if (source := (c.model_extra or {}).get("selfroute", {}).get("source"))]
        assert {"device", "cloud"} <= set(sources)

    async def test_a_whole_answer_is_of_both(self, device: Any, cloud: Any) -> None:
        with gateway(pair(device, cloud, HALF)) as live:
            async with aiohttp.ClientSession() as http:
                body = ask(question(2)[0].content, max_tokens=40)
                async with http.post(f"{live.url}/v1/chat/completions", json=body) as response:
                    said = await response.json()
                    assert response.headers["x-selfroute-source"] == "both"
        assert said["selfroute"]["source"] == "both" and said["selfroute"]["reason"] == "judged"

    async def test_private_opens_no_session_of_the_cloud(self, device: Any, cloud: Any) -> None:
        def never(call: int, result: Any) -> Any:
            raise AssertionError("the cloud was asked")

        from tests.strategies.inside.pair import Faulty

        faulty = Faulty(cloud, never)
        with gateway(pair(device, faulty, CLOUD)) as live:
            async with aiohttp.ClientSession() as http:
                for mode in ("private", "device"):
                    body = ask(question(2)[0].content, max_tokens=10)
                    headers = {"x-selfroute-mode": mode}
                    async with http.post(f"{live.url}/v1/chat/completions", json=body, headers=headers) as response:
                        assert (await response.json())["selfroute"]["source"] == "device"
        assert faulty.opened == []

    async def test_a_client_that_leaves_frees_both_caches(self, device: Any, cloud: Any) -> None:
        with gateway(pair(device, cloud, HALF)) as live:
            async with aiohttp.ClientSession() as http:
                body = ask(question(2)[0].content, max_tokens=200, stream=True, temperature=1.0, seed=3)
                async with http.post(f"{live.url}/v1/chat/completions", json=body) as response:
                    await response.content.readany()
                    response.close()
            left = time.monotonic()
            while held(device) or held(cloud):
                assert time.monotonic() - left < 2.0
                await asyncio.sleep(0.005)
            assert time.monotonic() - left < 0.2

    async def test_a_client_that_leaves_frees_the_cache_of_a_cloud_elsewhere(self, device: Any, cloud: Any) -> None:
        app = Gateway(SingleService(backend=Guard("cloud", cloud)))
        with running(app) as url, gateway(pair(device, remote(Live(app, url)), CLOUD)) as live:
            async with aiohttp.ClientSession() as http:
                body = ask(question(2)[0].content, max_tokens=200, stream=True, temperature=1.0, seed=3)
                async with http.post(f"{live.url}/v1/chat/completions", json=body) as response:
                    await response.content.readany()
                    async with asyncio.timeout(5):
                        while not held(cloud):
                            await asyncio.sleep(0.005)
                    response.close()
            await nothing_is_held(device, cloud)

    async def test_a_route_asks_no_cloud(self, device: Any, cloud: Any) -> None:
        with gateway(pair(device, cloud, HALF)) as live:
            async with aiohttp.ClientSession() as http:
                body = ask(question(2)[0].content, max_tokens=10)
                async with http.post(f"{live.url}/v1/route", json=body) as response:
                    said = await response.json()
                    assert response.status == 200, said
        assert "token_level" in str(said)
        assert cloud._engine is None


def vllm(model: Any) -> Any:
    """What vLLM's `/v1/completions` answers to ids, greedily, from plain passes over the model."""
    import torch

    def logprobs(ids: list[int]) -> Any:
        with torch.inference_mode():
            return torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)

    def scored(ids: list[int]) -> list[Any]:
        rows = logprobs(ids)
        places: list[Any] = [None]
        for row, token in zip(rows, ids[1:], strict=False):
            best = int(row.argmax())
            places.append({str(i): {"logprob": float(row[i])} for i in {best, token}})
        return places

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for _ in range(2):
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
            return
        asked = json.loads((await receive())["body"])
        ids, written = list(asked["prompt"]), []
        assert asked["return_token_ids"] and isinstance(ids[0], int)
        marks = asked.get("stop", [])
        assert asked.get("include_stop_str_in_output", False) == bool(marks)
        found: list[str] = []
        while len(written) < asked["max_tokens"] and written[-1:] != [0] and not found:
            written.append(int(logprobs([*ids, *written])[-1].argmax()))
            found = [mark for mark in marks if mark in WORDS[written[-1]]]
        reason = "stop" if written[-1] == 0 or found else "length"
        choice = {"token_ids": written, "finish_reason": reason, "stop_reason": found[0] if found else None}
        if "prompt_logprobs" in asked:
            choice["prompt_logprobs"] = scored(ids)
        usage = {"prompt_tokens": len(ids), "completion_tokens": len(written)}
        data = json.dumps({"choices": [choice], "usage": usage}).encode()
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    return app


@pytest.mark.parametrize(
    "strategy",
    [HALF, CLOUD, Speculative(), STEPS],
    ids=lambda strategy: f"{strategy.name}-{getattr(strategy, 'threshold', '')}",
)
async def test_an_endpoint_that_keeps_nothing_gets_all_ids_each_time(
    device: Any, cloud: Any, strategy: Any, tmp_path: Any
) -> None:
    cloud.tokenizer.save_pretrained(tmp_path)
    with running(vllm(cloud.model)) as url:
        far = OpenAICompatibleBackend(
            "cloud", f"{url}/v1", "cloud", api_key_env=None, max_retries=0, sessions="vllm", tokenizer=str(tmp_path)
        )
        async with far:
            pair = sides_of(device, far)
            check_sides(strategy, pair)
            for i in range(3):
                here = await answer(strategy, sides_of(device, cloud), question(i), SAMPLING)
                there = await answer(strategy, pair, question(i), SAMPLING)
                assert (there.text, there.error) == (here.text, None)
                if sum(segment.source == "cloud" for segment in here.segments) > 1:
                    assert there.usage("cloud").prompt_tokens > here.usage("cloud").prompt_tokens

"""The door: what the model is given holds no private value, and what it says has them again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.backends.chat_server import ChatServer, answer
from tests.privacy.test_privacy import DETECTORS, REDACTOR

from selfroute.backends.base import Asked, Backend, BatchBackend, complete, find_capability
from selfroute.backends.cache import AnswerCache, cached
from selfroute.backends.function import FunctionBackend
from selfroute.backends.openai_compatible import OpenAICompatibleBackend
from selfroute.backends.redacted import RedactedBackend
from selfroute.errors import PrivacyRefused
from selfroute.privacy.redaction import Redactor
from selfroute.types import Delta, Message, Sampling, Usage

TEXT = "I am Anna Müller, mail a@b.org, card 4111 1111 1111 1111"
HIDDEN = "I am [NAME_1], mail [EMAIL_1], card [CARD_1]"
ASK = [Message("user", TEXT)]


class Pieces(Backend):
    """Writes given deltas, and keeps what it was asked."""

    lacks: frozenset[str] | None = frozenset()

    def __init__(self, *deltas: Delta) -> None:
        self.name = "pieces"
        self.deltas = deltas
        self.asked: list[tuple[Sequence[Message], Sampling]] = []

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        self.asked.append((messages, sampling))
        for delta in self.deltas:
            yield delta
        yield Delta(finish_reason="stop", usage=Usage(3, 4))


async def deltas_of(backend: Backend, messages: Sequence[Message] = ASK, **options: Any) -> list[Delta]:
    return [delta async for delta in backend.stream(messages, Sampling(**options))]


async def test_the_model_sees_placeholders_and_the_reader_values() -> None:
    model = Pieces(Delta("<think>[EM"), Delta("AIL_1]?</think>Dear [NAME_"), Delta("1], [CARD_1] [CARD_2] [NAME_"))
    deltas = await deltas_of(RedactedBackend(model, REDACTOR))
    ((messages, _),) = model.asked
    assert [message.content for message in messages] == [HIDDEN]
    assert (
        "".join(d.text for d in deltas)
        == "<think>a@b.org?</think>Dear Anna Müller, 4111 1111 1111 1111 [CARD_2] [NAME_"
    )
    assert deltas[-1].usage == Usage(3, 4)
    assert [dict(d.redacted) for d in deltas if d.redacted] == [{"name": 1, "email": 1, "card": 1}]
    assert deltas[0].sent and not any(d.sent for d in deltas[1:])


async def test_answers_keep_placeholders_where_that_is_wanted() -> None:
    door = RedactedBackend(FunctionBackend("m", lambda messages, _: messages[-1].content), REDACTOR, restore=False)
    assert (await complete(door, ASK, Sampling())).text == HIDDEN


async def test_arguments_of_tools_are_restored_within_their_json() -> None:
    def call(place: int, arguments: str, **more: Any) -> Delta:
        return Delta(extra={"tool_calls": [{"index": place, "function": {"arguments": arguments, **more}}]})

    redactor = Redactor(DETECTORS, {})
    model = Pieces(
        call(0, "", name="send"),
        call(0, '{"to": "[EMA'),
        call(1, '{"who": "[NAME_1]"'),
        call(0, 'IL_1]", "n'),
        call(1, "}"),
        call(0, '": "[NAME_1'),
        call(0, ']"}'),
        call(1, "["),
    )
    written: dict[int, str] = {}
    for delta in await deltas_of(RedactedBackend(model, redactor)):
        for piece in delta.extra.get("tool_calls", ()):
            written[piece["index"]] = written.get(piece["index"], "") + piece["function"]["arguments"]
    assert json.loads(written[0]) == {"to": "a@b.org", "n": "Anna Müller"}
    assert written[1] == '{"who": "Anna Müller"}['


async def test_a_request_without_findings_passes_as_it_is() -> None:
    given = (Delta("[EMAIL_1] stays"), Delta(extra={"tool_calls": []}))
    model = Pieces(*given)
    ask = [Message("user", "2 + 2?")]
    deltas = await deltas_of(RedactedBackend(model, REDACTOR), ask)
    assert deltas[1:3] == list(given)
    assert model.asked[0][0] is ask


@pytest.mark.parametrize("text", ["4111 1111 1111 1111", "see data:image/png;base64,AAAA"])
async def test_what_may_not_leave_reaches_nobody(text: str) -> None:
    model = Pieces()
    with pytest.raises(PrivacyRefused):
        await deltas_of(RedactedBackend(model, Redactor(DETECTORS, {"card": "refuse"})), [Message("user", text)])
    assert not model.asked


async def test_nothing_gets_past_the_door() -> None:
    class Batches(Pieces):
        def generate_batch(self, prompts: Any, sampling: Any) -> Any:
            raise AssertionError("asked behind the door")

    door = RedactedBackend(Batches(), REDACTOR)
    assert find_capability(door, BatchBackend) is None
    assert find_capability(door, Batches) is None
    assert find_capability(door, Asked) is None


async def test_a_cache_holds_redacted_text_alone(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "answers.sqlite")
    echo = FunctionBackend("m", lambda messages, _: f"You said: {messages[-1].content}")
    door = RedactedBackend(cached(echo, cache), REDACTOR)
    for _ in range(2):
        assert (await complete(door, ASK, Sampling())).text == f"You said: {TEXT}"
    assert cache.stats.hits == 1
    cache.close()
    stored = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"[EMAIL_1]" in stored
    assert not any(value.encode() in stored for value in ("a@b.org", "Anna", "4111"))


async def test_the_bytes_seen_beforehand_are_those_that_leave() -> None:
    received: list[bytes] = []

    async def noting(server: ChatServer, request: Any, body: Any) -> Any:
        received.append(await request.read())
        return await answer(server, request, body)

    async with ChatServer() as server:
        server.script.append(noting)
        raw = {"role": "user", "content": TEXT}
        sampling = Sampling(max_tokens=9, stop=("a@b.org",), extra={"metadata": {"mail": "a@b.org"}, "x": [1, "ü"]})
        async with OpenAICompatibleBackend("cloud", server.url, "big", api_key_env=None) as cloud:
            door = RedactedBackend(cloud, REDACTOR)
            departure = door.depart([Message("user", TEXT, raw)], sampling)
            await complete(door, [Message("user", TEXT, raw)], sampling)
    assert received == [departure.body]
    sent = departure.body.decode()
    assert "[EMAIL_1]" in sent and "a@b.org" not in sent and "Anna" not in sent

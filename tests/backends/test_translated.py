"""Steps as texts: models of another vocabulary, and chats that go on with an assistant's turn."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest
import torch
from tests.gateway.live import running
from tests.strategies.inside.pair import SAMPLING, WORDS, alike, ask, model, sides
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from selfroute.backends.base import Backend, capability
from selfroute.backends.continuing import Continues
from selfroute.backends.openai_compatible import OpenAICompatibleBackend
from selfroute.backends.sessions import Sessions
from selfroute.backends.transformers import TransformersBackend
from selfroute.backends.translated import Translated, without_repeated
from selfroute.errors import ConfigError, UnsupportedByBackend
from selfroute.scores.steps import RandomDoubt
from selfroute.strategies.base import answer, check_sides
from selfroute.strategies.inside.checkers import ByForesight, ByView
from selfroute.strategies.inside.step_level import StepLevel
from selfroute.testing import RecordingBudget
from selfroute.types import Delta, Message, Sampling, Trace, Usage

END = "w9"
STEPS = StepLevel(checker=ByView(scorer=RandomDoubt()), threshold=0.5, step_end=END, max_step_tokens=12)
CLOUD = StepLevel(checker=ByView(scorer=RandomDoubt()), threshold=-1, step_end=END, max_step_tokens=12)


@pytest.fixture(scope="module")
def device() -> Iterator[TransformersBackend]:
    with model("device", seed=1) as made:
        yield made


@pytest.fixture(scope="module")
def cloud(device: TransformersBackend) -> Iterator[TransformersBackend]:
    with alike(device, share=0.25, seed=2) as made:
        yield made


@pytest.fixture(scope="module")
def foreign(cloud: TransformersBackend) -> Iterator[TransformersBackend]:
    """The same model with its words in another order."""
    order = list(reversed(range(len(WORDS))))
    words = Tokenizer(models.WordLevel({WORDS[i]: at for at, i in enumerate(order)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<end>", pad_token="<pad>", chat_template=cloud.tokenizer.chat_template
    )
    network = LlamaForCausalLM(cloud.model.config).eval()
    with torch.no_grad():
        state = dict(cloud.model.state_dict())
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            state[name] = state[name][order]
        network.load_state_dict(state)
    network.generation_config.eos_token_id = None
    with TransformersBackend("cloud", network, tokenizer, max_batch=16) as made:
        yield made


class Chat(Backend):
    """A chat that goes on with what others began; it may say that again first."""

    def __init__(self, inner: TransformersBackend, *, repeats: bool) -> None:
        self.model, self.name, self.repeats = inner, "chat", repeats
        self.heard: list[str] = []

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        async for delta in self.model.stream(messages, sampling):
            yield delta

    async def go_on(self, messages: Sequence[Message], begun: str, sampling: Sampling) -> AsyncIterator[Delta]:
        self.heard.append(begun)
        session = self.model.session(messages, sampling)
        ids = self.model.ids_of(begun)
        await session.read(ids)
        written = await session.write(sampling.max_tokens)
        await session.close()
        speller = self.model.speller()
        speller.extend(ids)
        speller.take()
        if self.repeats:
            yield Delta(begun)
        for token in written:
            speller.push(token.token_id)
            yield Delta(speller.take()[0])
        ends = written[-1].ends
        yield Delta(finish_reason="stop" if ends else "length", usage=Usage(len(ids), len(written)))


async def in_words(device: Any, cloud: Any, strategy: StepLevel) -> list[tuple[int, Trace]]:
    """Answers of one vocabulary whose tokens all have a text: padding would be lost between texts."""
    traces = await asyncio.gather(*(answer(strategy, sides(device, cloud), ask(i), SAMPLING) for i in range(20)))
    standing = [[s for s in trace.segments if s.part == "answer"] for trace in traces]
    counts = [sum(s.usage.completion_tokens for s in segments) for segments in standing]
    whole = [
        (i, trace)
        for i, (trace, count) in enumerate(zip(traces, counts, strict=True))
        if len(trace.text.split()) + (trace.end.finish_reason == "stop") == count
    ]
    assert len(whole) > 3
    return whole[:5]


class TestOtherVocabulary:
    @pytest.mark.parametrize("strategy", [STEPS, CLOUD], ids=["some", "all"])
    async def test_the_answer_is_that_of_one_vocabulary(
        self, device: Any, cloud: Any, foreign: Any, strategy: StepLevel
    ) -> None:
        assert foreign.vocabulary != device.vocabulary
        check_sides(strategy, sides(device, foreign))
        for i, here in await in_words(device, cloud, strategy):
            there = await answer(strategy, sides(device, foreign), ask(i), SAMPLING)
            assert (there.text, there.source, there.error) == (here.text, here.source, None)
            ours, theirs = here.usage("cloud"), there.usage("cloud")
            assert (theirs.prompt_tokens, theirs.completion_tokens) == (ours.prompt_tokens, ours.completion_tokens)

    async def test_nothing_is_left_behind(self, device: Any, foreign: Any) -> None:
        await asyncio.gather(*(answer(STEPS, sides(device, foreign), ask(i), SAMPLING) for i in range(4)))
        async with asyncio.timeout(0.2):
            while device._running().pool.held or foreign._running().pool.held:
                await asyncio.sleep(0.005)

    async def test_no_views_and_no_judging(self, device: Any, foreign: Any) -> None:
        with pytest.raises(ConfigError, match="needs a cloud whose sessions give every, top"):
            check_sides(
                StepLevel(checker=ByForesight(), threshold=0.5, step_end=END, max_step_tokens=12),
                sides(device, foreign),
            )
        session = Translated(foreign, device).session(ask(1), SAMPLING)
        with pytest.raises(UnsupportedByBackend, match="not scored"):
            await session.read([3], every=True)
        await session.read([3, 4, 5])
        await session.drop(2)
        assert [*session.ids] == [3] and session.vocabulary == device.vocabulary
        with pytest.raises(ValueError, match="cannot drop 2"):
            await session.drop(2)
        await session.close()

    async def test_a_step_that_needs_more_tokens_here_is_cut(self, device: Any, cloud: Any) -> None:
        class Long(Chat):
            async def go_on(self, messages: Any, begun: str, sampling: Sampling) -> AsyncIterator[Delta]:
                yield Delta("w1 w2 w4 w5", finish_reason="stop", usage=Usage(1, 1))

        session = Translated(Long(cloud, repeats=False), device).session(ask(1), SAMPLING)
        written = await session.write(2)
        assert device.tokenizer.decode([token.token_id for token in written]) == "w1 w2"
        assert not any(token.ends for token in written)


class TestChat:
    @pytest.mark.parametrize("repeats", [False, True])
    @pytest.mark.parametrize("strategy", [STEPS, CLOUD], ids=["some", "all"])
    async def test_goes_on_in_text(self, device: Any, cloud: Any, strategy: StepLevel, repeats: bool) -> None:
        chat, budget = Chat(cloud, repeats=repeats), RecordingBudget()
        pair = sides(device, chat, budget=budget)
        check_sides(strategy, pair)
        for i, here in await in_words(device, cloud, strategy):
            there = await answer(strategy, pair, ask(i), SAMPLING)
            assert (there.text, there.source, there.error) == (here.text, here.source, None)
        assert any(chat.heard), "and the clean text alone"
        assert all(
            used.prompt_tokens <= e.usage.prompt_tokens
            for (used, _), e in zip(budget.spent, budget.estimates, strict=True)
        )

    async def test_one_that_says_nothing_leaves_the_device(self, device: Any, cloud: Any) -> None:
        class Silent(Chat):
            async def go_on(self, messages: Any, begun: str, sampling: Sampling) -> AsyncIterator[Delta]:
                yield Delta(finish_reason="length", usage=Usage(1, 0))

        trace = await answer(CLOUD, sides(device, Silent(cloud, repeats=False)), ask(1), SAMPLING)
        assert trace.source == "device" and "nothing was written" in (trace.error or "")

    @pytest.mark.parametrize(
        ("begun", "text", "new"),
        [
            ("<think>3*4=12", "<think>3*4=12;next", ";next"),
            ("<think>3*4=12", ";next", ";next"),
            ("<think>3*4=12", "<think>3*", ""),
            ("ab", "abc", "abc"),
            ("", "abc", "abc"),
        ],
    )
    def test_a_repeated_beginning_is_taken_off(self, begun: str, text: str, new: str) -> None:
        assert without_repeated(begun, text) == new


@pytest.mark.parametrize(
    ("way", "fields"),
    [
        ("vllm", {"continue_final_message": True, "add_generation_prompt": False}),
        ("prefix", {}),
        ("plain", {}),
    ],
)
async def test_an_endpoint_is_told_to_go_on_in_its_way(device: Any, way: Any, fields: dict[str, Any]) -> None:
    heard: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for _ in range(2):
                await send({"type": f"{(await receive())['type']}.complete"})
            return
        heard.append(json.loads((await receive())["body"]))
        said = ["w7 ", "w8 w9", " w10 w11"]
        chunks = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in said]
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body.encode()})

    with running(app) as url:
        far = OpenAICompatibleBackend("far", f"{url}/v1", "m", api_key_env=None, max_retries=0, continues=way)
        async with far:
            assert capability(far, Continues) is not None
            session = Translated(far, device).session(ask(1), SAMPLING)
            await session.read(device.ids_of("w4 w5"))
            written = await session.write(9, until=(END,))
            assert device.tokenizer.decode([token.token_id for token in written]) == "w7 w8 w9"
            assert session.used.round_trips == 1 and session.used.prompt_tokens > 0
    assert {key: heard[0].get(key) for key in fields} == fields
    last = heard[0]["messages"][-1]
    assert (last["role"], last["content"].strip()) == ("assistant", "w4 w5")
    assert last.get("prefix", False) is (way == "prefix")


async def test_an_endpoint_that_does_not_go_on_is_refused(device: Any) -> None:
    far = OpenAICompatibleBackend("far", "http://127.0.0.1:9/v1", "m", api_key_env=None)
    with pytest.raises(ConfigError, match="needs a cloud with Sessions, and far has none; name another model, or in"):
        check_sides(STEPS, sides(device, far))
    with pytest.raises(UnsupportedByBackend):
        capability(far, Sessions)

"""Sessions against a plain computation without any cache, whatever is read, written and dropped in whatever order."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GPT2Config, LlamaConfig, MistralConfig

from selfroute.backends.base import capability, complete
from selfroute.backends.sessions import Judge, Look, Session, Sessions, View, Written
from selfroute.backends.transformers import TransformersBackend
from selfroute.errors import BackendError, ContextLengthExceeded
from selfroute.types import Message, Sampling

LOOK = Look(top=3, entropy=True, hidden=True)
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "max_position_embeddings": 256,
    "bos_token_id": None,
}
QUESTIONS = ("hello", "the user says hello and the assistant answers " * 3, "1 2 3")


def config(kind: str, vocabulary: int) -> Any:
    match kind:
        case "window":
            return MistralConfig(**SMALL, vocab_size=vocabulary, sliding_window=12)
        case "mixed":
            kinds = ["sliding_attention", "full_attention"]
            return Gemma3TextConfig(
                **SMALL,
                vocab_size=vocabulary,
                head_dim=8,
                sliding_window=12,
                layer_types=kinds,
                query_pre_attn_scalar=8,
            )
        case "learned-positions":
            return GPT2Config(
                vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=4, n_positions=256, initializer_range=0.3
            )
    return LlamaConfig(**SMALL, vocab_size=vocabulary)


@pytest.fixture(scope="module", params=["llama", "window", "mixed", "learned-positions"])
def backend(request: pytest.FixtureRequest, tiny_tokenizer: Any) -> Iterator[TransformersBackend]:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(request.param, len(tiny_tokenizer))).eval()
    with TransformersBackend("tiny", model, tiny_tokenizer, max_batch=3) as made:
        yield made


@pytest.fixture(scope="module")
def tiny(tiny_model: Any, tiny_tokenizer: Any) -> Iterator[TransformersBackend]:
    with TransformersBackend("tiny", tiny_model, tiny_tokenizer, max_batch=8) as made:
        yield made


def ask(text: str) -> list[Message]:
    return [Message("user", text)]


def plain(backend: TransformersBackend, ids: Sequence[int]) -> torch.Tensor:
    """Log-probabilities after each token, from one pass without a cache."""
    with torch.inference_mode():
        return torch.log_softmax(backend.model(torch.tensor([list(ids)]), use_cache=False).logits[0].float(), -1)


@dataclass
class Open:
    """A session and what must be in it."""

    backend: TransformersBackend
    session: Session
    prompt: list[int]
    ids: list[int] = field(default_factory=list)

    def seen(self) -> torch.Tensor:
        return plain(self.backend, [*self.prompt, *self.ids])[len(self.prompt) - 1 :]

    def check_view(self, view: View, expected: torch.Tensor) -> None:
        assert view.logprob == pytest.approx(float(expected[view.drawn]), abs=1e-3)
        assert float(expected.max()) == pytest.approx(view.logprob, abs=1e-3)
        assert list(view.top.values()) == pytest.approx(expected.topk(3).values.tolist(), abs=1e-3)
        assert view.entropy == pytest.approx(float(-(expected.exp() * expected).sum()), abs=1e-3)
        assert view.hidden.shape == (32,)

    async def read(self, ids: list[int], every: bool) -> None:
        views = await self.session.read(ids, every=every)
        self.ids += ids
        if not every:
            assert views == []
            return
        assert len(views) == len(ids) + 1
        expected = self.seen()[len(self.ids) - len(ids) :]
        for view, row, token in zip(views, expected, [*ids, None], strict=True):
            self.check_view(view, row)
            assert view.given == (None if token is None else pytest.approx(float(row[token]), abs=1e-3))

    async def write(self, limit: int) -> None:
        written = await self.session.write(limit)
        begin = len(self.ids)
        self.ids += [token.token_id for token in written]
        assert 0 < len(written) <= limit
        assert len(written) == limit or written[-1].ends
        for token, row in zip(written, self.seen()[begin:], strict=False):
            assert token.kept and token.view is not None
            assert token.token_id == token.view.drawn
            self.check_view(token.view, row)

    async def part(self, limit: int) -> None:
        """Write what there is at once; more may be written ahead, and nobody sees it."""
        written = await self.session.write(limit, within_s=0)
        begin = len(self.ids)
        self.ids += [token.token_id for token in written]
        assert 0 < len(written) <= limit
        for token, row in zip(written, self.seen()[begin:], strict=False):
            assert token.view is not None
            self.check_view(token.view, row)

    async def drop(self, count: int) -> None:
        count = min(count, len(self.ids))
        await self.session.drop(count)
        del self.ids[len(self.ids) - count :]


TOKENS = st.lists(st.integers(10, 300), max_size=12)
STEP = st.one_of(
    st.tuples(st.just("read"), TOKENS, st.booleans()),
    st.tuples(st.just("write"), st.integers(1, 6)),
    st.tuples(st.just("part"), st.integers(1, 30)),
    st.tuples(st.just("drop"), st.integers(0, 9)),
    st.tuples(st.just("fail")),
    st.tuples(st.just("reopen")),
)
TURNS = st.lists(st.tuples(*[st.one_of(STEP, st.none())] * 4), min_size=1, max_size=8)


class TestAlternations:
    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(turns=TURNS)
    def test_equal_a_plain_computation(self, backend: TransformersBackend, turns: list[tuple[Any, ...]]) -> None:
        asyncio.run(self.drive(backend, turns))

    async def drive(self, backend: TransformersBackend, turns: list[tuple[Any, ...]]) -> None:
        """Four sessions over a pool of three rows; in each turn all that have a step take it at once."""
        open_ = [self.open(backend, i) for i in range(4)]
        for turn in turns:
            if any(step is not None and step[0] == "fail" for step in turn):
                open_ = await self.fail(backend, open_)
                continue
            for i, step in enumerate(turn):
                if step is not None and step[0] == "reopen":
                    await open_[i].session.close()
                    open_[i] = self.open(backend, i)
            steps = [
                getattr(open_[i], step[0])(*step[1:])
                for i, step in enumerate(turn)
                if step is not None and step[0] not in ("reopen", "fail")
            ]
            await asyncio.gather(*steps)
            for each in open_:
                assert list(each.session.ids) == each.ids
        for each in open_:
            await each.session.close()

    def open(self, backend: TransformersBackend, i: int) -> Open:
        messages = ask(QUESTIONS[i % len(QUESTIONS)])
        text = backend.tokenizer.apply_chat_template(
            [{"role": "user", "content": messages[0].content}], tokenize=False, add_generation_prompt=True
        )
        session = backend.session(messages, Sampling(), look=LOOK)
        return Open(backend, session, backend.tokenizer(text)["input_ids"])

    async def fail(self, backend: TransformersBackend, open_: list[Open]) -> list[Open]:
        """The model breaks: those it was to write for are lost, the others are not."""

        def broken(*_: object) -> None:
            raise RuntimeError("out of memory")

        for each in open_:
            await each.session.drop(0)  # so that nothing is written ahead
        hook = backend.model.register_forward_pre_hook(broken)
        try:
            await open_[0].session.read([11])
            with pytest.raises(BackendError, match="out of memory"):
                await open_[0].session.write(2)
        finally:
            hook.remove()
        with pytest.raises(BackendError, match="out of memory"):
            await open_[0].session.write(1)
        return [self.open(backend, 0), *open_[1:]]


class TestSession:
    def test_is_a_capability(self, tiny: TransformersBackend) -> None:
        assert capability(tiny, Sessions) is tiny
        assert {"ids", "every", "top", "entropy", "hidden", "judge", "keeps", "spell", "until"} == tiny.gives

    @pytest.mark.parametrize("sampling", [Sampling(max_tokens=30), Sampling(temperature=1.0, seed=4, max_tokens=30)])
    async def test_writes_what_a_stream_writes(self, tiny: TransformersBackend, sampling: Sampling) -> None:
        answer = await complete(tiny, ask("hello"), sampling)
        session, speller = tiny.session(ask("hello"), sampling), tiny.speller()
        while len(session.ids) < 30 and not (written := await session.write(7))[-1].ends:
            pass
        for token_id in session.ids[:30]:
            speller.push(token_id)
        speller.finish()
        assert speller.take(last=True)[0] == answer.text
        assert written

    async def test_a_judge_sees_every_token_before_it_stands(self, tiny: TransformersBackend) -> None:
        shown: list[Written] = []

        def score(written: Sequence[Written]) -> list[float]:
            shown.extend(written)
            return [0.0 if len(shown) == 3 else 1.0 for _ in written]

        session = tiny.session(ask("hello"), Sampling(), look=LOOK)
        free = tiny.session(ask("hello"), Sampling())
        expected = [token.token_id for token in await free.write(3)]
        written = await session.write(9, judge=Judge(score, 0.5))
        assert [token.token_id for token in written] == expected
        assert [token.kept for token in written] == [True, True, False]
        assert [token.score for token in written] == [1.0, 1.0, 0.0]
        assert list(session.ids) == expected[:2]
        assert all(token.view is not None and len(token.view.top) == 3 for token in shown)

    async def test_parts_are_what_one_call_writes(self, tiny: TransformersBackend) -> None:
        whole, parted = (tiny.session(ask("hello"), Sampling()) for _ in range(2))
        expected = [token.token_id for token in await whole.write(40)]
        tokens: list[int] = []
        while len(tokens) < len(expected):
            tokens += [token.token_id for token in await parted.write(40 - len(tokens), within_s=0.001)]
            assert list(parted.ids) == tokens
            assert parted.used.completion_tokens == len(tokens)
        assert tokens == expected
        assert parted.used == whole.used

    async def test_is_written_ahead_of_a_slow_reader_a_little(self, tiny: TransformersBackend) -> None:
        shown: list[Written] = []

        def score(written: Sequence[Written]) -> list[float]:
            shown.extend(written)
            return [1.0] * len(written)

        session = tiny.session(ask("hello"), Sampling())
        first = await session.write(200, judge=Judge(score, 0.5), within_s=0)
        await asyncio.sleep(0.3)
        assert len(first) < len(shown) <= len(first) + 16

    async def test_what_is_written_ahead_is_forgotten_for_other_questions(self, tiny: TransformersBackend) -> None:
        whole = tiny.session(ask("hello"), Sampling())
        expected = [token.token_id for token in await whole.write(4)]
        session = tiny.session(ask("hello"), Sampling())
        given = len(await session.write(30, within_s=0))
        await session.drop(given - 1)
        written = await session.write(3)
        assert list(session.ids) == [expected[0], *(token.token_id for token in written)] == expected
        views = await session.read([20], every=True)
        assert (await session.write(1, within_s=0))[0].token_id == views[1].drawn

    async def test_a_mark_ends_a_step(self, tiny: TransformersBackend) -> None:
        whole = tiny.session(ask("hello"), Sampling())
        tokens = [token.token_id for token in await whole.write(12)]
        mark = tiny.tokenizer.decode(tokens[3:5])
        session = tiny.session(ask("hello"), Sampling())
        written = await session.write(12, until=(mark,))
        text = tiny.tokenizer.decode([token.token_id for token in written])
        assert mark in text and len(written) <= 5

    async def test_one_luck_makes_two_sessions_draw_alike(self, tiny: TransformersBackend) -> None:
        warm = Sampling(temperature=1.0, max_tokens=20)
        first, second = (tiny.session(ask("hello"), warm, luck=7) for _ in range(2))
        await asyncio.gather(first.write(15), second.write(15))
        assert first.ids == second.ids

    async def test_what_is_read_again_is_counted(self, tiny: TransformersBackend) -> None:
        session = tiny.session(ask("hello"), Sampling())
        await session.write(5)
        prompt = session.used.prompt_tokens
        assert session.used.completion_tokens == 5
        await session.read([20, 21, 22], every=True)
        assert session.used.prompt_tokens == prompt + 3
        await session.drop(4)
        await session.write(1)
        # Four were dropped, so that the view after the fourth one that was written is gone.
        assert session.used.prompt_tokens == prompt + 4
        assert session.used.layer_tokens == 2 * (prompt + 4 + 5)

    async def test_refuses_what_cannot_be(self, tiny: TransformersBackend) -> None:
        session = tiny.session(ask("hello"), Sampling())
        with pytest.raises(BackendError, match="token 5000 is outside its vocabulary of"):
            await session.read([5000])
        with pytest.raises(ContextLengthExceeded, match="window of 512"):
            await session.read([20] * 600)
        with pytest.raises(ValueError, match="cannot drop 1"):
            await session.drop(1)
        await session.close()
        await session.close()
        with pytest.raises(BackendError, match="closed"):
            await session.write(1)

    async def test_a_call_whose_session_is_closed_meanwhile_ends(self, tiny: TransformersBackend) -> None:
        session = tiny.session(ask("hello"), Sampling())
        writing = asyncio.create_task(session.write(200))
        await asyncio.sleep(0.01)
        await session.close()
        async with asyncio.timeout(2):
            with pytest.raises(BackendError, match="closed"):
                await writing


class TestMemory:
    async def test_a_session_takes_little_more_than_its_tokens(self, tiny: TransformersBackend) -> None:
        sessions = [tiny.session(ask(f"{i}"), Sampling(temperature=1.0, seed=i)) for i in range(8)]
        await asyncio.gather(*(session.write(90) for session in sessions))
        tokens = sum(session.used.layer_tokens for session in sessions) // 2
        needed = tokens * 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads, head size, bytes
        assert held(tiny).bytes <= 1.5 * needed  # some have ended long before others
        await asyncio.sleep(0.2)
        assert held(tiny).bytes == needed
        for session in sessions:
            await session.close()

    async def test_nothing_is_left_of_closed_and_abandoned_ones(self, tiny: TransformersBackend) -> None:
        for _ in range(30):
            sessions = [tiny.session(ask(f"{i}"), Sampling()) for i in range(6)]
            await asyncio.gather(*(session.write(3) for session in sessions))
            for session in sessions[::2]:
                await session.close()
            waiting = asyncio.create_task(sessions[1].write(300))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            del sessions, session, waiting
        gc.collect()
        await complete(tiny, ask("hello"), Sampling(max_tokens=1))
        for _ in range(100):
            if not held(tiny).held:
                break
            await asyncio.sleep(0.01)
        assert (held(tiny).held, held(tiny).bytes) == (0, 0)


def held(backend: TransformersBackend) -> Any:
    return backend._running().pool

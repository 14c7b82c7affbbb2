"""One model in two places: equal to itself, bytes and work to the last one, clouds that are late, gone or others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from tests.strategies.inside.pair import SAMPLING, ask, first_part, model, sides

from selfroute.backends.base import Backend, capability, complete
from selfroute.backends.exits import ExitBackend
from selfroute.backends.layers import Layered, Sending
from selfroute.backends.torch.tails import Tails
from selfroute.backends.transformers import TransformersBackend
from selfroute.budget.base import NoCloud
from selfroute.errors import BackendError, BackendUnavailable, ConfigError
from selfroute.network.layer_messages import ASK_BYTES, REPLY_BYTES
from selfroute.network.states import HEADER_BYTES
from selfroute.prices import Price, Prices
from selfroute.prompts import PromptTemplate
from selfroute.strategies.base import Sides, answer, check_sides
from selfroute.strategies.inside.early_exit import EarlyExit
from selfroute.testing import RecordingBudget
from selfroute.types import Sampling, Trace

WARM = Sampling(max_tokens=40, temperature=1.0, seed=3)
ALL = EarlyExit(thresholds=(1.01,), sending=Sending(codec="fp32"))
SOME = replace(ALL, thresholds=(0.5,))
PRICES = Prices(device=Price(), cloud=Price(prompt_usd=1, completion_usd=10))
WIDTH = 24


@pytest.fixture(scope="module")
def whole() -> Iterator[TransformersBackend]:
    with model("cloud", seed=5, layers=6) as made:
        yield made


@pytest.fixture(scope="module")
def device(whole: TransformersBackend) -> Iterator[ExitBackend]:
    with first_part(whole, (2, 4)) as made:
        yield made


class Through(Backend):
    """A cloud whose layers are reached through a function of the number of the message, its bytes and the way there."""

    def __init__(self, inner: Backend, way: Any) -> None:
        self.inner, self.name, self._way = inner, inner.name, way
        self.messages: list[bytes] = []

    def stream(self, messages: Any, sampling: Sampling) -> Any:
        assert self.inner is not None
        return self.inner.stream(messages, sampling)

    def tail(self, first: int) -> Any:
        assert self.inner is not None
        return _Way(self, capability(self.inner, Layered).tail(first))


class _Way:
    def __init__(self, through: Through, tail: Any) -> None:
        self._through, self._tail = through, tail

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tail, name)

    async def carry(self, data: bytes) -> bytes:
        self._through.messages.append(data)
        reply: bytes = await self._through._way(len(self._through.messages) - 1, data, self._tail.carry)
        return reply


async def longest(device: Backend, whole: Backend) -> Any:
    """The question whose answer both write most of."""
    found = await traces(SOME, sides(device, whole), 8)
    tokens = [min(trace.usage(side).completion_tokens for side in ("cloud", "device")) for trace in found]
    assert max(tokens) > 5
    return ask(tokens.index(max(tokens)))


def open_answers(whole: TransformersBackend) -> int:
    return sum(len(tail) for tail in whole._tails.values())


async def traces(strategy: EarlyExit, pair: Any, count: int, sampling: Sampling = SAMPLING) -> list[Trace]:
    return await asyncio.gather(*(answer(strategy, pair, ask(i), sampling) for i in range(count)))


class TestTheWholeModel:
    @pytest.mark.parametrize("sampling", [SAMPLING, WARM], ids=["greedy", "sampled"])
    @pytest.mark.parametrize("exits", [(2, 4), (1,), (3, 5)])
    @pytest.mark.parametrize("upload", ["eager", "late", "blocking"])
    async def test_answers_where_no_exit_is_looked_at(
        self, whole: TransformersBackend, exits: tuple[int, ...], sampling: Sampling, upload: Any
    ) -> None:
        with first_part(whole, exits) as device:
            strategy = replace(ALL, sending=Sending(codec="fp32", upload=upload))
            for i, trace in enumerate(await traces(strategy, sides(device, whole), 6, sampling)):
                alone = await complete(whole, ask(i), sampling)
                assert (trace.text, trace.end.finish_reason) == (alone.text, alone.finish_reason)
                assert trace.source == "cloud" and trace.error is None
                assert trace.usage("device").completion_tokens == 0

    async def test_also_from_a_later_exit_on(self, device: ExitBackend, whole: TransformersBackend) -> None:
        strategy = replace(ALL, cloud_from=1)
        for i, trace in enumerate(await traces(strategy, sides(device, whole), 4)):
            assert trace.text == (await complete(whole, ask(i), SAMPLING)).text

    async def test_is_asked_as_it_is_alone(self, device: ExitBackend, whole: TransformersBackend) -> None:
        spoken = Sides(device=device, cloud=whole, template=PromptTemplate("w1 w2 w3", "", "{question}"))
        for i, trace in enumerate(await traces(ALL, spoken, 3)):
            assert trace.text == (await complete(whole, ask(i), SAMPLING)).text

    async def test_is_not_the_device(self, device: ExitBackend, whole: TransformersBackend) -> None:
        # Guards the tests above.
        texts = [[(await complete(side, ask(i), SAMPLING)).text for side in (device, whole)] for i in range(8)]
        assert sum(one != other for one, other in texts) > 5


class TestStandalone:
    @pytest.mark.parametrize("sampling", [SAMPLING, WARM], ids=["greedy", "sampled"])
    async def test_the_last_exit_answers_as_its_model_does(self, device: ExitBackend, sampling: Sampling) -> None:
        strategy = EarlyExit(thresholds=(1.01,), mode="standalone")
        for i, trace in enumerate(await traces(strategy, sides(device, None), 6, sampling)):
            alone = await complete(device, ask(i), sampling)
            assert (trace.text, trace.source) == (alone.text, "device")

    async def test_an_early_exit_saves_layers(self, device: ExitBackend) -> None:
        done = []
        for thresholds in ((0.0, 0.0), (0.3, 0.0), (1.01, 0.0)):
            found = await traces(EarlyExit(thresholds=thresholds, mode="standalone"), sides(device, None), 6)
            written = sum(trace.usage("device").completion_tokens for trace in found)
            done.append(sum(trace.usage("device").layer_tokens for trace in found) / written)
        assert done[0] < done[1] < done[2]

    async def test_copied_keys_take_fewer_layers_than_computed_ones(self, device: ExitBackend) -> None:
        both = []
        for keys in ("recompute", "copy"):
            strategy = EarlyExit(thresholds=(0.3, 0.0), mode="standalone", keys=keys)  # type: ignore[arg-type]
            found = await traces(strategy, sides(device, None), 6)
            both.append(
                sum(t.usage("device").layer_tokens for t in found)
                / sum(t.usage("device").completion_tokens for t in found)
            )
        assert both[1] < both[0]


class TestTogether:
    @pytest.mark.parametrize("upload", ["eager", "late", "blocking"])
    async def test_every_byte_and_every_layer_is_counted(
        self, device: ExitBackend, whole: TransformersBackend, upload: Any
    ) -> None:
        strategy = replace(SOME, sending=Sending(codec="fp16", upload=upload))
        way = Through(whole, lambda number, data, carry: carry(data))
        found = [await answer(strategy, sides(device, way, prices=PRICES), ask(i), SAMPLING) for i in range(6)]
        assert {trace.source for trace in found} >= {"both"}
        up = down = sent = 0
        for trace in found:
            used, own = trace.usage("cloud"), trace.usage("device")
            prompt = len(device._encode(ask(0)))
            written = used.completion_tokens + own.completion_tokens
            positions = prompt + written - 1  # nobody reads the last token
            assert written <= SAMPLING.max_tokens and used.calls == bool(used.up_bytes)
            assert used.prompt_tokens <= positions and used.layer_tokens == 4 * used.prompt_tokens
            assert own.prompt_tokens == prompt + used.completion_tokens - (trace.end.source == "cloud")
            assert trace.cost_usd == pytest.approx((used.prompt_tokens + 10 * used.completion_tokens) / 1e6)
            up, down, sent = up + used.up_bytes, down + used.down_bytes, sent + positions
            if upload == "late":
                sent += used.prompt_tokens - positions
        with_states = [data for data in way.messages if len(data) > ASK_BYTES]
        heads = len(way.messages) * ASK_BYTES + len(with_states) * HEADER_BYTES
        opened = sum(trace.usage("cloud").calls for trace in found)
        assert up == sum(map(len, way.messages)) - opened * ASK_BYTES  # closing is told when the trace is made
        assert sum(map(len, way.messages)) == heads + sent * 2 * WIDTH
        assert down == (len(way.messages) - opened) * REPLY_BYTES

    async def test_a_device_that_blocks_waits_for_each_upload(
        self, device: ExitBackend, whole: TransformersBackend
    ) -> None:
        async def slow(number: int, data: bytes, carry: Any) -> bytes:
            await asyncio.sleep(0.03)
            reply: bytes = await carry(data)
            return reply

        texts, waited = [], []
        for upload in ("eager", "blocking"):
            strategy = EarlyExit(thresholds=(0.2,), sending=Sending(codec="fp32", upload=upload))  # type: ignore[arg-type]
            trace = await answer(strategy, sides(device, Through(whole, slow)), ask(1), SAMPLING)
            texts.append(trace.text)
            waited.append(sum(segment.seconds for segment in trace.segments if segment.source == "cloud"))
            own = trace.usage("device").completion_tokens
        assert texts[0] == texts[1] and own > 3
        assert waited[1] > waited[0] + 0.02 * own

    async def test_more_stands_on_the_device_the_lower_the_threshold(
        self, device: ExitBackend, whole: TransformersBackend
    ) -> None:
        shares = []
        for point in (0.0, 0.3, 0.5, 0.8, 1.01):
            found = await traces(replace(SOME, thresholds=(point,)), sides(device, whole), 8)
            cloud, own = (sum(t.usage(side).completion_tokens for t in found) for side in ("cloud", "device"))
            shares.append(cloud / (cloud + own))
        assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1 and 0 < shares[2] < 1

    async def test_a_threshold_for_each_exit(self, device: ExitBackend, whole: TransformersBackend) -> None:
        for i, trace in enumerate(await traces(replace(SOME, thresholds=(1.01, 0.0)), sides(device, whole), 3)):
            assert trace.source == "device" and not trace.wants_cloud
            assert trace.text == (await complete(device, ask(i), SAMPLING)).text

    async def test_chance_is_no_probability(self, device: ExitBackend, whole: TransformersBackend) -> None:
        chance = replace(SOME, control=1)
        texts = [[t.text for t in await traces(s, sides(device, whole), 4)] for s in (SOME, chance, chance)]
        assert texts[0] != texts[1] == texts[2]

    async def test_the_cloud_writes_no_more_than_it_may(self, device: ExitBackend, whole: TransformersBackend) -> None:
        question = await longest(device, whole)
        trace = await answer(replace(ALL, max_cloud_tokens=5), sides(device, whole), question, SAMPLING)
        assert trace.usage("cloud").completion_tokens == 5 and trace.source == "both"

    @pytest.mark.parametrize("upload", ["eager", "late"])
    async def test_one_reservation_and_nothing_left_behind(
        self, device: ExitBackend, whole: TransformersBackend, upload: Any
    ) -> None:
        budget = RecordingBudget()
        strategy = replace(SOME, sending=Sending(codec="fp16", upload=upload))
        found = await traces(strategy, sides(device, whole, budget=budget), 6)
        assert len(budget.estimates) + budget.kept == 6 and budget.open == 0
        assert len(budget.spent) == sum(trace.wants_cloud for trace in found)
        assert open_answers(whole) == 0


class TestFailures:
    async def test_a_budget_that_refuses_leaves_the_last_exit(
        self, device: ExitBackend, whole: TransformersBackend
    ) -> None:
        for upload in ("eager", "late"):
            strategy = replace(ALL, sending=Sending(upload=upload))  # type: ignore[arg-type]
            trace = await answer(strategy, sides(device, whole, budget=NoCloud()), ask(1), SAMPLING)
            assert trace.text == (await complete(device, ask(1), SAMPLING)).text
            assert (trace.reason, trace.source) == ("budget", "device") and trace.usage("cloud").up_bytes == 0

    async def test_a_link_that_is_down_leaves_the_last_exit(
        self, device: ExitBackend, whole: TransformersBackend
    ) -> None:
        async def down(number: int, data: bytes, carry: Any) -> bytes:
            raise BackendUnavailable("cloud: no route", backend="cloud")

        way = Through(whole, down)
        trace = await answer(ALL, sides(device, way), ask(1), SAMPLING)
        assert trace.text == (await complete(device, ask(1), SAMPLING)).text
        assert trace.error == "cloud: no route" and len(way.messages) <= 5

    async def test_a_late_token_is_the_last_exits_and_the_next_one_is_asked_for(
        self, device: ExitBackend, whole: TransformersBackend
    ) -> None:
        late = {3, 9}

        async def way(number: int, data: bytes, carry: Any) -> bytes:
            if number in late:
                await asyncio.sleep(30)
            reply: bytes = await carry(data)
            return reply

        sending = Sending(codec="fp32", upload="late", deadline_s=0.3)
        question = await longest(device, whole)
        trace = await answer(replace(ALL, sending=sending), sides(device, Through(whole, way)), question, SAMPLING)
        assert trace.error == "cloud: no token within 0.3 s"
        assert trace.usage("device").completion_tokens == 2
        assert trace.usage("cloud").completion_tokens + 2 == len(trace.text.split()) + (
            trace.end.finish_reason == "stop"
        )
        assert open_answers(whole) == 0

    async def test_states_that_did_not_arrive_go_with_the_next_question(
        self, device: ExitBackend, whole: TransformersBackend
    ) -> None:
        async def way(number: int, data: bytes, carry: Any) -> bytes:
            if number in (0, 4):
                raise BackendUnavailable("cloud: lost", backend="cloud")
            reply: bytes = await carry(data)
            return reply

        question = await longest(device, whole)
        trace = await answer(SOME, sides(device, Through(whole, way)), question, SAMPLING)
        assert trace.usage("cloud").completion_tokens > 3

    @pytest.mark.parametrize(
        ("spoil", "match"),
        [
            (lambda data: data[:-3], "bytes of states"),
            (lambda data: data[:16] + b"otherone" + data[24:], "states of model"),
            (lambda data: data[:24] + b"\x01\0" + data[26:], "for layer 1 on, and here are 2 to 5"),
            (lambda data: data[:-4] + b"\0\0\xc0\x7f", "not finite"),
        ],
        ids=["cut", "another model", "another layer", "nan"],
    )
    async def test_what_is_not_right_is_refused_and_the_device_goes_on(
        self, device: ExitBackend, whole: TransformersBackend, spoil: Any, match: str
    ) -> None:
        async def way(number: int, data: bytes, carry: Any) -> bytes:
            reply: bytes = await carry(spoil(data) if len(data) > ASK_BYTES else data)
            return reply

        strategy = replace(ALL, sending=Sending(codec="fp32", upload="late"))
        trace = await answer(strategy, sides(device, Through(whole, way)), ask(1), SAMPLING)
        assert trace.text == (await complete(device, ask(1), SAMPLING)).text
        assert trace.reason == "cloud-error" and match in (trace.error or "")

    @pytest.mark.parametrize("reply", [b"", b"\0" * REPLY_BYTES, b"\x01" + b"\xff" * (REPLY_BYTES - 1)])
    async def test_a_reply_that_is_none_leaves_the_last_exit(
        self, device: ExitBackend, whole: TransformersBackend, reply: bytes
    ) -> None:
        async def way(number: int, data: bytes, carry: Any) -> bytes:
            return reply

        strategy = replace(ALL, sending=Sending(upload="late"))
        trace = await answer(strategy, sides(device, Through(whole, way)), ask(1), SAMPLING)
        assert trace.text == (await complete(device, ask(1), SAMPLING)).text
        assert trace.error is not None

    async def test_a_reader_that_leaves_frees_both_sides(self, device: ExitBackend, whole: TransformersBackend) -> None:
        budget, question = RecordingBudget(), await longest(device, whole)
        for taken in (1, 3):
            events = SOME.stream(sides(device, whole, budget=budget), question, SAMPLING)
            for _ in range(taken):
                await anext(events)
            began = asyncio.get_running_loop().time()
            await events.aclose()  # type: ignore[attr-defined]
            assert asyncio.get_running_loop().time() - began < 0.2
        assert budget.open == 0 and open_answers(whole) == 0


class TestBeforeAnyWork:
    def test_thresholds_that_fit_no_exits_are_refused(self, device: ExitBackend, whole: TransformersBackend) -> None:
        with pytest.raises(ConfigError, match=r"thresholds: 3 values, and the device has exits behind \[2, 4\] layers"):
            check_sides(replace(SOME, thresholds=(0.1, 0.2, 0.3)), sides(device, whole))
        with pytest.raises(ConfigError, match="cloud_from: 2 is no exit of the device; give 0 to 1"):
            check_sides(replace(SOME, cloud_from=2), sides(device, whole))

    def test_another_model_is_refused(self, device: ExitBackend) -> None:
        with model("other", seed=6, layers=6) as other, pytest.raises(ConfigError, match="whose weights is"):
            check_sides(SOME, sides(device, other))
        with model("other", seed=6, layers=5) as other, pytest.raises(ConfigError, match="other holds a model whose"):
            check_sides(SOME, sides(device, other))

    def test_sides_without_layers_are_refused(self, device: ExitBackend, whole: TransformersBackend) -> None:
        with pytest.raises(ConfigError, match="needs a device with Exiting"):
            check_sides(SOME, sides(whole, whole))

    @pytest.mark.parametrize(
        "options", [{"thresholds": ()}, {"thresholds": (float("nan"),)}, {"thresholds": (-0.1,)},
                    {"sending": Sending(deadline_s=0.0)}, {"max_cloud_tokens": -1}],
    )  # fmt: skip
    def test_numbers_out_of_range_are_refused(self, options: Any) -> None:
        with pytest.raises(ConfigError):
            EarlyExit(**options)


class TestTheCloudsEnd:
    async def test_answers_are_forgotten_and_bounded(self, whole: TransformersBackend) -> None:
        import numpy as np

        from selfroute.network.layer_messages import Push, encode_push
        from selfroute.network.states import Block, encode_states

        def push(name: int, first: int = 0, count: int = 3, **more: Any) -> bytes:
            states = encode_states(Block(first, np.ones((count, WIDTH), np.float32)), "fp16")
            model = bytes.fromhex(whole.whole.weights)
            return encode_push(Push(session=name.to_bytes(16), model=model, first=2, states=states, **more))

        made = {"end_ids": [0], "window": 16, "lock": whole._model_lock}
        tails = Tails("cloud", whole.cut, whole.whole, 2, idle_s=1.0, most_open=8, patience_s=0.05, **made)  # type: ignore[arg-type]
        for name in range(8):
            await tails.carry(push(name, wanted=3 if name % 2 else 0))
        assert (len(tails), tails.positions) == (8, 24)
        with pytest.raises(BackendUnavailable, match="8 answers are open"):
            await tails.carry(push(99))
        with pytest.raises(BackendError, match="the window has 16"):
            await tails.carry(push(3, first=10, count=7))
        with pytest.raises(BackendUnavailable, match="3 positions came, and the token behind 5"):
            await tails.carry(push(4, wanted=5))
        await asyncio.sleep(2.2)
        assert (len(tails), tails.positions) == (0, 0)  # without any further message

    async def test_blocks_may_overtake_each_other(self, device: ExitBackend, whole: TransformersBackend) -> None:
        held: list[Any] = []

        async def way(number: int, data: bytes, carry: Any) -> bytes:
            if number % 2 == 0:
                await asyncio.sleep(0.01)
            reply: bytes = await carry(data)
            held.append(number)
            return reply

        for i in range(3):
            trace = await answer(ALL, sides(device, Through(whole, way)), ask(i), SAMPLING)
            assert trace.text == (await complete(whole, ask(i), SAMPLING)).text
            assert trace.error is None
        assert held != sorted(held)

    def test_layers_that_a_model_does_not_have_are_refused(self, whole: TransformersBackend) -> None:
        for first in (0, 6, -1):
            with pytest.raises(ConfigError, match="no place to cut cloud, which has 6; 1 to 5"):
                whole.tail(first)

"""Steps that change hands: both ends of δ, what each side reads, checkers, and clouds that fail."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.strategies.inside.pair import SAMPLING, Faulty, ask, other_word, sides

from selfroute.backends.base import complete
from selfroute.backends.sessions import Written
from selfroute.budget.base import NoCloud
from selfroute.config import make_strategy, parse_spec
from selfroute.errors import BackendUnavailable, ConfigError
from selfroute.prices import Price, Prices
from selfroute.scores.steps import FirstEntropy, MinProbability, RandomDoubt, Tags
from selfroute.strategies.base import answer, check_sides
from selfroute.strategies.inside.checkers import ByCloud, ByForesight, ByReward, ByTag, ByView
from selfroute.strategies.inside.step_level import StepLevel
from selfroute.testing import RecordingBudget
from selfroute.types import Finished, TextDelta, Trace

PRICES = Prices(device=Price(), cloud=Price(prompt_usd=1, completion_usd=10))
BY_VIEW = {
    "min_probability": ByView(scorer=MinProbability()),
    "first_entropy": ByView(scorer=FirstEntropy(), look=FirstEntropy.look, before=True),
    "random": ByView(scorer=RandomDoubt()),
    "oracle": ByForesight(),
}
END = "w3"  # ends a step: also w30 to w36
RIGHT, WRONG = "w35", "w36"


def steps(checker: Any, threshold: float, **options: Any) -> StepLevel:
    options = {"step_end": END, "max_step_tokens": 12} | options
    return StepLevel(checker=checker, threshold=threshold, **options)


def tagged(device: Any) -> Tags:
    return Tags(right=RIGHT, wrong=WRONG, step_end=END, device=device.identity)


async def traces(strategy: StepLevel, pair: Any, count: int) -> list[Trace]:
    return await asyncio.gather(*(answer(strategy, pair, ask(i), SAMPLING) for i in range(count)))


class TestEnds:
    @pytest.mark.parametrize("checker", BY_VIEW.values(), ids=BY_VIEW)
    async def test_are_each_side_alone(self, device: Any, cloud: Any, checker: Any) -> None:
        for threshold, side in ((4.0, device), (-1.0, cloud)):
            for i, trace in enumerate(await traces(steps(checker, threshold), sides(device, cloud), 8)):
                alone = await complete(side, ask(i), SAMPLING)
                assert (trace.text, trace.end.finish_reason) == (alone.text, alone.finish_reason)
                assert trace.source == side.name

    async def test_steps_end_at_their_mark(self, device: Any, cloud: Any) -> None:
        # Guards the test above: there are steps, of either side.
        found = await traces(steps(BY_VIEW["random"], 0.5), sides(device, cloud), 8)
        ends = [s.text for trace in found for s in trace.segments[:-1] if s.part == "answer" and s.source == "cloud"]
        assert sum(END in text for text in ends) > 5
        assert all(END not in " ".join(text.split()[:-1]) for text in ends)


class TestBetween:
    @pytest.mark.parametrize(
        ("name", "threshold"), [("min_probability", 0.8), ("first_entropy", 1.8), ("random", 0.5), ("oracle", 0.8)]
    )
    async def test_the_cloud_writes_what_is_doubted(self, device: Any, cloud: Any, name: str, threshold: float) -> None:
        found = await traces(steps(BY_VIEW[name], threshold), sides(device, cloud, prices=PRICES), 8)
        assert {trace.source for trace in found} & {"both"}
        for trace in found:
            used = trace.usage("cloud")
            turns = [segment for segment in trace.segments if segment.source == "cloud"]
            assert all(turn.score is not None and turn.score > threshold for turn in turns)
            assert all(
                segment.score is None or segment.score <= threshold
                for segment in trace.segments
                if segment.source == "device" and segment.part == "answer"
            )
            assert used.calls == bool(turns) and trace.wants_cloud == bool(turns)
            assert trace.cost_usd == pytest.approx((used.prompt_tokens + 10 * used.completion_tokens) / 1e6)
            thrown = [segment for segment in trace.segments if segment.part == "void" and segment.text]
            # Each step of the cloud stands for one of the device's; an end that it turned down leaves no text.
            assert len(turns) - 1 <= len(thrown) <= len(turns)

    async def test_the_reader_sees_whole_steps_and_who_wrote_them(self, device: Any, cloud: Any) -> None:
        strategy = steps(BY_VIEW["random"], 0.5)
        events = [event async for event in strategy.stream(sides(device, cloud), ask(2), SAMPLING)]
        trace = events[-1].trace  # type: ignore[union-attr]
        assert isinstance(events[-1], Finished) and trace.source == "both"
        said = [event for event in events[:-1] if isinstance(event, TextDelta)]
        assert len(said) == len(events) - 1
        assert "".join(event.text for event in said) == trace.text.lstrip()
        assert {event.source for event in said} == {"device", "cloud"}

    async def test_one_lease_is_settled_with_what_was_used(self, device: Any, cloud: Any) -> None:
        budget = RecordingBudget()
        trace = await answer(steps(BY_VIEW["random"], 0.5), sides(device, cloud, budget=budget), ask(2), SAMPLING)
        [estimate], [(used, _)] = budget.estimates, budget.spent
        assert used == trace.usage("cloud")
        assert used.prompt_tokens <= estimate.usage.prompt_tokens
        assert used.completion_tokens <= estimate.usage.completion_tokens
        assert (budget.open, budget.kept) == (0, 0)

    async def test_the_cloud_writes_no_more_than_it_may(self, device: Any, cloud: Any) -> None:
        for trace in await traces(steps(BY_VIEW["random"], -1, max_cloud_tokens=7), sides(device, cloud), 6):
            assert 0 < trace.usage("cloud").completion_tokens <= 7
            assert trace.error is None

    async def test_nothing_is_left_behind(self, device: Any, cloud: Any) -> None:
        await traces(steps(BY_VIEW["oracle"], 0.8), sides(device, cloud), 6)
        async with asyncio.timeout(0.2):
            while any(backend._running().pool.held for backend in (device, cloud)):
                await asyncio.sleep(0.005)


# --- against a plain re-computation --------------------------------------------------------------------------------


async def step_of(side: Any, prompt: Any, history: Sequence[int], limit: int) -> list[Written]:
    """One step by a session that has read everything anew."""
    session = side.session(prompt, SAMPLING)
    await session.read(history)
    written = await session.write(limit, until=(END,))
    await session.close()
    return list(written)


async def plainly(device: Any, cloud: Any, number: int, strategy: StepLevel, calls: int) -> list[int]:
    """The ids of an answer by the rule alone: no cache, nothing dropped; the cloud fails after so many calls."""
    pair = sides(device, cloud)
    prompt = pair.template.device_messages(ask(number), offer_handoff=False)
    right, wrong = (device.ids_of(tag) for tag in (RIGHT, WRONG)) if strategy.tags else ([], [])
    clean: list[int] = []
    history: list[int] = []
    left = math.inf if strategy.max_cloud_tokens is None else strategy.max_cloud_tokens
    while len(clean) < SAMPLING.max_tokens:
        limit = min(12, SAMPLING.max_tokens - len(clean))
        step = await step_of(device, prompt, history, limit)
        ids = [token.token_id for token in step]
        whole = step[-1].ends or END in device.tokenizer.decode(ids)
        doubt = strategy.checker.scorer(step)  # type: ignore[attr-defined]
        if doubt > strategy.threshold and left > 0 and calls > 0:
            calls -= 1
            theirs = await step_of(cloud, ask(number), clean, int(min(limit, left)))
            left -= len(theirs)
            history += [*ids, *wrong] if strategy.tags and whole else []
            step, ids = theirs, [token.token_id for token in theirs]
            whole = END in device.tokenizer.decode(ids)
        history += [*ids, *(right if whole else [])]
        clean += ids
        if step[-1].ends:
            break
    return clean


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    number=st.integers(0, 20),
    seed=st.integers(0, 99),
    threshold=st.floats(-0.2, 1.1),
    most=st.none() | st.integers(0, 30),
    calls=st.integers(0, 3) | st.just(99),
    with_tags=st.booleans(),
)
def test_any_alternation_is_what_the_rule_says(
    device: Any,
    cloud: Any,
    number: int,
    seed: int,
    threshold: float,
    most: int | None,
    calls: int,
    with_tags: bool,
) -> None:
    def fault(call: int, result: Any) -> Any:
        if call >= calls:
            raise BackendUnavailable("cloud: connection lost", backend="cloud")
        return result

    async def both() -> tuple[str, str]:
        tags = tagged(device) if with_tags else None
        checker = ByView(scorer=RandomDoubt(seed))
        strategy = steps(checker, threshold, max_cloud_tokens=most, tags=tags)
        trace = await answer(strategy, sides(device, Faulty(cloud, fault)), ask(number), SAMPLING)
        ids = await plainly(device, cloud, number, strategy, calls)
        return trace.text.strip(), device.tokenizer.decode(ids, skip_special_tokens=True)

    written, wanted = asyncio.run(both())
    assert written == wanted


# --- a device that tags its steps ----------------------------------------------------------------------------------


class TestTags:
    async def test_the_doubt_is_the_probability_of_the_tag(self, device: Any, cloud: Any) -> None:
        strategy = steps(ByTag(tags=tagged(device)), 9.0, tags=tagged(device))
        events = [event async for event in strategy.stream(sides(device, cloud), ask(3), SAMPLING)]
        trace = events[-1].trace  # type: ignore[union-attr]
        prompt = sides(device, cloud).template.device_messages(ask(3), offer_handoff=False)
        session = device.session(prompt, SAMPLING)
        doubts, count = [], 0
        while count < SAMPLING.max_tokens:
            written = await session.write(min(12, SAMPLING.max_tokens - count), until=(END,))
            count += len(written)
            if END in device.tokenizer.decode([token.token_id for token in written]):
                view, _ = await session.read(device.ids_of(WRONG), every=True)
                doubts.append(math.exp(view.given))
                await session.drop(1)
                await session.read(device.ids_of(RIGHT))
            if written[-1].ends:
                break
        await session.close()
        assert doubts and trace.source == "device"
        # A tag that is not among the 20 likeliest of 40 counts as 0.
        assert trace.segments[0].score == pytest.approx(max(doubts), abs=0.02)

    async def test_reflection_lets_the_device_write_the_step_anew(self, device: Any, cloud: Any) -> None:
        budget = RecordingBudget()
        strategy = steps(BY_VIEW["random"], -1.0, tags=tagged(device), mode="reflection")
        check_sides(strategy, sides(device, None))
        trace = await answer(strategy, sides(device, None, budget=budget), ask(2), SAMPLING)
        assert (trace.source, trace.wants_cloud, trace.reason) == ("device", False, "answered")
        assert budget.estimates == [] and budget.kept == 1
        first = (await complete(device, sides(device, None).template.device_messages(ask(2)), SAMPLING)).text
        thrown = [segment.text for segment in trace.segments if segment.part == "void"]
        assert thrown and first.startswith(thrown[0].strip())
        session = device.session(sides(device, None).template.device_messages(ask(2)), SAMPLING)
        ids = [token.token_id for token in await session.write(12, until=(END,))]
        await session.read(device.ids_of(WRONG))
        second = [token.token_id for token in await session.write(12, until=(END,))]
        assert device.tokenizer.decode(ids) == thrown[0].strip()
        assert trace.text.split()[: len(second)] == device.tokenizer.decode(second).split()

    async def test_are_those_of_one_device(self, device: Any, cloud: Any, tmp_path: Path) -> None:
        tagged(device).save(tmp_path)
        loaded = make_strategy(parse_spec({"step_level": {"checker": "tag", "tags": str(tmp_path)}}, "x"))
        assert isinstance(loaded, StepLevel) and (loaded.threshold, loaded.step_end) == (0.5, END)
        check_sides(loaded, sides(device, cloud))
        with pytest.raises(ConfigError, match=r"tags: they are those of the device transformers/\w+, and cloud is"):
            check_sides(loaded, sides(cloud, device))

    async def test_a_tag_is_one_token(self, device: Any, cloud: Any) -> None:
        two = replace(tagged(device), wrong="w1 w2")
        with pytest.raises(ConfigError, match="tags: 'w1 w2' is 2 tokens of the device"):
            check_sides(steps(ByTag(tags=two), 0.5, tags=two), sides(device, cloud))


# --- checkers that ask others --------------------------------------------------------------------------------------


class TestOthers:
    async def test_a_reward_model_reads_question_and_answer(self, device: Any, cloud: Any) -> None:
        heard: list[str] = []

        async def reward(question: str, text: str) -> float:
            assert question == ask(2)[0].content
            heard.append(text)
            return 0.75 if len(heard) % 2 else 0.65

        trace = await answer(steps(ByReward(reward=reward), 0.3), sides(device, cloud), ask(2), SAMPLING)
        assert trace.source == "both" and len(heard) > 2
        assert heard[-1].startswith(heard[0]), "accepted at 0.7 and above, so the first step stands"
        assert not heard[2].startswith(heard[1])

    async def test_the_clouds_digit_is_asked_for_under_the_same_lease(self, device: Any, cloud: Any) -> None:
        digits = iter("9620 7")

        class Judging(Faulty):
            async def stream(self, messages: Any, sampling: Any) -> Any:
                assert messages[-1].content.startswith(ask(2)[0].content)
                async for delta in self.inner.stream(messages, sampling):
                    if delta.finish_reason is not None:
                        yield replace(delta, text=next(digits, "9"))

        budget = RecordingBudget()
        judging = Judging(cloud, lambda call, result: result)
        trace = await answer(steps(ByCloud(), 0.25), sides(device, judging, budget=budget), ask(2), SAMPLING)
        assert trace.source == "both" and trace.error is None
        probes = [segment for segment in trace.segments if segment.part == "probe"]
        assert [probe.text for probe in probes[:4]] == ["9", "6", "2", "0"]
        sources = [s.source for s in trace.segments if s.part == "answer"]
        assert sources[0] == "device" and sources[1] == "cloud"
        [(used, _)] = budget.spent
        assert used == trace.usage("cloud") and used.calls == len(probes) + 1
        assert used.prompt_tokens <= budget.estimates[0].usage.prompt_tokens and len(budget.estimates) == 1

    async def test_a_cloud_that_judges_nothing_leaves_the_device(self, device: Any, cloud: Any) -> None:
        trace = await answer(steps(ByCloud(), 0.25), sides(device, cloud, budget=NoCloud()), ask(2), SAMPLING)
        assert trace.text == (await complete(device, ask(2), SAMPLING)).text
        assert (trace.reason, trace.source) == ("budget", "device")

    async def test_a_token_classifier_is_loaded_from_its_folder(self, device: Any, cloud: Any, tmp_path: Path) -> None:
        from transformers import LlamaConfig, LlamaForTokenClassification

        for labels in (2, 3):
            config = LlamaConfig(
                vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                num_key_value_heads=1, num_labels=labels, pad_token_id=1, bos_token_id=None, eos_token_id=0,
            )  # fmt: skip
            LlamaForTokenClassification(config).save_pretrained(tmp_path / str(labels))
            device.tokenizer.save_pretrained(tmp_path / str(labels))
        options = {"checker": "prm", "prm": str(tmp_path / "2"), "step_end": END}
        strategy = make_strategy(parse_spec({"step_level": options}, "x"))
        assert isinstance(strategy, StepLevel) and strategy.threshold == 0.3
        trace = await answer(strategy, sides(device, cloud), ask(2), SAMPLING)
        assert trace.error is None
        for folder, said in (("3", "has 3 classes"), ("nowhere", "cannot be loaded as a token classifier")):
            with pytest.raises(ConfigError, match=said):
                make_strategy(parse_spec({"step_level": options | {"prm": str(tmp_path / folder)}}, "x"))


# --- clouds that fail ----------------------------------------------------------------------------------------------


def gone(call: int, result: Any) -> Any:
    if call == 1:
        raise BackendUnavailable("cloud: the answer was cut off", backend="cloud")
    return result


def foreign(call: int, result: Any) -> Any:
    return other_word(result, 999) if call == 1 else result


def too_many(call: int, result: Any) -> Any:
    return [*result, *result] * 12 if call == 1 else result


class TestFaults:
    @pytest.mark.parametrize(
        ("fault", "said"),
        [(gone, "cut off"), (foreign, "token 999 is outside its vocabulary"), (too_many, "tokens came, and 1 to 12")],
    )
    @pytest.mark.parametrize("name", ["random", "first_entropy"])
    async def test_the_device_goes_on_from_where_the_text_stands(
        self, device: Any, cloud: Any, fault: Any, said: str, name: str
    ) -> None:
        faulty, budget = Faulty(cloud, fault), RecordingBudget()
        pair = sides(device, faulty, budget=budget)
        trace = await answer(steps(BY_VIEW[name], -1.0), pair, ask(2), SAMPLING)
        assert said in (trace.error or "") and (trace.reason, trace.source) == ("cloud-error", "both")
        first, second = [segment for segment in trace.segments if segment.part == "answer"][:2]
        assert (first.source, second.source) == ("cloud", "device")
        session = device.session(ask(2), SAMPLING)
        await session.read(device.ids_of(first.text))
        rest = await session.write(40 - len(session.ids))
        text = device.tokenizer.decode([token.token_id for token in rest], skip_special_tokens=True)
        assert trace.text.split()[len(first.text.split()) :] == text.split()
        assert faulty.opened[0].closed and budget.open == 0 and len(budget.spent) == 1

    async def test_a_refusal_leaves_the_device_alone(self, device: Any, cloud: Any) -> None:
        strategy = steps(BY_VIEW["random"], -1.0)
        trace = await answer(strategy, sides(device, cloud, budget=NoCloud()), ask(2), SAMPLING)
        assert trace.text == (await complete(device, ask(2), SAMPLING)).text
        assert (trace.reason, trace.wants_cloud, trace.source) == ("budget", True, "device")


class TestRecipe:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"checker": "min_probabilty", "threshold": 0.5}, "unknown checker 'min_probabilty'; did you mean 'min_pr"),
            ({"checker": "random"}, "threshold: missing for checker random"),
            ({"checker": "tag"}, "tags: missing for checker tag; name the folder that algorithm: adaswitch made"),
            ({"checker": "tag", "tags": "nowhere"}, "tags: 'nowhere' holds no device that tags its steps"),
            ({"checker": "prm"}, "prm: missing for checker prm"),
            ({"checker": "random", "threshold": 0.5, "prm": "x"}, "prm: random asks no reward model"),
            ({"threshold": 0.5, "mode": "reflection"}, "mode: reflection needs a device that tags its steps"),
            ({"threshold": 0.5, "mode": "self"}, "mode: 'self'"),
            ({"threshold": 0.5, "step_end": ""}, "step_end: it is empty"),
            ({"threshold": 0.5, "max_cloud_tokens": -1}, "max_cloud_tokens: -1"),
            ({"threshold": 0.5, "max_step_tokens": 0}, "max_step_tokens: 0"),
            ({"threshhold": 0.5}, "unknown key 'threshhold'; did you mean 'threshold'"),
        ],
    )
    def test_names_what_is_wrong(self, options: dict[str, Any], said: str) -> None:
        with pytest.raises(ConfigError, match=re.escape(said)):
            make_strategy(parse_spec({"step_level": options}, "strategy"))

    def test_another_mark_than_the_devices_is_refused(self, device: Any, tmp_path: Path) -> None:
        tagged(device).save(tmp_path)
        options = {"checker": "tag", "tags": str(tmp_path), "step_end": "|"}
        with pytest.raises(ConfigError, match=r"step_end: '\|' ends no step of the device in .*; write 'w3'"):
            make_strategy(parse_spec({"step_level": options}, "strategy"))

    def test_a_mark_that_the_device_cannot_write_is_refused(self, device: Any, cloud: Any) -> None:
        with pytest.raises(ConfigError, match=r"step_end: ';' never occurs, as device has no tokens for it"):
            check_sides(steps(BY_VIEW["random"], 0.5, step_end=";"), sides(device, cloud))

    def test_a_cloud_that_cannot_score_is_refused_under_the_oracle(self, device: Any, cloud: Any) -> None:
        class Unscoring(Faulty):
            gives = property(lambda self: self.inner.gives - {"every"})

        with pytest.raises(ConfigError, match="needs a cloud whose sessions give every"):
            check_sides(steps(BY_VIEW["oracle"], 0.5), sides(device, Unscoring(cloud, lambda call, result: result)))

    def test_a_device_without_views_is_refused_under_the_entropy(self, device: Any, cloud: Any) -> None:
        class Blind(Faulty):
            gives = property(lambda self: self.inner.gives - {"top"})

        with pytest.raises(ConfigError, match="needs a device whose sessions give top"):
            check_sides(steps(BY_VIEW["first_entropy"], 1.0), sides(Blind(device, lambda call, r: r), cloud))

    def test_an_oracle_is_marked(self) -> None:
        assert steps(ByForesight(), 0.5).oracle and not steps(BY_VIEW["random"], 0.5).oracle

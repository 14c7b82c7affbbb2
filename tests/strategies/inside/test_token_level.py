"""Tokens that change hands: both ends of the threshold, what the trace says, and clouds that fail."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from tests.strategies.inside.pair import SAMPLING, Faulty, ask, model, other_word, sides

from selfroute.backends.base import complete
from selfroute.backends.sessions import Look
from selfroute.backends.transformers import TransformersBackend
from selfroute.budget.base import NoCloud
from selfroute.config import make_strategy, parse_spec
from selfroute.errors import BackendUnavailable, ConfigError
from selfroute.prices import Price, Prices
from selfroute.scores.tokens import Entropy, HeadKind, MaxProbability, Pair, RandomScore, TokenHead, features
from selfroute.strategies.base import answer, check_sides
from selfroute.strategies.inside.token_level import Foresight, TokenLevel
from selfroute.testing import RecordingBudget
from selfroute.types import Finished, Sampling, TextDelta, Trace, Usage

PRICES = Prices(device=Price(), cloud=Price(prompt_usd=1, completion_usd=10))
SCORERS = [MaxProbability(), Entropy(), RandomScore(), Foresight()]
WARM = Sampling(max_tokens=40, temperature=1.0, seed=3)


def head(device: TransformersBackend, cloud: TransformersBackend, **changes: Any) -> TokenHead:
    rng = np.random.default_rng(0)
    inputs = 24 + 3 + 1 + 1
    given = {
        "kind": "rel",
        "look": Look(top=3, entropy=True, hidden=True),
        "layers": [
            (rng.normal(size=(5, inputs)).astype(np.float32), np.zeros(5, np.float32)),
            (rng.normal(size=(1, 5)).astype(np.float32), np.zeros(1, np.float32)),
        ],
        "mean": np.zeros(inputs, np.float32),
        "deviation": np.ones(inputs, np.float32),
        "pair": Pair(device.identity, cloud.identity),
        "threshold": 0.4,
    }
    return TokenHead(**(given | changes))


async def traces(strategy: TokenLevel, pair: Any, count: int, sampling: Sampling = SAMPLING) -> list[Trace]:
    return await asyncio.gather(*(answer(strategy, pair, ask(i), sampling) for i in range(count)))


class TestEnds:
    @pytest.mark.parametrize("scorer", SCORERS, ids=lambda s: type(s).__name__)
    @pytest.mark.parametrize("sampling", [SAMPLING, WARM], ids=["greedy", "sampled"])
    async def test_are_each_side_alone(self, device: Any, cloud: Any, scorer: Any, sampling: Sampling) -> None:
        for threshold, side in ((0.0, device), (1.01, cloud)):
            strategy = TokenLevel(scorer=scorer, threshold=threshold)
            together = await traces(strategy, sides(device, cloud), 8, sampling)
            for i, trace in enumerate(together):
                alone = await complete(side, ask(i), sampling)
                assert trace.text == alone.text
                if i < 2:
                    assert (await answer(strategy, sides(device, cloud), ask(i), sampling)).text == alone.text
                assert trace.end.finish_reason == alone.finish_reason
                assert trace.source == side.name

    async def test_differ(self, device: Any, cloud: Any) -> None:
        # Guards the test above.
        texts = [[(await complete(side, ask(i), SAMPLING)).text for side in (device, cloud)] for i in range(12)]
        assert sum(one != other for one, other in texts) > 6


class TestBetween:
    @pytest.mark.parametrize("scorer", SCORERS, ids=lambda s: type(s).__name__)
    @pytest.mark.parametrize("tokens", [1, 3])
    async def test_the_cloud_writes_what_the_score_turns_down(
        self, device: Any, cloud: Any, scorer: Any, tokens: int
    ) -> None:
        strategy = TokenLevel(scorer=scorer, threshold=0.4, tokens=tokens)
        found = await traces(strategy, sides(device, cloud, prices=PRICES), 8)
        assert any(trace.source == "both" for trace in found)
        for trace in found:
            used = trace.usage("cloud")
            turns = [segment for segment in trace.segments if segment.source == "cloud"]
            assert all(0 < turn.usage.completion_tokens <= tokens for turn in turns)
            assert used.calls == bool(turns)
            assert used.completion_tokens + trace.usage("device").completion_tokens <= SAMPLING.max_tokens
            assert trace.cost_usd == pytest.approx((used.prompt_tokens + 10 * used.completion_tokens) / 1e6)
            assert trace.wants_cloud == bool(turns)
            assert all(turn.score is not None and turn.score > 0.6 for turn in turns)

    async def test_the_reader_sees_who_writes(self, device: Any, cloud: Any) -> None:
        strategy = TokenLevel(scorer=MaxProbability(), threshold=0.4)
        events = [event async for event in strategy.stream(sides(device, cloud), ask(2), SAMPLING)]
        trace = events[-1].trace  # type: ignore[union-attr]
        assert isinstance(events[-1], Finished) and trace.source == "both"
        said = [event for event in events[:-1] if isinstance(event, TextDelta)]
        assert len(said) == len(events) - 1
        assert "".join(event.text for event in said) == trace.text.lstrip()
        assert {event.source for event in said} == {"device", "cloud"}

    async def test_a_stop_string_may_be_written_by_both(self, device: Any, cloud: Any) -> None:
        strategy = TokenLevel(scorer=MaxProbability(), threshold=0.4)
        whole = (await answer(strategy, sides(device, cloud), ask(2), SAMPLING)).text
        stop = whole[len(whole) // 2 - 3 : len(whole) // 2 + 3]
        trace = await answer(strategy, sides(device, cloud), ask(2), replace(SAMPLING, stop=(stop,)))
        assert trace.text == whole[: whole.index(stop)]
        assert trace.end.finish_reason == "stop"

    async def test_the_cloud_writes_no_more_than_it_may(self, device: Any, cloud: Any) -> None:
        strategy = TokenLevel(scorer=MaxProbability(), threshold=1.01, tokens=3, max_cloud_tokens=7)
        for trace in await traces(strategy, sides(device, cloud), 6):
            assert trace.usage("cloud").completion_tokens <= 7
            assert trace.error is None

    async def test_nothing_is_left_behind(self, device: Any, cloud: Any) -> None:
        await traces(TokenLevel(scorer=Entropy(), threshold=0.4), sides(device, cloud), 6)
        await nothing_is_held(device, cloud)


async def nothing_is_held(*backends: Any) -> None:
    async with asyncio.timeout(0.2):
        while any(backend._running().pool.held for backend in backends):
            await asyncio.sleep(0.005)


class TestBudget:
    async def test_one_lease_is_settled_with_what_was_used(self, device: Any, cloud: Any) -> None:
        budget = RecordingBudget()
        strategy = TokenLevel(scorer=MaxProbability(), threshold=0.5)
        trace = await answer(strategy, sides(device, cloud, budget=budget, prices=PRICES), ask(2), SAMPLING)
        [estimate], [(used, usd)] = budget.estimates, budget.spent
        assert used == trace.usage("cloud") and usd == pytest.approx(trace.cost_usd)
        assert used.prompt_tokens <= estimate.usage.prompt_tokens
        assert used.completion_tokens <= estimate.usage.completion_tokens
        assert (budget.open, budget.kept) == (0, 0)

    async def test_an_answer_without_the_cloud_is_kept(self, device: Any, cloud: Any) -> None:
        budget = RecordingBudget()
        pair = sides(device, cloud, budget=budget)
        await answer(TokenLevel(scorer=MaxProbability(), threshold=0), pair, ask(2), SAMPLING)
        assert (budget.estimates, budget.kept) == ([], 1)

    async def test_a_refusal_leaves_the_device_to_go_on(self, device: Any, cloud: Any) -> None:
        strategy = TokenLevel(scorer=MaxProbability(), threshold=0.5)
        trace = await answer(strategy, sides(device, cloud, budget=NoCloud()), ask(2), SAMPLING)
        assert trace.text == (await complete(device, ask(2), SAMPLING)).text
        assert (trace.reason, trace.wants_cloud, trace.source) == ("budget", True, "device")
        assert trace.refusal is not None and trace.refusal.limit == "calls"

    async def test_a_reader_that_leaves_owes_what_was_used(self, device: Any, cloud: Any) -> None:
        budget = RecordingBudget()
        strategy = TokenLevel(scorer=MaxProbability(), threshold=1.01)
        stream = strategy.stream(sides(device, cloud, budget=budget), ask(2), SAMPLING)
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        [(used, _)] = budget.spent
        assert used.completion_tokens == 1 and budget.open == 0
        await nothing_is_held(device, cloud)


def gone(call: int, result: Any) -> Any:
    if call == 2:
        raise BackendUnavailable("cloud: the answer was cut off", backend="cloud")
    return result


def foreign(call: int, result: Any) -> Any:
    return other_word(result, 999) if call == 2 else result


def too_many(call: int, result: Any) -> Any:
    return [*result, *result] if call == 2 else result


class TestFaults:
    @pytest.mark.parametrize(
        ("fault", "said"),
        [(gone, "cut off"), (foreign, "token 999 is outside its vocabulary"), (too_many, "2 tokens came, and 1 to 1")],
    )
    async def test_the_device_goes_on_from_where_the_text_stands(
        self, device: Any, cloud: Any, fault: Any, said: str
    ) -> None:
        faulty = Faulty(cloud, fault)
        strategy = TokenLevel(scorer=MaxProbability(), threshold=1.01)
        budget = RecordingBudget()
        trace = await answer(strategy, sides(device, faulty, budget=budget), ask(2), SAMPLING)
        assert trace.error is not None and said in trace.error
        assert trace.reason == "cloud-error" and trace.source == "both"
        alone = (await complete(cloud, ask(2), SAMPLING)).text.split()
        assert trace.text.split()[:2] == alone[:2]
        # From there on it is what the device writes after these two.
        session = device.session(ask(2), SAMPLING)
        await session.read([device.tokenizer.convert_tokens_to_ids(word) for word in alone[:2]])
        rest = await session.write(38)
        text = device.tokenizer.decode([token.token_id for token in rest], skip_special_tokens=True)
        assert trace.text.split()[2:] == text.split()
        assert faulty.opened[0].closed and budget.open == 0
        assert len(budget.spent) == 1

    async def test_a_cloud_that_is_not_there_costs_nothing(self, device: Any, cloud: Any) -> None:
        def refused(call: int, result: Any) -> Any:
            raise BackendUnavailable("cloud: connection refused", backend="cloud")

        class Down(Faulty):
            def session(self, *args: Any, **options: Any) -> Any:
                raise BackendUnavailable("cloud: connection refused", backend="cloud")

        budget = RecordingBudget()
        strategy = TokenLevel(scorer=MaxProbability(), threshold=1.01)
        trace = await answer(strategy, sides(device, Down(cloud, refused), budget=budget), ask(2), SAMPLING)
        assert trace.text == (await complete(device, ask(2), SAMPLING)).text
        assert "connection refused" in (trace.error or "") and not budget.spent and not budget.open


class TestHead:
    async def test_scores_the_same_in_any_company(self, device: Any, cloud: Any) -> None:
        scorer = head(device, cloud)
        strategy = TokenLevel(scorer=scorer, threshold=0.4)
        together = await traces(strategy, sides(device, cloud), 8)
        assert any(trace.source == "both" for trace in together)
        for i, trace in enumerate(together):
            assert trace.text == (await answer(strategy, sides(device, cloud), ask(i), SAMPLING)).text

    async def test_is_kept_in_a_folder(self, device: Any, cloud: Any, tmp_path: Path) -> None:
        scorer = head(device, cloud, facts={"auroc": 0.9})
        scorer.save(tmp_path / "head")
        loaded = TokenHead.load(tmp_path / "head")
        written = await device.session(ask(1), SAMPLING, look=scorer.look).write(6)
        assert loaded(written) == scorer(written)
        assert (loaded.threshold, loaded.pair, loaded.facts) == (0.4, scorer.pair, {"auroc": 0.9})
        assert features(scorer.look, written).shape == (6, 29)
        made = make_strategy(
            parse_spec({"token_level": {"scorer": "reward_head", "head": str(tmp_path / "head")}}, "x")
        )
        assert isinstance(made, TokenLevel) and made.threshold == 0.4
        check_sides(made, sides(device, cloud))

    async def test_of_another_pair_is_refused(self, device: Any, cloud: Any) -> None:
        strategy = TokenLevel(scorer=head(device, device), threshold=0.4)
        with pytest.raises(ConfigError, match=r"head was trained for the cloud transformers/\w+, and cloud"):
            check_sides(strategy, sides(device, cloud))


class TestRecipe:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"scorer": "max_probabilty", "threshold": 0.5}, "unknown scorer 'max_probabilty'; did you mean 'max_prob"),
            ({"scorer": "entropy"}, "threshold: missing for scorer entropy"),
            ({"scorer": "reward_head"}, "head: missing for scorer reward_head"),
            ({"scorer": "reward_head", "head": "nowhere"}, "scorer: 'nowhere' holds no head of tokens"),
            ({"scorer": "entropy", "threshold": 0.5, "head": "x"}, "head: entropy is not trained"),
            ({"threshold": 0.5, "tokens": 0}, "tokens: 0"),
            ({"threshold": 0.5, "max_cloud_tokens": -1}, "max_cloud_tokens: -1"),
            ({"threshhold": 0.5}, "unknown key 'threshhold'; did you mean 'threshold'"),
        ],
    )
    def test_names_what_is_wrong(self, options: dict[str, Any], said: str) -> None:
        with pytest.raises(ConfigError, match=re.escape(said)):
            make_strategy(parse_spec({"token_level": options}, "strategy"))

    def test_a_head_of_another_kind(self, device: Any, cloud: Any, tmp_path: Path) -> None:
        head(device, cloud, kind="citer").save(tmp_path)
        options = {"scorer": "reward_head", "head": str(tmp_path)}
        with pytest.raises(ConfigError, match=r"was trained as citer, not for reward_head; write scorer: citer"):
            make_strategy(parse_spec({"token_level": options}, "strategy"))

    @pytest.mark.parametrize("kind", get_args(HeadKind))
    def test_a_head_says_what_it_is_for(self, device: Any, cloud: Any, tmp_path: Path, kind: HeadKind) -> None:
        head(device, cloud, kind=kind).save(tmp_path)
        made = make_strategy(parse_spec({"token_level": {"head": str(tmp_path), "threshold": 0.5}}, "strategy"))
        assert isinstance(made, TokenLevel) and isinstance(made.scorer, TokenHead) and made.scorer.kind == kind

    def test_other_vocabularies_are_refused(self, device: Any) -> None:
        with (
            model("cloud", seed=3, words=30) as other,
            pytest.raises(ConfigError, match=r"device \(\w+\) and cloud \(\w+\) have different vocabularies"),
        ):
            check_sides(TokenLevel(scorer=Entropy(), threshold=0.5), sides(device, other))

    def test_a_cloud_without_sessions_is_refused(self, device: Any) -> None:
        from selfroute.backends.function import FunctionBackend

        cloud = FunctionBackend("chat", lambda messages, sampling: "hello")
        with pytest.raises(ConfigError, match="needs a cloud with Sessions, and chat has none"):
            check_sides(TokenLevel(scorer=Entropy(), threshold=0.5), sides(device, cloud))

    def test_best_of_n_has_no_sessions(self, device: Any, cloud: Any) -> None:
        from selfroute.backends.best_of import BestOfN

        best = BestOfN(cloud, 4, lambda text: True)
        with pytest.raises(ConfigError, match="needs a cloud with Sessions"):
            check_sides(TokenLevel(scorer=Entropy(), threshold=0.5), sides(device, best))

    def test_an_oracle_is_marked(self) -> None:
        assert TokenLevel(scorer=Foresight(), threshold=0.5).oracle
        assert not TokenLevel(scorer=Entropy(), threshold=0.5).oracle


def test_usage_of_a_device_is_its_own(device: Any) -> None:
    assert device.session(ask(1), SAMPLING).used == Usage()

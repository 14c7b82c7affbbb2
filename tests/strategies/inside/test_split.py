"""A model cut where a policy says: equal to itself over a link that delivers, and never an exception over one that
does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.strategies.inside.pair import SAMPLING, ask, first_part, model, sides

from selfroute.backends.base import complete
from selfroute.backends.exits import ExitBackend
from selfroute.backends.layers import Sending, Whole
from selfroute.backends.transformers import TransformersBackend
from selfroute.budget.base import NoCloud
from selfroute.config import Spec, make_strategy
from selfroute.errors import ConfigError
from selfroute.network.channel import Channel, Weather
from selfroute.network.layer_messages import ASK_BYTES
from selfroute.network.states import HEADER_BYTES
from selfroute.strategies.base import Knobbed, answer, check_sides
from selfroute.strategies.inside.choosers import Fixed, Net, PolicyFolder, SurrogateNet, Threshold, rewards
from selfroute.strategies.inside.split import Split
from selfroute.testing import RecordingBudget
from selfroute.types import Sampling

WARM = Sampling(max_tokens=40, temperature=1.0, seed=3)
EXACT = Sending(codec="fp32", upload="late")
CALM = Weather(good=0.0, bad=0.0)


@pytest.fixture(scope="module")
def whole() -> Iterator[TransformersBackend]:
    with model("cloud", seed=5, layers=6) as made:
        yield made


@pytest.fixture(scope="module")
def same(whole: TransformersBackend) -> Iterator[TransformersBackend]:
    """All layers on the device, too."""
    with model("device", seed=5, layers=6) as made:
        yield made


@pytest.fixture(scope="module")
def half(whole: TransformersBackend) -> Iterator[ExitBackend]:
    with first_part(whole, (2, 4)) as made:
        yield made


def steep(slope: float = 4.0, most: float = 0.6, layers: int = 6) -> SurrogateNet:
    """A surrogate that rises where the loss is larger than the depth: slope · most · relu(p / most - l / L)."""
    hidden, out = np.array([[1.0, -1.0]], np.float32), np.array([[slope * most]], np.float32)
    none = np.zeros(1, np.float32)
    return SurrogateNet(Net([(hidden, none), (out, none)]), most, layers, 0.0, 1.0)


def folder(
    whole: Whole, *, method: str = "argmax", places: tuple[int, ...] = (1, 2, 3, 4), **more: Any
) -> PolicyFolder:
    return PolicyFolder(
        whole=whole, places=places, channel=Channel(), weight=1.0, method=method, surrogate=steep(), **more
    )


class TestTheWholeModel:
    @pytest.mark.parametrize("sampling", [SAMPLING, WARM], ids=["greedy", "sampled"])
    @pytest.mark.parametrize("place", [1, 3, 5])
    async def test_answers_over_a_link_that_delivers(
        self, same: TransformersBackend, whole: TransformersBackend, place: int, sampling: Sampling
    ) -> None:
        for channel in (None, Channel(kind="element_drop")):
            strategy = Split(choose=Fixed(place), sending=EXACT, channel=channel, weather=CALM)
            for i in range(4):
                trace = await answer(strategy, sides(same, whole), ask(i), sampling)
                assert trace.text == (await complete(whole, ask(i), sampling)).text
                assert (trace.source, trace.error) == ("cloud", None)
                used, own = trace.usage("cloud"), trace.usage("device")
                assert own.completion_tokens == 0 and own.layer_tokens == place * used.prompt_tokens
                assert used.layer_tokens == (6 - place) * used.prompt_tokens

    async def test_a_device_of_some_layers_is_cut_at_any_of_them(
        self, half: ExitBackend, whole: TransformersBackend
    ) -> None:
        assert half.cuts()[1] == (1, 2, 3, 4)
        for place in (1, 3, 4):
            strategy = Split(choose=Fixed(place), sending=EXACT)
            check_sides(strategy, sides(half, whole))
            trace = await answer(strategy, sides(half, whole), ask(2), SAMPLING)
            assert trace.text == (await complete(whole, ask(2), SAMPLING)).text


class TestALossyLink:
    async def test_more_loss_leaves_less_of_the_answer(
        self, same: TransformersBackend, whole: TransformersBackend
    ) -> None:
        alike = []
        for loss in (0.0, 0.05, 0.9):
            strategy = Split(
                choose=Fixed(2), sending=EXACT, channel=Channel(), weather=Weather(good=loss, bad=loss), seed=1
            )
            found = [(await answer(strategy, sides(same, whole), ask(i), SAMPLING)).text for i in range(8)]
            alike.append(sum([text == (await complete(whole, ask(i), SAMPLING)).text for i, text in enumerate(found)]))
            again = [(await answer(strategy, sides(same, whole), ask(i), SAMPLING)).text for i in range(8)]
            assert again == found
        assert alike[0] == 8 and alike[0] > alike[1] >= alike[2] and alike[2] < 3

    async def test_bytes_are_those_of_the_codec_and_of_what_went_again(
        self, same: TransformersBackend, whole: TransformersBackend
    ) -> None:
        plain = Split(choose=Fixed(2), sending=Sending(codec="fp16", upload="late"))
        trace = await answer(plain, sides(same, whole), ask(1), SAMPLING)
        used = trace.usage("cloud")
        assert used.up_bytes == used.completion_tokens * (ASK_BYTES + HEADER_BYTES) + used.prompt_tokens * 2 * 24
        dropped = replace(plain, channel=Channel(kind="packet_drop"), weather=CALM)
        assert (await answer(dropped, sides(same, whole), ask(1), SAMPLING)).usage("cloud").up_bytes == used.up_bytes
        again = replace(
            plain, channel=Channel(kind="packet_drop", arq=True), weather=Weather(good=0.5, bad=0.5), seed=2
        )
        retried = await answer(again, sides(same, whole), ask(1), SAMPLING)
        assert retried.text == trace.text
        heads = used.completion_tokens * (ASK_BYTES + HEADER_BYTES)
        assert (retried.usage("cloud").up_bytes - heads) / (used.up_bytes - heads) == pytest.approx(2, rel=0.3)

    async def test_a_link_that_is_out_leaves_the_device(
        self, same: TransformersBackend, half: ExitBackend, whole: TransformersBackend
    ) -> None:
        out = Split(choose=Fixed(2), channel=Channel(kind="outage"), weather=Weather(good=1.0, bad=1.0))
        for device in (same, half):
            budget = RecordingBudget()
            trace = await answer(out, sides(device, whole, budget=budget), ask(1), SAMPLING)
            assert trace.text == (await complete(device, ask(1), SAMPLING)).text
            assert (trace.source, trace.error) == ("device", "cloud: the link is out") and budget.open == 0
        assert sum(len(tail) for tail in whole._tails.values()) == 0

    async def test_a_token_that_is_lost_is_the_devices(
        self, same: TransformersBackend, whole: TransformersBackend
    ) -> None:
        some = Split(
            choose=Fixed(2), sending=EXACT, channel=Channel(kind="outage"), weather=Weather(good=0.3, bad=0.3), seed=4
        )
        both = [await answer(some, sides(same, whole), ask(i), SAMPLING) for i in range(6)]
        # The device has the whole model: whoever writes a token, it is the same.
        for i, trace in enumerate(both):
            assert trace.text == (await complete(whole, ask(i), SAMPLING)).text
        assert any(trace.source == "both" for trace in both)

    async def test_a_budget_that_refuses_leaves_the_device(self, half: ExitBackend, whole: TransformersBackend) -> None:
        trace = await answer(
            Split(choose=Fixed(2)), sides(half, whole, budget=NoCloud()), ask(1), SAMPLING
        )  # fmt: skip
        assert trace.text == (await complete(half, ask(1), SAMPLING)).text
        assert (trace.reason, trace.usage("cloud").up_bytes) == ("budget", 0)


class TestPolicies:
    async def test_the_argmax_goes_deeper_as_the_loss_grows(
        self, same: TransformersBackend, whole: TransformersBackend
    ) -> None:
        made = folder(whole.whole)
        chosen = [made.chooser()(loss) for loss in (0.0, 0.1, 0.3, 0.6, 0.9)]
        assert chosen == sorted(chosen) and chosen[0] == 1 and chosen[-1] > 1
        places = []
        for loss in (0.0, 0.6):
            strategy = Split(
                choose=made.chooser(), folder=made, channel=Channel(), weather=Weather(good=loss, bad=loss)
            )
            used = (await answer(strategy, sides(same, whole), ask(1), SAMPLING)).usage("device")
            places.append(used.layer_tokens)
        assert places[0] < places[1]

    def test_a_folder_says_what_was_written(self, tmp_path: Path, whole: TransformersBackend) -> None:
        net = Net([(np.ones((3, 1), np.float32), np.array([0.0, 0.5, 0.0], np.float32))], "tanh")
        kinds: list[PolicyFolder] = [
            folder(whole.whole),
            folder(whole.whole, method="ppo", net=net),
            folder(whole.whole, method="fixed", choice={"place": 3}),
            folder(whole.whole, method="threshold", choice={"shallow": 1, "deep": 4, "loss": 0.3}),
        ]
        for made in kinds:
            made.save(tmp_path / made.method)
            back = PolicyFolder.load(tmp_path / made.method)
            for loss in (0.0, 0.2, 0.4, 1.0):
                assert back.chooser()(loss) == made.chooser()(loss)
            assert (back.whole, back.places, back.channel) == (made.whole, made.places, made.channel)
        assert kinds[1].chooser()(0.3) == 2

    async def test_a_recipe_names_a_folder_and_its_weights(self, tmp_path: Path, whole: Any, same: Any) -> None:
        folder(whole.whole).save(tmp_path)
        strategy = make_strategy(Spec("split", None, {"policy": str(tmp_path), "points": [0.01, 100.0]}))
        assert isinstance(strategy, Knobbed) and strategy.knob == "weight"
        check_sides(strategy, sides(same, whole))
        lazy, careful = (strategy.at(point) for point in strategy.points)
        assert lazy.choose(0.5) < careful.choose(0.5)  # type: ignore[attr-defined]
        fixed = make_strategy(Spec("split", None, {"place": 2, "points": [1, 3]}))
        assert isinstance(fixed, Knobbed) and fixed.knob == "place"
        assert [fixed.at(point).choose(0.3) for point in fixed.points] == [1, 3]  # type: ignore[attr-defined]

    def test_the_reward_is_quality_against_load(self) -> None:
        found = rewards(np.array([[0.0, 0.0], [0.5, 0.1]]), (1, 3), 4, 2.0)
        assert np.allclose(found, [[0.75, 0.25], [-0.25, 0.05]])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "policy: name the folder that algorithm: split_policy made, or place"),
            ({"policy": "no/such", "place": 1}, "policy:"),
            ({"policy": "no/such"}, "'no/such' holds no split policy"),
            ({"place": 2, "weight": 1.0}, "weight: 1 has no use with a fixed place"),
            ({"place": 2, "weather": {"bad": 1.5}}, "bad"),
            ({"place": 2, "channel": {"kind": "element_drp"}}, "element_drop"),
            (
                {"place": 2, "channel": {"kind": "packet_drop", "arq": True}, "weather": {"bad": 1.0}},
                "delivers nothing",
            ),
            ({"place": 2, "channel": {"arq": True}}, "no packets that could go again"),
        ],
    )
    def test_what_cannot_be_is_refused(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            make_strategy(Spec("split", None, options))

    def test_other_ends_are_refused(self, same: Any, half: Any, whole: Any) -> None:
        with pytest.raises(ConfigError, match="place: 6 is no place to cut device, which holds 5 layers of 6; write 5"):
            check_sides(Split(choose=Fixed(6)), sides(same, whole))
        with pytest.raises(ConfigError, match="place: 5 is no place to cut device, which holds 4 layers of 6; write 4"):
            check_sides(Split(choose=Fixed(5)), sides(half, whole))
        deeper = folder(replace(whole.whole, layers=12))
        with pytest.raises(ConfigError, match="made for a model whose layers is 12, and the device's is 6"):
            check_sides(Split(choose=deeper.chooser(), folder=deeper), sides(same, whole))
        beyond = folder(whole.whole, places=(1, 5))
        with pytest.raises(ConfigError, match="may cut behind layer 5, and the device holds 4"):
            check_sides(Split(choose=beyond.chooser(), folder=beyond), sides(half, whole))
        with model("other", seed=6, layers=6) as other, pytest.raises(ConfigError, match="whose weights is"):
            check_sides(Split(choose=Fixed(2)), sides(same, other))
        learned = folder(whole.whole, method="dqn", net=steep().net)
        with pytest.raises(ConfigError, match="weight: dqn was made for 1, not 3"):
            learned.chooser(3.0)

    def test_a_threshold_changes_at_its_loss(self) -> None:
        assert [Threshold(1, 4, 0.3)(loss) for loss in (0.29, 0.3, 0.9)] == [1, 4, 4]

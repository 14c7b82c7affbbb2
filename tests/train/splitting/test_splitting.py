"""Policies of cuts: what a cut costs, a surrogate of it, worlds whose link no action moves, agents that learn."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from tests.strategies.inside.pair import SAMPLING, ask, model

from selfroute.backends.transformers import TransformersBackend
from selfroute.errors import ConfigError
from selfroute.network.channel import Channel, Weather
from selfroute.strategies.inside.choosers import Argmax, Learned, SurrogateNet, rewards
from selfroute.train.splitting.agents import AGENTS, learn
from selfroute.train.splitting.measure import Answers, Quality, check_places, measured
from selfroute.train.splitting.surrogate import fit_surrogate
from selfroute.train.splitting.worlds import Burden, DeviceWorld, LinkWorld, best_policy

PLACES = (1, 2, 4)
LAYERS = 6


@pytest.fixture(scope="module")
def whole() -> Iterator[TransformersBackend]:
    with model("cloud", seed=5, layers=LAYERS) as made:
        yield made


@pytest.fixture(scope="module")
def answers(whole: TransformersBackend) -> Answers:
    asked = [ask(i) for i in range(8)]
    made = whole.generate_batch(asked, SAMPLING)
    found = [(whole.prompt_ids(m), whole.ids_of(a.text)) for m, a in zip(asked, made, strict=True)]
    return [(prompt, answer) for prompt, answer in found if answer]


def cost(losses: np.ndarray, places: tuple[int, ...] = PLACES) -> np.ndarray:
    """A rise that grows with the loss and falls with depth, as one that was measured."""
    return 3.0 * np.outer(losses**3, 1 - np.array(places) / LAYERS)


def quality(points: int = 10) -> Quality:
    losses = np.linspace(0.08, 0.8, points)
    return Quality(losses, PLACES, cost(losses), 0.0, 100)


@pytest.fixture(scope="module")
def surrogate() -> SurrogateNet:
    return fit_surrogate(quality(), LAYERS, steps=600)


@pytest.fixture(scope="module")
def world(surrogate: SurrogateNet) -> DeviceWorld:
    return DeviceWorld(surrogate, PLACES, 2.0)


class TestMeasuring:
    def test_a_link_that_loses_nothing_costs_nothing(self, whole: TransformersBackend, answers: Answers) -> None:
        found = measured(whole.cut, answers, Channel(), (0.0,), (1, 3, 5), codec="fp32")
        assert np.abs(found.rise).max() < 1e-5 and found.clean > 0
        assert found.tokens == sum(len(answer) for _, answer in answers)

    def test_the_clean_model_is_the_reference_of_every_point(
        self, whole: TransformersBackend, answers: Answers
    ) -> None:
        alone = measured(whole.cut, answers, Channel(), (0.5,), (3,), seed=4)
        other = measured(whole.cut, answers, Channel(), (0.1, 0.5), (3,), seed=4)
        assert alone.clean == other.clean
        assert np.allclose(alone.perplexity, np.exp(alone.clean + alone.rise))

    @pytest.mark.parametrize("kind", ["element_drop", "packet_drop", "noise", "bit_flips"])
    def test_more_loss_costs_more(self, whole: TransformersBackend, answers: Answers, kind: str) -> None:
        losses = (0.001, 0.02, 0.6)
        found = measured(whole.cut, answers, Channel(kind=kind), losses, (1, 5), draws=2)  # type: ignore[arg-type]
        assert (np.diff(found.rise, axis=0) > 0).all()

    def test_a_seed_draws_the_channel(self, whole: TransformersBackend, answers: Answers) -> None:
        one, same, other = (measured(whole.cut, answers, Channel(), (0.4,), (2,), seed=s).rise for s in (1, 1, 2))
        assert (one == same).all() and (one != other).any()

    @pytest.mark.parametrize(
        ("places", "message"),
        [
            ((1, 6), "layers: 6 is no place to cut a model of 6 layers; write 5"),
            ((0,), "write 1"),
            ((3, 2), "do not rise"),
            ((), "name each place once"),
        ],
    )
    def test_places_outside_the_model_are_refused(self, places: tuple[int, ...], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            check_places(places, LAYERS)


class TestTheSurrogate:
    def test_thirty_points_say_what_lies_between_them(self, surrogate: SurrogateNet) -> None:
        losses = np.linspace(0.0, 0.8, 41)
        true = cost(losses)
        error = np.abs(surrogate(losses, PLACES) - true).mean()
        assert quality().rise.size == 30 and error < 0.05 * np.ptp(true)

    def test_its_argmax_regrets_little_and_never_goes_shallower(self, surrogate: SurrogateNet) -> None:
        losses = np.linspace(0.0, 0.8, 41)
        choose = Argmax(surrogate, PLACES, 1.0)
        chosen = [PLACES.index(choose(float(loss))) for loss in losses]
        worth = rewards(cost(losses), PLACES, LAYERS, 1.0)
        regret = (worth.max(axis=1) - worth[np.arange(len(losses)), chosen]).mean()
        fixed = (worth.max(axis=1)[:, None] - worth).mean(axis=0).min()
        assert regret < 0.2 * fixed and chosen == sorted(chosen) and len(set(chosen)) > 1

    def test_a_loss_beyond_the_measured_ones_is_the_largest(self, surrogate: SurrogateNet) -> None:
        assert (surrogate(np.array([0.8]), PLACES) == surrogate(np.array([1.0]), PLACES)).all()

    def test_a_seed_gives_the_same_net(self) -> None:
        nets = [fit_surrogate(quality(), LAYERS, steps=20, seed=seed).net.layers for seed in (3, 3, 4)]
        assert (nets[0][0][0] == nets[1][0][0]).all() and (nets[0][0][0] != nets[2][0][0]).any()


class TestTheLink:
    def test_gymnasium_takes_it(self, surrogate: SurrogateNet) -> None:
        check_env(LinkWorld(surrogate, PLACES, 1.0), skip_render_check=True)

    @pytest.mark.parametrize("weather", [None, Weather()])
    def test_no_action_moves_the_link(self, surrogate: SurrogateNet, weather: Weather | None) -> None:
        both = []
        for action in (0, 2):
            world = LinkWorld(surrogate, PLACES, 1.0, weather=weather)
            world.reset(seed=1)
            both.append([world.step(np.int64(action))[4]["loss"] for _ in range(40)])
        assert both[0] == both[1] and len(set(both[0])) > 1

    def test_the_reward_is_of_the_loss_at_hand_from_the_first_step_on(self, surrogate: SurrogateNet) -> None:
        world = LinkWorld(surrogate, PLACES, 2.0, pilots=0)
        seen, _ = world.reset(seed=3)
        for action in (0, 1, 2, 0):
            after, reward, _, _, info = world.step(np.int64(action))
            assert seen[0] == pytest.approx(info["loss"] / surrogate.most, abs=1e-6)
            worth = rewards(surrogate(np.array([info["loss"]]), PLACES), PLACES, LAYERS, 2.0)
            assert reward == pytest.approx(worth[0, action], abs=0.03)
            seen = after

    def test_the_device_sees_an_estimate_and_not_the_loss(self, surrogate: SurrogateNet) -> None:
        world = LinkWorld(surrogate, PLACES, 1.0, weather=Weather(good=0.4, bad=0.4), pilots=20)
        seen = [float(world.reset(seed=seed)[0][0]) for seed in range(300)]
        assert len(set(seen)) > 5 and np.mean(seen) == pytest.approx(0.4 / surrogate.most, rel=0.05)


class TestTheDevice:
    def test_gymnasium_takes_it(self, world: DeviceWorld) -> None:
        check_env(world, skip_render_check=True)

    def test_every_choice_leads_somewhere(self, world: DeviceWorld) -> None:
        chances, earned = world.tables
        assert np.allclose(chances.sum(axis=-1), 1) and (chances >= 0).all() and np.isfinite(earned).all()

    def test_no_action_moves_the_link(self, world: DeviceWorld) -> None:
        bad = np.array([state.bad for state in world.states])
        after = world.tables[0] @ bad
        wanted = np.where(bad, 1 - world.weather.clears, world.weather.worsens)
        assert np.allclose(after, wanted[:, None])

    def test_deeper_takes_more_battery_and_more_waits(self, world: DeviceWorld) -> None:
        chances, _ = world.tables
        full = [i for i, s in enumerate(world.states) if s.battery == world.burden.battery and s.queue == 1]
        for name in ("battery", "queue"):
            left = np.array([getattr(state, name) for state in world.states])
            means = (chances @ left)[full].mean(axis=0)
            assert (np.diff(means) < 0).all() if name == "battery" else (np.diff(means) > 0).all()

    def test_an_empty_battery_costs(self, world: DeviceWorld) -> None:
        _, earned = world.tables
        empty = next(i for i, s in enumerate(world.states) if (s.battery, s.queue, s.bad, s.last) == (0, 0, False, 0))
        full = next(i for i, s in enumerate(world.states) if (s.battery, s.queue, s.bad, s.last) == (12, 0, False, 0))
        assert earned[empty, 0] == pytest.approx(earned[full, 0] - world.burden.dead, abs=0.05)

    def test_the_best_policy_beats_each_fixed_one(self, world: DeviceWorld) -> None:
        chances, earned = world.tables
        rows = np.arange(len(earned))

        def average(actions: np.ndarray) -> float:
            held = np.full(len(rows), 1 / len(rows))
            for _ in range(2000):
                held = held @ chances[rows, actions]
            return float(held @ earned[rows, actions])

        fixed = [average(np.full(len(rows), action)) for action in range(len(PLACES))]
        assert average(best_policy(world)) > max(fixed) + 0.01

    def test_without_a_memory_it_is_the_best_place_of_the_weather(self, surrogate: SurrogateNet) -> None:
        free = Burden(battery=4, charge=1.0, charges=4, queue=1, arrival=0.0, wait=0.0, move=0.0)
        world = DeviceWorld(surrogate, PLACES, 1.0, burden=free)
        alive = [i for i, state in enumerate(world.states) if state.battery == 4]
        assert (best_policy(world)[alive] == len(PLACES) - 1).all()


class TestAgents:
    @pytest.mark.parametrize(("name", "steps"), [("ppo", 2400), ("a2c", 2000), ("dqn", 2500)])
    def test_each_learns_to_go_deeper_where_the_link_is_bad(
        self, surrogate: SurrogateNet, name: str, steps: int
    ) -> None:
        weather = Weather(good=0.0, bad=0.8, worsens=0.5, clears=0.5)
        world = LinkWorld(surrogate, (1, 4), 3.0, weather=weather)
        choose = Learned(learn(name, world, steps=steps, seed=1), surrogate.most, (1, 4))
        assert (choose(0.0), choose(0.8)) == (1, 4)

    def test_a_seed_gives_the_same_agent(self, surrogate: SurrogateNet) -> None:
        nets = [learn("a2c", LinkWorld(surrogate, PLACES, 1.0), steps=50, seed=seed).layers for seed in (1, 1, 2)]
        assert all((one[0] == two[0]).all() for one, two in zip(nets[0], nets[1], strict=True))
        assert (nets[0][0][0] != nets[2][0][0]).any()

    def test_progress_is_told(self, surrogate: SurrogateNet) -> None:
        told: list[int] = []
        learn("dqn", LinkWorld(surrogate, PLACES, 1.0), steps=1000, on_step=told.append)
        assert told == [1000] and set(AGENTS) == {"ppo", "a2c", "dqn"}

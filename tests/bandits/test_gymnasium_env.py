"""The settings behind gymnasium's interface pass gymnasium's own check."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from selfroute.bandits.environments import DRIFTS, Drifting
from selfroute.bandits.gymnasium_env import BanditEnv, ids, register


@pytest.fixture(autouse=True)
def known() -> None:
    register()
    register()


def test_all_settings_are_there() -> None:
    assert len([name for name in ids() if "films" not in name]) == 16
    assert set(ids()) <= set(gymnasium.registry)


@pytest.mark.filterwarnings("ignore:.*minimum.*infinity", "ignore:.*maximum.*infinity")
@pytest.mark.parametrize("name", ["selfroute/bernoulli-5-easy-video-v0", "selfroute/films-10-v0"])
def test_gymnasium_finds_nothing_wrong(name: str) -> None:
    check_env(gymnasium.make(name).unwrapped, skip_render_check=True)


def test_an_episode_ends_at_the_horizon_and_tells_its_regret() -> None:
    env = gymnasium.make("selfroute/gaussian-20-easy-clothes-v0")
    env.reset(seed=1)
    steps = [env.step(np.int64(step % 20)) for step in range(300)]
    assert [step[3] for step in steps] == [False] * 299 + [True]
    assert not any(step[2] for step in steps)
    assert sum(step[4]["best"] for step in steps) == 15
    assert env.unwrapped.arms[0] == "Velvet Vogue Jacket"


def test_one_seed_one_episode_and_others_differ() -> None:
    env = gymnasium.make("selfroute/films-30-v0")

    def episode(seed: int | None) -> list[float]:
        env.reset(seed=seed)
        return [float(env.step(np.int64(0))[1]) for _ in range(20)]

    assert episode(5) == episode(5) != episode(6)
    assert episode(None) != episode(None)


def test_prices_are_taken_off() -> None:
    env = BanditEnv(lambda seed: Drifting(DRIFTS["price"], seed=seed))
    env.reset(seed=0)
    rewards = {round(env.step(np.int64(0))[1], 2) for _ in range(3000)}
    assert rewards == {-0.1, 0.9, -0.45, 0.55}

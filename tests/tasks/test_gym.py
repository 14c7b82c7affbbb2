"""Environments and gymnasium: its checker passes ours, and ours pass our own through it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

gymnasium = pytest.importorskip("gymnasium")

from gymnasium.utils.env_checker import check_env  # noqa: E402

from selfroute.actions import Action  # noqa: E402
from selfroute.errors import ConfigError  # noqa: E402
from selfroute.tasks.base import Environment, Restorable  # noqa: E402
from selfroute.tasks.game24 import Game24  # noqa: E402
from selfroute.tasks.gym import GymEnvironment, TextEnv  # noqa: E402
from selfroute.tasks.lookup import Lookup  # noqa: E402
from selfroute.tasks.shop import Shop, bought  # noqa: E402
from selfroute.testing import check_environment  # noqa: E402

ROWS = list(Shop(limit=5).rows("test"))


def shop(seed: int) -> Environment:
    return Shop().environment(ROWS[seed % len(ROWS)])


@pytest.mark.parametrize("task", [Shop(limit=3), Lookup(limit=3), Game24(limit=3)])
def test_gymnasiums_checker_passes(task: Any) -> None:
    rows = list(task.rows("test"))
    check_env(TextEnv(lambda seed: task.environment(rows[seed % len(rows)])), skip_render_check=True)


def test_an_episode_is_played_in_text_and_its_score_is_the_reward() -> None:
    env = TextEnv(lambda seed: Shop().environment(ROWS[0]))
    env.reset(seed=1)
    ((item, size),) = bought(ROWS[0].gold)
    turns = (f"<tool>view {item}</tool>", f"I take it. <tool>choose {size}</tool>", "<tool>buy</tool>")
    *before, last = [env.step(turn) for turn in turns]
    assert [(reward, ended) for _, reward, ended, _, _ in before] == [(0.0, False)] * 2
    assert last[1:4] == (1.0, True, False)


def test_there_and_back_keeps_our_contract() -> None:
    check_environment(lambda: GymEnvironment(TextEnv(shop)))
    environment = GymEnvironment(TextEnv(shop))
    assert isinstance(environment, Restorable)
    ways = itertools.product(range(1, 9), "SML")
    assert any(_bought(environment, item, size) == 1.0 for item, size in ways)


def _bought(environment: GymEnvironment, item: int, size: str) -> float:
    environment.reset()
    for text in (f"view {item}", f"choose {size}"):
        environment.step(Action(f"<tool>{text}</tool>", "act"))
    at = environment.snapshot()
    first = environment.step(Action("<tool>buy</tool>", "act"))
    environment.restore(at)
    assert environment.step(Action("<tool>buy</tool>", "act")) == first and first.done
    return environment.score()


def test_spaces_that_are_no_texts_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"action_space: Discrete\(2\) is no gymnasium.spaces.Text"):
        GymEnvironment(gymnasium.make("CartPole-v1").unwrapped)
